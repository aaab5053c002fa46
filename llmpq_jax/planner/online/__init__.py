"""Plans for requests that arrive at random: candidates of the search, and a simulation."""

from llmpq_jax.planner.online.lengths import online_workload
from llmpq_jax.planner.online.search import SimulatedPlan, plan_online

__all__ = ["SimulatedPlan", "online_workload", "plan_online"]
