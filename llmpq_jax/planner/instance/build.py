"""Predicts the numbers of one subproblem.

Only here does the cost model meet the search: records go in, arrays of seconds and bytes
come out, and the search reads no measurement. Axes as in `instance`.
"""

from __future__ import annotations

import numpy as np

from llmpq_jax.costmodel.contention import node_serial_fraction
from llmpq_jax.costmodel.continuous_batching import expected_schedule
from llmpq_jax.costmodel.memory import NUM_RECEIVE_BUFFERS, sent_bytes
from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.constraints import may_have, may_hold
from llmpq_jax.planner.instance.device_bytes import DeviceBytes
from llmpq_jax.planner.instance.device_numbers import DeviceNumbers
from llmpq_jax.planner.instance.device_seconds import DeviceSeconds, by_phase
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.schema.measurements import PHASES
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch


def make_instance(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    *,
    omega_budget: float | None,
) -> Instance:
    """Predicts every number of one subproblem, in the order of docs/formulation.md.

    Args:
        problem: Devices, model and measurements.
        micro_batch: Rows of a prefill and of a decode micro-batch.
        precision: Precisions of head and cache, both among the problem's.
        omega_budget: Largest Σω allowed; None for no limit.
    """
    request = problem.request
    schedule = expected_schedule(request.workload, micro_batch)
    seconds = by_phase(problem, micro_batch, precision, schedule)
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
        devices=_device_numbers(problem, micro_batch, precision, seconds),
        hop_s=np.stack([phase.hop_s() for phase in seconds]),
        wire_bits=request.wire_bits,
        wire_omega=np.array(
            [
                request.sensitivity.wire_8 if bits == 8 else 0.0
                for bits in request.wire_bits
            ]
        ),
        buffer_bytes=num_bytes,
        received_bytes=NUM_RECEIVE_BUFFERS * num_bytes,
        may_have=may_have(
            request.pins, problem.bits, num_layers=request.architecture.num_layers
        ),
        device_groups=problem.device_groups,
        hosts=_hosts(problem),
        omega=problem.omega,
        fixed_omega=problem.fixed_omega(precision.head_bits, precision.kv_bits),
        omega_budget=omega_budget,
        theta=request.theta,
    )


def _device_numbers(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    seconds: tuple[DeviceSeconds, ...],
) -> DeviceNumbers:
    held = DeviceBytes(problem=problem, micro_batch=micro_batch, precision=precision)
    units = problem.execution_units
    devices = [unit.node_devices[0].device for unit in units]
    return DeviceNumbers(
        layer_s=np.stack([phase.layer_s() for phase in seconds]),
        dispatch_s=np.stack([phase.dispatch_s() for phase in seconds]),
        whole_dispatch_s=np.stack([phase.whole_dispatch_s() for phase in seconds]),
        embedding_s=np.stack([phase.embedding_s() for phase in seconds]),
        head_s=np.stack([phase.head_s() for phase in seconds]),
        layer_bytes=held.layer_bytes(),
        kv_bytes=held.kv_bytes(),
        embedding_bytes=held.embedding_bytes(),
        head_bytes=held.head_bytes(),
        workspace_bytes=held.workspace_bytes(),
        embedding_workspace_bytes=held.embedding_workspace_bytes(),
        head_workspace_bytes=held.head_workspace_bytes(),
        allowed_bytes=np.array([device.usable_bytes for device in devices]),
        width=np.array([unit.width for unit in units]),
        must_use=np.array([device.use == "always" for device in devices]),
        may_hold=may_hold(
            problem.request.pins,
            [unit.name for unit in units],
            num_layers=problem.request.architecture.num_layers,
        ),
    )


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
