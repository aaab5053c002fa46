"""Every table of every command, in a narrow terminal and with long names."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import llmpq_jax.report
from llmpq_jax.checkpoint.writer import WrittenModule
from llmpq_jax.planner import plan
from llmpq_jax.planner.baselines.compare import Comparison
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.whatif import (
    Increments,
    answer_scenarios,
    break_down,
    incumbent_from_strategy,
    list_scenarios,
)
from llmpq_jax.report.comparison import comparison_table
from llmpq_jax.report.corrections import links_table, observed_table
from llmpq_jax.report.deviation import deviation_table
from llmpq_jax.report.explanation import answers_table, memory_table, seconds_table
from llmpq_jax.report.memory import compiled_memory_table, peaks_table
from llmpq_jax.report.quality import (
    choices_table,
    evaluation_table,
    sensitivity_table,
)
from llmpq_jax.report.table_style import ReportTable, new_table
from llmpq_jax.report.tables import (
    accuracy_table,
    machine_table,
    measurements_table,
    neighbours_table,
    plan_table,
    run_table,
    written_table,
)
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.measurements import Accuracy, LinkTime, Observed
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.sensitivity.evaluation import (
    ChoiceEvaluation,
    TextEvaluation,
    TextScores,
)
from llmpq_jax.stage.abstract import ProgramMemory
from tests.planner.requests import measurements, request
from tests.report import samples

NODE = "node-with-a-long-name"
KIND = "NVIDIA-A100-SXM4-80GB"
SCORES = TextScores(perplexity=9.5, bits_per_byte=1.25)


def long_name(name: str) -> str:
    return name.replace("node0/cpu", f"{NODE}/cuda")


def long_strategy() -> Strategy:
    """The plan of the samples, on devices with long names."""
    own = samples.strategy()
    stages = []
    for stage in own.stages:
        mesh = stage.mesh and replace(
            stage.mesh, devices=tuple(map(long_name, stage.mesh.devices))
        )
        stages.append(
            replace(stage, device=stage.device and long_name(stage.device), mesh=mesh)
        )
    return replace(own, stages=tuple(stages))


def long_cluster() -> Cluster:
    """The devices that `long_strategy` names, and their kinds."""
    devices = [
        Device(
            name=f"cuda:{number}",
            kind=kind,
            platform="cuda",
            memory_bytes=4 * samples.MIB,
        )
        for number, kind in enumerate(("slow", "fast"))
    ]
    return Cluster(name="room", nodes=(Node(name=NODE, devices=tuple(devices)),))


def run_tables() -> list[ReportTable]:
    strategy, batch = long_strategy(), samples.batch()
    program = ProgramMemory(
        function="prefill",
        arguments=samples.MIB,
        outputs=samples.MIB,
        aliased=0,
        temporary=samples.MIB,
        waiting=0,
        received=0,
    )
    return [
        plan_table(strategy),
        neighbours_table([strategy], strategy),
        run_table(strategy, [batch]),
        deviation_table(strategy, [phase_times(strategy, batch)]),
        peaks_table(strategy, [batch]),
        compiled_memory_table(strategy, [[program]] * 3, [samples.MIB] * 3),
        machine_table(long_cluster()),
        written_table(
            [
                WrittenModule(
                    kind="layer", bits=8, bytes_before=2048, bytes_after=1024
                ),
                WrittenModule(kind="head", bits=16, bytes_before=512, bytes_after=512),
            ]
        ),
    ]


def measured_tables() -> list[ReportTable]:
    known = measurements()
    rows = tuple(replace(row, kind=f"{KIND}-{row.kind}") for row in known.layers)
    accuracy = Accuracy(
        kind=KIND,
        phase="decode",
        bits=8,
        num_fitted=10,
        num_held_out=2,
        mean_error=0.5,
        largest_error=0.75,
        spread=0.25,
    )
    observed = Observed(
        kind=KIND,
        phase="decode",
        predicted_s=1.0,
        measured_s=1.5,
        num_passes=100,
        run="run-of-a-long-evening.jsonl",
        record="sha256:0",
        strategy="sha256:0",
        date="2026-11-30T12:00:00+00:00",
    )
    link = LinkTime(
        source_kind=KIND,
        target_kind=KIND,
        source_node=NODE,
        target_node=f"{NODE}-too",
        num_bytes=65536,
        seconds=1e-3,
        spread=0.01,
    )
    known = replace(known, layers=rows, accuracy=(accuracy,), observed=(observed,))
    return [
        measurements_table(known),
        accuracy_table(known),
        observed_table(known),
        links_table([link]),
    ]


def planned_tables() -> list[ReportTable]:
    asked = replace(request("slow", "fast", memory_mib=4), cluster=long_cluster())
    strategy = plan(asked)
    problem = make_problem(asked)
    found = incumbent_from_strategy(problem, strategy)
    put = list(list_scenarios(problem, strategy, found, Increments()))[:4]
    answers = list(answer_scenarios(put, found, time_limit_s=60.0, relative_gap=1e-6))
    breakdown = break_down(problem, found, strategy)
    compared = Comparison(
        method="PipeEdge, micro-batches searched",
        latency_s=1.25,
        omega=0.125,
        joint_latency_s=1.0,
        joint_omega=0.0625,
        gap=0.001,
        seconds=12.0,
    )
    return [
        memory_table(breakdown, answers),
        seconds_table(breakdown),
        answers_table(answers),
        comparison_table([compared, Comparison(method="transfer")]),
        sensitivity_table(asked.sensitivity),
    ]


def quality_tables() -> list[ReportTable]:
    evaluation = TextEvaluation(
        text="evaluation.txt",
        num_windows=8,
        num_tokens=4096,
        exact=SCORES,
        found=SCORES,
        increase_interval=(-0.1, 0.1),
        kl_mean=0.01,
        kl_interval=(0.005, 0.015),
        kl_99=0.1,
        agreement=0.95,
    )
    choices = ChoiceEvaluation(
        name="questions.jsonl",
        num_questions=100,
        exact=0.5,
        exact_per_byte=0.5,
        found=0.25,
        found_per_byte=0.25,
    )
    return [evaluation_table(evaluation), choices_table(choices)]


@pytest.fixture(scope="module")
def tables() -> list[ReportTable]:
    return [
        *(*run_tables(), *measured_tables()),
        *(*planned_tables(), *quality_tables()),
    ]


def shown(table: ReportTable, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_these_are_all_tables_of_all_commands(tables):
    made = [
        function
        for module in pkgutil.iter_modules(llmpq_jax.report.__path__)
        for function in vars(
            importlib.import_module(f"llmpq_jax.report.{module.name}")
        ).values()
        if inspect.isfunction(function)
        and function.__module__.endswith(f".{module.name}")
        and function.__annotations__.get("return") == "ReportTable"
        and function is not new_table
    ]
    assert len(made) == len(tables) > 10


def test_no_name_is_cut_in_a_terminal_of_eighty_columns(tables):
    for table in tables:
        lines = shown(table, 80)
        text = "\n".join(lines)
        assert "…" not in text, text
        assert max(map(len, lines)) <= 80, text
        words = set(text.split())
        for row in table.identifying_cells:
            for cell in row:
                assert set(cell.split()) <= words, text


def test_every_row_of_every_block_has_its_name(tables):
    (first, *_) = tables
    lines = shown(first, 80)
    num_blocks = sum(line.strip().startswith("device") for line in lines)
    assert num_blocks > 1
    for name in ("cuda:0", "cuda:1", "cuda:2", "cuda:3"):
        assert sum(f"{NODE}/{name}" in line for line in lines) == num_blocks


def test_a_name_in_brackets_is_a_name():
    table = new_table("title", "device")
    table.add_row("[bold]node[/bold]:smile:/cpu:0")
    assert "  [bold]node[/bold]:smile:/cpu:0" in shown(table, 80)


def test_a_line_is_drawn_below_a_section():
    table = new_table("title", "part", right=("bytes",))
    table.add_row("head", "1 B")
    table.add_section()
    table.add_row("total")
    lines = [line.strip() for line in shown(table, 80)]
    assert lines[lines.index("total") - 1].strip("─") == ""


@given(
    st.lists(
        st.tuples(
            st.text("ab/:0", min_size=1, max_size=30),
            st.lists(st.sampled_from(["16", "8×3", "4"]), min_size=1, max_size=20),
            st.sampled_from(["7 MiB of 8 MiB", "1 s → 2 s", "–"]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(20, 100),
)
def test_nothing_is_lost_at_any_width(rows, width):
    table = new_table("title", "device", "bits", right=("memory of allowed", "busy"))
    for name, bits, number in rows:
        table.add_row(name, " ".join(bits), number, "100%")
    lines = shown(table, width)
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    assert text.count("100%") == len(rows)
    if width >= 60:
        for name, _, number in rows:
            assert any(name in line.split() for line in lines)
            assert any(number in line for line in lines)
