"""Writes docs/results.md from what `python -m tools.experiments` measured.

Run `python -m tools.write_results`, with `--check` to compare only.
"""

from __future__ import annotations

import json
from pathlib import Path

from llmpq_jax.schema.cluster_file import read_cluster
from llmpq_jax.units import MIB
from tools import generated
from tools.emulation.speeds import read_emulation
from tools.experiments.definition import read_experiment
from tools.experiments.page import all_tables

PAGE = "docs/results.md"
RESULTS = Path(__file__).parent / "experiments" / "results" / "2026-11-26"

TEXT = """\
# The paper's claim, measured

<!-- Written by tools/write_results.py from tools/experiments/results; edit it there. -->

Is a plan that decides cut, bits and micro-batches together faster than one that decides them
one after another? Here both are run: by the same engine (Ray, stages joined by sockets), on
the same clusters, with the same prompts, and the joint plan's Σω is never above that of the
plan it stands beside.

**What was fixed before the first measurement** is in
[experiment.toml](../tools/experiments/experiment.toml) and
[clusters](../tools/experiments/clusters): {model} with random weights, {batch} prompts of
{prompt_length} random tokens, {new_tokens} new tokens each, float32 activations. Every plan
was run {warm_ups} + {runs} times; the first does not count. All plans are shown, also those
that lose.

**The clusters** are nodes of one machine with 2 cores (AMD Zen 4), each a Ray node whose share
of a core the kernel keeps, as [tools/emulation](../tools/emulation/README.md) does. Speeds
that were reached are measured before each run; where one misses by more than 10 %, nothing
is run. Memory is what planners may use, and not enough for 16 bits.

| cluster | speeds, shares of a core | memory, MiB |
|---|---|---|
{clusters}

Each cluster was profiled by `llmpq-jax profile` inside its nodes, and hops by an even
pipeline over all of them.

**How to read the tables.** Rates are new tokens per second of the whole batch, prefill
included: medians, with the least and the most of all runs that count. Predicted rates are the
planner's. Σω is one indicator for all plans (`llmpq-jax indicate`, from weights and calibration
text), KL is measured on the same prompts, from 16 bits, in nats per token. A baseline plans by
its own rules ([ADR 0016](adr/0016-baselines-by-their-own-rules.md)); "ratio" is how many
times as fast the joint plan beside it is. Plans that are equal were run once.

{tables}

For the last table the tiny model, which is trained, was planned by each method for
`strategies/tiny-four-cpu` and judged on its evaluation text; its seconds are predicted, not
run.

## What this says, and what it does not

- The aim was 1.5 times uniform and 1.15 times PipeEdge in the mean; the first table has what
  was reached. Most of what is gained over uniform and PipeEdge comes from micro-batches of
  each phase: "PipeEdge, micro-batches searched" has PipeEdge's cut and the joint plan's
  freedom in micro-batches, and stands much nearer.
- At the quality of uniform int8 the full planner's plan has one bit width on both clusters
  with ablations, so there bits decided nothing; against adabits and transfer, which ask for
  more quality, joint plans mix them. Weights are random: what bits cost a trained model is in
  the last table alone.
- Every prediction is too quick: batches took 1.15 to 1.96 times as long as foretold. A stage
  takes longer inside a pipeline of throttled processes than alone, most so in the cluster
  with the slowest nodes. Of the 126 pairs of different plans on one cluster ten came out in
  the other order than foretold; their predictions are 13 % apart at most.
- Shares of a core are no different chips: nodes differ in speed alike for all kernels, while
  GPUs of two generations differ more in one phase than in the other.

## Doing it again

```sh
python -m tools.experiments sensitivity
python -m tools.experiments profile
python -m tools.experiments plan
python -m tools.experiments run
python -m tools.experiments quality
python -m tools.experiments table
```

It takes about 75 minutes on 2 cores where nothing else runs, and needs writable control
groups and `pip install 'llmpq-jax[ray]'`. Raw figures: {results}
(llmpq-jax {llmpq_jax}, JAX {jax}, {date}).
"""


def render() -> str:
    """Returns the page."""
    experiment = read_experiment()
    said = json.loads((RESULTS / "provenance.json").read_text(encoding="utf-8"))
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
        **{key: said[key] for key in ("llmpq_jax", "jax", "date")},
    )


def _cluster_row(name: str, folder: Path) -> str:
    """Names a cluster's nodes, by speed and memory."""
    nodes = read_emulation(folder / "speeds.toml", frozenset({0, 1})).speeds.nodes
    speeds = ", ".join(f"{node.speed:g}" for node in nodes)
    memory = ", ".join(
        f"{node_devices.device.memory_bytes / MIB:g}"
        for node_devices in read_cluster(folder / "cluster.toml").node_devices
    )
    return f"| {name} | {speeds} | {memory} |"


if __name__ == "__main__":
    generated.run(render, page=PAGE, module="tools.write_results")
