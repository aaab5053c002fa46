"""A plan as a command line for vLLM, as far as vLLM can represent it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from llmpq_jax.schema.strategy import Strategy


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmExport:
    """A plan as options of vLLM.

    Attributes:
        environment: Environment variables to set.
        arguments: Arguments of `vllm serve`, the model first.
        devices: Names of the devices, in the order of vLLM's pipeline ranks.
        left_out: Parts of the plan that vLLM cannot represent, a sentence each.
    """

    environment: dict[str, str]
    arguments: tuple[str, ...]
    devices: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command line, preceded by the variables."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(["vllm", "serve", *self.arguments])])


def vllm_export(strategy: Strategy) -> VllmExport:
    """Returns the layer partition, both parallel sizes and the limits of a plan."""
    widths = {len(stage.devices) for stage in strategy.stages}
    partition = ",".join(str(stage.num_layers) for stage in strategy.stages)
    arguments = [
        strategy.model.path,
        *("--pipeline-parallel-size", str(len(strategy.stages))),
        *("--tensor-parallel-size", str(min(widths))),
        *("--dtype", strategy.precision.activations),
        *("--max-model-len", str(strategy.workload.context_length)),
        *("--max-num-seqs", str(strategy.workload.batch)),
    ]
    environment = {}
    if len(strategy.stages) > 1:
        environment["VLLM_PP_LAYER_PARTITION"] = partition
    return VllmExport(
        environment=environment,
        arguments=tuple(arguments),
        devices=tuple(name for stage in strategy.stages for name in stage.devices),
        left_out=tuple(_left_out(strategy, widths)),
    )


def _left_out(strategy: Strategy, widths: set[int]) -> list[str]:
    found = []
    bits = sorted(set(strategy.bits))
    if len(bits) > 1:
        found.append(
            f"layers of {' and '.join(map(str, bits))} bits: vLLM has one quantisation "
            "for a model; name a checkpoint in it, or plan with one precision"
        )
    elif bits[0] not in (16, 32):
        found.append(
            f"layers of {bits[0]} bits: name a checkpoint quantised to that, since vLLM "
            "does not round weights by these rules when it loads them"
        )
    if len(widths) > 1:
        found.append(
            "stages of unequal tensor widths: vLLM has one for all; the smallest is used"
        )
    prefill, decode = strategy.micro_batch.prefill, strategy.micro_batch.decode
    found.append(
        f"micro-batches of {prefill} in prefill and {decode} in decode: vLLM's scheduler "
        "makes its own"
    )
    if len(strategy.stages) > 1:
        found.append(
            "the order of devices: vLLM numbers its ranks by node and visible device; "
            "start nodes, and set CUDA_VISIBLE_DEVICES, in the order listed"
        )
    if strategy.precision.kv_bits == 8:
        found.append("a cache of 8-bit integers: vLLM's of 8 bits are floats")
    if strategy.precision.head_bits == 8:
        found.append("a head of 8 bits: vLLM keeps it at 16")
    return found
