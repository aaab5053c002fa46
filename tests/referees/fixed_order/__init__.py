"""The planning problem as a Pyomo model; tests/referees/README.md is its table.

One micro-batch pair, one precision of head and cache, and devices in the cluster file's
order, of which any may stay idle. Cumulative cuts make stages contiguous; integer counts
per device and precision carry seconds and bytes, since all layers have equal shapes; a
path of hops joins the devices that are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pyomo.environ as pyo

from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import Scaling, scaling_of
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.schema.measurements import PHASES
from tests.referees.fixed_order import memory, placement, quality, time
from tests.referees.fixed_order.variables import Goal, add_variables

Add = Callable[[Model, Instance, Scaling], None]

PLACEMENT: tuple[Add, ...] = (
    placement.device_order,
    placement.layer_order,
    placement.one_precision,
    placement.layer_count,
    placement.used_if_holding,
    placement.holding_if_used,
    placement.one_predecessor,
    placement.one_successor,
    placement.one_first,
)
MEMORY: tuple[Add, ...] = (
    memory.precision_in_use,
    memory.layer_workspace,
    memory.embedding_workspace,
    memory.head_workspace,
    memory.memory,
)
BY_PHASE = (
    time.slowest_stage,
    time.slowest_hop,
    time.schedule,
    time.shared_hosts,
)
ROUNDS: tuple[Add, ...] = (time.busy_round, time.empty_round)
OTHERS: tuple[Add, ...] = (quality.omega_budget, placement.group_devices)
GOALS: tuple[Goal, ...] = ("objective", "omega")
# In the order of their numbers: (F1) is the first.
CONSTRAINTS = (
    *(*PLACEMENT, *MEMORY, *BY_PHASE[:2], *ROUNDS, *BY_PHASE[2:]),
    *(time.whole_model, *OTHERS),
)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Formulation:
    """A model ready to be solved.

    Attributes:
        model: Pyomo model.
        unit: Unit of the objective in seconds or ω.
    """

    model: Model
    unit: float


def formulate(instance: Instance, *, goal: Goal = "objective") -> Formulation:
    """Writes an instance as a model.

    Args:
        instance: Numbers of the subproblem.
        goal: Value that is minimised: latency plus θ·Σω, or Σω.
    """
    scaling = scaling_of(instance)
    model = pyo.ConcreteModel()
    add_variables(model, instance)
    # With one new token there is no decode step, and its time is free to be 0.
    phases = instance.phases if goal == "objective" else ()
    for add in constraints(phases).values():
        add(model, instance, scaling)
    quality.add_objective(model, instance, scaling, goal=goal)
    scale = {"objective": scaling.time_s, "omega": scaling.omega}
    return Formulation(model=model, unit=scale[goal])


def constraints(phases: Sequence[int] = (PREFILL, DECODE)) -> dict[str, Add]:
    """Returns all constraints by their Pyomo names, those of time for some phases."""
    adds = [*PLACEMENT, *MEMORY, *OTHERS]
    adds += ROUNDS if DECODE in phases else ()
    adds += [time.whole_model] if phases else []
    return {add.__name__: add for add in adds} | {
        f"{PHASES[p]}_{add.__name__}": partial(add, p=p)
        for p in phases
        for add in BY_PHASE
    }
