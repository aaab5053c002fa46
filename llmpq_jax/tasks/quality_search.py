"""Plans under a limit on the loss of quality that is measured, not only estimated.

The limit becomes a budget for Σω. The plan found is evaluated on a validation text that the
sensitivities were not found on. If it is over the limit, the budget is tightened and the
problem is solved again. Plans evaluated before are candidates for every limit they keep.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmpq_jax.checkpoint.calibrated import CalibratedWeights
from llmpq_jax.errors import InfeasibleError, RequestError, TimeLimitError
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.report.console import log
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.solve_request import QualityLimits, SolveRequest
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import to_toml
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.tasks.indicate import open_text
from llmpq_jax.tasks.planning_request import measurements_digest
from llmpq_jax.tasks.validation import (
    Limit,
    PlanEvaluator,
    Round,
    ValidationFigures,
    read_evaluated,
    write_evaluated,
)
from llmpq_jax.units import format_loss

_MAX_ROUNDS = 5
# Factor below the ratio that would suffice if Σω were exact.
_MARGIN = 0.95


def plan_under_limit(
    problem: PlanRequest,
    request: SolveRequest,
    *,
    plan: Callable[[PlanRequest], Strategy],
    work: Path,
    record: Path | None,
) -> Strategy:
    """Plans under a limit on measured quality; each round is logged to stderr.

    The problem's budget for Σω is set here. The folder `work` is for hidden states
    between layers. Plans of the record are candidates too, and new ones are added to
    it.

    Raises:
        InfeasibleError: No plan keeps the limit, or none fits the devices.
        RequestError: The validation text is the one the sensitivities were found on, or
            something cannot be read.
    """
    limit = measured_limit(request.quality)
    model = StreamedModel(
        Path(problem.model.path),
        group_size=problem.group_size,
        rounds_unquantized=problem.rounds_unquantized,
    )
    if problem.sensitivity.rounded is not None:
        folder = Path(problem.sensitivity.rounded)
        weights = CalibratedWeights(folder, fingerprint=model.fingerprint)
        model.store = model.store.with_calibrated(weights)
    text = _open_validation_text(model, request.quality, problem.sensitivity)
    evaluate = PlanEvaluator(model, text, folder=work)
    perplexity = evaluate.perplexity()
    key = _record_key(problem, request, model, text)
    known = [] if record is None else read_evaluated(record, key)
    try:
        best = plan_within(
            limit,
            omega_budget=first_budget(
                limit, problem.sensitivity, perplexity=perplexity
            ),
            plan=lambda budget: plan(replace(problem, omega_budget=budget)),
            evaluate=evaluate,
            known=known,
            on_round=_log_round,
        )
    finally:
        if record is not None:
            _keep_evaluated(record, key, known)
    quality = best.strategy.quality
    assert quality is not None, "the solver says what a plan costs"
    return replace(
        best.strategy,
        # A plan of the record may have been made in another folder.
        model=problem.model,
        quality=replace(
            quality,
            validation_text=text.name,
            measured_ppl_increase=best.validation.perplexity_increase,
            measured_kl=best.validation.kl,
        ),
    )


def _keep_evaluated(record: Path, key: str, rounds: list[Round]) -> None:
    """Adds rounds to a record; a disk that is full by now costs the record, not the plan."""
    try:
        write_evaluated(record, key, rounds)
    except RequestError as reason:
        log(f"{reason}; what was evaluated is not kept for the next time")


def measured_limit(quality: QualityLimits) -> Limit:
    """Returns the limit of a request that is measured on a validation text."""
    if quality.max_ppl_increase is not None:
        return Limit(kind="perplexity", value=quality.max_ppl_increase)
    assert quality.max_kl is not None, "the request has a validation text"
    return Limit(kind="kl", value=quality.max_kl)


def _open_validation_text(
    model: StreamedModel, quality: QualityLimits, sensitivity: Sensitivity
) -> Text:
    assert quality.validation_text is not None
    path = Path(quality.validation_text)
    text = open_text(
        model, path, window=quality.window, max_tokens=quality.validation_tokens
    )
    calibration = sensitivity.calibration
    if calibration is not None and calibration.digest == text.digest:
        msg = f"--validation-text {path}: is the text the sensitivities were found on: expected another text"
        raise RequestError(msg)
    return text


def _record_key(
    problem: PlanRequest, request: SolveRequest, model: StreamedModel, text: Text
) -> str:
    """Hashes what makes evaluated plans comparable: all but limits and paths."""
    parts = (
        measurements_digest(request.sources, problem.cluster),
        *map(to_toml, (problem.cluster, problem.sensitivity, problem.workload)),
        to_toml(request.choices),
        *(model.fingerprint, text.digest, str(text.tokens.shape)),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _log_round(found: Round) -> None:
    validation = found.validation
    verdict = "kept" if found.keeps else "over the limit: tightened"
    log(
        f"round: budget Σω {format_loss(found.omega_budget)}, perplexity "
        f"{validation.perplexity:.3f} {validation.perplexity_increase:+.4f}, KL {validation.kl:.4g}: {verdict}"
    )


def first_budget(limit: Limit, sensitivity: Sensitivity, *, perplexity: float) -> float:
    """Returns the Σω at which a limit is reached, if Σω is right.

    If the perplexity P increases by d, its logarithm increases by ln(1 + d/P), which is
    what ω is fitted to. A KL divergence is Σω before the fit.

    Raises:
        RequestError: The sensitivities were not fitted to measured losses.
    """
    if sensitivity.calibration is None:
        msg = f"sensitivities by {sensitivity.method!r} were not fitted to measured losses: expected a file from `llmpq-jax indicate`; give it with --sensitivity"
        raise RequestError(msg)
    if limit.kind == "perplexity":
        return math.log1p(limit.value / perplexity)
    return limit.value * sensitivity.calibration.factor


def plan_within(
    limit: Limit,
    *,
    omega_budget: float,
    plan: Callable[[float], Strategy],
    evaluate: Callable[[Strategy], ValidationFigures],
    known: list[Round],
    on_round: Callable[[Round], None] = lambda _: None,
) -> Round:
    """Solves and evaluates until a plan keeps the limit; returns the fastest that does.

    The budget for Σω is that of the first round. Plans that are known from earlier are
    candidates too, and new ones are added to them.

    Raises:
        InfeasibleError: No plan of the rounds keeps the limit.
        TimeLimitError: The first round had too little time to find a plan.
    """
    budget = omega_budget
    for _ in range(_MAX_ROUNDS):
        try:
            strategy = plan(budget)
        except (InfeasibleError, TimeLimitError):
            if not any(each.validation.value(limit) <= limit.value for each in known):
                raise
            break
        seen = [each for each in known if _lose_the_same(each.strategy, strategy)]
        validation = seen[0].validation if seen else evaluate(strategy)
        value = validation.value(limit)
        found = Round(
            omega_budget=budget,
            strategy=strategy,
            validation=validation,
            keeps=value <= limit.value,
        )
        known.append(found)
        on_round(found)
        if found.keeps:
            break
        assert strategy.quality is not None, "the solver says what a plan costs"
        budget = min(budget, strategy.quality.omega) * _MARGIN * limit.value / value
    keeping = [each for each in known if each.validation.value(limit) <= limit.value]
    if not keeping:
        lowest = min(each.validation.value(limit) for each in known)
        msg = f"no plan of {_MAX_ROUNDS} rounds keeps the {limit.kind} limit of {limit.value:g} on the validation text: the lowest was {lowest:.4g}; allow more, or give the devices more memory"
        raise InfeasibleError(msg)
    return min(keeping, key=lambda each: _latency_s(each.strategy))


def _lose_the_same(one: Strategy, other: Strategy) -> bool:
    """Returns whether two plans lose the same quality."""
    return (one.bits, one.precision) == (other.bits, other.precision)


def _latency_s(strategy: Strategy) -> float:
    assert strategy.predicted is not None, "the solver predicts every plan"
    return strategy.predicted.latency_s
