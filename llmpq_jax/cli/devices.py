"""`llmpq-jax devices`: a cluster file for the machine it runs on."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.shared_options import OUT_FILE


@click.command("devices")
@click.option(
    "--out", type=OUT_FILE, metavar="FILE", help="Cluster file; by default stdout."
)
@click.option(
    "--node",
    default="node0",
    show_default=True,
    metavar="NAME",
    help="Name of this machine.",
)
@click.option(
    "--cpu-devices",
    type=click.IntRange(min=0),
    metavar="N",
    help="Emulated CPU devices, which share processor and free memory equally; by "
    "default one where there is no accelerator.",
)
@click.option(
    "--links",
    is_flag=True,
    help="Measure transfers between this machine's devices, both ways. Without it "
    "`llmpq-jax profile` measures them by kind.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file --out names.")
def devices_command(
    out: Path | None,
    node: str,
    cpu_devices: int | None,
    links: bool,
    overwrite: bool,
) -> None:
    """Write a cluster file for what is here.

    Kinds, memory that is free now, and cores. Run it on each machine and put the
    [[node]] tables into one file, with a [[link]] between each two machines.
    """
    from llmpq_jax.errors import ClusterError
    from llmpq_jax.profiler.machine import describe_machine
    from llmpq_jax.report.console import say, show
    from llmpq_jax.report.machine import machine_table
    from llmpq_jax.schema.cluster_file import cluster_text, write_cluster

    if out is not None and out.exists() and not overwrite:
        msg = f"{out}: is there already: choose another file, or --overwrite it"
        raise ClusterError(msg)
    if "/" in node or not node:
        msg = f"--node {node!r}: expected a name without a slash, since devices are named node/device"
        raise ClusterError(msg)
    cluster = describe_machine(
        node=node, num_cpu_devices=cpu_devices, measures_links=links
    )
    if out is None:
        say(cluster_text(cluster).rstrip())
        return
    write_cluster(out, cluster)
    show(machine_table(cluster))
    say(f"written      {out}")
