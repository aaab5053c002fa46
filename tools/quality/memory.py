"""Plans of equal memory by each method: which layers get 8 bits, and which 4."""

from __future__ import annotations

from itertools import chain

import numpy as np

from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.sensitivity.job import Method
from llmpq_jax.sensitivity.losses import Variant, unrounded
from tools.quality.experiment import (
    losses_by_variant,
    open_model,
    open_split,
    print_result,
    sensitivity_by,
    window_means,
)

_METHODS: tuple[Method, ...] = ("measured", "hessian", "variance")
_NUM_INT8 = (2, 4, 6, 8, 10)
_DRAWS = 20
_RESAMPLES = 2000


def run(max_tokens: int, seed: int) -> None:
    """Evaluates plans by number of int8 layers, which have equal bytes."""
    model = open_model()
    calibration = open_split("calibration", max_tokens)
    num_layers = model.num_layers
    plans = {
        method: _plans_by(sensitivity_by(method, model, calibration, seed=seed))
        for method in _METHODS
    }
    generator = np.random.default_rng(seed + 2)
    draws = [
        [
            _plan(num_layers, generator.permutation(num_layers)[:count])
            for _ in range(_DRAWS)
        ]
        for count in _NUM_INT8
    ]
    exact = unrounded(num_layers)
    uniform = [Variant(bits=(4,) * num_layers), Variant(bits=(8,) * num_layers)]
    every = [exact, *uniform, *chain(*plans.values(), *draws)]
    text = open_split("evaluation", max_tokens)
    losses = losses_by_variant(model, text, list(dict.fromkeys(every)))
    perplexity = {
        variant: float(np.exp(window_means(found).mean()))
        for variant, found in losses.items()
    }
    rows = [("layers at 8 of 12", "random, mean", *plans)]
    values = {
        "exact": perplexity[exact],
        "uniform": {"int4": perplexity[uniform[0]], "int8": perplexity[uniform[1]]},
    }
    for index, count in enumerate(_NUM_INT8):
        drawn = [perplexity[each] for each in draws[index]]
        own = {method: perplexity[each[index]] for method, each in plans.items()}
        chosen = (f"{each:.4f}" for each in own.values())
        rows.append((str(count), f"{np.mean(drawn):.4f}", *chosen))
        values[f"{count}"] = {"random": drawn, **own}
    for method, each in plans.items():
        differences = np.array(
            [
                [perplexity[plan] - perplexity[draw] for draw in drawn]
                for plan, drawn in zip(each, draws, strict=True)
            ]
        )
        figures = [float(differences.mean()), *_interval(differences, generator)]
        printed = (f"{figure:+.4f}" for figure in figures)
        rows.append(("mean difference", method, *printed))
        values[f"difference/{method}"] = figures
    print_result("memory", rows, seed=seed, num_tokens=text.tokens.size, **values)


def _plans_by(sensitivity: Sensitivity) -> list[Variant]:
    """Returns a plan for each number of int8 layers: those that gain most by it."""
    num_layers = len({row.layer for row in sensitivity.layers})
    gains = [
        sensitivity.omega(layer, 4) - sensitivity.omega(layer, 8)
        for layer in range(num_layers)
    ]
    order = np.argsort(gains)[::-1]
    return [_plan(num_layers, order[:count]) for count in _NUM_INT8]


def _plan(num_layers: int, at_8: np.ndarray) -> Variant:
    bits: list[Bits] = [4] * num_layers
    for layer in at_8:
        bits[int(layer)] = 8
    return Variant(bits=tuple(bits))


def _interval(
    differences: np.ndarray, generator: np.random.Generator
) -> tuple[float, float]:
    """Returns the 95 % interval of the mean, by resampling draws of equal memory."""
    size = (_RESAMPLES, *differences.shape)
    drawn = generator.integers(0, differences.shape[1], size)
    means = np.take_along_axis(differences[None], drawn, axis=2).mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
