"""Seconds of the whole batch, from the seconds of its stages and transfers.

With P the seconds of one prefill micro-batch on each stage and transfer, D those of one
decode step of one micro-batch (mean over the steps), m_p and m_d micro-batches, and n new
tokens per row:

    prefill = ΣP + (m_p − 1)·max P
    decode  = ΣD + (m_d − 1)·max D + (n − 2)·max(m_d·max D, ΣD)     if n ≥ 2

Sums and maxima are over stages and transfers: a transfer is a resource of its own, since
sending overlaps with computing. Prefill yields the first token, and decode starts when
prefill has ended. A decode round takes as long as its slowest resource needs for all
micro-batches or as one micro-batch needs for all resources, whichever is longer.

If devices of a node share its processor, a fraction s of their work is serial (the serial
fraction of Amdahl, 1967; s_p in prefill, s_d in decode) and the rest runs as if nothing
were shared. With T the seconds above,

    prefill ≥ (1 − s_p)·T_p + s_p·m_p·Σ_node P
    decode  ≥ (1 − s_d)·T_d + s_d·(n − 1)·m_d·Σ_node D

So k equal stages that are always busy together do the work of c = k / (1 + s·(k − 1))
devices, and s is (k / c − 1) / (k − 1): of the node's entry in the cluster file, or else the
mean over the measured numbers of devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from llmpq_jax.schema.cluster import Node
from llmpq_jax.schema.measurements import PHASES, Measurements, Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Stages that share one machine's processor.

    Attributes:
        members: Indices of the stages.
        prefill_serial: Serial fraction of their work in prefill, from 0 to 1.
        decode_serial: Serial fraction of their work in decode, from 0 to 1.
    """

    members: tuple[int, ...]
    prefill_serial: float
    decode_serial: float

    def serial_fraction(self, phase: Phase) -> float:
        """Returns the serial fraction of the members' work in a phase."""
        return self.prefill_serial if phase == "prefill" else self.decode_serial


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTerms:
    """The parts of one phase's seconds.

    Attributes:
        once_s: ΣP or ΣD, seconds of one micro-batch on all resources.
        following_s: (m − 1)·max, seconds of the other micro-batches of the first round.
        later_s: Seconds of the rounds after the first; 0 in prefill, which has one round.
        is_busy: True if a round takes as long as its slowest resource needs for all
            micro-batches, False if it takes as long as one micro-batch needs for all
            resources.
        shared_s: Lower bound of the phase's seconds by shared machines; 0 without any.
    """

    once_s: float
    following_s: float
    later_s: float
    is_busy: bool
    shared_s: float

    @property
    def total_s(self) -> float:
        """Seconds of the phase."""
        return max(self.once_s + self.following_s + self.later_s, self.shared_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseSeconds:
    """Seconds of both phases; together they are the batch's latency."""

    prefill_s: float
    decode_s: float

    @property
    def latency_s(self) -> float:
        """Seconds of both phases."""
        return self.prefill_s + self.decode_s


def node_serial_fraction(
    node: Node, measurements: Measurements, phase: Phase
) -> float | None:
    """Returns s of a node in a phase, from 0 to 1; None if its devices share nothing.

    The cluster file takes precedence over measurements. Among measurements of the same
    number of devices the last one counts.
    """
    all_devices = len(node.devices)
    if node.shared_capacity is not None:
        return _serial_fraction(all_devices, node.shared_capacity)
    measured = {
        row.num_devices or all_devices: row.capacity
        for row in measurements.shared
        if row.node == node.name and row.phase in (phase, None)
    }
    fractions = [_serial_fraction(k, capacity) for k, capacity in measured.items()]
    return fmean(fractions) if fractions else None


def _serial_fraction(num_devices: int, capacity: float) -> float:
    if num_devices == 1:
        return 0.0
    fraction = (num_devices / capacity - 1) / (num_devices - 1)
    return min(1.0, max(0.0, fraction))


def phase_terms(
    phase: Phase,
    *,
    stages_s: Sequence[float],
    hops_s: Sequence[float],
    num: float,
    later_rounds: int = 0,
    hosts: Sequence[Host] = (),
) -> PhaseTerms:
    """Returns the parts of one phase's seconds, see the module.

    Stages include embedding, head and dispatch overhead; `num` is m, and `later_rounds`
    are the decode rounds after the first, n − 2, or 0 in prefill.
    """
    resources = (*stages_s, *hops_s)
    once, slowest = sum(resources), max(resources)
    following, later = (num - 1) * slowest, later_rounds * max(num * slowest, once)
    shared = 0.0
    for host in hosts:
        work = (
            (1 + later_rounds) * num * sum(stages_s[member] for member in host.members)
        )
        serial = host.serial_fraction(phase)
        shared = max(shared, (1 - serial) * (once + following + later) + serial * work)
    return PhaseTerms(
        once_s=once,
        following_s=following,
        later_s=later,
        is_busy=num * slowest >= once,
        shared_s=shared,
    )


def pipeline_s(
    *,
    stages_s: Sequence[Sequence[float]],
    hops_s: Sequence[Sequence[float]],
    num_micro_batches: tuple[float, float],
    new_tokens: int,
    hosts: Sequence[Host] = (),
) -> PhaseSeconds:
    """Returns the seconds of the batch, see the module.

    They are infinite if those of any stage are: its device cannot run its part.

    Args:
        stages_s: P and D of each stage, with embedding, head and dispatch overhead.
        hops_s: P and D of each transfer between consecutive stages.
        num_micro_batches: m_p and m_d; the latter is a mean, so not always whole.
        new_tokens: New tokens of each row, n.
        hosts: Stages that share a machine.
    """
    if math.inf in chain.from_iterable(stages_s):
        # 0 · ∞ in the formula would be NaN.
        return PhaseSeconds(prefill_s=math.inf, decode_s=math.inf)
    prefill_s, decode_s = (
        float(
            phase_terms(
                phase,
                stages_s=stages_s[p],
                hops_s=hops_s[p],
                num=num_micro_batches[p],
                later_rounds=later_rounds,
                hosts=hosts,
            ).total_s
        )
        for p, (phase, later_rounds) in enumerate(
            zip(PHASES, (0, new_tokens - 2), strict=True)
        )
    )
    return PhaseSeconds(
        prefill_s=prefill_s, decode_s=decode_s if new_tokens > 1 else 0.0
    )
