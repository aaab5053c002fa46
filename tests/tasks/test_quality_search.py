"""Promises kept by plans whose true loss is not quite what Σω says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import InfeasibleError, RequestError
from llmpq_jax.schema.precision import Activations, KvBits
from llmpq_jax.schema.sensitivity import CalibrationText, LayerSensitivity, Sensitivity
from llmpq_jax.schema.strategy import (
    ModelReference,
    PrecisionChoice,
    Prediction,
    Quality,
    Stage,
    Strategy,
)
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.tasks.evaluate import evaluate
from llmpq_jax.tasks.indicate import open_text
from llmpq_jax.tasks.quality_search import first_budget, plan_within
from llmpq_jax.tasks.validation import (
    Limit,
    PlanEvaluator,
    Round,
    ValidationFigures,
    read_evaluated,
    write_evaluated,
)
from tests.support.tiny_models import make_strategy, write_tiny_model

LAYERS = 6
# Omega of a layer at 4 bits; at 8 it loses nothing.
OMEGAS = [0.05, 0.01, 0.02, 0.03, 0.01, 0.04]


def _strategy(bits: tuple[int, ...]) -> Strategy:
    """A plan that is the faster the more layers have 4 bits."""
    omega = sum(o for o, width in zip(OMEGAS, bits, strict=True) if width == 4)
    latency_s = 10.0 - bits.count(4)
    return Strategy(
        model=ModelReference(
            path="m", architecture="llama", num_layers=LAYERS, fingerprint="f"
        ),
        workload=Workload(batch=1, prompt_length=8, new_tokens=8),
        micro_batch=MicroBatch(prefill=1, decode=1),
        precision=PrecisionChoice(),
        stages=(Stage(device="n/cpu:0", layers=(0, LAYERS), bits=bits),),  # pyright: ignore[reportArgumentType]
        quality=Quality(omega=omega, method="hessian"),
        predicted=Prediction(
            prefill_s=1.0,
            decode_s=latency_s - 1,
            latency_s=latency_s,
            throughput_tokens_per_s=1.0,
        ),
    )


def _plan(budget: float) -> Strategy:
    """Gives 4 bits to the cheapest layers that keep the budget: the fastest plan."""
    bits = [8] * LAYERS
    left = budget
    for layer in sorted(range(LAYERS), key=OMEGAS.__getitem__):
        if OMEGAS[layer] <= left:
            left -= OMEGAS[layer]
            bits[layer] = 4
    return _strategy(tuple(bits))


def _evaluation(truth: list[float]):
    def evaluate(strategy: Strategy) -> ValidationFigures:
        loss = sum(
            omega * factor
            for omega, factor, bits in zip(OMEGAS, truth, strategy.bits, strict=True)
            if bits == 4
        )
        return ValidationFigures(
            perplexity=10.0, perplexity_increase=10 * math.expm1(loss), kl=loss
        )

    return evaluate


_TRUTHS = st.lists(st.floats(0.3, 3.0), min_size=LAYERS, max_size=LAYERS)
_LIMITS = st.lists(st.floats(0.01, 2.0), min_size=1, max_size=5).map(sorted)


def _latency_s(found: Round) -> float:
    assert found.strategy.predicted is not None
    return found.strategy.predicted.latency_s


@given(_TRUTHS, _LIMITS)
def test_every_promise_is_kept_and_a_looser_one_is_never_slower(truth, limits):
    known: list[Round] = []
    before = math.inf
    for value in limits:
        limit = Limit(kind="perplexity", value=value)
        found = plan_within(
            limit,
            omega_budget=math.log1p(value / 10.0),
            plan=_plan,
            evaluate=_evaluation(truth),
            known=known,
        )
        assert found.validation.perplexity_increase <= value
        assert _latency_s(found) <= before
        before = _latency_s(found)


def test_a_plan_over_its_limit_is_solved_again_more_strictly():
    rounds: list[Round] = []
    limit = Limit(kind="kl", value=0.05)
    found = plan_within(
        limit,
        omega_budget=0.05,
        plan=_plan,
        evaluate=_evaluation([2.0] * LAYERS),
        known=[],
        on_round=rounds.append,
    )
    assert [each.keeps for each in rounds] == [False, True]
    assert rounds[1].omega_budget < rounds[0].omega_budget / 1.9
    assert found.strategy == rounds[1].strategy


def test_a_limit_nobody_keeps_is_reported_with_the_lowest_loss_found():
    def evaluate(_: Strategy) -> ValidationFigures:
        return ValidationFigures(perplexity=10.0, perplexity_increase=0.4, kl=0.2)

    limit = Limit(kind="perplexity", value=0.1)
    complaint = "no plan of 5 rounds keeps the perplexity limit of 0.1 on the validation text: the lowest was 0.4"
    with pytest.raises(InfeasibleError, match=complaint):
        plan_within(limit, omega_budget=0.1, plan=_plan, evaluate=evaluate, known=[])


def test_where_nothing_fits_more_strictly_a_known_plan_serves():
    good = Round(
        omega_budget=0.1,
        strategy=_strategy((8,) * LAYERS),
        validation=ValidationFigures(
            perplexity=10.0, perplexity_increase=0.05, kl=0.01
        ),
        keeps=True,
    )

    def plan(_: float) -> Strategy:
        raise InfeasibleError("too strict")  # noqa: EM101

    limit = Limit(kind="perplexity", value=0.1)
    evaluate = _evaluation([1.0] * LAYERS)
    found = plan_within(
        limit, omega_budget=0.1, plan=plan, evaluate=evaluate, known=[good]
    )
    assert found is good
    with pytest.raises(InfeasibleError, match="too strict"):
        plan_within(limit, omega_budget=0.1, plan=plan, evaluate=evaluate, known=[])


def test_a_first_budget_is_the_limit_in_the_sensitivities_unit():
    sensitivity = Sensitivity(
        model="m",
        fingerprint="f",
        method="hessian",
        unit="u",
        group_size=32,
        calibration=CalibrationText(
            text="t",
            digest="d",
            num_tokens=1,
            seed=0,
            num_assignments=1,
            factor=0.8,
            r2=1.0,
        ),
        layers=(LayerSensitivity(layer=0, bits=4, omega=0.1),),
    )
    perplexity = Limit(kind="perplexity", value=0.5)
    found = first_budget(perplexity, sensitivity, perplexity=20.0)
    assert found == pytest.approx(math.log(20.5 / 20.0))
    kl = first_budget(Limit(kind="kl", value=0.1), sensitivity, perplexity=20.0)
    assert kl == pytest.approx(0.08)
    unfitted = replace(sensitivity, calibration=None, method="weight-variance")
    with pytest.raises(
        RequestError, match="by 'weight-variance' were not fitted to measured"
    ):
        first_budget(perplexity, unfitted, perplexity=20.0)


def test_a_record_returns_what_was_evaluated_for_the_same_problem(tmp_path):
    path = tmp_path / "validation.jsonl"
    validation = ValidationFigures(perplexity=10.0, perplexity_increase=0.05, kl=0.01)
    rounds = [
        Round(
            omega_budget=0.1, strategy=_plan(budget), validation=validation, keeps=True
        )
        for budget in (0.0, 0.1)
    ]
    assert read_evaluated(path, "a") == []
    write_evaluated(path, "a", rounds[:1])
    write_evaluated(path, "b", rounds[1:])
    (found,) = read_evaluated(path, "a")
    assert found.is_known
    assert (found.strategy, found.validation) == (rounds[0].strategy, validation)
    write_evaluated(path, "a", [found, *rounds[1:]])
    assert [each.strategy for each in read_evaluated(path, "a")] == [
        each.strategy for each in rounds
    ]
    path.write_text(path.read_text() + '{"key": "a"}\n')
    with pytest.raises(RequestError, match="line 4: cannot be read"):
        read_evaluated(path, "a")


@pytest.mark.parametrize("kv_bits", [16, 8])
def test_a_plan_is_judged_with_the_activations_that_it_serves(
    tmp_path: Path, kv_bits: KvBits
) -> None:
    model = write_tiny_model(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, twice. " * 4)
    streamed = StreamedModel(model)
    windows = open_text(streamed, text, window=16, max_tokens=128)
    served = make_strategy(model, [((0,), [8, 16, 8, 4])], kv_bits=kv_bits)
    figures: dict[Activations, ValidationFigures] = {}
    for activations in ("float32", "bfloat16"):
        strategy = replace(
            served, precision=replace(served.precision, activations=activations)
        )
        judge = PlanEvaluator(streamed, windows, folder=tmp_path / activations)
        figures[activations] = judge(strategy)
        evaluation, _ = evaluate(strategy, text_path=text, window=16, max_tokens=128)
        assert evaluation is not None
        assert figures[activations].kl == pytest.approx(evaluation.kl_mean, rel=0.05)
    assert figures["bfloat16"].kl > figures["float32"].kl
    assert figures["bfloat16"].perplexity == figures["float32"].perplexity
