"""Plans the tiny model onto four small devices, as `llmpq-jax solve` does."""

from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.schema.cluster_file import read_cluster
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.workload import Workload
from llmpq_jax.sensitivity.weight_variance import weight_variance

MODEL = Path("examples/tiny-code-lm")
PLANS = Path("strategies/tiny-four-cpu")

architecture = read_architecture(MODEL)
strategy = plan(
    PlanRequest(
        architecture=architecture,
        model=ModelReference(
            path=str(MODEL),
            architecture=architecture.family,
            num_layers=architecture.num_layers,
            fingerprint=model_fingerprint(MODEL),
        ),
        cluster=read_cluster(PLANS / "cluster.toml"),
        measurements=read_measurements(PLANS / "measurements.toml"),
        sensitivity=weight_variance(MODEL),
        workload=Workload(batch=16, prompt_length=64, new_tokens=64),
    )
)
for stage in strategy.stages:
    print(f"{stage.device}: layers {stage.layers}, bits {stage.bits}")
