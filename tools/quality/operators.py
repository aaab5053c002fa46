"""Rank correlation of estimates with the measured loss of rounding one operator."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.quant.rounding import rounded
from llmpq_jax.schema.precision import group_size_for
from llmpq_jax.sensitivity.losses import compare_logits
from llmpq_jax.sensitivity.moments import Moments, moments_of
from llmpq_jax.sensitivity.second_order import (
    curvature_loss,
    output_variance,
    variance_loss,
)
from llmpq_jax.sensitivity.streamed_model import StreamedModel, batches
from llmpq_jax.sensitivity.text import Text
from tools.quality.experiment import open_model, open_split, print_result

_LARGEST = {8: 127, 4: 7, 3: 3}
_RESAMPLES = 2000
# GPTQ's layer-wise error and LLM-PQ's variance are of an operator's outputs; the others are
# of the loss.
METHODS = (
    "hessian",
    "variance",
    "variance, bound",
    "variance, stochastic",
    "outputs: tr(ΔWᵀHΔW)",
    "outputs: LLM-PQ's variance",
    "random",
)


def run(max_tokens: int, seed: int) -> None:
    """Estimates and measures all operators at 8, 4 and 3 bits."""
    model, text = open_model(), open_split("calibration", max_tokens)
    started_s = time.perf_counter()
    moments = _moments(model, text)
    moments_s = time.perf_counter() - started_s
    operators = [(layer, name) for layer in sorted(moments) for name in moments[layer]]
    generator = np.random.default_rng(seed)
    rows = [("bits", "unit", "method", "with KL", "95 %", "with Δ−log p", "95 %")]
    values: dict[str, Any] = {
        "num_tokens": text.tokens.size,
        "operators": len(operators),
    }
    estimate_s, measure_s = 0.0, 0.0
    for bits in (8, 4, 3):
        served = {
            (layer, name): _rounded(moments[layer][name], bits)
            for layer, name in operators
        }
        started_s = time.perf_counter()
        estimates = {
            method: np.array(
                [
                    _estimate(method, moments[layer][name], *served[layer, name])
                    for layer, name in operators
                ]
            )
            for method in METHODS[:-1]
        }
        estimate_s += time.perf_counter() - started_s
        estimates["random"] = generator.uniform(size=len(operators))
        started_s = time.perf_counter()
        kl, nll, halves = _measured(model, text, operators, served)
        measure_s += time.perf_counter() - started_s
        values[f"reliability_of_nll_{bits}"] = _rank_correlation(*halves)
        values[f"sum_kl_{bits}"], values[f"sum_nll_{bits}"] = kl.sum(), nll.sum()
        layer_of = np.array([layer for layer, _ in operators])
        for unit in ("operator", "layer"):
            for method, found in estimates.items():
                figures = [found, kl, nll]
                if unit == "layer":
                    figures = [np.bincount(layer_of, each) for each in figures]
                with_kl = _correlation(figures[0], figures[1], generator)
                with_nll = _correlation(figures[0], figures[2], generator)
                rows.append((str(bits), unit, method, *with_kl[0], *with_nll[0]))
                values[f"{method}/{unit}/{bits}"] = [with_kl[1], with_nll[1]]
        values[f"sum_hessian_{bits}"] = float(estimates["hessian"].sum())
        values[f"sum_variance_{bits}"] = float(estimates["variance"].sum())
    values["seconds"] = {
        "moments": moments_s,
        "estimates of three widths": estimate_s,
        "measuring three widths": measure_s,
    }
    print_result("operators", rows, seed=seed, **values)


def _moments(model: StreamedModel, text: Text) -> dict[int, dict[str, Moments]]:
    with tempfile.TemporaryDirectory() as folder:
        found = dict(moments_of(model, text, folder=Path(folder)))
    del found[model.num_layers]
    return found


def _rounded(moments: Moments, bits: int) -> tuple[jax.Array, jax.Array]:
    num_contracted = moments.weight.shape[0]
    return rounded(
        moments.weight,
        None,
        largest=_LARGEST[bits],
        group=num_contracted if bits == 8 else group_size_for(num_contracted, 128),
        rounding="nearest",
    )


def _dequantized(values: jax.Array, scale: jax.Array) -> jax.Array:
    group = values.shape[0] // scale.shape[0]
    return values.astype(jnp.float32) * jnp.repeat(scale, group, axis=0)


def _estimate(
    method: str, moments: Moments, values: jax.Array, scale: jax.Array
) -> float:
    error = _dequantized(values, scale) - moments.weight.astype(jnp.float32)
    if method == "hessian":
        return float(curvature_loss(moments, error))
    if method == "outputs: tr(ΔWᵀHΔW)":
        return float(jnp.sum(error * (moments.inputs @ error)))
    if method == "outputs: LLM-PQ's variance":
        return float(output_variance(moments, scale, assumption="bound"))
    assumption = {"variance, bound": "bound", "variance, stochastic": "stochastic"}
    return float(
        variance_loss(moments, scale, assumption=assumption.get(method, "expected"))  # pyright: ignore[reportArgumentType]
    )


def _measured(
    model: StreamedModel,
    text: Text,
    operators: list[tuple[int, str]],
    served: dict[tuple[int, str], tuple[jax.Array, jax.Array]],
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Returns mean KL and mean Δ−log p with one operator rounded, and Δ−log p of two halves."""
    runs = [
        model.layer(layer, model.layer_weights(layer, 16))
        for layer in range(model.num_layers)
    ]
    head = model.head()
    entering = [model.embed(text.tokens)]
    for each in runs:
        entering.append(each(entering[-1]))
    kl, nll, first, second = [], [], [], []
    for layer, name in operators:
        weights = load_weights(model.store.layer(layer, bits=16))
        weights[name] = _dequantized(*served[layer, name])
        hidden = model.layer(layer, weights)(entering[layer])
        for each in runs[layer + 1 :]:
            hidden = each(hidden)
        parts = [
            _compared(head, hidden[each], entering[-1][each], text.tokens[each])
            for each in batches(hidden)
        ]
        divergence, change = (
            np.concatenate([part[axis] for part in parts]) for axis in (0, 1)
        )
        kl.append(divergence.mean(dtype=np.float64))
        nll.append(change.mean(dtype=np.float64))
        half = len(change) // 2
        first.append(change[:half].mean(dtype=np.float64))
        second.append(change[half:].mean(dtype=np.float64))
    return np.array(kl), np.array(nll), (np.array(first), np.array(second))


def _compared(
    head: Any, hidden: np.ndarray, exact: np.ndarray, tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    reference = head(exact)
    on_device = jnp.asarray(tokens)
    nll, kl, _ = compare_logits(head(hidden), reference, on_device)
    before = compare_logits(reference, reference, on_device)[0]
    return np.asarray(kl), np.asarray(nll) - np.asarray(before)


def _correlation(
    estimate: np.ndarray, measured: np.ndarray, generator: np.random.Generator
) -> tuple[tuple[str, str], list[float]]:
    """Returns Spearman's ρ and its 95 % interval by resampling operators, printed and as numbers."""
    rho = _rank_correlation(estimate, measured)
    drawn = generator.integers(0, len(estimate), (_RESAMPLES, len(estimate)))
    resampled = [_rank_correlation(estimate[each], measured[each]) for each in drawn]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return (f"{rho:.2f}", f"{low:.2f} to {high:.2f}"), [rho, float(low), float(high)]


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    found: Any = spearmanr(one, other)
    return float(found.statistic)
