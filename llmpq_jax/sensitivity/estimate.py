"""All sensitivities of a model from a text, in the steps of docs/sensitivity.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from llmpq_jax.checkpoint.calibrated import (
    CalibratedWeights,
    Calibration,
    begin,
    finish,
)
from llmpq_jax.schema.precision import LOW_BITS, Bits, LowBits
from llmpq_jax.schema.sensitivity import CalibrationText, LayerSensitivity, Sensitivity
from llmpq_jax.sensitivity.job import SensitivityJob
from llmpq_jax.sensitivity.losses import (
    Losses,
    Variant,
    distinct,
    losses_of,
    num_streams,
    one_layer,
    unrounded,
)
from llmpq_jax.sensitivity.second_order import Omegas, estimate_parts
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text

# A smaller factor would say that rounding costs nothing, which is noise of a short text.
_MIN_FACTOR = 0.1
UNIT = "increase in log-perplexity, in nats per token"


def compute_sensitivity(
    model: StreamedModel,
    text: Text,
    job: SensitivityJob,
    *,
    folder: Path,
    on_step: Callable[[int, int], None] = lambda _, __: None,
) -> Sensitivity:
    """Computes ω of every layer at 8 and 4 bits, and of head, cache and wire at 8.

    Args:
        model: Model to estimate.
        text: Text to calibrate on.
        job: Method and rounding.
        folder: Folder for intermediate results; an interrupted run is resumed from it.
        on_step: Callback with the number of layers passed since its last call, and of
            all layers to pass.
    """
    assignments = random_assignments(
        model.num_layers, job.num_assignments, np.random.default_rng(job.seed)
    )
    variants = _variants(model.num_layers, job, assignments)
    total = num_streams(model.num_layers, variants)
    if job.needs_moments:
        total += 2 * model.num_layers
    estimates: Omegas = {}
    if job.rounded is not None:
        begin(job.rounded)
    if job.needs_moments:
        estimates = estimate_parts(
            model, text, job, folder=folder, on_layer=lambda: on_step(1, total)
        )
    if job.rounding != "nearest":
        assert job.rounded is not None
        calibration = Calibration(
            fingerprint=model.fingerprint,
            rounding=job.rounding,
            group_size=model.group_size,
            text=text.digest,
        )
        finish(job.rounded, calibration)
        weights = CalibratedWeights(job.rounded, fingerprint=model.fingerprint)
        model.store = model.store.with_calibrated(weights)
    found = losses_of(
        model,
        text,
        variants,
        folder=folder / "losses",
        on_stream=lambda count: on_step(count, total),
    )
    losses = dict(zip(variants, found, strict=True))
    omegas = _omegas(model.num_layers, job, estimates, losses)
    return _scaled(model, text, job, omegas, assignments, losses)


def _variants(
    num_layers: int, job: SensitivityJob, assignments: list[Variant]
) -> list[Variant]:
    """Returns all variants whose losses are measured."""
    variants = [unrounded(num_layers), *_parts_at_8(num_layers), *assignments]
    if job.method == "measured":
        variants += [one_layer(num_layers, *row) for row in _rows(num_layers)]
    return distinct(variants)


def _rows(num_layers: int) -> product[tuple[int, LowBits]]:
    """Returns every layer at each low bit width."""
    return product(range(num_layers), LOW_BITS)


def _parts_at_8(num_layers: int) -> tuple[Variant, Variant, Variant]:
    """Returns the model with its head, its cache or its wires at 8 bits."""
    bits = unrounded(num_layers).bits
    return (
        Variant(bits=bits, head_bits=8),
        Variant(bits=bits, kv_bits=8),
        Variant(bits=bits, wire_bits=8),
    )


def _omegas(
    num_layers: int,
    job: SensitivityJob,
    estimates: Omegas,
    losses: dict[Variant, Losses],
) -> Omegas:
    """Returns ω of each layer by the job's method, before the factor is fitted."""
    if job.is_second_order:
        return estimates
    if job.method == "measured":
        return {
            row: _mean_kl(losses[one_layer(num_layers, *row)])
            for row in _rows(num_layers)
        }
    generator = np.random.default_rng((job.seed, 1))
    drawn = generator.uniform(0.0, 1.0, num_layers)
    # Noise falls with the square of the step.
    return {
        (layer, bits): float(drawn[layer]) / (2 ** (bits - 1) - 1) ** 2
        for layer, bits in _rows(num_layers)
    }


def _scaled(
    model: StreamedModel,
    text: Text,
    job: SensitivityJob,
    omegas: Omegas,
    assignments: list[Variant],
    losses: dict[Variant, Losses],
) -> Sensitivity:
    """Fits the factor to the assignments' losses, and multiplies all ω by it."""
    exact = losses[unrounded(model.num_layers)]
    sums = [
        sum(
            omegas[layer, bits]
            for layer, bits in enumerate(each.bits)
            if bits not in (16, 32)
        )
        for each in assignments
    ]
    increases = [increase(losses[each], exact) for each in assignments]
    factor, r2 = fit_factor(sums, increases)
    head, cache, wire = (
        _mean_kl(losses[each]) for each in _parts_at_8(model.num_layers)
    )
    # Head, cache and wire are measured in nats of KL divergence. The factor turns such nats
    # into an increase in log-perplexity, but the ω of "random" are no nats.
    scale = 1.0 if job.method == "random" else factor
    return Sensitivity(
        model=model.folder.resolve().name,
        fingerprint=model.fingerprint,
        method=job.method,
        unit=UNIT,
        rounding=job.rounding,
        rounded=None if job.rounded is None else str(job.rounded),
        group_size=model.group_size,
        head_8=scale * head,
        kv_8=scale * cache,
        wire_8=scale * wire / max(1, model.num_layers - 1),
        calibration=CalibrationText(
            text=text.name,
            digest=text.digest,
            num_tokens=text.tokens.size,
            seed=job.seed,
            num_assignments=len(assignments),
            factor=factor,
            r2=r2,
        ),
        layers=tuple(
            LayerSensitivity(layer=layer, bits=bits, omega=factor * omegas[layer, bits])
            for layer, bits in _rows(model.num_layers)
        ),
    )


def _mean_kl(losses: Losses) -> float:
    # Rounding of sums may leave a divergence of 0 slightly below 0.
    return max(0.0, float(losses.kl.mean(dtype=np.float64)))


def random_assignments(
    num_layers: int, count: int, generator: np.random.Generator
) -> list[Variant]:
    """Draws assignments of bits to layers.

    The share of int4 is drawn for each assignment; other layers have int8 or 16 bits with
    equal probability. Σω then spreads from almost 0 to that of uniform int4.
    """
    drawn = []
    for share in generator.uniform(0.0, 1.0, count):
        chances = (share, (1 - share) / 2, (1 - share) / 2)
        widths = generator.choice(np.array([4, 8, 16]), num_layers, p=chances)
        bits: tuple[Bits, ...] = tuple(int(width) for width in widths)  # pyright: ignore[reportAssignmentType]
        drawn.append(Variant(bits=bits))
    return drawn


def increase(losses: Losses, exact: Losses) -> float:
    """Returns the measured increase in log-perplexity, in nats per token."""
    return float(np.mean(losses.nll - exact.nll, dtype=np.float64))


def fit_factor(
    omegas: Sequence[float], increases: Sequence[float]
) -> tuple[float, float]:
    """Fits increase ≈ factor · Σω by least squares through the origin.

    Returns:
        The factor, at least 0.1; and R², the share of the increases' variance that the
        scaled sums explain.
    """
    omega, found = np.asarray(omegas), np.asarray(increases)
    squares = float(omega @ omega)
    factor = max(_MIN_FACTOR, float(omega @ found) / squares) if squares else 1.0
    return factor, r_squared(factor * omega, found)


def r_squared(predicted: np.ndarray, found: np.ndarray) -> float:
    """Returns 1 − Σ(found − predicted)² / Σ(found − mean)²; 0 if all found are equal."""
    spread = float(np.sum((found - found.mean()) ** 2))
    if spread == 0:
        return 0.0
    return 1 - float(np.sum((found - predicted) ** 2)) / spread
