"""Plans under a limit on quality that is measured, not only estimated.

The limit becomes a budget for Σω; the plan found is judged on a validation text that the
sensitivities never saw. If it is over the limit, the budget is tightened and solved again.
Plans judged before are candidates for every limit they keep.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llmpq_jax.checkpoint.calibrated import RoundedWeights
from llmpq_jax.errors import InfeasibleError, RequestError
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.report.console import tell
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.tasks.indicate import open_text
from llmpq_jax.tasks.validation import (
    Limit,
    PlanEvaluator,
    Round,
    ValidationFigures,
    read_evaluated,
    write_evaluated,
)

_MAX_ROUNDS = 5
# Below the ratio that would do if Σω were exact.
_MARGIN = 0.95


def plan_under_limit(
    request: PlanRequest,
    limit: Limit,
    *,
    plan: Callable[[PlanRequest], Strategy],
    validation_path: Path,
    window: int,
    validation_tokens: int | None,
    work: Path,
    record: Path | None,
    told: Sequence[str],
) -> Strategy:
    """Plans under a limit on measured quality; each round is told on stderr.

    Args:
        request: What is planned; its budget for Σω is this function's to set.
        limit: On the validation text.
        plan: Solves a request.
        validation_path: Text that the sensitivities never saw.
        window: Tokens of each piece of it.
        validation_tokens: Read of it; all where absent.
        work: Folder for hidden states on their way.
        record: Of plans judged before, read and added to; none where absent.
        told: What makes plans of a record comparable, such as digests of files.

    Raises:
        InfeasibleError: No plan keeps the limit, or none fits the devices.
        RequestError: The validation text is the one the sensitivities were found on, or
            something cannot be read.
    """
    sensitivity = request.sensitivity
    model = StreamedModel(Path(request.model.path), group_size=request.group_size)
    if sensitivity.rounded is not None:
        folder = Path(sensitivity.rounded)
        model.rounded = RoundedWeights(folder, fingerprint=model.fingerprint)
    text = open_text(
        model, validation_path, window=window, max_tokens=validation_tokens
    )
    if (
        sensitivity.calibration is not None
        and sensitivity.calibration.digest == text.digest
    ):
        msg = f"--validation-text {validation_path}: is the text the sensitivities were found on: expected another one, which they never saw"
        raise RequestError(msg)
    judge = PlanEvaluator(model, text, folder=work)
    tell("judging 16 bits on the validation text …")
    perplexity = judge.perplexity()
    told = (*told, model.fingerprint, text.digest, str(text.tokens.shape))
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()
    known = [] if record is None else read_evaluated(record, key)
    budget = first_budget(limit, sensitivity, perplexity=perplexity)
    try:
        best = plan_within(
            limit,
            omega_budget=budget,
            plan=lambda budget: plan(replace(request, omega_budget=budget)),
            judge=judge,
            known=known,
            on_round=_tell_round,
        )
    finally:
        if record is not None:
            write_evaluated(record, key, known)
    quality = best.strategy.quality
    assert quality is not None, "the solver says what a plan costs"
    return replace(
        best.strategy,
        # A plan of the record may have been made in another folder.
        model=request.model,
        quality=replace(
            quality,
            validation_text=text.name,
            measured_ppl_increase=best.validation.perplexity_increase,
            measured_kl=best.validation.kl,
        ),
    )


def _tell_round(found: Round) -> None:
    validation = found.validation
    verdict = "kept" if found.keeps else "over the limit: tightened"
    tell(
        f"round: budget Σω {found.omega_budget:.4g}, perplexity "
        f"{validation.perplexity:.3f} {validation.perplexity_increase:+.4f}, KL {validation.kl:.4g}: {verdict}"
    )


def first_budget(limit: Limit, sensitivity: Sensitivity, *, perplexity: float) -> float:
    """Returns the Σω at which a limit is reached, if Σω is right.

    A perplexity that rises from P by d is a log-perplexity that rises by ln(1 + d/P);
    ω is fitted to such rises. A divergence is Σω before it was fitted.

    Raises:
        RequestError: The sensitivities are not in that unit.
    """
    if sensitivity.calibration is None:
        msg = f"sensitivities by {sensitivity.method!r} are no losses that were measured: expected those of `llmpq-jax indicate`; give them with --sensitivity"
        raise RequestError(msg)
    if limit.kind == "perplexity":
        return math.log1p(limit.value / perplexity)
    return limit.value * sensitivity.calibration.factor


def plan_within(
    limit: Limit,
    *,
    omega_budget: float,
    plan: Callable[[float], Strategy],
    judge: Callable[[Strategy], ValidationFigures],
    known: list[Round],
    on_round: Callable[[Round], None] = lambda _: None,
) -> Round:
    """Solves and judges until a plan keeps the limit; returns the fastest that does.

    Args:
        limit: To be kept on the validation text.
        omega_budget: To begin with.
        plan: Solves under a budget for Σω.
        judge: Judges what was found.
        known: Plans judged before, for the same work; new ones are added.
        on_round: Hears of every round.

    Raises:
        InfeasibleError: No plan of the rounds keeps the limit.
    """
    budget = omega_budget
    for _ in range(_MAX_ROUNDS):
        try:
            strategy = plan(budget)
        except InfeasibleError:
            if not any(each.validation.value(limit) <= limit.value for each in known):
                raise
            break
        seen = [each for each in known if _loses_alike(each.strategy, strategy)]
        validation = seen[0].validation if seen else judge(strategy)
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
        least = min(each.validation.value(limit) for each in known)
        msg = f"no plan of {_MAX_ROUNDS} rounds keeps the {limit.kind} limit of {limit.value:g} on the validation text: the least was {least:.4g}; allow more, or give the devices more memory"
        raise InfeasibleError(msg)
    return min(keeping, key=lambda each: _latency_s(each.strategy))


def _loses_alike(one: Strategy, other: Strategy) -> bool:
    """Whether two plans lose the same quality."""
    return (one.bits, one.precision) == (other.bits, other.precision)


def _latency_s(strategy: Strategy) -> float:
    assert strategy.predicted is not None, "the solver predicts every plan"
    return strategy.predicted.latency_s
