"""What `llmpq-jax profile` does instead of timing layers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from llmpq_jax.cli.engine_options import chosen_transport, needs_ray, set_worker_up

if TYPE_CHECKING:
    from llmpq_jax.runtime.engines.transport.config import TransportName
    from llmpq_jax.schema.workload import Workload


def fold(record: Path, model: Path, cluster: Path, out: Path) -> None:
    """Folds a run into measurements that are there."""
    _refuse_others("--from-run")

    from llmpq_jax.report.console import say, show, tell
    from llmpq_jax.report.corrections import links_table, observed_table
    from llmpq_jax.schema.cluster_file import read_cluster
    from llmpq_jax.tasks.calibrate_from_run import calibrate_from_run

    folded = calibrate_from_run(record, out, model=model, cluster=read_cluster(cluster))
    for note in folded.notes:
        tell(note)
    show(observed_table(folded.measurements))
    if folded.links:
        show(links_table(folded.links))
    if folded.rows:
        say(f"written      {out}")
    else:
        say(f"unchanged    {out}: {record} was folded in before")


def measure_links(
    model: Path,
    cluster: Path,
    out: Path,
    workload: Workload,
    address: str | None,
    transport: TransportName | None,
) -> None:
    """Times hidden states between nodes, into measurements that are there."""
    sizes = ("--batch", "--prompt-length", "--new-tokens")
    _refuse_others("--between-nodes", *sizes, "--address", "--transport")
    with needs_ray("--between-nodes"):
        from llmpq_jax.tasks.profile_links import measure_between_nodes

    from llmpq_jax.profiler.grid import grid_for
    from llmpq_jax.report.console import say, show, tell
    from llmpq_jax.report.corrections import links_table
    from llmpq_jax.schema.cluster_file import read_cluster
    from llmpq_jax.schema.measurements_file import read_measurements
    from llmpq_jax.tasks.hop_times import notes_on_links

    devices = read_cluster(cluster)
    rows = measure_between_nodes(
        model,
        devices,
        out,
        grid=grid_for(workload),
        address=address or "auto",
        transport=chosen_transport(transport),
        set_up=partial(set_worker_up, "none"),
    )
    links = [row for row in read_measurements(out).links if row.source_node]
    for note in notes_on_links(devices, links):
        tell(note)
    show(links_table(links))
    say(f"written      {out}" if rows else f"unchanged    {out}: it has these rows")


def _refuse_others(mode: str, *served: str) -> None:
    """Refuses what was typed and does not go with an option that replaces measuring."""
    context = click.get_current_context()
    typed = {
        parameter.opts[0]
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and parameter.name is not None
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        # Of flags that choose among values, the one that was typed.
        and (
            not parameter.is_flag
            or parameter.flag_value == context.params[parameter.name]
        )
    }
    allowed = ("--model", "--cluster", "--out", *served)
    others = sorted(typed - {mode, *allowed})
    if others:
        msg = f"{mode} measures no layers: expected {', '.join(allowed)} beside it, and no {', '.join(others)}"
        raise click.UsageError(msg)
