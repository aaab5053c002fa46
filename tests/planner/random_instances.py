"""Draws tiny instances on which every constraint may bind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.instance.device_numbers import DeviceNumbers
from llmpq_jax.planner.instance.instance import DeviceGroup, Instance
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.schema.workload import MicroBatch

MIB = 1 << 20
# Seconds of each phase, as a share of a prefill micro-batch's.
PHASE_SHARES = np.array([1.0, 0.1])


@st.composite
def subproblem_lists(draw, *, max_number=2, max_layers=4, max_devices=3, min_devices=1):
    """Lists of subproblems that differ in what micro-batches change: times and counts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_layers = draw(st.integers(1, max_layers))
    num_devices = draw(st.integers(min_devices, max_devices))
    bits = draw(st.sampled_from([(16, 8, 4), (16, 4), (8,), (8, 4)]))
    shape = (num_devices, len(bits))
    omega = np.sort(rng.exponential(1.0, (num_layers, len(bits))), axis=1)
    budget = None
    if draw(st.booleans()):
        lowest, highest = omega[:, 0].sum(), omega[:, -1].sum()
        budget = float(lowest + rng.uniform(0.0, 0.8) * (highest - lowest))
    unsupported = rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))
    no_head = rng.random(num_devices) < draw(st.sampled_from([0.0, 0.3]))
    layer_bytes = np.array([b * MIB // 8 for b in bits]) + rng.integers(0, 9999)
    kv_bytes = int(rng.integers(0, MIB))
    need = num_layers * (layer_bytes.mean() + kv_bytes) / num_devices
    looseness = draw(st.sampled_from([0.9, 1.3, 3.0]))
    held = {
        "layer_bytes": np.tile(layer_bytes, (num_devices, 1)),
        "kv_bytes": np.full(num_devices, kv_bytes),
        "embedding_bytes": np.full(num_devices, rng.integers(0, MIB)),
        "head_bytes": np.full(num_devices, rng.integers(0, MIB)),
        "allowed_bytes": (
            looseness * need * rng.uniform(0.7, 1.6, num_devices) + MIB
        ).astype(np.int64),
        "width": np.ones(num_devices, dtype=np.int64),
        "must_use": rng.random(num_devices) < draw(st.sampled_from([0.0, 0.3])),
        "may_hold": np.ones((num_layers, num_devices), dtype=bool),
    }
    wires = draw(st.sampled_from([(16,), (16, 8), (8,)]))
    loss = draw(st.sampled_from([0.0, 0.1, 1.0]))
    common = {
        "head_bits": 16,
        "kv_bits": 16,
        "bits": bits,
        "new_tokens": draw(st.sampled_from([1, 2, 3, 8, 50])),
        "wire_bits": wires,
        "wire_omega": np.array([loss if bits == 8 else 0.0 for bits in wires]),
        "buffer_bytes": int(rng.integers(0, MIB // 4)),
        "received_bytes": int(rng.integers(0, MIB // 4)),
        "may_have": np.ones((num_layers, len(bits)), dtype=bool),
        "device_groups": (),
        "hosts": draw(_hosts(num_devices)),
        "omega": omega,
        "fixed_omega": float(rng.choice([0.0, 0.3])),
        "omega_budget": budget,
        "theta": draw(st.sampled_from([0.0, 0.1, 3.0])),
    }
    speed = rng.uniform(0.5, 4.0, num_devices)
    hop = draw(st.sampled_from([0.0, 0.1, 2.0]))
    dispatch = draw(st.sampled_from([0.0, 0.3, 2.0]))
    whole = draw(st.sampled_from([0.0, 0.1, 1.0]))
    shares = np.array([1.0 if bits == 16 else 0.55 for bits in wires])[:, None, None]

    def instance():
        dispatch_s = dispatch * PHASE_SHARES[:, None] * rng.random((2, num_devices))
        # In prefill a stage that is the whole model is called as often as any other.
        whole_dispatch_s = dispatch_s * np.array([[1.0], [whole]])
        return Instance(
            micro_batch=MicroBatch(prefill=1, decode=1),
            num_micro_batches=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
            devices=DeviceNumbers(
                layer_s=_times(rng, speed[:, None], shape, unsupported),
                dispatch_s=dispatch_s,
                whole_dispatch_s=whole_dispatch_s,
                embedding_s=_times(rng, 0.5, num_devices),
                head_s=_times(rng, 1.0, num_devices, no_head),
                workspace_bytes=rng.integers(0, MIB, shape),
                embedding_workspace_bytes=rng.integers(0, MIB, num_devices),
                head_workspace_bytes=rng.integers(0, MIB, num_devices),
                **held,
            ),
            hop_s=np.stack(
                [
                    share * hop * shares * rng.random((num_devices, num_devices))
                    for share in PHASE_SHARES
                ]
            ),
            **common,
        )

    return [instance() for _ in range(draw(st.integers(1, max_number)))]


@st.composite
def mesh_subproblem_lists(draw, *, max_number=2, max_layers=3):
    """Subproblems with a group of equal devices, of which stages take one or several.

    The first of the devices drawn gives a group its single ones, the second its meshes;
    a third one, if there is one, is its own group.
    """
    drawn = draw(
        subproblem_lists(max_number=max_number, max_layers=max_layers, min_devices=2)
    )
    size, width = draw(st.sampled_from([(2, 2), (3, 2), (3, 3)]))
    num_singles = size if draw(st.booleans()) else 0
    kinds = [0] * num_singles + [1] * (size // width) + [2] * (drawn[0].num_devices - 2)
    widths = np.array([[1, width, 1][kind] for kind in kinds])
    grouped = tuple(j for j, kind in enumerate(kinds) if kind < 2)
    hosts = ()
    if draw(st.booleans()):
        among = range(len(kinds)) if draw(st.booleans()) else grouped
        members = tuple(j for j in among for _ in range(widths[j]))
        hosts = (
            Host(
                members=members,
                prefill_serial=draw(st.sampled_from([0.0, 0.4, 1.0])),
                decode_serial=draw(st.sampled_from([0.6, 1.0])),
            ),
        )
    subproblems = []
    for instance in drawn:
        must_use = instance.devices.must_use.copy()
        must_use[1] = must_use[0]
        equal = replace(instance.devices, must_use=must_use)
        taken = replace(instance, devices=equal, hosts=()).with_devices(kinds)
        subproblems.append(
            replace(
                taken,
                devices=replace(taken.devices, width=widths),
                device_groups=(DeviceGroup(members=grouped, num_devices=size),),
                hosts=hosts,
            )
        )
    return subproblems


@st.composite
def near_equal_subproblem_lists(draw, *, max_number=2, max_layers=4):
    """Subproblems with equal devices but for a few bytes of free memory, and another one.

    The bytes are near those that some stage needs, where one more makes a difference.
    """
    drawn = draw(
        subproblem_lists(max_number=max_number, max_layers=max_layers, min_devices=2)
    )
    kinds = [0] * draw(st.integers(2, 3)) + [1] * draw(st.integers(0, 1))
    jitter = draw(st.sampled_from([0, 1, 1000, MIB]))
    needed = draw(st.sampled_from(_needs(drawn[0]) or [MIB]))
    more = draw(
        st.lists(st.integers(-jitter, jitter), min_size=len(kinds), max_size=len(kinds))
    )
    subproblems = []
    for instance in drawn:
        taken = replace(instance, hosts=()).with_devices(kinds)
        must_use = np.array([instance.devices.must_use[kind] for kind in kinds])
        devices = replace(
            taken.devices,
            allowed_bytes=np.maximum(needed + np.array(more), 0),
            must_use=must_use,
        )
        subproblems.append(replace(taken, devices=devices))
    return subproblems


def _needs(instance):
    """Bytes of stages of the first device, all layers at one precision."""
    num_layers, num_bits = instance.omega.shape
    counts = np.kron(np.eye(num_bits, dtype=int), np.arange(1, num_layers + 1)[:, None])
    return [
        int(size)
        for ends in ((True, False), (False, True), (True, True), (False, False))
        for size in stage_bytes(
            instance, [0], counts, is_first=ends[0], is_last=ends[1]
        ).total[0]
    ]


@st.composite
def pinned_subproblem_lists(draw):
    """Subproblems of either kind, with layers that are on a device or have a precision."""
    subproblems = draw(st.one_of(subproblem_lists(), mesh_subproblem_lists()))
    num_layers, num_bits = subproblems[0].omega.shape
    may_hold = subproblems[0].devices.may_hold.copy()
    may_have = subproblems[0].may_have.copy()
    if draw(st.booleans()):
        alone = np.flatnonzero(
            ~np.isin(np.arange(len(may_hold.T)), _grouped(subproblems[0]))
        )
        for layer in draw(st.sets(st.integers(0, num_layers - 1), max_size=2)):
            if len(alone):
                may_hold[layer] = False
                may_hold[layer, draw(st.sampled_from(alone.tolist()))] = True
    for layer in draw(st.sets(st.integers(0, num_layers - 1), max_size=2)):
        may_have[layer] = False
        may_have[layer, draw(st.integers(0, num_bits - 1))] = True
    return [
        replace(
            subproblem,
            devices=replace(subproblem.devices, may_hold=may_hold),
            may_have=may_have,
        )
        for subproblem in subproblems
    ]


def _grouped(instance):
    return [j for group in instance.device_groups for j in group.members]


@st.composite
def _hosts(draw, num_devices):
    if not draw(st.booleans()):
        return ()
    members = draw(st.sets(st.integers(0, num_devices - 1), min_size=1))
    prefill, decode = draw(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2))
    return (
        Host(
            members=tuple(sorted(members)),
            prefill_serial=prefill,
            decode_serial=decode,
        ),
    )


def _times(rng, scale, shape, unsupported=False):
    """Seconds of both phases."""
    return np.stack(
        [
            np.where(unsupported, np.inf, share * scale * rng.uniform(0.3, 1.0, shape))
            for share in PHASE_SHARES
        ]
    )
