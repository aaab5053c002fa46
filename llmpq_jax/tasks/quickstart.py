"""The whole way once, explained as it goes: measure, plan, run, compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.batch.prompt import PromptDefaults, Prompt
from llmpq_jax.batch.prompt_file import make_prompts, read_prompts
from llmpq_jax.batch.results import Result, result_values
from llmpq_jax.batch.results_file import ResultsFile
from llmpq_jax.errors import LlmpqError
from llmpq_jax.profiler.grid import QUICK_GRID
from llmpq_jax.report.console import say, show, tell
from llmpq_jax.report.lines import plan_lines, run_lines
from llmpq_jax.report.tables import measurements_table, plan_table, run_table
from llmpq_jax.report.texts import continued_text
from llmpq_jax.runtime.request import Sampling
from llmpq_jax.schema.cluster_file import read_cluster, write_cluster
from llmpq_jax.schema.strategy_file import read_strategy
from llmpq_jax.tasks.example import (
    ACTIVATIONS,
    CLUSTER,
    MODEL,
    PLAIN_PROMPTS,
    PROMPTS,
    WORKLOAD,
    find_model,
    four_cpu_devices,
)
from llmpq_jax.tasks.generate import serve_prompts, write_records
from llmpq_jax.tasks.profile import measure

_NUM_SHOWN = 3
# The likeliest words of a tiny model soon go round in circles.
_SAMPLING = Sampling(temperature=0.6, top_p=0.9, seed=1)
_CHECKOUT = Path(__file__).resolve().parents[2]


def quickstart(work_dir: Path, *, model: Path | None, command: str) -> None:
    """Runs the main job on a small scale and prints what happens and why.

    Args:
        work_dir: For all files it writes; what an earlier run left is replaced.
        model: A checkpoint; the example model if absent.
        command: As typed, for the run record.

    Raises:
        LlmpqError: A step failed; the message is that step's.
    """
    is_example = model is None
    folder = find_model(_CHECKOUT) if model is None else model
    architecture = read_architecture(folder)
    work_dir.mkdir(parents=True, exist_ok=True)
    say(f"llmpq-jax quickstart: {folder}, {architecture.num_layers} layers")
    say()
    cluster = _cluster_file(folder, work_dir, is_example=is_example)
    measurements = work_dir / "measurements.toml"
    say("1 profile    how long a layer takes here at 16, 8 and 4 bits, in both phases:")
    say("             prefill reads a prompt at once, decode writes token by token")
    measured = measure(
        folder,
        read_cluster(cluster),
        measurements,
        grid=QUICK_GRID,
        activations=ACTIVATIONS,
        overwrites=True,
    )
    show(measurements_table(measured))
    say()
    say(
        "2 solve      where to cut the model, bits for each layer, micro-batches: all at"
    )
    say("             once, losing no more quality than int8 where memory allows that")
    strategy_path = work_dir / "strategy.toml"
    _solve(folder, cluster, measurements, strategy_path)
    strategy = read_strategy(strategy_path)
    show(plan_table(strategy))
    for line in plan_lines(strategy):
        say(line)
    say()
    say(f"3 generate   the plan run as a pipeline of {len(strategy.stages)} stages")
    prompts = _prompts(folder)
    files = {
        "cluster": cluster,
        "measurements": measurements,
        "strategy": strategy_path,
        "results": work_dir / "results.jsonl",
        "run record": work_dir / "run.jsonl",
        "trace": work_dir / "trace.json",
        "timeline": work_dir / "timeline.png",
    }
    results: list[Result] = []
    with ResultsFile(files["results"], if_there="replace") as file:

        def on_result(result: Result) -> None:
            file.add(result_values(result, model=folder.name))
            results.append(result)

        # Whole lengths, so that what is measured is what was predicted.
        served = serve_prompts(strategy, prompts, ignores_eos=True, on_result=on_result)
    served.check(files["results"])
    write_records(
        served,
        command=command,
        record=files["run record"],
        trace=files["trace"],
        timeline=files["timeline"],
    )
    say()
    results.sort(key=lambda result: result.line.number)
    for result in results[:_NUM_SHOWN]:
        assert isinstance(result.line, Prompt)
        say(f"── {result.line.custom_id}")
        say(continued_text(result.line.text, result.completions[0].text))
        say()
    show(run_table(strategy, served.batches))
    for line in run_lines(strategy, served.batches):
        say(line)
    say()
    for name, path in files.items():
        say(f"{name:<12} {path}")
    say()
    say("Open the trace at https://ui.perfetto.dev, or look at the timeline.")


def _cluster_file(folder: Path, work_dir: Path, *, is_example: bool) -> Path:
    """Returns the file of the cluster; the committed one belongs to the example."""
    say("0 devices    four emulated CPU devices whose memory is unequal and scarce")
    if is_example:
        for path in (CLUSTER, _CHECKOUT / CLUSTER):
            if path.is_file():
                return path
    path = work_dir / "cluster.toml"
    write_cluster(path, four_cpu_devices(read_architecture(folder)))
    return path


def _solve(folder: Path, cluster: Path, measurements: Path, out: Path) -> None:
    """Solves in a child, so that what runs never imports what plans."""
    arguments = {
        "--model": folder,
        "--cluster": cluster,
        "--measurements": measurements,
        "--batch": WORKLOAD.batch,
        "--prompt-length": WORKLOAD.prompt_length,
        "--new-tokens": WORKLOAD.new_tokens,
        "--out": out,
    }
    words = [str(word) for pair in arguments.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "llmpq_jax", "solve", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        *progress, last = done.stderr.strip().splitlines() or ["it says nothing"]
        for line in progress:
            tell(line)
        msg = f"solving failed: {last.removeprefix('error: ')}"
        raise LlmpqError(msg)


def _prompts(folder: Path) -> tuple[Prompt, ...]:
    """Returns a batch of prompts: those beside the model, else plain ones."""
    choices = PromptDefaults(sampling=_SAMPLING)
    path = folder.parent / PROMPTS
    if folder.name == MODEL.name and path.is_file():
        return read_prompts(path, choices)
    repeats = -(-WORKLOAD.batch // len(PLAIN_PROMPTS))
    return make_prompts(PLAIN_PROMPTS * repeats, choices)[: WORKLOAD.batch]
