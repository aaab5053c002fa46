"""Second-order estimates of ω: how rounding matrices raises the loss.

With the moments H = E[x·xᵀ] of a matrix's inputs and γ_f = E[g_f²] of the loss's gradient
by its outputs, both of the unrounded model, a change ΔW raises the loss of a token by about

    ½ · Σ_f γ_f · Δw_fᵀ · H · Δw_f

in nats of KL divergence from the unrounded model. This is tr(ΔWᵀ·H·ΔW) of GPTQ with each
feature weighted by its effect on the loss (K-FAC with a diagonal output factor; arXiv
1503.05671, equation 23). First-order terms are left out: they vanish in the mean if tokens
follow the model's own distribution.

If only the scales S are known, the expected square of ΔW replaces it:

    ½ · Σ_f γ_f · Σ_g n_g · S_gf² · v

with v = E[x²]/12 for errors uniform on ±S/2 (the expectation of rounding to the nearest),
Var[x]/4 (LLM-PQ's bound for it, arXiv 2403.01136: |error| ≤ S/2) or (E[x]² + Var[x])/6
(its expectation for stochastic rounding). LLM-PQ stops at the outputs' variance: its
indicator is this without γ and ½, see `output_variance`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmpq_jax.checkpoint.calibrated import LayerOrHead, write_matrices
from llmpq_jax.quant import QArray, dequantize
from llmpq_jax.quant.rounding import round_weight
from llmpq_jax.schema.precision import LOW_BITS, LowBits
from llmpq_jax.sensitivity.job import Method, SensitivityJob
from llmpq_jax.sensitivity.moments import LayerMoments, Moments, moments_of
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.sensitivity.work_folder import WorkFolder

Omegas = dict[tuple[LayerOrHead, LowBits], float]
Assumption = Literal["expected", "bound", "stochastic"]


def curvature_loss(moments: Moments, error_CF: Float[Array, "C F"]) -> Float[Array, ""]:
    """Returns ½ Σ_f γ_f · Δw_fᵀ·H·Δw_f in nats per token."""
    squares_F = jnp.einsum("CF,CF->F", error_CF, moments.inputs @ error_CF)
    return 0.5 * jnp.sum(moments.outputs * squares_F)


def variance_loss(
    moments: Moments,
    scale_GF: Float[Array, "G F"],
    *,
    assumption: Assumption = "expected",
) -> Float[Array, ""]:
    """Returns ½ Σ_f γ_f Σ_g n_g·S_gf²·v in nats per token."""
    squares_F = _noise_squares(moments, scale_GF)
    value = _input_factor(moments.inputs, assumption)
    return 0.5 * value * jnp.sum(moments.outputs * squares_F)


def output_variance(
    moments: Moments, scale_GF: Float[Array, "G F"], *, assumption: Assumption
) -> Float[Array, ""]:
    """Returns Σ_f Σ_g n_g·S_gf²·v: LLM-PQ's indicator, in squares of outputs."""
    squares_F = _noise_squares(moments, scale_GF)
    return _input_factor(moments.inputs, assumption) * jnp.sum(squares_F)


def _noise_squares(moments: Moments, scale_GF: jax.Array) -> jax.Array:
    group = moments.weight.shape[0] // scale_GF.shape[0]
    return group * jnp.sum(scale_GF * scale_GF, axis=0)


def _input_factor(inputs_CC: jax.Array, assumption: Assumption) -> jax.Array:
    """Returns v from moments over a token's features, averaged over the tokens."""
    num_features = inputs_CC.shape[0]
    mean_square = jnp.trace(inputs_CC) / num_features
    if assumption == "expected":
        return mean_square / 12
    # The square of a token's mean over its features is 1ᵀ·x·xᵀ·1 / C².
    square_of_mean = jnp.sum(inputs_CC) / num_features**2
    if assumption == "bound":
        return (mean_square - square_of_mean) / 4
    return mean_square / 6


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
    among them. An interrupted run is resumed from `folder`.
    """
    identity = (model.fingerprint, text.digest, repr(job), str(model.group_size))
    work = WorkFolder(folder / "estimates", *identity)
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
