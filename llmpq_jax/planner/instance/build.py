"""Predicts the numbers of one subproblem.

Only here does the cost model meet the search: records go in, arrays of seconds and bytes
come out, and the search reads no measurement. Axes as in `instance`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.costmodel.continuous_batching import expected_schedule
from llmpq_jax.costmodel.memory import (
    NUM_RECEIVE_BUFFERS,
    embedding_bytes,
    head_bytes,
    layer_bytes,
    layer_kv_bytes,
    logit_share_bytes,
    sent_bytes,
)
from llmpq_jax.costmodel.pipeline_schedule import Host, node_serial_fraction
from llmpq_jax.costmodel.workspace import max_rows
from llmpq_jax.planner.instance.device_numbers import DeviceNumbers
from llmpq_jax.planner.instance.device_seconds import seconds_by_phase
from llmpq_jax.planner.instance.execution_units import for_each_unit
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.pins import allowed_by
from llmpq_jax.schema.measurements import PHASES, Phase
from llmpq_jax.schema.precision import vector_bits
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch


def make_instance(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    *,
    omega_budget: float | None,
) -> Instance:
    """Predicts every number of one subproblem, in the order of docs/formulation.md."""
    request, units = problem.request, problem.execution_units
    num_layers = request.architecture.num_layers
    devices = [unit.node_devices[0].device for unit in units]
    schedule = expected_schedule(request.workload, micro_batch)
    seconds = seconds_by_phase(problem, micro_batch, precision, schedule)
    hop_s = seconds.pop("hop_s")
    num_bytes = sent_bytes(
        request.architecture,
        workload=request.workload,
        micro_batch=micro_batch,
        activations=request.activations,
    )
    return Instance(
        micro_batch=micro_batch,
        head_bits=precision.head_bits,
        kv_bits=precision.kv_bits,
        bits=problem.bits,
        num_micro_batches=(schedule.num_prefill, schedule.num_decode),
        new_tokens=schedule.new_tokens,
        devices=DeviceNumbers(
            **seconds,
            **_held_bytes(problem, micro_batch, precision),
            **workspace_bytes(problem, micro_batch, precision),
            allowed_bytes=np.array([device.usable_bytes for device in devices]),
            width=np.array([unit.width for unit in units]),
            must_use=np.array([device.use == "always" for device in devices]),
            may_hold=allowed_by(
                request.pins, [unit.name for unit in units], num_layers=num_layers
            ),
        ),
        hop_s=hop_s,
        wire_bits=request.wire_bits,
        wire_omega=np.array(
            [
                request.sensitivity.wire_8 if bits == 8 else 0.0
                for bits in request.wire_bits
            ]
        ),
        buffer_bytes=num_bytes,
        received_bytes=NUM_RECEIVE_BUFFERS * num_bytes,
        may_have=allowed_by(request.pins, problem.bits, num_layers=num_layers)
        & _in_checkpoint(problem),
        device_groups=problem.device_groups,
        hosts=_hosts(problem),
        omega=problem.omega,
        fixed_omega=problem.fixed_omega(precision.head_bits, precision.kv_bits),
        omega_budget=omega_budget,
        theta=request.theta,
    )


def _in_checkpoint(problem: Problem) -> np.ndarray:
    """Returns whether the checkpoint can have a layer at a precision, [L, B]."""
    request = problem.request
    choices = request.layer_bits or (problem.bits,) * request.architecture.num_layers
    return np.array([[bits in own for bits in problem.bits] for own in choices])


def _held_bytes(
    problem: Problem, micro_batch: MicroBatch, precision: PrecisionChoice
) -> dict[str, np.ndarray]:
    """Returns the bytes of weights and cache, by the names of `DeviceNumbers`."""
    request, units = problem.request, problem.execution_units
    a = request.architecture
    return {
        "layer_bytes": for_each_unit(
            units,
            lambda _, width: [
                layer_bytes(a, bits=b, group_size=request.group_size, tensor=width)
                for b in problem.bits
            ],
        ),
        "kv_bytes": for_each_unit(
            units,
            lambda _, width: layer_kv_bytes(
                a,
                workload=request.workload,
                micro_batch=micro_batch,
                activations=request.activations,
                kv_bits=precision.kv_bits,
                tensor=width,
            ),
        ),
        "embedding_bytes": for_each_unit(
            units,
            lambda _, width: embedding_bytes(
                a, head_bits=precision.head_bits, tensor=width
            ),
        ),
        "head_bytes": for_each_unit(
            units, lambda _, width: head_bytes(a, precision=precision, tensor=width)
        ),
    }


def workspace_bytes(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    phases: Sequence[Phase] = PHASES,
) -> dict[str, np.ndarray]:
    """Returns the workspace of the programs of some phases, by the names of `DeviceNumbers`.

    It is 0 where it was not measured.
    """
    fitted, units = problem.fitted[precision.kv_bits], problem.execution_units
    workload, latency = problem.request.workload, fitted.latency

    def layer(kind: str, width: int) -> list[int]:
        return [
            fitted.workspace.layer_bytes(
                kind,
                bits,
                workload=workload,
                micro_batch=micro_batch,
                tensor=width,
                phases=phases,
            )
            if latency.supports_layer(kind, bits, tensor=width)
            else 0
            for bits in problem.bits
        ]

    def embedding(kind: str, _: int) -> int:
        bits = vector_bits(precision.head_bits)
        if not latency.supports_vocabulary_layer(kind, "embedding", bits):
            return 0
        return fitted.workspace.embedding_bytes(
            kind,
            head_bits=precision.head_bits,
            workload=workload,
            micro_batch=micro_batch,
            phases=phases,
        )

    def head(kind: str, width: int) -> int:
        bits = precision.head_bits
        gathered = logit_share_bytes(
            problem.request.architecture,
            rows=max_rows(micro_batch, phases),
            tensor=width,
        )
        if not latency.supports_vocabulary_layer(kind, "head", bits):
            return gathered
        return gathered + fitted.workspace.head_bytes(
            kind, bits, micro_batch=micro_batch, phases=phases
        )

    return {
        "workspace_bytes": for_each_unit(units, layer),
        "embedding_workspace_bytes": for_each_unit(units, embedding),
        "head_workspace_bytes": for_each_unit(units, head),
    }


def _hosts(problem: Problem) -> tuple[Host, ...]:
    """Nodes whose devices share a processor, each with its execution units."""
    hosts = []
    for node in problem.request.cluster.nodes:
        prefill, decode = (
            node_serial_fraction(node, problem.request.measurements, phase)
            for phase in PHASES
        )
        members = tuple(
            j
            for j, unit in enumerate(problem.execution_units)
            for _ in range(unit.width)
            if unit.node_devices[0].node.name == node.name
        )
        if prefill is not None and decode is not None and members:
            hosts.append(
                Host(members=members, prefill_serial=prefill, decode_serial=decode)
            )
    return tuple(hosts)
