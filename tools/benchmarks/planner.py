"""Times the whole command `solve` on the paper's clusters and on harder ones.

    python -m tools.benchmarks.planner                  # all, to 1 % and to 0.01 %
    python -m tools.benchmarks.planner --only paper-03 --gap 0.01
    python -m tools.benchmarks.planner --all-free       # head, cache, wires and widths too

Each line is JSON: seconds until the plan is written, and of the whole command, which then
searches plans around it, both with imports; the gap that it proved; and its peak memory. All
seconds of the plans themselves come from data-sheet figures. With `--paper-program` the paper's
own program in z[i, j, b] is timed too, for one order and one pair of micro-batches: those of the
plan that was found.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from llmpq_jax.schema.record_files import read_strategy, write_cluster
from llmpq_jax.schema.strategy import Strategy
from tools.paper_clusters import CLUSTERS, ROOT, WORKLOAD, make_cluster


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One command to time.

    Attributes:
        name: Name in the results.
        model: Folder below strategies/models.
        kinds: Kind and number of devices of each node.
        gap: Gap that the command is given.
        max_s: Seconds that it should take at most on 2 cores.
        time_limit_s: Time limit that the command is given.
        more: Further words of the command.
    """

    name: str
    model: str
    kinds: tuple[tuple[str, int], ...]
    gap: float
    max_s: float
    time_limit_s: float = 120.0
    more: tuple[str, ...] = ()


_ALL_FREE = (
    *("--head-bits", "any", "--kv-bits", "any"),
    *("--wire-bits", "any", "--tensor", "any"),
)
_405B = "llama-3.1-405b"
_THREE_KINDS = (("H100", 4), ("A100-80", 4), ("A100-40", 8))
_MIXED = (("A100-40", 2), ("V100-32", 3), ("T4", 3))
_MANY = (("H100", 16), ("A100-80", 16), ("L40S", 16), ("V100-32", 16))


def runs() -> list[Run]:
    """Returns all runs, the paper's clusters first."""
    paper = [
        Run(
            name=cluster.folder.name,
            model=cluster.model,
            kinds=cluster.kinds,
            gap=gap,
            max_s=max_s,
        )
        for gap, max_s in ((1e-2, 10.0), (1e-4, 60.0))
        for cluster in CLUSTERS
    ]
    return [
        *paper,
        Run(name="405b-16", model=_405B, kinds=_THREE_KINDS, gap=1e-2, max_s=20.0),
        Run(name="66b-mixed-8", model="opt-66b", kinds=_MIXED, gap=1e-4, max_s=120.0),
        Run(
            name="405b-64",
            model=_405B,
            kinds=_MANY,
            gap=1e-4,
            max_s=60.0,
            time_limit_s=50.0,
        ),
    ]


def all_free_runs() -> list[Run]:
    """Returns the paper's clusters with every decision free, to 1 %."""
    return [
        Run(
            name=f"{cluster.folder.name}-all-free",
            model=cluster.model,
            kinds=cluster.kinds,
            gap=1e-2,
            max_s=90.0,
            time_limit_s=85.0,
            more=_ALL_FREE,
        )
        for cluster in CLUSTERS
    ]


def timed(run: Run, folder: Path) -> dict[str, object]:
    """Runs one command and returns its line of results."""
    cluster, out = folder / "cluster.toml", folder / "strategy.toml"
    write_cluster(cluster, make_cluster(run.name, run.kinds))
    words = [
        *("solve", "--model", f"strategies/models/{run.model}", "--roofline"),
        *("--cluster", str(cluster), *WORKLOAD, "--gap", str(run.gap)),
        *("--time-limit", str(run.time_limit_s), "--out", str(out)),
        *run.more,
    ]
    begin, begin_date_s = time.monotonic(), time.time()
    done = subprocess.run(
        [sys.executable, "-m", "llmpq_jax", *words],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - begin
    if done.returncode:
        return {"name": run.name, "error": done.stderr.strip().splitlines()[-1]}
    strategy = read_strategy(out)
    certificate, predicted = strategy.certificate, strategy.predicted
    assert certificate is not None
    assert predicted is not None
    # Of all children so far, in KiB.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "name": run.name,
        "model": run.model,
        "devices": " + ".join(f"{count}x{kind}" for kind, count in run.kinds),
        "gap_asked": run.gap,
        "gap": certificate.gap,
        "seconds_to_plan": round(out.stat().st_mtime - begin_date_s, 2),
        "seconds": round(seconds, 2),
        "max_seconds": run.max_s,
        "objective": certificate.objective,
        "latency_s": predicted.latency_s,
        "num_stages": len(strategy.stages),
        "peak_mib_so_far": peak // 1024,
        "cores": os.cpu_count(),
    } | ({"more": " ".join(run.more)} | _chosen(strategy) if run.more else {})


def _chosen(strategy: Strategy) -> dict[str, object]:
    """Returns the planner's decisions that are not free by default."""
    hops = strategy.stages[:-1]
    return {
        "head_bits": strategy.precision.head_bits,
        "kv_bits": strategy.precision.kv_bits,
        "hops_at_8_bits": f"{sum(s.wire_bits == 8 for s in hops)} of {len(hops)}",
        "widths": [len(stage.devices) for stage in strategy.stages],
    }


@click.command()
@click.option("--only", multiple=True, help="Names of runs.")
@click.option("--gap", type=float, help="Only runs that ask for this gap.")
@click.option("--all-free", is_flag=True, help="Runs with every decision free instead.")
@click.option("--paper-program", is_flag=True, help="Time the paper's program too.")
@click.option("--paper-limit", type=float, default=60.0, show_default=True)
def main(
    only: tuple[str, ...],
    gap: float | None,
    all_free: bool,
    paper_program: bool,
    paper_limit: float,
) -> None:
    """Print a JSON line for each run."""
    if all_free and paper_program:
        msg = "the paper's program has no widths, precisions of hops or caches: expected --all-free or --paper-program"
        raise click.UsageError(msg)
    for run in all_free_runs() if all_free else runs():
        if (only and run.name not in only) or (gap is not None and run.gap != gap):
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = timed(run, Path(folder))
            if paper_program and "error" not in line:
                from tools.benchmarks.paper_program import timed_paper_program

                line |= timed_paper_program(
                    Path(folder), run.model, limit_s=paper_limit
                )
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
