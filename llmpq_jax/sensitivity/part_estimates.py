"""Second-order estimates of ω: rounds every matrix and weights its error by its moments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp

from llmpq_jax.checkpoint.calibrated import LayerOrHead, write_matrices
from llmpq_jax.quant import QArray, dequantize
from llmpq_jax.quant.rounding import round_weight
from llmpq_jax.schema.precision import LOW_BITS, LowBits
from llmpq_jax.sensitivity.job import Method, SensitivityJob
from llmpq_jax.sensitivity.moments import LayerMoments, Moments, moments_of
from llmpq_jax.sensitivity.second_order import curvature_loss, variance_loss
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.sensitivity.work_folder import WorkFolder

Omegas = dict[tuple[LayerOrHead, LowBits], float]


def estimate_parts(
    model: StreamedModel,
    text: Text,
    job: SensitivityJob,
    *,
    folder: Path,
    on_layer: Callable[[], None],
) -> Omegas:
    """Rounds every layer at each low bit width, and estimates ω of it.

    Weights not rounded to nearest are written to the job's folder, those of the head
    among them.

    Args:
        model: Model to estimate.
        text: Text to calibrate on.
        job: Method and rounding.
        folder: Folder for intermediate results; an interrupted run is resumed from it.
        on_layer: Callback for each layer, forwards and backwards.
    """
    identity = (model.fingerprint, text.digest, repr(job), str(model.group_size))
    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    work = WorkFolder(folder / "estimates", key)
    omegas: dict[str, float] = dict(work.state.get("omegas", {}))
    for layer, moments in moments_of(
        model, text, folder=folder / "moments", seed=job.seed, on_layer=on_layer
    ):
        part: LayerOrHead = "head" if layer == model.num_layers else layer
        for bits in LOW_BITS:
            # The head's ω is measured; here its weights are only rounded and written.
            if part == "head" and (bits == 4 or job.rounding == "nearest"):
                continue
            omegas[f"{part} {bits}"] = estimate_part(model, job, part, bits, moments)
        work.save_state({"omegas": omegas})
    found: Omegas = {}
    for name, omega in omegas.items():
        where, width = name.split()
        part = "head" if where == "head" else int(where)
        found[part, 8 if width == "8" else 4] = omega
    return found


def estimate_part(
    model: StreamedModel,
    job: SensitivityJob,
    part: LayerOrHead,
    bits: LowBits,
    moments: LayerMoments,
) -> float:
    """Rounds one layer, or the head, and returns the ω of it."""
    weights: dict[str, QArray] = {}
    omega = 0.0
    for name, each in moments.items():
        weights[name] = round_weight(
            each.weight.astype(jnp.float32),
            each.inputs,
            bits=bits,
            group_size=model.group_size,
            rounding=job.rounding,
        )
        omega += _matrix_omega(job.method, each, weights[name])
    if job.rounding != "nearest":
        assert job.rounded is not None
        write_matrices(job.rounded, part, bits, weights)
    return omega


def _matrix_omega(method: Method, moments: Moments, weight: QArray) -> float:
    if method == "variance":
        return float(variance_loss(moments, jnp.asarray(weight.scale)))
    error = dequantize(weight) - moments.weight.astype(jnp.float32)
    return float(curvature_loss(moments, error))
