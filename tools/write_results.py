"""Writes docs/results.md from the results of `python -m tools.experiments`.

Run `python -m tools.write_results`, with `--check` to compare only.
"""

from __future__ import annotations

import json
from pathlib import Path

from llmpq_jax.schema.record_files import read_cluster
from llmpq_jax.units import MIB
from tools import generated
from tools.emulation.speeds import read_emulation
from tools.experiments.definition import read_experiment
from tools.experiments.page import all_tables

PAGE = "docs/results.md"
RESULTS = generated.ROOT / "benchmarks" / "results" / "experiments" / "2026-11-26"

TEXT = """\
# The paper's claim, measured

<!-- Written by tools/write_results.py from benchmarks/results/experiments; edit it there. -->

Is a plan that decides cut, bits and micro-batches jointly faster than one that decides them
one after another? Here both are run: by the same engine (Ray, stages connected by sockets),
on the same clusters, with the same prompts, and the joint plan's Σω is never above that of the
baseline it is compared with.

**The definition of the experiment**, fixed before the first measurement, is in
[experiment.toml](../tools/experiments/experiment.toml) and
[clusters](../tools/experiments/clusters): {model} with random weights, {batch} prompts of
{prompt_length} random tokens, {new_tokens} new tokens each, float32 activations. Every plan
was run {warm_ups} + {runs} times; the first does not count. All plans are shown, also slower
ones.

**The clusters** are nodes of one machine with 2 cores (AMD Zen 4), each a Ray node that the
kernel limits to a fraction of a core ([tools/emulation](../tools/emulation/README.md)). The
nodes' speeds are measured before each run; where one is off by more than 10 %, nothing is
run. Memory is what planners may use, and not enough for 16 bits.

| cluster | speeds, fractions of a core | memory, MiB |
|---|---|---|
{clusters}

Each cluster was profiled by `llmpq-jax profile` inside its nodes, and hops by an even
pipeline over all of them.

**How to read the tables.** Rates are new tokens per second of the whole batch, prefill
included: medians, with the minimum and the maximum of all runs that count. Predicted rates are
the planner's. Σω is the quality loss that `llmpq-jax indicate` estimates from weights and
calibration text, by one method for all plans; KL is measured on the same prompts, from 16 bits,
in nats per token. A baseline plans by its own rules
([ADR 0016](adr/0016-baselines-by-their-own-rules.md)); the ratio is the speedup of its joint
plan. Equal plans were run once.

{tables}

The last table is of the trained tiny model, planned by each method for
`strategies/tiny-four-cpu` and evaluated on its evaluation text; its seconds are predicted, not
measured.

## What the results show, and what they do not

- The goal was a mean speedup of 1.5 over uniform and of 1.15 over PipeEdge; the first table
  has the results. Most of the gain over uniform and PipeEdge comes from separate micro-batches
  of the two phases: "PipeEdge, micro-batches searched", with PipeEdge's cut and the joint plan's
  choice of micro-batches, is much closer to the joint plan.
- At the quality of uniform int8 the full planner's plan has one bit width on both clusters
  with ablations, so mixed bits had no effect there; compared with adabits and transfer, which
  require more quality, joint plans mix them. Weights are random: only the last table shows the
  quality loss of a trained model.
- Every prediction is too fast: batches took 1.15 to 1.96 times the predicted time. A stage
  takes longer inside a pipeline of throttled processes than alone, above all in the cluster
  with the slowest nodes. Of the 126 pairs of different plans on one cluster, ten have another
  order measured than predicted; their predictions differ by at most 13 %.
- Fractions of a core are not different chips: the nodes' speeds have the same ratio for all
  kernels, while GPUs of two generations differ more in one phase than in the other.

## Reproducing the results

```sh
python -m tools.experiments sensitivity
python -m tools.experiments profile
python -m tools.experiments plan
python -m tools.experiments run
python -m tools.experiments quality
python -m tools.experiments table
```

It takes about 75 minutes on 2 otherwise idle cores, and needs writable control groups and
`pip install 'llmpq-jax[ray]'`. Raw results: {results}
(llmpq-jax {llmpq_jax}, JAX {jax}, {date}).
"""


def render() -> str:
    """Returns the page."""
    experiment = read_experiment()
    origin = json.loads((RESULTS / "provenance.json").read_text(encoding="utf-8"))
    return TEXT.format(
        model=experiment.model,
        batch=experiment.batch,
        prompt_length=experiment.prompt_length,
        new_tokens=experiment.new_tokens,
        warm_ups=experiment.warm_ups,
        runs=experiment.runs,
        clusters="\n".join(
            _cluster_row(name, experiment.cluster_folder(name))
            for name in experiment.clusters
        ),
        tables=all_tables(experiment, RESULTS).rstrip("\n"),
        results=f"[{RESULTS.name}](../{RESULTS.relative_to(generated.ROOT)})",
        **{key: origin[key] for key in ("llmpq_jax", "jax", "date")},
    )


def _cluster_row(name: str, folder: Path) -> str:
    """Returns the speeds and memory of a cluster's nodes."""
    nodes = read_emulation(folder / "speeds.toml", frozenset({0, 1})).speeds.nodes
    speeds = ", ".join(f"{node.speed:g}" for node in nodes)
    memory = ", ".join(
        f"{node_devices.device.memory_bytes / MIB:g}"
        for node_devices in read_cluster(folder / "cluster.toml").node_devices
    )
    return f"| {name} | {speeds} | {memory} |"


if __name__ == "__main__":
    generated.run(render, page=PAGE, module="tools.write_results")
