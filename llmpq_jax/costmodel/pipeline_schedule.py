"""Seconds of the whole batch, from the seconds of its stages and hops.

With stage and hop seconds P of one prefill micro-batch, D of one decode step of one
micro-batch (mean over the steps), m_p and m_d micro-batches and n new tokens:

    prefill = ΣP + (m_p − 1)·max P
    decode  = ΣD + (m_d − 1)·max D + (n − 2)·max(m_d·max D, ΣD)     where n ≥ 2

Sums and maxima run over stages and hops: a hop is a resource of its own, since sending
overlaps computing. The first token comes out of prefill, and decode starts when prefill
has ended. A round of decode takes as long as its busiest resource needs for all
micro-batches, or as one micro-batch needs to come round, whichever is longer.

Where devices of a node share its processor, a share s of what they do goes one after the
other (the serial fraction of Amdahl 1967; s_p in prefill, s_d in decode) and the rest as if
nothing were shared. With T the seconds above,

    prefill ≥ (1 − s_p)·T_p + s_p·m_p·Σ_node P
    decode  ≥ (1 − s_d)·T_d + s_d·(n − 1)·m_d·Σ_node D

So k equal stages, all of them always at work, do k / (1 + s·(k − 1)) devices' work at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.schema.measurements import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Stages that share one machine's processor.

    Attributes:
        members: Their indices.
        prefill_serial: Serial fraction of their work in prefill, from 0 to 1.
        decode_serial: Likewise in decode.
    """

    members: tuple[int, ...]
    prefill_serial: float
    decode_serial: float

    def serial_fraction(self, phase: Phase) -> float:
        """Returns the share of its members' work that goes one after the other."""
        return self.prefill_serial if phase == "prefill" else self.decode_serial


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTerms:
    """The parts of one phase's seconds.

    Attributes:
        once_s: ΣP or ΣD, one micro-batch all the way through.
        following_s: (m − 1)·max, the others after it.
        later_s: Of the rounds after the first; 0 in prefill, which is one round.
        is_busy: Whether a later round takes as long as its busiest resource needs for
            all micro-batches; else as long as one of them needs to come round.
        shared_s: What the phase takes at least where machines are shared; else 0.
    """

    once_s: float
    following_s: float
    later_s: float
    is_busy: bool
    shared_s: float

    @property
    def total_s(self) -> float:
        """Of the phase."""
        return max(self.once_s + self.following_s + self.later_s, self.shared_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseSeconds:
    """Seconds of both phases; together they are the batch's latency."""

    prefill_s: float
    decode_s: float

    @property
    def latency_s(self) -> float:
        """Both phases together."""
        return self.prefill_s + self.decode_s


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

    Args:
        phase: Which one.
        stages_s: P or D of each stage, embedding, head and its call included.
        hops_s: Of each hop between consecutive stages.
        num: Micro-batches m.
        later_rounds: Of decode, after the first: n − 2.
        hosts: Stages that share a machine.
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
    stages_prefill_s: Sequence[float],
    stages_decode_s: Sequence[float],
    hops_prefill_s: Sequence[float],
    hops_decode_s: Sequence[float],
    num_prefill: int,
    num_decode: float,
    new_tokens: int,
    hosts: Sequence[Host] = (),
) -> PhaseSeconds:
    """Returns the seconds of the batch, see the module.

    Args:
        stages_prefill_s: P of each stage, embedding, head and its call included.
        stages_decode_s: D of each stage, likewise.
        hops_prefill_s: P of each hop between consecutive stages.
        hops_decode_s: D of each hop.
        num_prefill: Prefill micro-batches m_p.
        num_decode: Decode micro-batches m_d.
        new_tokens: New tokens n of each row.
        hosts: Stages that share a machine.

    Infinite seconds, of a device that cannot do its part, make the batch's infinite.
    """
    if math.inf in (*stages_prefill_s, *stages_decode_s):
        # Times no further micro-batch it would be no number at all.
        return PhaseSeconds(prefill_s=math.inf, decode_s=math.inf)
    prefill = phase_terms(
        "prefill",
        stages_s=stages_prefill_s,
        hops_s=hops_prefill_s,
        num=num_prefill,
        hosts=hosts,
    )
    if new_tokens == 1:
        return PhaseSeconds(prefill_s=float(prefill.total_s), decode_s=0.0)
    decode = phase_terms(
        "decode",
        stages_s=stages_decode_s,
        hops_s=hops_decode_s,
        num=num_decode,
        later_rounds=new_tokens - 2,
        hosts=hosts,
    )
    return PhaseSeconds(
        prefill_s=float(prefill.total_s), decode_s=float(decode.total_s)
    )
