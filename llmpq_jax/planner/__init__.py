"""Plans cuts, bits and micro-batches together, with a proof of how good the plan is.

strategy = plan(PlanRequest(architecture=…, cluster=…, …))
"""

from llmpq_jax.planner.plan import plan
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Progress

__all__ = ["PlanRequest", "Progress", "plan"]
