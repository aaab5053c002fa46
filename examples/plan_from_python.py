"""Plans the tiny model onto four small devices, as `llmpq-jax solve` does."""

from pathlib import Path

from llmpq_jax import SolveRequest, Sources, Workload, plan, planning_request

FOLDER = "strategies/tiny-four-cpu"
sources = Sources(
    cluster=f"{FOLDER}/cluster.toml", measurements=f"{FOLDER}/measurements.toml"
)
workload = Workload(batch=16, prompt_length=64, new_tokens=64)
model = Path("examples/tiny-code-lm")
strategy = plan(planning_request(model, workload, SolveRequest(sources=sources)))
for stage in strategy.stages:
    print(f"{stage.device}: layers {stage.layers}, bits {stage.bits}")
