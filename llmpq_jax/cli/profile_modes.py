"""What `llmpq-jax profile` does instead of timing layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from llmpq_jax.cli.options.engine import chosen_transport, needs_ray, set_worker_up
from llmpq_jax.files import write_text
from llmpq_jax.profiler.grid import grid_for
from llmpq_jax.report.console import log, print_line, print_table
from llmpq_jax.report.corrections import links_table, observed_table
from llmpq_jax.runtime.engines.transport import TransportName
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.record_files import read_cluster
from llmpq_jax.schema.workload import Workload
from llmpq_jax.tasks.calibrate_from_run import calibrate_from_run
from llmpq_jax.tasks.hop_times import notes_on_links


def calibrate(record: Path, model: Path, cluster: Path, out: Path) -> None:
    """Calibrates existing measurements by a run."""
    _refuse_others("--from-run")

    found = calibrate_from_run(record, out, model=model, cluster=read_cluster(cluster))
    for note in found.notes:
        log(note)
    print_table(observed_table(found.measurements))
    if found.links:
        print_table(links_table(found.links))
    if found.rows:
        write_text(out, found.text)
    _print_outcome(out, found.rows, f"it was calibrated by {record} before")


def measure_links(
    model: Path,
    cluster: Path,
    out: Path,
    workload: Workload,
    address: str | None,
    transport: TransportName | None,
) -> None:
    """Times hidden states between nodes, and adds them to existing measurements."""
    sizes = ("--batch", "--prompt-length", "--new-tokens")
    _refuse_others("--between-nodes", *sizes, "--address", "--transport")
    with needs_ray("--between-nodes"):
        from llmpq_jax.tasks.profile_links import measure_between_nodes

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
        log(note)
    print_table(links_table(links))
    _print_outcome(out, rows, "it has these rows")


def _print_outcome(out: Path, rows: Sequence[object], otherwise: str) -> None:
    print_line(f"written      {out}" if rows else f"unchanged    {out}: {otherwise}")


def _refuse_others(mode: str, *served: str) -> None:
    """Refuses typed options that do not go with an option that replaces measuring."""
    allowed = ("--model", "--cluster", "--out", *served)
    typed = _typed_options(click.get_current_context())
    others = sorted(typed - {mode, *allowed})
    if others:
        msg = f"{mode} measures no layers: expected {', '.join(allowed)} with it, and no {', '.join(others)}"
        raise click.UsageError(msg)


def _typed_options(context: click.Context) -> set[str]:
    """Returns the names of the options that were typed, such as "--out"."""
    found: set[str] = set()
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        # Of flags that choose among values, the one that was typed.
        is_other_flag = (
            isinstance(parameter, click.Option)
            and parameter.is_flag
            and parameter.flag_value != context.params[name]
        )
        if source is click.core.ParameterSource.COMMANDLINE and not is_other_flag:
            found.add(parameter.opts[0])
    return found
