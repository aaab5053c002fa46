"""Predicts what each execution unit holds of the model, in bytes on each of its devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from llmpq_jax.costmodel.memory import (
    embedding_bytes,
    gathered_logits_bytes,
    head_bytes,
    layer_bytes,
    layer_kv_bytes,
)
from llmpq_jax.planner.instance.execution_units import for_each_unit
from llmpq_jax.planner.instance.problem import FittedModels, Problem
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch

_PerUnit = Int[np.ndarray, " J"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceBytes:
    """Bytes of weights, cache and workspace; workspace is 0 where it was not measured.

    Attributes:
        problem: Execution units, and the bits on axis B.
        micro_batch: Rows of a prefill and of a decode micro-batch.
        precision: Precisions of head and cache.
    """

    problem: Problem
    micro_batch: MicroBatch
    precision: PrecisionChoice

    def layer_bytes(self) -> Int[np.ndarray, "J B"]:
        """Bytes of one layer's weights."""
        request = self.problem.request
        return self._for_each_unit(
            lambda _, width: [
                layer_bytes(
                    request.architecture,
                    bits=bits,
                    group_size=request.group_size,
                    tensor=width,
                )
                for bits in self.problem.bits
            ]
        )

    def kv_bytes(self) -> _PerUnit:
        """Bytes of one layer's cache."""
        request = self.problem.request
        return self._for_each_unit(
            lambda _, width: layer_kv_bytes(
                request.architecture,
                workload=request.workload,
                micro_batch=self.micro_batch,
                activations=request.activations,
                kv_bits=self.precision.kv_bits,
                tensor=width,
            )
        )

    def embedding_bytes(self) -> _PerUnit:
        """Bytes of the embedding."""
        architecture = self.problem.request.architecture
        return self._for_each_unit(
            lambda _, width: embedding_bytes(architecture, tensor=width)
        )

    def head_bytes(self) -> _PerUnit:
        """Bytes of the head."""
        architecture, precision = self.problem.request.architecture, self.precision
        return self._for_each_unit(
            lambda _, width: head_bytes(architecture, precision=precision, tensor=width)
        )

    def workspace_bytes(self) -> Int[np.ndarray, "J B"]:
        """Workspace of one layer."""
        fitted, workload = self._fitted, self.problem.request.workload

        def num_bytes(kind: str, width: int, bits: Bits) -> int:
            if not fitted.latency.supports_layer(kind, bits, tensor=width):
                return 0
            return fitted.workspace.layer_bytes(
                kind,
                bits,
                workload=workload,
                micro_batch=self.micro_batch,
                tensor=width,
            )

        return self._for_each_unit(
            lambda kind, width: [num_bytes(kind, width, b) for b in self.problem.bits]
        )

    def embedding_workspace_bytes(self) -> _PerUnit:
        """Workspace of the embedding."""
        fitted, workload = self._fitted, self.problem.request.workload
        return self._for_each_unit(
            lambda kind, _: (
                fitted.workspace.embedding_bytes(
                    kind, workload=workload, micro_batch=self.micro_batch
                )
                if fitted.latency.supports_vocabulary_layer(kind, "embedding", 16)
                else 0
            )
        )

    def head_workspace_bytes(self) -> _PerUnit:
        """Workspace of the head, with the logits that a mesh gathers."""
        fitted, head_bits = self._fitted, self.precision.head_bits
        architecture = self.problem.request.architecture

        def num_bytes(kind: str, width: int) -> int:
            gathered = gathered_logits_bytes(
                architecture, micro_batch=self.micro_batch, tensor=width
            )
            if not fitted.latency.supports_vocabulary_layer(kind, "head", head_bits):
                return gathered
            return gathered + fitted.workspace.head_bytes(
                kind, head_bits, micro_batch=self.micro_batch
            )

        return self._for_each_unit(num_bytes)

    @property
    def _fitted(self) -> FittedModels:
        return self.problem.fitted[self.precision.kv_bits]

    def _for_each_unit(self, ask: Callable[[str, int], int | list[int]]) -> np.ndarray:
        return for_each_unit(self.problem.execution_units, ask)
