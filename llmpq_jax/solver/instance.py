"""One choice of micro-batches and head precision, in numbers.

The only place where cost meets the solver: records go in, arrays of seconds and bytes
come out, and nothing behind this file asks a measurement again. Axes: L layers, J
devices in pipeline order, B precisions. Infinite seconds mean "not supported there".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from llmpq_jax.cost.latency import Part
from llmpq_jax.cost.memory import (
    buffer_bytes,
    embedding_bytes,
    head_bytes,
    hidden_bytes,
    layer_bytes,
    layer_kv_bytes,
)
from llmpq_jax.cost.refills import Refills
from llmpq_jax.cost.schedule import Host
from llmpq_jax.cost.service import expected_service
from llmpq_jax.cost.tables import Floats
from llmpq_jax.cost.transfer import hop_s
from llmpq_jax.solver.problem import Problem
from llmpq_jax.spec.precision import Activations, Bits, HeadBits
from llmpq_jax.spec.workload import MicroBatch, Workload

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """The numbers of one case, see the module.

    Attributes:
        micro_batch: How the batch is cut.
        head_bits: Of the head.
        bits: What the columns of axis B stand for.
        num_prefill: Prefill micro-batches m_p.
        num_decode: Decode micro-batches m_d; where rows end apart, the mean over the
            rounds of those that are still busy, see `cost.service`.
        new_tokens: New tokens n of each row; of the group that takes longest.
        layer_prefill_s: [J, B] of one layer and one prefill micro-batch.
        layer_decode_s: [J, B] of one layer, one step and one decode micro-batch.
        embedding_prefill_s: [J] on the first used device.
        embedding_decode_s: [J] likewise.
        head_prefill_s: [J] on the last used device.
        head_decode_s: [J] likewise.
        hop_prefill_s: [J, J] from row to column, of one micro-batch.
        hop_decode_s: [J, J] likewise.
        layer_bytes: [B] of one layer's weights.
        kv_bytes: Of one layer's cache.
        embedding_bytes: On the first used device.
        head_bytes: On the last used device.
        workspace_bytes: [J, B] of one layer; a stage needs the largest it runs.
        embedding_workspace_bytes: [J].
        head_workspace_bytes: [J].
        buffer_bytes: On every used device.
        allowed_bytes: [J].
        must_use: [J], whether a device may not stay idle.
        hosts: Devices that share a machine's capacity.
        omega: [L, B].
        head_omega: Of the head at its bits.
        omega_budget: Σω may not exceed it, the head's included.
        theta: Seconds that a unit of ω is worth.
    """

    micro_batch: MicroBatch
    head_bits: HeadBits
    bits: tuple[Bits, ...]
    num_prefill: int
    num_decode: float
    new_tokens: int
    layer_prefill_s: Floats
    layer_decode_s: Floats
    embedding_prefill_s: Floats
    embedding_decode_s: Floats
    head_prefill_s: Floats
    head_decode_s: Floats
    hop_prefill_s: Floats
    hop_decode_s: Floats
    layer_bytes: Integers
    kv_bytes: int
    embedding_bytes: int
    head_bytes: int
    workspace_bytes: Integers
    embedding_workspace_bytes: Integers
    head_workspace_bytes: Integers
    buffer_bytes: int
    allowed_bytes: Integers
    must_use: npt.NDArray[np.bool_]
    hosts: tuple[Host, ...]
    omega: Floats
    head_omega: float
    omega_budget: float | None
    theta: float

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.omega)

    @property
    def num_devices(self) -> int:
        """J."""
        return len(self.allowed_bytes)

    @cached_property
    def supported(self) -> npt.NDArray[np.bool_]:
        """[J, B]: whether a device serves layers at these bits."""
        return np.isfinite(self.layer_prefill_s)

    @cached_property
    def may_be_first(self) -> npt.NDArray[np.bool_]:
        """[J]: whether a device can embed."""
        return np.isfinite(self.embedding_prefill_s)

    @cached_property
    def may_be_last(self) -> npt.NDArray[np.bool_]:
        """[J]: whether a device can hold the head."""
        return np.isfinite(self.head_prefill_s)

    def in_order(self, order: Sequence[int]) -> Instance:
        """Returns the same numbers with these devices, in this order."""
        places = list(order)
        by_device = (
            "layer_prefill_s",
            "layer_decode_s",
            "embedding_prefill_s",
            "embedding_decode_s",
            "head_prefill_s",
            "head_decode_s",
            "workspace_bytes",
            "embedding_workspace_bytes",
            "head_workspace_bytes",
            "allowed_bytes",
            "must_use",
        )
        changes = {name: getattr(self, name)[places] for name in by_device}
        for name in ("hop_prefill_s", "hop_decode_s"):
            changes[name] = getattr(self, name)[np.ix_(places, places)]
        hosts = tuple(
            replace(
                host,
                members=tuple(
                    sorted(places.index(j) for j in host.members if j in places)
                ),
            )
            for host in self.hosts
        )
        return replace(self, hosts=hosts, **changes)


def make_instance(
    problem: Problem,
    micro_batch: MicroBatch,
    head_bits: HeadBits,
    *,
    omega_budget: float | None,
) -> Instance:
    """Predicts every number of one case."""
    request, latency, workspace = problem.request, problem.latency, problem.workspace
    architecture, workload = request.architecture, request.workload
    prefill, decode = micro_batch.prefill, micro_batch.decode
    service = expected_service(workload, micro_batch)
    first = Workload(batch=prefill, prompt_length=service.first_tokens, new_tokens=1)
    # Prompts that are prefilled alone, beside whole micro-batches.
    among_prefills = Refills(latency=latency, shares=service.refills_of("prefill"))
    among_steps = Refills(latency=latency, shares=service.refills_of("decode"))
    prompt_tokens = prefill * service.first_tokens
    devices = [place.device for place in problem.placed]
    ask = _Ask(problem=problem)
    cut: _Cut = {"workload": workload, "micro_batch": micro_batch}
    stored: _Stored = {**cut, "activations": request.activations}

    def end_s(part: Part, bits: HeadBits, rows: int, refills: Refills) -> Floats:
        return ask.end(
            part,
            bits,
            lambda kind: (
                latency.end_s(kind, part, bits, rows=rows)
                + refills.end_s(kind, part, bits)
            ),
            np.inf,
        )

    def hops_s(num_tokens: int, refills: Refills) -> Floats:
        seconds = _hops_s(problem, num_tokens=num_tokens)
        for tokens, share in refills.shares:
            seconds = seconds + share * _hops_s(problem, num_tokens=tokens)
        return seconds

    return Instance(
        micro_batch=micro_batch,
        head_bits=head_bits,
        bits=problem.bits,
        num_prefill=service.num_prefill,
        num_decode=service.num_decode,
        new_tokens=service.new_tokens,
        layer_prefill_s=ask.layers(
            lambda kind, b: (
                latency.prefill_s(kind, b, rows=prefill, workload=first)
                + among_prefills.layer_s(kind, b)
            ),
            np.inf,
        ),
        layer_decode_s=ask.layers(
            lambda kind, b: (
                latency.decode_s(kind, b, rows=decode, workload=workload)
                + among_steps.layer_s(kind, b)
            ),
            np.inf,
        ),
        embedding_prefill_s=end_s("embedding", 16, prompt_tokens, among_prefills),
        embedding_decode_s=end_s("embedding", 16, decode, among_steps),
        head_prefill_s=end_s("head", head_bits, prefill, among_prefills),
        head_decode_s=end_s("head", head_bits, decode, among_steps),
        hop_prefill_s=hops_s(prompt_tokens, among_prefills),
        hop_decode_s=hops_s(decode, among_steps),
        layer_bytes=np.array(
            [
                layer_bytes(architecture, bits=b, group_size=request.group_size)
                for b in problem.bits
            ]
        ),
        kv_bytes=layer_kv_bytes(architecture, kv_bits=request.kv_bits, **stored),
        embedding_bytes=embedding_bytes(architecture),
        head_bytes=head_bytes(architecture, precision=problem.precision(head_bits)),
        workspace_bytes=ask.layers(
            lambda kind, b: workspace.layer_bytes(kind, b, **cut), 0
        ).astype(np.int64),
        embedding_workspace_bytes=ask.end(
            "embedding", 16, lambda kind: workspace.embedding_bytes(kind, **cut), 0
        ).astype(np.int64),
        head_workspace_bytes=ask.end(
            "head",
            head_bits,
            lambda kind: workspace.head_bytes(kind, head_bits, micro_batch=micro_batch),
            0,
        ).astype(np.int64),
        buffer_bytes=buffer_bytes(architecture, **stored),
        allowed_bytes=np.array([device.usable_bytes for device in devices]),
        must_use=np.array([device.use == "always" for device in devices]),
        hosts=_hosts(problem),
        omega=problem.omega,
        head_omega=problem.head_omega(head_bits),
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
    """Asks once for each kind of device, and not where the kind lacks support."""

    problem: Problem

    def layers(self, ask: Callable[[str, Bits], float], absent: float) -> Floats:
        """[J, B]: answers for layers; `absent` where they are not supported."""
        supports, bits = self.problem.latency.supports_layer, self.problem.bits
        rows = {
            kind: [ask(kind, b) if supports(kind, b) else absent for b in bits]
            for kind in set(self._kinds)
        }
        return np.array([rows[kind] for kind in self._kinds])

    def end(
        self, part: Part, bits: HeadBits, ask: Callable[[str], float], absent: float
    ) -> Floats:
        """[J]: answers for an end of the model, likewise."""
        supports = self.problem.latency.supports_end
        answers = {
            kind: ask(kind) if supports(kind, part, bits) else absent
            for kind in set(self._kinds)
        }
        return np.array([answers[kind] for kind in self._kinds])

    @property
    def _kinds(self) -> list[str]:
        return [place.device.kind for place in self.problem.placed]


def _hops_s(problem: Problem, *, num_tokens: int) -> Floats:
    """[J, J] between any two devices; 0 on the diagonal."""
    request, placed = problem.request, problem.placed
    num_bytes = hidden_bytes(
        request.architecture, num_tokens=num_tokens, activations=request.activations
    )
    # A hop hangs on nodes and kinds alone, and measured links take a fit each.
    known: dict[tuple[str, str, str, str], float] = {}
    seconds = np.zeros((len(placed), len(placed)))
    for j, source in enumerate(placed):
        for k, target in enumerate(placed):
            if j == k:
                continue
            ends = (source.node.name, source.device.kind)
            key = (*ends, target.node.name, target.device.kind)
            if key not in known:
                known[key] = hop_s(
                    request.cluster,
                    request.measurements,
                    source=source,
                    target=target,
                    num_bytes=num_bytes,
                )
            seconds[j, k] = known[key]
    return seconds


def _hosts(problem: Problem) -> tuple[Host, ...]:
    """A node's own line comes before what was measured of it."""
    measured = {row.node: row.capacity for row in problem.request.measurements.shared}
    hosts = []
    for node in problem.request.cluster.nodes:
        capacity = node.shared_capacity or measured.get(node.name)
        members = tuple(
            j for j, place in enumerate(problem.placed) if place.node.name == node.name
        )
        if capacity is not None and members:
            hosts.append(Host(members=members, capacity=capacity))
    return tuple(hosts)
