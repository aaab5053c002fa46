"""What a plan takes: each stage's bytes by part, each phase's seconds by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmpq_jax.costmodel.pipeline_schedule import PhaseTerms, phase_terms
from llmpq_jax.planner.instance.candidate import CandidateCost, stage_hosts
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.whatif.stage_breakdown import StageBreakdown, break_down_stage
from llmpq_jax.schema.measurements import PHASES, Phase
from llmpq_jax.schema.strategy import Strategy

DominantTerm = Literal[
    "once", "following", "busy rounds", "empty rounds", "shared machine"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A stage or a link, which micro-batches pass one after the other.

    `seconds` are those of one micro-batch; `slack_s` is by how many it may become slower
    before it is the slowest.
    """

    name: str
    is_link: bool
    seconds: float
    slack_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseBreakdown:
    """What one phase takes: the parts of its seconds, and its resources in pipeline order.

    The number of micro-batches is a mean where rows end apart.
    """

    phase: Phase
    num_micro_batches: float
    terms: PhaseTerms
    resources: tuple[Resource, ...]

    @property
    def slowest(self) -> Resource:
        """The bottleneck."""
        return max(self.resources, key=lambda resource: resource.seconds)

    @property
    def dominant(self) -> DominantTerm:
        """The part of the formula that most of its seconds are."""
        terms = self.terms
        if terms.shared_s > terms.once_s + terms.following_s + terms.later_s:
            return "shared machine"
        parts: dict[DominantTerm, float] = {
            "once": terms.once_s,
            "following": terms.following_s,
            "busy rounds" if terms.is_busy else "empty rounds": terms.later_s,
        }
        return max(parts, key=lambda part: parts[part])


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanBreakdown:
    """What a plan takes: its stages in pipeline order, prefill, and decode if there is any.

    `omega_budget` is None for no limit; `fits` says whether memory, pins and budget hold.
    """

    stages: tuple[StageBreakdown, ...]
    phases: tuple[PhaseBreakdown, ...]
    latency_s: float
    omega: float
    omega_budget: float | None
    fits: bool


def break_down(problem: Problem, plan: Incumbent, strategy: Strategy) -> PlanBreakdown:
    """Breaks a plan down into its stages, and into the parts of its phases."""
    cost = plan.cost
    names = [" + ".join(stage.devices) for stage in strategy.stages]
    return PlanBreakdown(
        stages=tuple(
            break_down_stage(problem, plan, cost, number, stage)
            for number, stage in enumerate(strategy.stages)
        ),
        phases=tuple(
            _break_down_phase(plan, cost, names, p) for p in plan.instance.phases
        ),
        latency_s=cost.seconds.latency_s,
        omega=cost.omega,
        omega_budget=plan.instance.omega_budget,
        fits=cost.fits,
    )


def _break_down_phase(
    plan: Incumbent, cost: CandidateCost, names: Sequence[str], p: int
) -> PhaseBreakdown:
    instance, stages_s, hops_s = plan.instance, cost.stages_s[p], cost.hops_s[p]
    slowest = max((*stages_s, *hops_s))
    resources = []
    for number, (name, seconds) in enumerate(zip(names, stages_s, strict=True)):
        resources.append((name, False, seconds))
        if number < len(hops_s):
            link = f"{name} → {names[number + 1]}"
            resources.append((link, True, hops_s[number]))
    return PhaseBreakdown(
        phase=PHASES[p],
        num_micro_batches=instance.num_micro_batches[p],
        terms=phase_terms(
            PHASES[p],
            stages_s=stages_s,
            hops_s=hops_s,
            num=instance.num_micro_batches[p],
            later_rounds=instance.num_rounds[p] - 1,
            hosts=stage_hosts(instance, plan.candidate.devices),
        ),
        resources=tuple(
            Resource(
                name=name, is_link=is_link, seconds=seconds, slack_s=slowest - seconds
            )
            for name, is_link, seconds in resources
        ),
    )
