"""`llmpq-jax devices`: a cluster file for the machine it runs on."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.options.option_group import command, flag, option
from llmpq_jax.cli.options.shared import OUT_FILE, OVERWRITE


@command(
    "devices",
    out=option("Cluster file to write (default: print it).", OUT_FILE),
    node=option(
        "Name of this machine in the cluster file.", default="node0", metavar="NAME"
    ),
    cpu_devices=option(
        "Number of emulated CPU devices, which share processor and free memory equally "
        "(default: 1 if there is no accelerator, else 0).",
        click.IntRange(min=0),
        metavar="N",
    ),
    links=flag(
        "Measure transfers between this machine's devices, in both directions. Without "
        "it, `llmpq-jax profile` measures them by kind of device."
    ),
    overwrite=OVERWRITE,
)
def devices_command(
    out: Path | None,
    node: str,
    cpu_devices: int | None,
    links: bool,
    overwrite: bool,
) -> None:
    """Write a cluster file for this machine.

    It has each device's kind and free memory, and the number of cores. Of several
    machines, run this on each with its own --node, put the [[node]] tables into one file,
    and measure the links between them by `llmpq-jax profile --between-nodes`.
    """
    from llmpq_jax.errors import ClusterError
    from llmpq_jax.profiler.machine import describe_machine
    from llmpq_jax.report.console import log, print_line, print_paths, print_table
    from llmpq_jax.report.tables import machine_table
    from llmpq_jax.schema.record_files import cluster_text, write_cluster

    if out is not None and out.is_file() and not overwrite:
        msg = f"{out}: exists already: choose another file, or --overwrite it"
        raise ClusterError(msg)
    if "/" in node or not node:
        msg = f"--node {node!r}: expected a name without a slash, since devices are named node/device"
        raise ClusterError(msg)
    cluster = describe_machine(
        node=node, num_cpu_devices=cpu_devices, measures_links=links
    )
    if links and not cluster.links:
        log(
            f"--links: {node} has one device, whose memory was read; there is no link "
            "within it to measure. `llmpq-jax profile --between-nodes` measures those "
            "between machines"
        )
    if out is None:
        print_line(cluster_text(cluster).rstrip())
        return
    print_table(machine_table(cluster))
    write_cluster(out, cluster)
    print_paths(written=out)
