"""Sensitivity from the weights alone: expected rounding noise over signal.

The error of rounding to the nearest multiple of a scale S is close to uniform on
[−S/2, S/2], with variance S²/12 (LLM-PQ's indicator, arXiv 2403.01136, takes the bound S²/4).
For white inputs, the ratio of noise to signal in an operator's outputs is

    ω_o(b) = Σ_groups n_g · S_g(b)² / 12  /  ‖W_o‖²_F

over the groups of n_g weights that share a scale, and a layer's ω is the sum over its
matrices. This needs neither data nor an accelerator, but ignores that some operators' inputs
are larger than others'.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Float

from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.names import Sources
from llmpq_jax.schema.precision import LOW_BITS, LowBits, group_size_for
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity

UNIT = "expected noise-to-signal ratio of operators' outputs for white input, summed over a layer's matrices"


def weight_variance(
    folder: Path,
    *,
    group_size: int = 128,
    on_layer: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Estimates every layer of a checkpoint, and the head at 8 bits.

    Raises:
        CheckpointError: If a tensor is missing, damaged, or of another shape.
        UnsupportedModelError: If the model is not implemented.
    """
    stored = CheckpointTensors.open(folder)
    names = stored.names

    def omegas(sources: Sources) -> dict[LowBits, float]:
        sums: dict[LowBits, float] = dict.fromkeys(LOW_BITS, 0.0)
        for weight_CF in _matrices(stored, sources):
            for bits in LOW_BITS:
                sums[bits] += noise_to_signal(
                    weight_CF, bits=bits, group_size=group_size
                )
        return sums

    rows: list[LayerSensitivity] = []
    for layer in range(stored.architecture.num_layers):
        found = omegas(names.layer(layer))
        rows += [
            LayerSensitivity(layer=layer, bits=bits, omega=found[bits])
            for bits in LOW_BITS
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


def matrix_noise(
    folder: Path, modules: Collection[str], *, group_size: int = 128
) -> dict[LowBits, float]:
    """Returns the mean of `noise_to_signal` of some unquantised matrices of layers, by bits.

    Args:
        folder: Folder of the checkpoint.
        modules: Names of the matrices there, without ".weight".
        group_size: Maximum number of weights that share an int4 scale.
    """
    stored = CheckpointTensors.open(folder)
    sources = tuple(
        source
        for layer in range(stored.architecture.num_layers)
        for source in stored.names.layer(layer)
        if source[1].module in modules
    )
    sums = dict.fromkeys(LOW_BITS, 0.0)
    for weight_CF in _matrices(stored, sources):
        for bits in LOW_BITS:
            sums[bits] += noise_to_signal(weight_CF, bits=bits, group_size=group_size)
    return {bits: total / len(modules) for bits, total in sums.items()}


def noise_to_signal(
    weight_CF: Float[np.ndarray, "C F"], *, bits: LowBits, group_size: int = 128
) -> float:
    """Returns Σ n_g·S_g²/12 over ‖W‖²_F, with the scales of our quantiser.

    There is one scale per feature at 8 bits, and one per feature and group at 4; it is the
    largest magnitude divided by 127 or 7. Zeros are represented exactly: they add no noise.
    """
    num_contracted, num_features = weight_CF.shape
    group = num_contracted if bits == 8 else group_size_for(num_contracted, group_size)
    largest_integer = 2 ** (bits - 1) - 1
    magnitude_CF = np.abs(weight_CF).astype(np.float32)
    largest = magnitude_CF.max()
    if largest == 0:
        return 0.0
    # The ratio is independent of scaling, and squares of float32 may overflow.
    magnitude_CF /= largest
    signal = float(np.einsum("CF,CF->", magnitude_CF, magnitude_CF, dtype=np.float64))
    scale_GF = (
        magnitude_CF.reshape(-1, group, num_features).max(axis=1) / largest_integer
    )
    noise = group * float((scale_GF.astype(np.float64) ** 2).sum()) / 12
    return noise / signal


def _matrices(
    stored: CheckpointTensors, sources: Sources
) -> Iterator[Float[np.ndarray, "C F"]]:
    """Yields matrices one by one, those of one fused tensor together.

    Matrices that the checkpoint holds quantised are left out: they are served at its bits
    or dequantised, and lose nothing more.
    """
    matrices = [
        source
        for source in sources
        if source[0].is_matrix and stored.format_of(source[1]) is None
    ]
    matrices.sort(key=lambda source: source[1].name)
    for name, parts in groupby(matrices, key=lambda source: source[1].name):
        files = [file for _, file in parts]
        stored.check(files[0])
        array = stored.reader.read(name)
        for file in files:
            yield file.to_ours(array)
