from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.checkpoint.reader import INDEX, WHOLE, CheckpointReader
from llmpq_jax.checkpoint.shard_writer import ShardWriter
from llmpq_jax.errors import CheckpointError


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1),
    st.integers(1, 400),
)
def test_what_was_added_is_read_back_and_files_keep_their_size(
    sizes: list[list[int]], shard_bytes: int
) -> None:
    added = [
        {
            f"{turn}.{place}": np.arange(size, dtype=np.int32) + 100 * turn + place
            for place, size in enumerate(part)
        }
        for turn, part in enumerate(sizes)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = ShardWriter(folder, shard_bytes=shard_bytes)
        for tensors in added:
            writer.add(tensors)
        writer.finish()
        reader = CheckpointReader(folder)
        expected = {key: array for part in added for key, array in part.items()}
        assert sorted(reader) == sorted(expected)
        for key, array in expected.items():
            np.testing.assert_array_equal(reader.read(key), array)
        if (folder / WHOLE).exists():
            assert [path.name for path in folder.iterdir()] == [WHOLE]
            return
        index = json.loads((folder / INDEX).read_text())
        total = sum(array.nbytes for array in expected.values())
        assert index["metadata"] == {"total_size": total}
        files = set(index["weight_map"].values())
        assert {path.name for path in folder.iterdir()} == files | {INDEX}
        assert min(files) == f"model-00001-of-{len(files):05d}.safetensors"
        for part in added:
            assert len({index["weight_map"][key] for key in part}) == 1
        for file in files:
            turns = {
                key.split(".")[0]
                for key, at in index["weight_map"].items()
                if at == file
            }
            held = sum(
                array.nbytes for turn in turns for array in added[int(turn)].values()
            )
            assert held <= shard_bytes or len(turns) == 1


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "none")
    writer.add({"a": np.zeros(3, np.float32)})
    with pytest.raises(
        CheckpointError, match=r"none/model-00001\.safetensors: cannot be written \("
    ):
        writer.finish()
