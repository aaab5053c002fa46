"""`llmpq-jax devices`: a cluster file for the machine it runs on."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.options.option_group import command
from llmpq_jax.cli.options.shared import OUT_FILE


@command(
    "devices",
    click.Option(
        ["--out"],
        type=OUT_FILE,
        metavar="FILE",
        help="Cluster file to write (default: print it).",
    ),
    click.Option(
        ["--node"],
        default="node0",
        show_default=True,
        metavar="NAME",
        help="Name of this machine in the cluster file.",
    ),
    click.Option(
        ["--cpu-devices"],
        type=click.IntRange(min=0),
        metavar="N",
        help="Number of emulated CPU devices, which share processor and free memory "
        "equally (default: 1 if there is no accelerator, else 0).",
    ),
    click.Option(
        ["--links"],
        is_flag=True,
        help="Measure transfers between this machine's devices, in both directions. "
        "Without it, `llmpq-jax profile` measures them by kind of device.",
    ),
    click.Option(["--overwrite"], is_flag=True, help="Replace an existing --out file."),
)
def devices_command(
    out: Path | None,
    node: str,
    cpu_devices: int | None,
    links: bool,
    overwrite: bool,
) -> None:
    """Write a cluster file for this machine.

    It has each device's kind and free memory, and the number of cores. Run this on each
    machine, put the [[node]] tables into one file, and add a [[link]] between each two
    machines.
    """
    from llmpq_jax.errors import ClusterError
    from llmpq_jax.profiler.machine import describe_machine
    from llmpq_jax.report.console import print_line, print_table
    from llmpq_jax.report.machine import machine_table
    from llmpq_jax.schema.cluster_file import cluster_text, write_cluster

    if out is not None and out.exists() and not overwrite:
        msg = f"{out}: exists already: choose another file, or --overwrite it"
        raise ClusterError(msg)
    if "/" in node or not node:
        msg = f"--node {node!r}: expected a name without a slash, since devices are named node/device"
        raise ClusterError(msg)
    cluster = describe_machine(
        node=node, num_cpu_devices=cpu_devices, measures_links=links
    )
    if out is None:
        print_line(cluster_text(cluster).rstrip())
        return
    write_cluster(out, cluster)
    print_table(machine_table(cluster))
    print_line(f"written      {out}")
