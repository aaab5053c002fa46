"""Sensitivity from the weights alone: expected rounding noise over signal.

Rounding to the nearest multiple of a scale S leaves an error that is close to uniform
on [−S/2, S/2], of variance S²/12 (the expectation; LLM-PQ's indicator, arXiv
2403.01136, takes the bound S²/4). For inputs that are white, an operator's output then carries noise
and signal in the ratio

    ω_o(b) = Σ_groups n_g · S_g(b)² / 12  /  ‖W_o‖²_F

over the groups of n_g weights that share a scale, and a layer's ω is the sum over its
matrices. It needs no data and no accelerator, and does not see that some operators'
inputs are larger than others'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.names import Sources
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.store import StoredWeights
from llmpq_jax.schema.precision import group_size_for
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity

LowBits = Literal[4, 8]
_FEW_BITS: tuple[LowBits, ...] = (8, 4)
UNIT = "expected noise-to-signal ratio of operators' outputs for white input, summed over a layer's matrices"


def weight_variance(
    folder: Path,
    *,
    group_size: int = 128,
    on_layer: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Judges every layer, and the head at 8 bits, of a checkpoint.

    Args:
        folder: Of the checkpoint.
        group_size: Of int4, at most.
        on_layer: Called as each layer is judged.

    Raises:
        CheckpointError: A tensor is missing, damaged, or of another shape.
        UnsupportedModelError: The model is not implemented.
    """
    architecture = read_architecture(folder)
    stored = StoredWeights(CheckpointReader(folder), architecture)
    names = stored.names

    def omegas(sources: Sources) -> dict[LowBits, float]:
        sums: dict[LowBits, float] = dict.fromkeys(_FEW_BITS, 0.0)
        for weight_CF in _matrices(stored, sources):
            for bits in _FEW_BITS:
                sums[bits] += noise_to_signal(
                    weight_CF, bits=bits, group_size=group_size
                )
        return sums

    rows: list[LayerSensitivity] = []
    for layer in range(architecture.num_layers):
        found = omegas(names.layer(layer))
        rows += [
            LayerSensitivity(layer=layer, bits=bits, omega=found[bits])
            for bits in _FEW_BITS
        ]
        on_layer()
    return Sensitivity(
        model=folder.resolve().name,
        fingerprint=model_fingerprint(folder),
        method="weight-variance",
        unit=UNIT,
        group_size=group_size,
        head_8=omegas(names.head())[8],
        layers=tuple(rows),
    )


def noise_to_signal(
    weight_CF: Float[np.ndarray, "C F"], *, bits: LowBits, group_size: int = 128
) -> float:
    """Returns Σ n_g·S_g²/12 over ‖W‖²_F, with the scales our quantiser takes.

    8 bits take one scale per feature, 4 bits one per feature and group; a scale is the
    largest magnitude over 127 or 7. Zeros are kept exactly: they add nothing, and a
    matrix of zeros has no noise.
    """
    num_contracted, num_features = weight_CF.shape
    group = num_contracted if bits == 8 else group_size_for(num_contracted, group_size)
    largest_integer = 2 ** (bits - 1) - 1
    magnitude_CF = np.abs(weight_CF).astype(np.float32)
    largest = magnitude_CF.max()
    if largest == 0:
        return 0.0
    # The ratio does not depend on the unit, and squares of float32 may overflow.
    magnitude_CF /= largest
    signal = float(np.einsum("CF,CF->", magnitude_CF, magnitude_CF, dtype=np.float64))
    scale_GF = (
        magnitude_CF.reshape(-1, group, num_features).max(axis=1) / largest_integer
    )
    noise = group * float((scale_GF.astype(np.float64) ** 2).sum()) / 12
    return noise / signal


def _matrices(
    stored: StoredWeights, sources: Sources
) -> Iterator[Float[np.ndarray, "C F"]]:
    """Reads matrices one by one, those of one fused tensor together.

    Those that the checkpoint holds quantised are served as they are, at its bits or
    dequantised: they lose nothing more, and are left out.
    """
    matrices = [
        source
        for source in sources
        if source[0].is_matrix and not stored.is_quantized(source[1])
    ]
    matrices.sort(key=lambda source: source[1].name)
    for name, parts in groupby(matrices, key=lambda source: source[1].name):
        files = [file for _, file in parts]
        stored.check(files[0])
        array = stored.reader.read(name)
        for file in files:
            yield file.to_ours(array)
