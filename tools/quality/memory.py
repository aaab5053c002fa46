"""Plans of equal memory by each indicator: which layers get the eight bits there are."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path

import numpy as np

from llmpq_jax.schema.precision import Bits
from llmpq_jax.sensitivity.estimate import SensitivityJob, indicate
from llmpq_jax.sensitivity.variant import Variant, whole
from tools.quality.common import (
    judged,
    open_model,
    open_split,
    print_result,
    window_means,
)

_NUM_INT8 = (2, 4, 6, 8, 10)
_DRAWS = 20
_RESAMPLES = 2000


def run(max_tokens: int, seed: int) -> None:
    """Judges plans on the evaluation split; layers have equal bytes, so memory counts them."""
    model = open_model()
    calibration = open_split("calibration", max_tokens)
    num_layers = model.num_layers
    plans: dict[str, list[Variant]] = {}
    for method in ("measured", "hessian", "variance"):
        with tempfile.TemporaryDirectory() as folder:
            found = indicate(
                model,
                calibration,
                SensitivityJob(method=method, seed=seed),
                folder=Path(folder),
            )
        gains = [
            found.omega(layer, 4) - found.omega(layer, 8) for layer in range(num_layers)
        ]
        order = np.argsort(gains)[::-1]
        plans[method] = [_plan(num_layers, order[:count]) for count in _NUM_INT8]
    generator = np.random.default_rng(seed + 2)
    draws = [
        [
            _plan(num_layers, generator.permutation(num_layers)[:count])
            for _ in range(_DRAWS)
        ]
        for count in _NUM_INT8
    ]
    exact = whole(num_layers)
    uniform = [Variant(bits=(4,) * num_layers), Variant(bits=(8,) * num_layers)]
    every = [exact, *uniform, *chain(*plans.values(), *draws)]
    text = open_split("evaluation", max_tokens)
    losses = judged(model, text, list(dict.fromkeys(every)))
    means = {variant: window_means(found) for variant, found in losses.items()}

    def perplexity(variant: Variant) -> float:
        return float(np.exp(means[variant].mean()))

    rows = [("layers at 8 of 12", "random, mean", *plans)]
    values = {
        "exact": perplexity(exact),
        "uniform": {"int4": perplexity(uniform[0]), "int8": perplexity(uniform[1])},
    }
    for node_device, count in enumerate(_NUM_INT8):
        drawn = [perplexity(each) for each in draws[node_device]]
        own = {method: perplexity(each[node_device]) for method, each in plans.items()}
        rows.append(
            (
                str(count),
                f"{np.mean(drawn):.4f}",
                *(f"{each:.4f}" for each in own.values()),
            )
        )
        values[f"{count}"] = {"random": drawn, **own}
    for method, each in plans.items():
        pairs = np.array(
            [
                [
                    perplexity(each[node_device]) - perplexity(draw)
                    for draw in draws[node_device]
                ]
                for node_device in range(len(_NUM_INT8))
            ]
        )
        low, high = _interval(pairs, generator)
        rows.append(
            (
                "mean difference",
                method,
                f"{pairs.mean():+.4f}",
                f"{low:+.4f}",
                f"{high:+.4f}",
            )
        )
        values[f"difference/{method}"] = [float(pairs.mean()), low, high]
    print_result("memory", rows, seed=seed, num_tokens=text.tokens.size, **values)


def _plan(num_layers: int, at_8: np.ndarray) -> Variant:
    bits: list[Bits] = [4] * num_layers
    for layer in at_8:
        bits[int(layer)] = 8
    return Variant(bits=tuple(bits))


def _interval(pairs: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Resamples draws within each budget."""
    drawn = generator.integers(0, pairs.shape[1], (_RESAMPLES, *pairs.shape))
    means = np.take_along_axis(pairs[None], drawn, axis=2).mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
