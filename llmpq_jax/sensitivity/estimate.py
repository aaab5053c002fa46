"""The whole errand: every layer at every precision judged on a text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from llmpq_jax.checkpoint.calibrated import (
    LowBits,
    Part,
    RoundedFor,
    RoundedWeights,
    begin,
    finish,
    write_part,
)
from llmpq_jax.quant import QArray, dequantize
from llmpq_jax.quant.rounding import round_weight
from llmpq_jax.schema.precision import Rounding
from llmpq_jax.schema.sensitivity import CalibrationText, LayerSensitivity, Sensitivity
from llmpq_jax.sensitivity.losses import Losses, losses_of, num_streams
from llmpq_jax.sensitivity.moments import LayerMoments, Moments, moments_of
from llmpq_jax.sensitivity.scale_fit import fit_factor, increase, random_assignments
from llmpq_jax.sensitivity.second_order import curvature_loss, variance_loss
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.sensitivity.variant import Variant, one_layer, whole
from llmpq_jax.sensitivity.work_folder import WorkFolder

Method = Literal["hessian", "variance", "measured", "random"]
METHODS: tuple[Method, ...] = ("hessian", "variance", "measured", "random")
UNIT = "increase in log-perplexity, in nats per token"
_FEW_BITS: tuple[LowBits, ...] = (8, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityJob:
    """What is to be judged, and how.

    Attributes:
        method: "hessian" and "variance" are second-order estimates (see
            `second_order`), "measured" the loss with only this layer rounded, "random"
            a control that knows nothing.
        rounding: How weights are rounded.
        rounded: Folder for them, where they are not rounded to the nearest.
        num_assignments: Random choices of bits to fit Σω to.
        seed: Of all that is drawn.
    """

    method: Method = "hessian"
    rounding: Rounding = "nearest"
    rounded: Path | None = None
    num_assignments: int = 12
    seed: int = 0


Omegas = dict[tuple[Part, LowBits], float]


def indicate(
    model: StreamedModel,
    text: Text,
    errand: SensitivityJob,
    *,
    folder: Path,
    on_step: Callable[[int, int], None] = lambda _, __: None,
) -> Sensitivity:
    """Judges every layer at 8 and 4 bits, and head, cache and wire at 8.

    Args:
        model: To be judged.
        text: To judge by.
        errand: How.
        folder: For what must survive a stop; deleted at the end.
        on_step: Hears of layers passed since it was called last, and of all there are.
    """
    variants, assignments = _variants(model, errand)
    looks_back = _needs_moments(errand)
    total = num_streams(model.num_layers, variants)
    if looks_back:
        total += 2 * model.num_layers

    def step(count: int = 1) -> None:
        on_step(count, total)

    estimates: Omegas = {}
    if errand.rounded is not None:
        begin(errand.rounded)
    if looks_back:
        estimates = _look_back(model, text, errand, folder, step)
    if errand.rounding != "nearest":
        assert errand.rounded is not None
        made_for = RoundedFor(
            fingerprint=model.fingerprint,
            rounding=errand.rounding,
            group_size=model.group_size,
            text=text.digest,
        )
        finish(errand.rounded, made_for)
        model.rounded = RoundedWeights(errand.rounded, fingerprint=model.fingerprint)
    losses = dict(
        zip(
            variants,
            losses_of(model, text, variants, folder=folder / "losses", on_stream=step),
            strict=True,
        )
    )
    omegas = _omegas(model.num_layers, errand, estimates, losses)
    return _sensitivity(model, text, errand, omegas, assignments, losses)


def _needs_moments(errand: SensitivityJob) -> bool:
    return errand.method in ("hessian", "variance") or errand.rounding != "nearest"


def _variants(
    model: StreamedModel, errand: SensitivityJob
) -> tuple[list[Variant], list[Variant]]:
    """Returns all that is measured, and the random choices among it."""
    count = model.num_layers
    generator = np.random.default_rng(errand.seed)
    assignments = random_assignments(count, errand.num_assignments, generator)
    exact = whole(count)
    variants = [exact, *_parts_at_8(exact), *assignments]
    if errand.method == "measured":
        variants += [
            one_layer(count, layer, bits)
            for layer in range(count)
            for bits in _FEW_BITS
        ]
    return list(dict.fromkeys(variants)), assignments


def _parts_at_8(exact: Variant) -> tuple[Variant, Variant, Variant]:
    """Returns the model with its head, its cache or its wires at 8 bits."""
    return (
        Variant(bits=exact.bits, head_bits=8),
        Variant(bits=exact.bits, kv_bits=8),
        Variant(bits=exact.bits, wire_bits=8),
    )


def _look_back(
    model: StreamedModel,
    text: Text,
    errand: SensitivityJob,
    folder: Path,
    step: Callable[[int], None],
) -> Omegas:
    """Rounds every part and estimates what that costs, from its moments."""
    told = (model.fingerprint, text.digest, repr(errand), str(model.group_size))
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()
    work = WorkFolder(folder / "estimates", key)
    rows: dict[str, float] = dict(work.state.get("rows", {}))
    for layer, moments in moments_of(
        model,
        text,
        folder=folder / "moments",
        seed=errand.seed,
        on_layer=lambda: step(1),
    ):
        part: Part = "head" if layer == model.num_layers else layer
        for bits in _FEW_BITS:
            # The head's loss is measured; here it is only rounded, where that takes care.
            if part == "head" and (bits == 4 or errand.rounding == "nearest"):
                continue
            rows[f"{part} {bits}"] = _judge_part(model, errand, part, bits, moments)
        work.save_state({"rows": rows})
    found: Omegas = {}
    for name, omega in rows.items():
        where, width = name.split()
        part = "head" if where == "head" else int(where)
        found[part, 8 if width == "8" else 4] = omega
    return found


def _judge_part(
    model: StreamedModel,
    errand: SensitivityJob,
    part: Part,
    bits: LowBits,
    moments: LayerMoments,
) -> float:
    weights: dict[str, QArray] = {}
    omega = 0.0
    for name, each in moments.items():
        weights[name] = round_weight(
            each.weight.astype(jnp.float32),
            each.inputs,
            bits=bits,
            group_size=model.group_size,
            rounding=errand.rounding,
        )
        omega += _estimate(errand.method, each, weights[name])
    if errand.rounding != "nearest":
        assert errand.rounded is not None
        write_part(errand.rounded, part, bits, weights)
    return omega


def _estimate(method: Method, moments: Moments, weight: QArray) -> float:
    if method == "variance":
        return float(variance_loss(moments, jnp.asarray(weight.scale)))
    error = dequantize(weight) - moments.weight.astype(jnp.float32)
    return float(curvature_loss(moments, error))


def _omegas(
    num_layers: int,
    errand: SensitivityJob,
    estimates: Omegas,
    losses: dict[Variant, Losses],
) -> Omegas:
    if errand.method in ("hessian", "variance"):
        return estimates
    if errand.method == "measured":
        return {
            (layer, bits): _mean_kl(losses[one_layer(num_layers, layer, bits)])
            for layer in range(num_layers)
            for bits in _FEW_BITS
        }
    generator = np.random.default_rng((errand.seed, 1))
    drawn = generator.uniform(0.0, 1.0, num_layers)
    # Noise falls with the square of the step.
    return {
        (layer, bits): float(drawn[layer]) / (2 ** (bits - 1) - 1) ** 2
        for layer in range(num_layers)
        for bits in _FEW_BITS
    }


def _sensitivity(
    model: StreamedModel,
    text: Text,
    errand: SensitivityJob,
    omegas: Omegas,
    assignments: list[Variant],
    losses: dict[Variant, Losses],
) -> Sensitivity:
    exact = whole(model.num_layers)
    sums = [
        sum(omegas[layer, bits] for layer, bits in enumerate(each.bits) if bits != 16)
        for each in assignments
    ]
    increases = [increase(losses[each], losses[exact]) for each in assignments]
    factor, r2 = fit_factor(sums, increases)
    head, cache, wire = (_mean_kl(losses[each]) for each in _parts_at_8(exact))
    # What is measured is in nats of divergence already; what it lacks to an increase is
    # as with the layers', where those are such nats too.
    scale = 1.0 if errand.method == "random" else factor
    return Sensitivity(
        model=model.folder.resolve().name,
        fingerprint=model.fingerprint,
        method=errand.method,
        unit=UNIT,
        rounding=errand.rounding,
        rounded=None if errand.rounded is None else str(errand.rounded),
        group_size=model.group_size,
        head_8=scale * head,
        kv_8=scale * cache,
        wire_8=scale * wire / max(1, model.num_layers - 1),
        calibration=CalibrationText(
            text=text.name,
            digest=text.digest,
            num_tokens=text.tokens.size,
            seed=errand.seed,
            num_assignments=len(assignments),
            factor=factor,
            r2=r2,
        ),
        layers=tuple(
            LayerSensitivity(layer=layer, bits=bits, omega=factor * omegas[layer, bits])
            for layer in range(model.num_layers)
            for bits in _FEW_BITS
        ),
    )


def _mean_kl(losses: Losses) -> float:
    # Rounding of sums may leave a divergence of nothing a hair below 0.
    return max(0.0, float(losses.kl.mean(dtype=np.float64)))
