"""One matrix in a checkpoint folder of its own, read by the format it describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llmpq_jax.checkpoint.formats import Linear, QuantizedMatrix, read_format
from llmpq_jax.checkpoint.reader import WHOLE, CheckpointReader
from llmpq_jax.quant import QArray
from tests.checkpoint.formats.writers import Written
from tests.referees.quantized_product import reference_weight

MODULE = "model.layers.0.mlp.up_proj"


def read_linear(
    folder: Path,
    tensors: dict[str, np.ndarray],
    description: dict[str, Any],
    shape: tuple[int, int],
) -> QuantizedMatrix:
    """Writes the tensors and reads them back, after comparing shapes and types."""
    (folder / "config.json").write_text(
        json.dumps({"quantization_config": description})
    )
    named = {f"{MODULE}.{suffix}": array for suffix, array in tensors.items()}
    save_file(named, folder / WHOLE)
    reader = CheckpointReader(folder)
    found = read_format(folder)
    assert found is not None
    linear = Linear(
        folder=folder, module=MODULE, num_contracted=shape[0], num_features=shape[1]
    )
    parts = found.file_tensors(linear, reader)
    for part in parts:
        name = f"{MODULE}.{part.suffix}"
        assert reader.shape(name) == part.shape
        assert reader.dtype(name).name in part.dtypes
    assert {part.suffix for part in parts} == set(tensors)
    return found.matrix(
        linear, {part.suffix: reader.read(f"{MODULE}.{part.suffix}") for part in parts}
    )


def check_meaning(matrix: QuantizedMatrix, written: Written) -> None:
    """Compares with what the writer says, in float64 and to the last bit."""
    served = QArray(
        values=matrix.values,
        scale=matrix.scale,
        bits=matrix.bits,
        zero_point=matrix.zero_point,
        permutation=matrix.permutation,
    )
    dense_CF = written.dense_FC.T
    np.testing.assert_array_equal(reference_weight(served), dense_CF)
    # The products are exact in float32, so going by way of it rounds once.
    rounded = dense_CF.astype(np.float32).astype(matrix.dtype)
    found = matrix.dequantized()
    assert found.dtype == matrix.dtype
    np.testing.assert_array_equal(found.astype(np.float64), rounded.astype(np.float64))
