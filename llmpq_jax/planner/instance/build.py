"""Predicts the numbers of one case.

The only place where cost meets the solver: records go in, arrays of seconds and bytes
come out, and nothing behind this file asks a measurement again. Axes as in `instance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from llmpq_jax.costmodel.contention import node_serial_fraction
from llmpq_jax.costmodel.continuous_batching import expected_schedule
from llmpq_jax.costmodel.latency import LatencyModel, VocabularyLayer
from llmpq_jax.costmodel.links import transfer_s
from llmpq_jax.costmodel.memory import (
    NUM_RECEIVE_BUFFERS,
    embedding_bytes,
    gathered_logits_bytes,
    head_bytes,
    layer_bytes,
    layer_kv_bytes,
    logit_share_bytes,
    sent_bytes,
)
from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.costmodel.refill_latency import RefillLatency
from llmpq_jax.planner.constraints import may_have, may_hold
from llmpq_jax.planner.instance.execution_units import ExecutionUnit
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.schema.measurements import PHASES, Phase
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Activations,
    Bits,
    HeadBits,
    wire_token_bytes,
)
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload


def make_instance(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    *,
    omega_budget: float | None,
) -> Instance:
    """Predicts every number of one case.

    Args:
        problem: Whose devices and model.
        micro_batch: How the batch is cut.
        precision: Of head and cache, both among the problem's.
        omega_budget: Σω may not exceed it.
    """
    request = problem.request
    head_bits, kv_bits = precision.head_bits, precision.kv_bits
    fitted = problem.fitted[kv_bits]
    latency, workspace = fitted.latency, fitted.workspace
    architecture, workload = request.architecture, request.workload
    prefill, decode = micro_batch.prefill, micro_batch.decode
    service = expected_schedule(workload, micro_batch)
    first = Workload(
        batch=prefill, prompt_length=service.padded_prompt_length, new_tokens=1
    )
    # Prompts that are prefilled alone, beside whole micro-batches.
    among_prefills = RefillLatency(
        latency=latency, shares=service.refills_in("prefill")
    )
    among_steps = RefillLatency(latency=latency, shares=service.refills_in("decode"))
    prompt_tokens = prefill * service.padded_prompt_length
    devices = [
        execution_unit.node_devices[0].device
        for execution_unit in problem.execution_units
    ]
    ask = _Ask(problem=problem, latency=latency)
    cut: _Cut = {"workload": workload, "micro_batch": micro_batch}
    stored: _Stored = {**cut, "activations": request.activations}
    handed_on = sent_bytes(architecture, **stored)

    def vocabulary_layer_s(
        phase: Phase,
        part: VocabularyLayer,
        bits: HeadBits,
        rows: int,
        refills: RefillLatency,
    ) -> Floats:
        return ask.end(
            part,
            bits,
            lambda kind: (
                latency.vocabulary_layer_s(kind, phase, part, bits, rows=rows)
                + refills.vocabulary_layer_s(kind, part, bits)
            ),
            np.inf,
        )

    def calls_s(phase: Phase, refills: RefillLatency, share: float = 1.0) -> Floats:
        return np.array(
            [
                share * latency.dispatch_s(execution_unit.kind, phase)
                + refills.dispatch_s(execution_unit.kind)
                for execution_unit in problem.execution_units
            ]
        )

    def head_s(phase: Phase, rows: int, refills: RefillLatency) -> Floats:
        gathers = _gathers_s(problem, rows=rows)
        if refills.shares:
            # Of each refill the head sees one row.
            gathers = gathers + refills.sum(lambda _: 1.0) * _gathers_s(problem, rows=1)
        return vocabulary_layer_s(phase, "head", head_bits, rows, refills) + gathers

    def hops_s(num_tokens: int, refills: RefillLatency) -> Floats:
        seconds = _hops_s(problem, num_tokens=num_tokens)
        for tokens, share in refills.shares:
            seconds = seconds + share * _hops_s(problem, num_tokens=tokens)
        return seconds

    def by_width(size: Callable[[int], int]) -> Integers:
        sizes = {
            execution_unit.width: size(execution_unit.width)
            for execution_unit in problem.execution_units
        }
        return np.array(
            [sizes[execution_unit.width] for execution_unit in problem.execution_units]
        )

    return Instance(
        micro_batch=micro_batch,
        head_bits=head_bits,
        kv_bits=kv_bits,
        bits=problem.bits,
        num_prefill=service.num_prefill,
        num_decode=service.num_decode,
        new_tokens=service.new_tokens,
        layer_prefill_s=ask.layers(
            lambda kind, b, w: (
                latency.prefill_s(kind, b, rows=prefill, workload=first, tensor=w)
                + among_prefills.layer_s(kind, b, tensor=w)
            ),
            np.inf,
        ),
        layer_decode_s=ask.layers(
            lambda kind, b, w: (
                latency.decode_s(kind, b, rows=decode, workload=workload, tensor=w)
                + among_steps.layer_s(kind, b, tensor=w)
            ),
            np.inf,
        ),
        dispatch_prefill_s=calls_s("prefill", among_prefills),
        dispatch_decode_s=calls_s("decode", among_steps),
        whole_dispatch_decode_s=calls_s(
            "decode", among_steps, service.dispatches_per_step
        ),
        # Each device of a mesh embeds by itself, and chooses from whole logits.
        embedding_prefill_s=vocabulary_layer_s(
            "prefill", "embedding", 16, prompt_tokens, among_prefills
        ),
        embedding_decode_s=vocabulary_layer_s(
            "decode", "embedding", 16, decode, among_steps
        ),
        head_prefill_s=head_s("prefill", prefill, among_prefills),
        head_decode_s=head_s("decode", decode, among_steps),
        wire_bits=request.wire_bits,
        wire_omega=np.array(
            [
                request.sensitivity.wire_8 if bits == 8 else 0.0
                for bits in request.wire_bits
            ]
        ),
        hop_prefill_s=hops_s(prompt_tokens, among_prefills),
        hop_decode_s=hops_s(decode, among_steps),
        layer_bytes=np.stack(
            [
                by_width(
                    lambda w, b=b: layer_bytes(
                        architecture, bits=b, group_size=request.group_size, tensor=w
                    )
                )
                for b in problem.bits
            ],
            axis=1,
        ),
        kv_bytes=by_width(
            lambda w: layer_kv_bytes(architecture, kv_bits=kv_bits, tensor=w, **stored)
        ),
        embedding_bytes=by_width(lambda w: embedding_bytes(architecture, tensor=w)),
        head_bytes=by_width(
            lambda w: head_bytes(architecture, precision=precision, tensor=w)
        ),
        workspace_bytes=ask.layers(
            lambda kind, b, w: workspace.layer_bytes(kind, b, tensor=w, **cut), 0
        ).astype(np.int64),
        embedding_workspace_bytes=ask.end(
            "embedding", 16, lambda kind: workspace.embedding_bytes(kind, **cut), 0
        ).astype(np.int64),
        head_workspace_bytes=ask.end(
            "head",
            head_bits,
            lambda kind: workspace.head_bytes(kind, head_bits, micro_batch=micro_batch),
            0,
        ).astype(np.int64)
        + by_width(
            lambda w: gathered_logits_bytes(
                architecture, micro_batch=micro_batch, tensor=w
            )
        ),
        buffer_bytes=handed_on,
        received_bytes=NUM_RECEIVE_BUFFERS * handed_on,
        allowed_bytes=np.array([device.usable_bytes for device in devices]),
        must_use=np.array([device.use == "always" for device in devices]),
        may_hold=may_hold(
            request.pins,
            [execution_unit.name for execution_unit in problem.execution_units],
            num_layers=architecture.num_layers,
        ),
        may_have=may_have(
            request.pins, problem.bits, num_layers=architecture.num_layers
        ),
        width=np.array(
            [execution_unit.width for execution_unit in problem.execution_units]
        ),
        device_groups=problem.device_groups,
        hosts=_hosts(problem),
        omega=problem.omega,
        fixed_omega=problem.fixed_omega(head_bits, kv_bits),
        omega_budget=omega_budget,
        theta=request.theta,
    )


class _Cut(TypedDict):
    workload: Workload
    micro_batch: MicroBatch


class _Stored(_Cut):
    activations: Activations


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ask:
    """Asks once for each kind of device and width, and not where it lacks support."""

    problem: Problem
    latency: LatencyModel

    def layers(self, ask: Callable[[str, Bits, int], float], absent: float) -> Floats:
        """[J, B]: answers for layers; `absent` where they are not supported."""
        supports, bits = self.latency.supports_layer, self.problem.bits
        rows = {
            (kind, width): [
                ask(kind, b, width) if supports(kind, b, tensor=width) else absent
                for b in bits
            ]
            for kind, width in {
                (execution_unit.kind, execution_unit.width)
                for execution_unit in self.problem.execution_units
            }
        }
        return np.array(
            [
                rows[execution_unit.kind, execution_unit.width]
                for execution_unit in self.problem.execution_units
            ]
        )

    def end(
        self,
        part: VocabularyLayer,
        bits: HeadBits,
        ask: Callable[[str], float],
        absent: float,
    ) -> Floats:
        """[J]: answers for an end of the model, likewise."""
        supports = self.latency.supports_vocabulary_layer
        answers = {
            kind: ask(kind) if supports(kind, part, bits) else absent
            for kind in {
                execution_unit.kind for execution_unit in self.problem.execution_units
            }
        }
        return np.array(
            [
                answers[execution_unit.kind]
                for execution_unit in self.problem.execution_units
            ]
        )


def _gathers_s(problem: Problem, *, rows: int) -> Floats:
    """[J]: what a mesh adds to the head's seconds on one device; 0 without one.

    Its devices each make a share of the logits and pass the shares round. The product
    itself counts as if it were not shared, since heads are measured on one device.
    """
    architecture = problem.request.architecture

    def seconds(execution_unit: ExecutionUnit) -> float:
        share = logit_share_bytes(architecture, rows=rows, tensor=execution_unit.width)
        if share == 0:
            return 0.0
        return (execution_unit.width - 1) * _between_s(
            problem, execution_unit, execution_unit, share
        )

    known = {
        (
            execution_unit.node_devices[0].node.name,
            execution_unit.kind,
            execution_unit.width,
        ): execution_unit
        for execution_unit in problem.execution_units
    }
    values = {key: seconds(execution_unit) for key, execution_unit in known.items()}
    return np.array(
        [
            values[
                execution_unit.node_devices[0].node.name,
                execution_unit.kind,
                execution_unit.width,
            ]
            for execution_unit in problem.execution_units
        ]
    )


def _hops_s(problem: Problem, *, num_tokens: int) -> Floats:
    """[O, J, J] between any two devices; 0 on the diagonal.

    Each device of a mesh receives the whole of the hidden states, from one that sends.
    """
    request, execution_units = problem.request, problem.execution_units
    token = ACTIVATION_BYTES[request.activations]
    width = request.architecture.hidden_size
    sizes = [
        num_tokens * wire_token_bytes(width, token, wire_bits=bits)
        for bits in request.wire_bits
    ]
    # A hop hangs on nodes and kinds alone, and measured links take a fit each.
    known: dict[tuple[str, str, str, str], list[float]] = {}
    seconds = np.zeros((len(sizes), len(execution_units), len(execution_units)))
    for j, source in enumerate(execution_units):
        for k, target in enumerate(execution_units):
            if j == k:
                continue
            ends = (source.node_devices[0].node.name, source.kind)
            key = (*ends, target.node_devices[0].node.name, target.kind)
            if key not in known:
                known[key] = [
                    _between_s(problem, source, target, size) for size in sizes
                ]
            seconds[:, j, k] = target.width * np.array(known[key])
    return seconds


def _between_s(
    problem: Problem, source: ExecutionUnit, target: ExecutionUnit, num_bytes: int
) -> float:
    return transfer_s(
        problem.request.cluster,
        problem.request.measurements,
        source=source.node_devices[0],
        target=target.node_devices[-1],
        num_bytes=num_bytes,
    )


def _hosts(problem: Problem) -> tuple[Host, ...]:
    """Nodes whose devices share a processor, each with its units."""
    hosts = []
    for node in problem.request.cluster.nodes:
        prefill, decode = (
            node_serial_fraction(node, problem.request.measurements, phase)
            for phase in PHASES
        )
        members = tuple(
            j
            for j, execution_unit in enumerate(problem.execution_units)
            for _ in range(execution_unit.width)
            if execution_unit.node_devices[0].node.name == node.name
        )
        if prefill is not None and decode is not None and members:
            hosts.append(
                Host(members=members, prefill_serial=prefill, decode_serial=decode)
            )
    return tuple(hosts)
