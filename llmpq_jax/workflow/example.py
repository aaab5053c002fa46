"""The example that ships with the project: where it is, and devices to run it on."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.cost.memory import (
    embedding_bytes,
    head_bytes,
    layer_bytes,
    layer_kv_bytes,
)
from llmpq_jax.errors import CheckpointError
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.cluster import Cluster, Device, Node
from llmpq_jax.spec.precision import Activations
from llmpq_jax.spec.strategy import PrecisionChoice
from llmpq_jax.spec.workload import MicroBatch, Workload
from llmpq_jax.units import MIB

MODEL = Path("examples/tiny-code-lm")
CLUSTER = Path("strategies/tiny-four-cpu/cluster.toml")
PROMPTS = "prompts.jsonl"
WORKLOAD = Workload(batch=16, prompt_length=64, new_tokens=64)
ACTIVATIONS: Activations = "float32"

# Where no file of prompts lies beside a model; any language model goes on from these.
PLAIN_PROMPTS = (
    "Once upon a time",
    "The first thing to know is",
    "Here is a list of",
    "In the beginning,",
)

# What each device may hold of what the model needs at 16 bits: not all together, so
# that some layers must be quantised, and unequal, so that the cut matters.
_SHARES = (0.37, 0.28, 0.21, 0.16)


def find_model(root: Path) -> Path:
    """Returns the example model, seen from here or from the package's own checkout.

    Args:
        root: Of the checkout that the package would lie in.

    Raises:
        CheckpointError: This is no checkout.
    """
    for folder in (MODEL, root / MODEL):
        if (folder / "config.json").is_file():
            return folder
    msg = f"checkpoint {MODEL}: is not here: expected the example model, which comes with the source of llmpq-jax and not with its wheel; clone the repository and run `make quickstart`, or name a checkpoint with --model"
    raise CheckpointError(msg)


def four_cpu_devices(architecture: Architecture) -> Cluster:
    """Describes four emulated CPU devices whose memory is unequal and scarce."""
    micro_batch = MicroBatch(prefill=1, decode=1)
    precision = PrecisionChoice(activations=ACTIVATIONS)
    per_layer = layer_bytes(
        architecture, bits=16, group_size=precision.group_size
    ) + layer_kv_bytes(
        architecture,
        workload=WORKLOAD,
        micro_batch=micro_batch,
        activations=ACTIVATIONS,
    )
    needed_bytes = (
        architecture.num_layers * per_layer
        + embedding_bytes(architecture)
        + head_bytes(architecture, precision=precision)
    )
    devices = tuple(
        Device(
            name=f"cpu:{number}",
            kind="cpu-emulated",
            platform="cpu",
            memory_bytes=-(-round(share * needed_bytes) // MIB) * MIB,
        )
        for number, share in enumerate(_SHARES)
    )
    return Cluster(
        name="four emulated CPU devices",
        nodes=(Node(name="node0", devices=devices),),
    )
