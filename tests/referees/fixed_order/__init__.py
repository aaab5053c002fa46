"""The planning problem as a Pyomo model; tests/referees/README.md is its table.

One micro-batch pair, one head precision, devices in the cluster file's order of which
any may stay idle. Cumulative cuts make stages contiguous; integer counts per device and
precision carry seconds and bytes, since all layers are alike; a path of hops joins the
devices that are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyomo.environ as pyo

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.node_mip.scaling import Model, Scaling, scaling_of
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
    placement.one_way_in,
    placement.one_way_out,
    placement.one_first,
)
MEMORY: tuple[Add, ...] = (
    memory.precision_in_use,
    memory.layer_workspace,
    memory.embedding_workspace,
    memory.head_workspace,
    memory.memory,
)
PREFILL: tuple[Add, ...] = (
    time.prefill_stages,
    time.prefill_hops,
    time.prefill_schedule,
    time.prefill_hosts,
)
DECODE: tuple[Add, ...] = (
    time.decode_stages,
    time.decode_hops,
    time.busy_round,
    time.empty_round,
    time.decode_schedule,
    time.decode_hosts,
)
WHOLE: tuple[Add, ...] = (time.whole_model,)
QUALITY: tuple[Add, ...] = (quality.omega_budget,)
POOLS: tuple[Add, ...] = (placement.pool_devices,)
GOALS: tuple[Goal, ...] = ("objective", "omega")
# In the order of their numbers: (F1) is the first.
CONSTRAINTS = PLACEMENT + MEMORY + PREFILL + DECODE + QUALITY + POOLS + WHOLE


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Formulation:
    """A model ready to be solved.

    Attributes:
        model: Of Pyomo.
        unit: What 1 in the objective stands for: seconds or ω.
    """

    model: Model
    unit: float


def formulate(instance: Instance, *, goal: Goal = "objective") -> Formulation:
    """Writes an instance as a model.

    Args:
        instance: The numbers.
        goal: What is minimised: latency plus θ·Σω; or Σω.
    """
    scaling = scaling_of(instance)
    model = pyo.ConcreteModel()
    add_variables(model, instance)
    parts = PLACEMENT + MEMORY + QUALITY + POOLS
    if goal == "objective":
        parts += PREFILL
        # With one new token there is no decode step, and decode_time is free to be 0.
        parts += DECODE + WHOLE if instance.new_tokens > 1 else ()
    for add in parts:
        add(model, instance, scaling)
    quality.add_objective(model, instance, scaling, goal=goal)
    scale = {"objective": scaling.time_s, "omega": scaling.omega}
    return Formulation(model=model, unit=scale[goal])
