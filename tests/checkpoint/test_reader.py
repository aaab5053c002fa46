"""The reader gives what the safetensors library wrote, and refuses everything else."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llmpq_jax.checkpoint.reader import INDEX, WHOLE, CheckpointReader
from llmpq_jax.errors import CheckpointError

DTYPES = [ml_dtypes.bfloat16, np.float16, np.float32, np.float64, np.int8, np.int64]


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Arrays of any rank, empty ones too, with any bits in them."""
    names = draw(
        st.lists(st.text("abc.0", min_size=1), min_size=1, max_size=6, unique=True)
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = {}
    for name in names:
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        noise = generator.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8)
        arrays[name] = noise.view(dtype).reshape(shape)
    return arrays


def _bits(array: np.ndarray) -> bytes:
    return array.tobytes()


def _write_shards(folder: Path, shards: list[dict[str, np.ndarray]]) -> None:
    file_of = {}
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"part-{number}.safetensors")
        file_of |= dict.fromkeys(shard, f"part-{number}.safetensors")
    _write_index(folder, file_of)


def _write_index(folder: Path, file_of: object) -> None:
    content = json.dumps({"weight_map": file_of})
    (folder / INDEX).write_text(content, encoding="utf-8")


@given(tensors(), st.integers(1, 3))
def test_what_was_written_is_read(
    written: dict[str, np.ndarray], num_shards: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = sorted(written)
        if num_shards == 1:
            save_file(written, folder / WHOLE, metadata={"format": "pt"})
        else:
            shards = [
                {key: written[key] for key in names[number::num_shards]}
                for number in range(num_shards)
            ]
            _write_shards(folder, [shard for shard in shards if shard])
        reader = CheckpointReader(folder)
        assert sorted(reader) == names
        assert len(reader) == len(names)
        for key, array in written.items():
            assert key in reader
            assert reader.shape(key) == array.shape
            assert reader.dtype(key) == array.dtype
            read = reader.read(key)
            assert (read.shape, read.dtype) == (array.shape, array.dtype)
            assert _bits(read) == _bits(array)


def test_a_reader_can_be_sent_to_another_process(tmp_path: Path) -> None:
    save_file({"a": np.arange(3.0)}, tmp_path / WHOLE)
    reader = pickle.loads(pickle.dumps(CheckpointReader(tmp_path)))
    assert reader.read("a").tolist() == [0, 1, 2]


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / WHOLE)
    with pytest.raises(
        CheckpointError, match=r"tensor 'b' is missing: expected it among"
    ):
        CheckpointReader(tmp_path).shape("b")


def test_pickles_are_refused_by_name_and_never_opened(tmp_path: Path) -> None:
    # Whoever opens a pipe waits for ever.
    os.mkfifo(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError,
        match=r"found pytorch_model\.bin but no safetensors: .*never read",
    ):
        CheckpointReader(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"found no weights: expected model\.safe"
    ):
        CheckpointReader(tmp_path)


def test_safetensors_of_another_name_are_named(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "consolidated.safetensors")
    with pytest.raises(
        CheckpointError, match=r"found consolidated\.safetensors: expected"
    ):
        CheckpointReader(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nowhere: is not a folder: expected one with"
    ):
        CheckpointReader(tmp_path / "nowhere")


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    _write_index(tmp_path, {"a": "part-0.safetensors"})
    with pytest.raises(
        CheckpointError, match=r"names the file part-0\.safetensors, which"
    ):
        CheckpointReader(tmp_path)


def test_a_shard_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "part-0.safetensors")
    _write_index(tmp_path, {"a": "part-0.safetensors", "b": "part-0.safetensors"})
    with pytest.raises(
        CheckpointError, match=r"part-0\.safetensors: lacks the tensor 'b'"
    ):
        CheckpointReader(tmp_path)


def test_a_shard_with_a_tensor_of_its_own_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1), "b": np.zeros(1)}, tmp_path / "part-0.safetensors")
    _write_index(tmp_path, {"a": "part-0.safetensors"})
    with pytest.raises(
        CheckpointError, match=r"holds the tensor 'b': expected model\.saf"
    ):
        CheckpointReader(tmp_path)


@pytest.mark.parametrize("name", ["../part.safetensors", "/etc/passwd", "a/b", "", 3])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: object) -> None:
    _write_index(tmp_path, {"a": name})
    with pytest.raises(
        CheckpointError, match=r"weight_map\.a: found .*, expected the name"
    ):
        CheckpointReader(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {}])
def test_an_index_without_names_is_refused(tmp_path: Path, weight_map: object) -> None:
    _write_index(tmp_path, weight_map)
    with pytest.raises(
        CheckpointError, match=r"weight_map: found .*, expected an object"
    ):
        CheckpointReader(tmp_path)


def test_an_index_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(b"{")
    with pytest.raises(
        CheckpointError, match=r"index\.json: cannot be read as JSON \("
    ):
        CheckpointReader(tmp_path)
