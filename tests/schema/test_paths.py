from pathlib import Path

import pytest

from llmpq_jax.schema.paths import from_file, to_file


@pytest.mark.parametrize("path", ["model", "../other/model", "a/b", "."])
def test_a_relative_path_survives_a_file_in_another_folder(path):
    file = Path("plans/deep/strategy.toml")
    assert Path(from_file(file, to_file(file, path))) == Path(path)


def test_absolute_and_absent_paths_do_not_change(tmp_path):
    file = Path("plans/strategy.toml")
    for path in (str(tmp_path), None):
        assert from_file(file, path) == path
        assert to_file(file, path) == path
