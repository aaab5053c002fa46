"""How rounding one matrix raises the loss, to second order.

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

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmpq_jax.sensitivity.moments import Moments

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
