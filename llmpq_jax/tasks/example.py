"""The example that ships with the project: its model, and devices to run it on."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.costmodel.memory import (
    embedding_bytes,
    head_bytes,
    layer_bytes,
    layer_kv_bytes,
)
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.precision import Activations
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.units import MIB

MODEL = Path("examples/tiny-code-lm")
CLUSTER = Path("strategies/tiny-four-cpu/cluster.toml")
PROMPTS = "prompts.jsonl"
WORKLOAD = Workload(batch=16, prompt_length=64, new_tokens=64)
ACTIVATIONS: Activations = "float32"

# For models without a file of prompts; any language model can continue these.
PLAIN_PROMPTS = (
    "Once upon a time",
    "The first thing to know is",
    "Here is a list of",
    "In the beginning,",
)

# Share of the layers at 16 bits, with their caches, that fits on each device. Less than 1
# together, so that layers must be quantised, and unequal, so that the cut matters.
_SHARES = (0.2, 0.19, 0.235, 0.15)


def find_model(root: Path) -> Path:
    """Returns the example model's folder, from here or from the package's own checkout.

    Raises:
        CheckpointError: The package is not in a checkout.
    """
    for folder in (MODEL, root / MODEL):
        if (folder / "config.json").is_file():
            return folder
    msg = f"checkpoint {MODEL}: is not here: expected the example model, which comes with the source of llmpq-jax and not with its wheel; clone the repository and run `make quickstart`, or name a checkpoint with --model"
    raise CheckpointError(msg)


def four_cpu_devices(architecture: Architecture) -> Cluster:
    """Describes four emulated CPU devices whose memory is unequal and scarce.

    All of them must be used, so that the plan is a pipeline of four stages.
    """
    precision = PrecisionChoice(activations=ACTIVATIONS)
    layer = layer_bytes(
        architecture, bits=16, group_size=precision.group_size
    ) + layer_kv_bytes(
        architecture,
        workload=WORKLOAD,
        micro_batch=MicroBatch(prefill=1, decode=1),
        activations=ACTIVATIONS,
    )
    # XLA on CPUs converts matrices to float32 as a layer or the head runs.
    workspace = 10 * architecture.hidden_size * architecture.intermediate_size
    head = head_bytes(architecture, precision=precision)
    besides = (
        workspace + embedding_bytes(architecture),
        workspace,
        workspace,
        max(workspace, 2 * head) + head,
    )
    devices = tuple(
        Device(
            name=f"cpu:{number}",
            kind="cpu-emulated",
            platform="cpu",
            memory_bytes=-(
                -round(max(share * architecture.num_layers, 1) * layer + rest) // MIB
            )
            * MIB,
            use="always",
        )
        for number, (share, rest) in enumerate(zip(_SHARES, besides, strict=True))
    )
    return Cluster(
        name="four emulated CPU devices",
        nodes=(Node(name="node0", devices=devices),),
    )
