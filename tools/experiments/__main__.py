"""`python -m tools.experiments STEP [CLUSTER…]`."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from llmpq_jax.files import write_text
from llmpq_jax.report.console import log, print_table
from llmpq_jax.schema.record_files import read_cluster, write_cluster
from tools.emulate_cluster import achieved_table
from tools.emulation.achieved import (
    check_achieved,
    is_achieved,
    measure_achieved,
    measure_alone,
)
from tools.emulation.nodes import EmulatedNodes
from tools.emulation.profiles import profile_nodes
from tools.emulation.ray_nodes import RayNodes
from tools.emulation.speeds import read_emulation
from tools.experiments.definition import BUILD, Experiment, read_experiment
from tools.generated import ROOT
from tools.provenance import provenance

# Read by Ray as it is imported, in this process too.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
# Other programs' load may be temporary.
_ATTEMPTS = 4


# SIGTERM ends the nodes too, as Ctrl-C does.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextmanager
def _nodes(experiment: Experiment, name: str) -> Iterator[EmulatedNodes]:
    path = experiment.cluster_folder(name) / "speeds.toml"
    emulation = read_emulation(path, frozenset(os.sched_getaffinity(0)))
    alone = measure_alone(emulation.speeds)
    with EmulatedNodes(emulation, limiter="control groups") as nodes:
        achieved = measure_achieved(nodes, alone)
        for _ in range(_ATTEMPTS - 1):
            if is_achieved(achieved):
                break
            log("other programs use this machine: measuring again")
            achieved = measure_achieved(nodes, alone)
        check_achieved(achieved)
        print_table(achieved_table(achieved))
        yield nodes


@click.group()
def main() -> None:
    """Measure the paper's claim on emulated clusters."""


_CLUSTERS = click.argument("clusters", nargs=-1)


@main.command()
def sensitivity() -> None:
    """Estimate the sensitivity of the model's layers, once for all clusters."""
    experiment = read_experiment()
    command = [sys.executable, "-m", "llmpq_jax", "indicate"]
    command += ["--model", str(experiment.model_path)]
    command += ["--text", str(ROOT / "examples" / "tiny-code-lm" / "calibration.txt")]
    command += ["--window", "64", "--max-tokens", "1024", "--assignments", "4"]
    command += ["--out", str(BUILD / "sensitivity.toml")]
    BUILD.mkdir(parents=True, exist_ok=True)
    sys.exit(subprocess.run(command, check=False).returncode)


@main.command()
@_CLUSTERS
def profile(clusters: tuple[str, ...]) -> None:
    """Profile the nodes, and time hops between them."""
    from tools.experiments.measure import measured_links

    experiment = read_experiment()
    for name in clusters or experiment.clusters:
        log(name)
        folder = BUILD / name
        folder.mkdir(parents=True, exist_ok=True)
        with _nodes(experiment, name) as nodes:
            if not (folder / "cluster.toml").exists():
                cluster = read_cluster(nodes.emulation.cluster_path)
                with RayNodes(nodes) as ray:
                    links = measured_links(experiment, cluster, nodes, ray.address)
                write_cluster(folder / "cluster.toml", replace(cluster, links=links))
            if not (folder / "measurements.toml").exists():
                arguments = ["--model", str(experiment.model_path)]
                arguments += ["--batch", str(experiment.batch)]
                arguments += ["--prompt-length", str(experiment.prompt_length)]
                arguments += ["--new-tokens", str(experiment.new_tokens)]
                out = folder / "measurements.toml"
                profile_nodes(nodes, out, arguments, on_note=log)


@main.command()
@_CLUSTERS
def plan(clusters: tuple[str, ...]) -> None:
    """Plan with every method."""
    from tools.experiments.plans import make_plans

    experiment = read_experiment()
    for name in clusters or experiment.clusters:
        log(name)
        for made in make_plans(experiment, name, on_note=log):
            log(f"  {made}")


@main.command()
@_CLUSTERS
@click.option("--seconds", default=1e9, help="Start no further plan after this time.")
def run(clusters: tuple[str, ...], seconds: float) -> None:
    """Run all plans that have no runs yet."""
    from tools.experiments.measure import run_plans

    experiment = read_experiment()
    for name in clusters or experiment.clusters:
        with _nodes(experiment, name) as nodes, RayNodes(nodes) as ray:
            done = run_plans(
                experiment,
                BUILD / name,
                nodes,
                ray.address,
                seconds=seconds,
                on_note=log,
            )
        log(f"{name}: {'done' if done else 'not done yet'}")
    origin = provenance("tools.experiments")
    write_text(BUILD / "provenance.json", json.dumps(origin, indent=1) + "\n")


@main.command()
@_CLUSTERS
def quality(clusters: tuple[str, ...]) -> None:
    """Measure the quality loss of the plans' bits, on the prompts and for a trained model."""
    from tools.experiments.quality import measure_kl, measure_perplexity

    experiment = read_experiment()
    for name in clusters or experiment.clusters:
        log(name)
        measure_kl(experiment, name, on_note=log)
    if not clusters:
        measure_perplexity(experiment, on_note=log)


@main.command()
@click.option(
    "--results", type=click.Path(path_type=Path, exists=True), default=BUILD,
    help="Folder of the measurements.",
)  # fmt: skip
def table(results: Path) -> None:
    """Print the measurements, as Markdown."""
    from tools.experiments.page import all_tables

    click.echo(all_tables(read_experiment(), results))


if __name__ == "__main__":
    main()
