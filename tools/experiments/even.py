"""An even plan at 8 bits, with which hops are timed before anything is planned."""

from __future__ import annotations

from dataclasses import replace

from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.strategy import Strategy
from tools.benchmarks.models import even_strategy
from tools.experiments.definition import Experiment


def even_plan(experiment: Experiment, cluster: Cluster) -> Strategy:
    """Returns a plan that cuts the model evenly over all devices of a cluster."""
    names = [node_devices.name for node_devices in cluster.node_devices]
    # A power of two, so that half of it divides it.
    rows = 1 << (max(1, experiment.batch // len(names)).bit_length() - 1)
    strategy = even_strategy(
        experiment.model_path,
        bits=8,
        head_bits=16,
        num_stages=len(names),
        batch=experiment.batch,
        prefill=max(1, rows // 2),
        decode=rows,
        prompt_length=experiment.prompt_length,
        new_tokens=experiment.new_tokens,
    )
    return replace(
        strategy,
        stages=tuple(
            replace(stage, device=name)
            for stage, name in zip(strategy.stages, names, strict=True)
        ),
    )
