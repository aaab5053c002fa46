"""Limits that plans keep for requests at random, compared with what a server measures.

    python -m tools.predictions.online --lengths lengths.json

Two clusters are emulated on this machine: one device that holds the model, and two that
cannot hold it alone. For each the model is profiled, and five settings of a rate and limits are
given to `solve --arrivals`; `serve` serves each plan to a Poisson load of as many requests, with
other arrivals than the simulation's. A setting is a share of the rate that the first plan keeps
up with, and factors of its times under that rate.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from llmpq_jax.kernels import kernel_path
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.record_files import read_strategy, write_cluster
from llmpq_jax.schema.strategy import Strategy
from tools.benchmarks.models import CONFIGS, random_model
from tools.benchmarks.serve import make_jobs, put_load
from tools.provenance import provenance
from tools.serve_process import NAME, serve_process

_MIB = 1 << 20
# Bytes of each device.
_CLUSTERS = {"one device": (4096 * _MIB,), "two devices": (250 * _MIB, 250 * _MIB)}
_SLACK = 1.15


@dataclass(frozen=True)
class Setting:
    """A rate as a share of the largest, and limits as factors of the times at that rate."""

    share: float
    ttft: float | None
    tpot: float | None


_SETTINGS = (
    Setting(0.3, 1.3, 1.3),
    Setting(0.5, 1.3, 1.3),
    Setting(0.7, 1.3, 1.3),
    Setting(0.5, None, 0.85),
    Setting(0.5, 0.85, None),
)


@dataclass(frozen=True)
class Row:
    """One setting on one cluster: limits, what was simulated, and what was measured."""

    cluster: str
    arrivals_per_s: float
    slots: int
    decode_rows: int
    num_stages: int
    max_ttft_s: float | None
    max_tpot_s: float | None
    simulated_ttft_s: float
    simulated_tpot_s: float
    ttft_s: float
    tpot_s: float
    errors: int

    @property
    def is_kept(self) -> bool:
        """Whether the measured times keep the limits, with some slack."""
        limits = ((self.ttft_s, self.max_ttft_s), (self.tpot_s, self.max_tpot_s))
        return all(limit is None or found <= _SLACK * limit for found, limit in limits)


def _command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmpq_jax", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


class _Solver:
    """Solves for one cluster, whose devices are profiled first."""

    def __init__(self, model: Path, memory: tuple[int, ...], folder: Path) -> None:
        devices = tuple(
            Device(
                name=f"cpu:{number}",
                kind="cpu-emulated",
                platform="cpu",
                memory_bytes=size,
            )
            for number, size in enumerate(memory)
        )
        self._folder = folder
        write_cluster(
            folder / "cluster.toml",
            Cluster(name="emulated", nodes=(Node(name="node0", devices=devices),)),
        )
        self._words = ("--model", model, "--cluster", folder / "cluster.toml")

    def profile(self, *, max_prompt: int, max_new_tokens: int) -> None:
        done = _command(
            *("profile", *self._words, "--bits", "8"),
            *("--batch", 16, "--prompt-length", max_prompt),
            *("--new-tokens", max_new_tokens),
            *("--out", self._folder / "measurements.toml"),
        )
        if done.returncode:
            raise click.ClickException(done.stderr)

    def solve(self, rate: float, percentile: float, *limits: object) -> Strategy | None:
        """Returns the plan, or None, after a line that says why, if there is none."""
        out = self._folder / "strategy.toml"
        done = _command(
            *("solve", *self._words, "--bits", "8"),
            *("--measurements", self._folder / "measurements.toml"),
            *("--lengths", self._folder / "lengths.json"),
            *("--arrivals", rate, "--percentile", percentile, *limits, "--out", out),
        )
        if done.returncode:
            click.echo(done.stderr.splitlines()[-1], err=True)
            return None
        return read_strategy(out)


def _measured(
    strategy: Strategy,
    pairs: list[tuple[int, int]],
    *,
    rate: float,
    percentile: float,
) -> tuple[float, float, int]:
    """Serves a load; returns its times, and the number of requests that failed."""
    make = partial(
        make_jobs, rate_per_s=rate, max_prompt=1 << 20, max_new_tokens=1 << 20
    )
    with serve_process(strategy) as server:
        # What starts once is no part of the load.
        asyncio.run(put_load(server.url, NAME, make(pairs[:1], seed=1)))
        found = asyncio.run(put_load(server.url, NAME, make(pairs)))
    done = [each for each in found if each is not None]
    counted = done[len(done) // 10 :]
    return (
        float(np.percentile([each.first_token_s for each in counted], percentile)),
        float(np.percentile([each.token_s for each in counted], percentile)),
        len(found) - len(done),
    )


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--lengths", type=click.Path(path_type=Path), required=True)
@click.option("--max-prompt", type=int, default=256)
@click.option("--max-new-tokens", type=int, default=64)
@click.option("--requests", "num_requests", type=int, default=80)
@click.option("--percentile", type=float, default=90.0)
@click.option("--cluster", "names", multiple=True, default=tuple(_CLUSTERS))
def main(
    model: str,
    models: Path,
    lengths: Path,
    max_prompt: int,
    max_new_tokens: int,
    num_requests: int,
    percentile: float,
    names: tuple[str, ...],
) -> None:
    """Solve, serve and measure each setting on each cluster."""
    pairs = [
        (min(prompt, max_prompt), max(2, min(reply, max_new_tokens)))
        for prompt, reply in json.loads(lengths.read_text())["pairs"]
    ]
    path = random_model(model, models).resolve()
    rows: list[Row] = []
    for name in names:
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "lengths.json").write_text(json.dumps({"pairs": pairs}))
            solver = _Solver(path, _CLUSTERS[name], folder)
            solver.profile(max_prompt=max_prompt, max_new_tokens=max_new_tokens)
            slow = solver.solve(0.1, percentile, "--batch", 8)
            if slow is None or slow.online is None:
                continue
            largest = slow.online.max_arrivals_per_s
            for setting in _SETTINGS:
                row = _row(
                    solver, name, setting, largest, pairs[:num_requests], percentile
                )
                if row is not None:
                    rows.append(row)
                    click.echo(_text(row))
    click.echo(
        json.dumps(
            {
                "model": model,
                "requests": num_requests,
                "percentile": percentile,
                "rows": [asdict(row) | {"is_kept": row.is_kept} for row in rows],
                "kept": sum(row.is_kept for row in rows),
                "kernels": kernel_path("cpu"),
                **provenance("tools.predictions.online"),
            }
        )
    )


def _row(
    solver: _Solver,
    name: str,
    setting: Setting,
    largest: float,
    pairs: list[tuple[int, int]],
    percentile: float,
) -> Row | None:
    rate = setting.share * largest
    free = solver.solve(rate, percentile)
    if free is None or free.online is None:
        return None
    max_ttft_s = setting.ttft and setting.ttft * free.online.ttft_s
    max_tpot_s = setting.tpot and setting.tpot * free.online.tpot_s
    limits: list[object] = []
    if max_ttft_s is not None:
        limits += ["--max-ttft", max_ttft_s]
    if max_tpot_s is not None:
        limits += ["--max-tpot", max_tpot_s]
    plan = solver.solve(rate, percentile, *limits)
    if plan is None or plan.online is None:
        return None
    ttft_s, tpot_s, errors = _measured(plan, pairs, rate=rate, percentile=percentile)
    return Row(
        cluster=name,
        arrivals_per_s=rate,
        slots=plan.workload.batch,
        decode_rows=plan.micro_batch.decode,
        num_stages=len(plan.stages),
        max_ttft_s=max_ttft_s,
        max_tpot_s=max_tpot_s,
        simulated_ttft_s=plan.online.ttft_s,
        simulated_tpot_s=plan.online.tpot_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        errors=errors,
    )


def _text(row: Row) -> str:
    def limited(simulated: float, limit: float | None, found: float) -> str:
        shown = "–" if limit is None else f"{limit:.3g}"
        return f"{shown} | {simulated:.3g} | {found:.3g}"

    return (
        f"| {row.cluster} | {row.arrivals_per_s:.2f} | {row.slots} in {row.decode_rows} "
        f"| {row.num_stages} "
        f"| {limited(row.simulated_ttft_s, row.max_ttft_s, row.ttft_s)} "
        f"| {limited(row.simulated_tpot_s, row.max_tpot_s, row.tpot_s)} "
        f"| {'yes' if row.is_kept else 'no'} | {row.errors} |"
    )


if __name__ == "__main__":
    main()
