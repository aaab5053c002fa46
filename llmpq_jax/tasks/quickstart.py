"""Measures, plans and runs once on a small scale, and explains each step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.batch.prompt import Prompt, PromptDefaults
from llmpq_jax.batch.prompt_file import make_prompts, read_prompts
from llmpq_jax.batch.result_line import Result, result_values
from llmpq_jax.batch.results_file import ResultsFile
from llmpq_jax.errors import LlmpqError
from llmpq_jax.interrupts import check_interrupt, undone_at_end
from llmpq_jax.profiler import ProfileOptions
from llmpq_jax.report.console import log, print_line, print_paths, print_table
from llmpq_jax.report.lines import plan_lines, run_lines
from llmpq_jax.report.names import continued_text
from llmpq_jax.report.tables import measurements_table, plan_table, run_table
from llmpq_jax.runtime.request import Sampling
from llmpq_jax.schema.record_files import read_cluster, read_strategy, write_cluster
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
from llmpq_jax.tasks.generate import ServeSettings, serve_prompts, write_records
from llmpq_jax.tasks.profile import measure

_NUM_SHOWN = 3
_POLL_S = 0.1
# The most likely words of a tiny model soon repeat.
_SAMPLING = Sampling(temperature=0.6, top_p=0.9, seed=1)
PROFILE = ProfileOptions(activations=ACTIVATIONS)
CHECKOUT = Path(__file__).resolve().parents[2]


def quickstart(work_dir: Path, *, model: Path | None, command: str) -> None:
    """Profiles, solves and generates on a small scale, and explains each step.

    Files of an earlier run are replaced; the default model is the example's.

    Raises:
        LlmpqError: A step failed; the message is that step's.
    """
    folder = find_model(CHECKOUT) if model is None else model
    architecture = read_architecture(folder)
    work_dir.mkdir(parents=True, exist_ok=True)
    print_line(f"llmpq-jax quickstart: {folder}, {architecture.num_layers} layers\n")
    cluster = _cluster_file(folder, work_dir, is_example=model is None)
    measurements = work_dir / "measurements.toml"
    _profile(folder, cluster, measurements)
    strategy_path = work_dir / "strategy.toml"
    _plan(folder, cluster, measurements, strategy_path)
    results = work_dir / "results.jsonl"
    records = {
        "record": work_dir / "run.jsonl",
        "trace": work_dir / "trace.json",
        "timeline": work_dir / "timeline.png",
    }
    _generate(folder, strategy_path, results, records, command)
    print_paths(cluster=cluster, measurements=measurements, strategy=strategy_path)
    print_paths(results=results, run_record=records.pop("record"), **records)
    print_line("\nOpen the trace at https://ui.perfetto.dev, or look at the timeline.")


def _profile(folder: Path, cluster: Path, measurements: Path) -> None:
    print_line(
        "1 profile    how long a layer takes here at 16, 8 and 4 bits, in both phases:\n"
        "             prefill reads a prompt at once, decode writes token by token"
    )
    devices = read_cluster(cluster)
    measured = measure(folder, devices, measurements, PROFILE, overwrites=True)
    print_table(measurements_table(measured))


def _plan(folder: Path, cluster: Path, measurements: Path, out: Path) -> None:
    print_line(
        "2 solve      where to cut the model, bits for each layer, micro-batches: all at\n"
        "             once, losing no more quality than int8 where memory allows that"
    )
    _solve(folder, cluster, measurements, out)
    strategy = read_strategy(out)
    print_table(plan_table(strategy))
    for line in plan_lines(strategy):
        print_line(line)
    print_line()


def _generate(
    folder: Path,
    strategy_path: Path,
    out: Path,
    records: dict[str, Path],
    command: str,
) -> None:
    """Serves the prompts, writes the records, and prints some of the results."""
    strategy = read_strategy(strategy_path)
    num_stages = len(strategy.stages)
    print_line(f"3 generate   the plan run as a pipeline of {num_stages} stages")
    results: list[Result] = []
    with ResultsFile(out, if_exists="replace") as file:

        def on_result(result: Result) -> None:
            file.add(result_values(result, model=folder.name))
            results.append(result)

        served = serve_prompts(
            strategy,
            _prompts(folder),
            # Whole lengths, so that what is measured is what was predicted.
            ServeSettings(ignores_eos=True),
            on_result=on_result,
        )
    served.check(out)
    print_line()
    results.sort(key=lambda result: result.line.number)
    for result in results[:_NUM_SHOWN]:
        assert isinstance(result.line, Prompt)
        print_line(f"── {result.line.custom_id}")
        text = continued_text(result.line.text, result.completions[0].text)
        print_line(f"{text}\n")
    print_table(run_table(strategy, served.batches))
    for line in run_lines(strategy, served.batches):
        print_line(line)
    print_line()
    write_records(served, command=command, **records)


def _cluster_file(folder: Path, work_dir: Path, *, is_example: bool) -> Path:
    """Returns the cluster file: the committed one for the example model."""
    print_line(
        "0 devices    four emulated CPU devices whose memory is unequal and scarce"
    )
    if is_example:
        for path in (CLUSTER, CHECKOUT / CLUSTER):
            if path.is_file():
                return path
    path = work_dir / "cluster.toml"
    write_cluster(path, four_cpu_devices(read_architecture(folder)))
    return path


def _solve(folder: Path, cluster: Path, measurements: Path, out: Path) -> None:
    """Solves in a child process, so that running never imports planning."""
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
    returncode, text = _run([sys.executable, "-m", "llmpq_jax", "solve", *words])
    if returncode != 0:
        *progress, last = text.strip().splitlines() or ["it says nothing"]
        for line in progress:
            log(line)
        msg = f"solving failed: {last.removeprefix('error: ')}"
        raise LlmpqError(msg)


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Runs a command that ends with this process; returns exit code and stderr."""
    silent, kept = subprocess.DEVNULL, subprocess.PIPE
    with (
        subprocess.Popen(command, stdout=silent, stderr=kept, text=True) as child,
        undone_at_end(child.terminate),
    ):
        try:
            text = None
            while text is None:
                check_interrupt()
                with suppress(subprocess.TimeoutExpired):
                    text = child.communicate(timeout=_POLL_S)[1]
            check_interrupt()
        except BaseException:
            child.terminate()
            raise
    return child.returncode, text


def _prompts(folder: Path) -> tuple[Prompt, ...]:
    """Returns a batch of prompts: those that come with the model, or plain ones."""
    choices = PromptDefaults(sampling=_SAMPLING)
    path = folder.parent / PROMPTS
    if folder.name == MODEL.name and path.is_file():
        return read_prompts(path, choices)
    repeats = -(-WORKLOAD.batch // len(PLAIN_PROMPTS))
    return make_prompts(PLAIN_PROMPTS * repeats, choices)[: WORKLOAD.batch]
