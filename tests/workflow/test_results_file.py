from __future__ import annotations

import json

import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.workflow.results_file import ResultsFile

VALUES = {"custom_id": "prompt-1", "text": "naïve \u2028 ja"}


def test_every_result_is_there_at_once_as_a_line(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    with ResultsFile(path) as results:
        results.add(VALUES)
        (line,) = path.read_bytes().splitlines()
        results.add(VALUES)
        assert len(path.read_bytes().splitlines()) == 2
    assert json.loads(line) == VALUES


def test_an_old_file_is_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    with pytest.raises(RequestError, match="is there already: name another file"):
        ResultsFile(path)
    assert path.read_text() == "old"


def test_an_old_file_is_replaced_by_the_first_result_only(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    with ResultsFile(path, overwrite=True):
        pass
    assert path.read_text() == "old"
    with ResultsFile(path, overwrite=True) as results:
        results.add(VALUES)
    assert json.loads(path.read_text())["custom_id"] == "prompt-1"


def test_a_run_without_results_leaves_no_file(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path):
        assert path.exists()
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RequestError, match="cannot be written \\(Is a directory\\)"):
        ResultsFile(tmp_path, overwrite=True)
