from __future__ import annotations

import os
import shutil
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from llmpq_jax.checkpoint import weights_file
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.engines.local import start_local
from tests.support.tiny_models import make_strategy, write_tiny_model

# What is cached: the layers of 4 and 8 bits, not the one of 16 or the head.
STAGES = [((0,), [16, 8]), ((1,), [4, 8])]
NUM_CACHED = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights-cache") / "model")


def _serve(model: Path, folder: Path | None, stages=STAGES):
    """Returns the logits of a few tokens, and the lines that the cache logged."""
    lines: list[str] = []
    cache = None if folder is None else WeightsCache(folder, log=lines.append)
    start = partial(start_local, weights_cache=cache)
    with Pipeline.load(make_strategy(model, stages), start=start) as pipeline:
        return pipeline.score([[3, 4, 5, 6]]).tobytes(), lines


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns each file with its inode, which changes when it is written again."""
    return {
        path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()
    }


@pytest.fixture(scope="module")
def expected(model) -> bytes:
    return _serve(model, None)[0]


def _never(*_, **__):
    pytest.fail("the checkpoint was rounded again")


def test_a_restart_reads_what_the_first_start_wrote(
    model, expected, tmp_path, monkeypatch
):
    assert _serve(model, tmp_path) == (expected, [])
    before = _files(tmp_path)
    assert len(before) == NUM_CACHED
    assert all(name.endswith(".safetensors") for name in before)
    monkeypatch.setattr(WeightsCache, "write", _never)
    assert _serve(model, tmp_path) == (expected, [])
    assert _files(tmp_path) == before


def test_a_plan_that_is_cut_elsewhere_finds_its_layers(model, tmp_path, monkeypatch):
    _serve(model, tmp_path)
    recut = [((0,), [16]), ((1,), [8, 4, 8])]
    plain, _ = _serve(model, None, recut)
    monkeypatch.setattr(WeightsCache, "write", _never)
    assert _serve(model, tmp_path, recut) == (plain, [])


def test_layers_that_are_cut_over_devices_are_cached_as_they_are_served(
    model, tmp_path, monkeypatch
):
    wide = [((0, 1), [8, 4, 8, 4])]
    plain, _ = _serve(model, None, wide)
    assert _serve(model, tmp_path, wide) == (plain, [])
    monkeypatch.setattr(WeightsCache, "write", _never)
    assert _serve(model, tmp_path, wide) == (plain, [])


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped byte of the integers": lambda path: _flip(path, -1),
    "a flipped byte of the header": lambda path: _flip(path, 60),
    "a flipped byte of the header's length": lambda path: _flip(path, 1),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "foreign content": lambda path: path.write_text("no weights at all"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_noticed_and_made_again(
    model, expected, tmp_path, damage, monkeypatch
):
    _serve(model, tmp_path)
    victim = min(tmp_path.iterdir())
    damage(victim)
    logits, lines = _serve(model, tmp_path)
    assert logits == expected
    (line,) = lines
    assert line.startswith(f"weights cache {victim}: is not what was written there: ")
    monkeypatch.setattr(WeightsCache, "write", _never)
    assert _serve(model, tmp_path) == (expected, [])


def test_another_layer_s_file_is_not_taken_for_this_one_s(model, expected, tmp_path):
    _serve(model, tmp_path)
    first, second, _ = sorted(tmp_path.iterdir())
    shutil.copyfile(first, second)
    logits, lines = _serve(model, tmp_path)
    assert logits == expected
    assert [str(second) in line for line in lines] == [True]


def test_weights_that_changed_in_the_middle_of_their_file_are_read_again(
    model, tmp_path
):
    changed = tmp_path / "model"
    shutil.copytree(model, changed)
    weights = changed / "model.safetensors"
    cache = tmp_path / "cache"
    before, _ = _serve(changed, cache)
    found = weights.stat()
    middle = found.st_size // 2
    with weights.open("rb+") as file:
        file.seek(middle)
        block = file.read(4096)
        file.seek(middle)
        file.write(bytes(byte ^ 1 for byte in block))
    # Even where the time of change is put back, as copying programs do.
    os.utime(weights, ns=(found.st_atime_ns, found.st_mtime_ns))
    expected, _ = _serve(changed, None)
    assert expected != before
    assert _serve(changed, cache) == (expected, [])


def test_workers_that_write_the_same_files_at_once_do_not_meet(
    model, expected, tmp_path
):
    with ThreadPoolExecutor() as pool:
        served = list(pool.map(lambda _: _serve(model, tmp_path), range(3)))
    assert served == [(expected, [])] * 3
    assert len(_files(tmp_path)) == NUM_CACHED


def test_what_a_killed_run_left_is_never_used_and_soon_deleted(
    model, expected, tmp_path
):
    for name, age_s in (("dead", 100_000), ("alive", 10)):
        aside = tmp_path / f".writing.{name}"
        aside.mkdir()
        (aside / "half.safetensors").write_bytes(b"half")
        then_s = time.time() - age_s
        os.utime(aside, (then_s, then_s))
    assert _serve(model, tmp_path) == (expected, [])
    assert [path.name for path in tmp_path.glob(".*")] == [".writing.alive"]


def test_a_folder_that_cannot_be_created_is_logged_once(model, expected, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "weights"
    logits, lines = _serve(model, folder)
    assert logits == expected
    assert lines[-1].startswith(f"weights cache {folder}: cannot be written (")
    assert sum("cannot be written" in line for line in lines) == 1


def test_a_full_disk_is_logged_once_and_leaves_nothing(
    model, expected, tmp_path, monkeypatch
):
    def is_full(arrays, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_file, "save_file", is_full)
    logits, lines = _serve(model, tmp_path)
    assert logits == expected
    (line,) = lines
    assert "cannot be written (No space left on device): the run goes on" in line
    assert list(tmp_path.iterdir()) == []


def test_what_was_used_longest_ago_makes_room(model, expected, tmp_path, monkeypatch):
    stale = tmp_path / "stale.safetensors"
    stale.write_bytes(bytes(10_000_000))
    os.utime(stale, (0, 0))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage(10_000_000, 9_100_000, 900_000)
    )
    logits, lines = _serve(model, tmp_path)
    assert logits == expected
    assert not stale.exists()
    # The disk of this test never gets emptier, so the next file finds no room.
    assert all("less than a tenth of the disk" in line for line in lines)
