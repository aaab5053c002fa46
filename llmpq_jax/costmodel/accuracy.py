"""Error of predicted layer seconds at measured sizes that were held out of the fit."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from llmpq_jax.costmodel.latency import LayerKey, fit_layer
from llmpq_jax.schema.measurements import Accuracy, LayerTime, Measurements
from llmpq_jax.schema.precision import KvBits


def held_out_accuracy(measurements: Measurements) -> tuple[Accuracy, ...]:
    """Compares held-out rows with predictions fitted to the other rows.

    Returns:
        One record per device kind, phase, bits, tensor width and cache precision that
        has both fitted and held-out rows. A held-out size that was also fitted is left
        out.
    """
    groups: dict[tuple[LayerKey, KvBits], list[LayerTime]] = defaultdict(list)
    for row in measurements.layers:
        key = (row.kind, row.phase, row.bits, row.tensor)
        groups[key, row.kv_bits].append(row)
    return tuple(
        accuracy
        for (key, kv_bits), rows in groups.items()
        if (accuracy := _accuracy(key, kv_bits, rows)) is not None
    )


def _accuracy(key: LayerKey, kv_bits: KvBits, rows: list[LayerTime]) -> Accuracy | None:
    fitted = [row for row in rows if not row.held_out]
    known = {(row.batch, row.length) for row in fitted}
    held_out = [
        row for row in rows if row.held_out and (row.batch, row.length) not in known
    ]
    if not fitted or not held_out:
        return None
    kind, phase, bits, tensor = key
    predicted = fit_layer(phase, fitted)
    errors = [
        abs(float(predicted(row.batch, row.length)) / row.seconds - 1.0)
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
