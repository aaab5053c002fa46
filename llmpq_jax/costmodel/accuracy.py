"""How far foretold seconds of a layer are from measured ones that were left out."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from llmpq_jax.costmodel.latency import LayerKey, fit_layer
from llmpq_jax.schema.measurements import Accuracy, LayerTime, Measurements
from llmpq_jax.schema.precision import KvBits


def held_out_accuracy(measurements: Measurements) -> tuple[Accuracy, ...]:
    """Foretells every row that was held out, from those that were not.

    Returns:
        One for each kind, phase, bits, width and cache that has rows of both sorts. A
        size that was measured both ways judges nothing.
    """
    groups: dict[tuple[LayerKey, KvBits], list[LayerTime]] = defaultdict(list)
    for row in measurements.layers:
        key = (row.kind, row.phase, row.bits, row.tensor)
        groups[key, row.kv_bits].append(row)
    return tuple(
        accuracy
        for (key, kv_bits), rows in groups.items()
        if (accuracy := _judge(key, kv_bits, rows)) is not None
    )


def _judge(key: LayerKey, kv_bits: KvBits, rows: list[LayerTime]) -> Accuracy | None:
    fitted = [row for row in rows if not row.held_out]
    known = {(row.batch, row.length) for row in fitted}
    held_out = [
        row for row in rows if row.held_out and (row.batch, row.length) not in known
    ]
    if not fitted or not held_out:
        return None
    kind, phase, bits, tensor = key
    surface = fit_layer(phase, fitted)
    errors = [
        abs(float(surface(row.batch, row.length)) / row.seconds - 1.0)
        for row in held_out
    ]
    return Accuracy(
        kind=kind,
        phase=phase,
        bits=bits,
        tensor=tensor,
        kv_bits=kv_bits,
        num_fitted=len(fitted),
        num_held_out=len(held_out),
        mean_error=fmean(errors),
        largest_error=max(errors),
        spread=fmean(row.spread for row in held_out),
    )
