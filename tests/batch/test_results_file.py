from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.manifest import Manifest, ManifestOptions, manifest_path
from llmpq_jax.batch.results_file import ResultsFile
from llmpq_jax.errors import RequestError
from tests.support.devices import ReadPipe, full_device, room_for

VALUES = {"custom_id": "prompt-1", "text": "naïve \u2028 ja"}
MANIFEST = Manifest(
    program="llmpq-jax",
    model="model",
    fingerprint="sha256:1",
    tokenizer="sha256:2",
    strategies=("sha256:3",),
    unnamed_lines="sha256:4",
    options=ManifestOptions(max_new_tokens=8, temperature=0, top_k=0, top_p=1, seed=0),
)


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def values_of(number):
    return {"custom_id": f"é{number}", "text": "x" * (number * 7 % 40)}


def test_every_result_is_there_at_once_as_a_line(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    with ResultsFile(path) as results:
        results.add(VALUES)
        (line,) = path.read_bytes().split(b"\n")[:-1]
        results.add(VALUES)
        assert path.read_bytes().count(b"\n") == 2
    assert json.loads(line) == VALUES


def test_every_result_is_on_disk_before_the_next(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        results.add(VALUES)
        monkeypatch.setattr(os, "fsync", fsync)
        for _ in range(3):
            results.add(VALUES)
            assert synced[-1] == path.stat().st_size
    assert len(set(synced)) == 3


def test_an_old_file_is_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    with pytest.raises(RequestError, match="is there already: name another file, or"):
        ResultsFile(path)
    assert path.read_text() == "old"


def test_an_old_file_is_replaced_by_the_first_result_only(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    with ResultsFile(path, if_exists="replace", manifest=MANIFEST):
        pass
    assert path.read_text() == "old"
    assert not manifest_path(path).exists()
    with ResultsFile(path, if_exists="replace", manifest=MANIFEST) as results:
        results.add(VALUES)
    assert rows_of(path) == [VALUES]
    assert manifest_path(path).exists()


def test_a_run_without_results_leaves_no_file(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path, manifest=MANIFEST):
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RequestError, match="cannot be written \\(Is a directory\\)"):
        ResultsFile(tmp_path, if_exists="replace")
    with ResultsFile(full_device(tmp_path / "full")) as results:
        message = "No space left on device\\): 0 results are kept there; make room$"
        with pytest.raises(RequestError, match=message):
            results.add(VALUES)


def test_two_processes_do_not_write_one_file(tmp_path):
    """A lock belongs to the opened file, so the same process acts as another one."""
    path = tmp_path / "results.jsonl"
    with ResultsFile(path, manifest=MANIFEST) as results:
        results.add(VALUES)
        with pytest.raises(RequestError, match="another process is writing it: wait"):
            ResultsFile(path, if_exists="resume", manifest=MANIFEST)
    with ResultsFile(path, if_exists="resume", manifest=MANIFEST) as again:
        assert again.has("prompt-1")


@given(
    num_lines=st.integers(0, 8), cut=st.floats(0, 1), extra=st.sampled_from([b"", b"{"])
)
def test_a_file_cut_anywhere_goes_on_without_loss_or_repetition(
    tmp_path_factory, num_lines, cut, extra
):
    """Whatever the moment, what is on disk is the beginning of what was written."""
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    all_values = [values_of(number) for number in range(num_lines + 3)]
    with ResultsFile(path, manifest=MANIFEST) as results:
        for values in all_values[: num_lines + 1]:
            results.add(values)
    whole = path.read_bytes()
    kept = whole[: round(cut * len(whole))] + extra
    path.write_bytes(kept)
    with ResultsFile(path, if_exists="resume", manifest=MANIFEST) as results:
        assert results.num_kept == kept.count(b"\n")
        for values in all_values:
            if not results.has(values["custom_id"]):
                results.add(values)
    assert rows_of(path) == all_values


@given(num_bytes=st.integers(0, 400))
def test_a_full_disk_keeps_whole_lines_and_goes_on_later(tmp_path_factory, num_bytes):
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    all_values = [values_of(number) for number in range(10)]
    # The manifest is smaller than that.
    with ResultsFile(path, manifest=MANIFEST) as results:
        results.add(all_values[0])
    lines = [*all_values[1:], {"custom_id": "x" * 1000}]
    with ResultsFile(path, if_exists="resume", manifest=MANIFEST) as results:
        message = ""
        with room_for(path.stat().st_size + num_bytes):
            for values in lines:
                try:
                    results.add(values)
                except RequestError as error:
                    message = str(error)
                    break
    kept = rows_of(path)
    assert kept == all_values[: len(kept)]
    assert "cannot be written (File too large)" in message
    assert f": {len(kept)} results are kept there; make room, then go on" in message
    with ResultsFile(path, if_exists="resume", manifest=MANIFEST) as results:
        for values in all_values[len(kept) :]:
            results.add(values)
    assert rows_of(path) == all_values


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    message = r"cannot be written \(File too large\): make room there, or name"
    with (
        ResultsFile(path, manifest=MANIFEST) as results,
        room_for(10),
        pytest.raises(RequestError, match=message),
    ):
        results.add(VALUES)
    assert list(tmp_path.iterdir()) == []


def test_what_was_never_begun_may_be_resumed(tmp_path):
    path = tmp_path / "results.jsonl"
    for begin in (lambda: None, path.touch):
        path.unlink(missing_ok=True)
        begin()
        with ResultsFile(path, if_exists="resume", manifest=MANIFEST) as results:
            assert results.num_kept == 0
            results.add(VALUES)
        assert rows_of(path) == [VALUES]


def test_a_strategy_that_is_added_may_resume_the_run(tmp_path):
    path = tmp_path / "results.jsonl"
    later = replace(MANIFEST, strategies=("sha256:later",))
    with ResultsFile(path, manifest=MANIFEST) as results:
        results.add_strategy("sha256:early")
        assert not manifest_path(path).exists()
        results.add(VALUES)
        results.add_strategy("sha256:later")
        results.add_strategy("sha256:later")
    for manifest in (MANIFEST, later):
        with ResultsFile(path, if_exists="resume", manifest=manifest) as results:
            assert results.num_kept == 1
            results.add_strategy("sha256:last")
    noted = tomllib.loads(manifest_path(path).read_text())["strategies"]
    assert noted == ["sha256:3", "sha256:early", "sha256:later", "sha256:last"]


def test_results_without_their_manifest_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        results.add(VALUES)
    with pytest.raises(
        RequestError, match=r"manifest\.toml: is missing: expected it next"
    ):
        ResultsFile(path, if_exists="resume", manifest=MANIFEST)
    assert rows_of(path) == [VALUES]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not JSON", "line 2: is no result: expected JSON with a custom_id"),
        ("[]", "line 2: is no result"),
        ('{"custom_id": 3}', "line 2: is no result"),
        ('{"custom_id": "a"}', "line 2: is the result of 'a', as line 1 is"),
    ],
)
def test_a_file_that_was_damaged_in_the_middle_is_refused(tmp_path, line, message):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path, manifest=MANIFEST) as results:
        results.add({"custom_id": "a"})
    with path.open("a") as file:
        file.write(f'{line}\n{{"custom_id": "z"}}\n')
    before = path.read_bytes()
    message = f"results {path} {message}"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        ResultsFile(path, if_exists="resume", manifest=MANIFEST)
    assert path.read_bytes() == before


@pytest.mark.parametrize("ends_by", ["add", "exit"])
@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_results_that_were_taken_away_are_kept_and_reported(tmp_path, how, ends_by):
    path = tmp_path / "results.jsonl"
    kept = tmp_path / "results.jsonl.kept-1"
    message = rf"^results {path}: was removed or replaced while the job ran: the {{}} results are kept in {kept}; rename it to"
    num_kept = 3 if ends_by == "add" else 2

    def run():
        with ResultsFile(path, manifest=MANIFEST) as results:
            for number in range(2):
                results.add(values_of(number))
            if how == "moved":
                path.rename(tmp_path / "elsewhere")
            else:
                path.unlink()
            if how == "replaced":
                path.write_text("another's")
            if ends_by == "add":
                results.add(values_of(2))

    with pytest.raises(RequestError, match=message.format(num_kept)):
        run()
    if how == "replaced":
        assert path.read_text() == "another's"
    kept.rename(path)
    with ResultsFile(path, if_exists="resume", manifest=MANIFEST) as results:
        assert results.num_kept == num_kept
        results.add(values_of(3))
    assert rows_of(path)[:num_kept] == [values_of(number) for number in range(num_kept)]


@pytest.mark.parametrize("ends_by", ["add", "exit"])
@pytest.mark.parametrize("change", [-1, -30, 7])
def test_results_that_were_changed_are_reported(tmp_path, change, ends_by):
    path = tmp_path / "results.jsonl"
    sizes = []

    def run():
        with ResultsFile(path, manifest=MANIFEST) as results:
            for number in range(3):
                results.add(values_of(number))
            sizes.append(path.stat().st_size + change)
            os.truncate(path, sizes[0])
            if ends_by == "add":
                results.add(values_of(3))

    message = r"was changed while the job ran: it has \d+ bytes, \d+ were written"
    with pytest.raises(RequestError, match=message):
        run()
    assert [path.stat().st_size] == sizes


def test_a_file_that_failed_before_its_first_result_is_not_compared(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    with ResultsFile(path, if_exists="replace"):
        path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_takes_results_and_cannot_be_resumed(tmp_path):
    pipe = ReadPipe(tmp_path / "pipe")
    with ResultsFile(pipe.path, manifest=MANIFEST) as results:
        results.add(VALUES)
        results.add_strategy("sha256:later")
        results.add(VALUES)
    lines = pipe.content().splitlines()
    assert [json.loads(line) for line in lines] == [VALUES, VALUES]
    assert list(tmp_path.iterdir()) == [pipe.path]
    with pytest.raises(RequestError, match="which cannot be read again: name a file"):
        ResultsFile(pipe.path, if_exists="resume", manifest=MANIFEST)


def test_a_symbolic_link_to_results_is_followed(tmp_path):
    link, path = tmp_path / "link", tmp_path / "folder" / "results.jsonl"
    link.symlink_to(path)
    for _ in range(2):
        with ResultsFile(link, manifest=MANIFEST):
            assert path.exists()
        assert link.is_symlink()
        assert not path.exists()
    with ResultsFile(link, manifest=MANIFEST) as results:
        results.add(VALUES)
    assert rows_of(path) == [VALUES]
    assert link.is_symlink()
