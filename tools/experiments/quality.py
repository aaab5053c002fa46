"""Quality loss of the plans' bits: KL on the prompts, perplexity of a trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from llmpq_jax.files import write_text
from llmpq_jax.planner.baselines.compare import baselines, joint_plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.strategy import Stage, Strategy
from llmpq_jax.schema.workload import Workload
from llmpq_jax.sensitivity.losses import compare_logits
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.tasks.evaluate import evaluate
from llmpq_jax.tasks.planning_request import planning_request
from tools.experiments.definition import BUILD, Experiment
from tools.experiments.plans import JOINT, written
from tools.generated import ROOT

TINY = ROOT / "examples" / "tiny-code-lm"
_TINY_CLUSTER = ROOT / "strategies" / "tiny-four-cpu"
_ROWS_AT_ONCE = 4


def measure_kl(
    experiment: Experiment, name: str, *, on_note: Callable[[str], None]
) -> None:
    """Writes KL divergence from 16 bits, nats per token, of each plan of a cluster.

    It depends only on the bits, so plans with equal bits are evaluated once, on one
    device.
    """
    folder = BUILD / name
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    prompts = experiment.prompts()
    model = StreamedModel(experiment.model_path)
    reference = model.head()(model.forward(prompts))
    known: dict[Any, float] = {}
    found: dict[str, float] = {}
    for plan in plans:
        if plan["strategy"] is None or plan["strategy"] in found:
            continue
        strategy = on_one_device(read_strategy(folder / plan["strategy"]))
        key = (strategy.bits, strategy.precision)
        if key not in known:
            with Pipeline.load(strategy) as pipeline:
                parts = [
                    compare_logits(
                        jnp.asarray(pipeline.score(prompts[each])),
                        reference[each],
                        jnp.asarray(prompts[each]),
                    )[1]
                    for each in _slices(len(prompts))
                ]
            known[key] = float(np.concatenate(parts).mean(dtype=np.float64))
        found[plan["strategy"]] = known[key]
        on_note(f"  {plan['method']}: {known[key]:.4g}")
    write_text(folder / "kl.json", json.dumps(found, indent=1) + "\n")


def on_one_device(strategy: Strategy) -> Strategy:
    """Returns a strategy of the same bits with one stage, on this machine."""
    stage = Stage(
        device="here/cpu:0", layers=(0, len(strategy.bits)), bits=strategy.bits
    )
    return replace(strategy, stages=(stage,), certificate=None, predicted=None)


def measure_perplexity(
    experiment: Experiment, *, on_note: Callable[[str], None]
) -> None:
    """Plans the trained tiny model by each method, and writes its perplexity."""
    folder = BUILD / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    workload = Workload(batch=16, prompt_length=64, new_tokens=64)
    request = planning_request(
        TINY,
        workload,
        SolveRequest(
            sources=Sources(
                cluster=str(_TINY_CLUSTER / "cluster.toml"),
                measurements=str(_TINY_CLUSTER / "measurements.toml"),
            )
        ),
    )
    problem = make_problem(request)
    rows = []
    for method, found in baselines(problem):
        if found is None:
            rows.append({"method": method, "perplexity": None})
            continue
        joint = joint_plan(
            problem,
            found,
            time_limit_s=experiment.time_limit_s,
            relative_gap=experiment.gap,
        )
        assert joint.incumbent is not None, "the baseline's own plan is known"
        for each, plan in ((method, found), (f"{JOINT} for {method}", joint.incumbent)):
            planned = written(problem, plan, folder, each)
            assert planned.strategy is not None
            strategy = on_one_device(read_strategy(folder / planned.strategy))
            evaluation, _ = evaluate(strategy, text_path=TINY / "evaluation.txt")
            assert evaluation is not None
            rows.append(
                {
                    "method": each,
                    "omega": planned.omega,
                    "predicted_s": planned.predicted_s,
                    "kl": evaluation.kl_mean,
                    "perplexity": evaluation.found.perplexity,
                    "perplexity_16": evaluation.exact.perplexity,
                }
            )
            on_note(f"  {rows[-1]}")
    write_text(folder / "perplexity.json", json.dumps(rows, indent=1) + "\n")


def _slices(count: int) -> list[slice]:
    return [
        slice(first, first + _ROWS_AT_ONCE) for first in range(0, count, _ROWS_AT_ONCE)
    ]
