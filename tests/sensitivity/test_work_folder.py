from __future__ import annotations

from pathlib import Path

import pytest

from llmpq_jax.errors import CheckpointError
from llmpq_jax.sensitivity.work_folder import WorkFolder


def test_an_estimate_that_is_no_number_is_refused_and_the_last_state_kept(
    tmp_path: Path,
) -> None:
    work = WorkFolder(tmp_path / "work", "one")
    work.save_state({"omegas": {"0 4": 0.5}})
    with pytest.raises(CheckpointError, match="an estimate is NaN or infinite: expec"):
        work.save_state({"omegas": {"0 4": float("nan")}})
    assert work.state == {"omegas": {"0 4": 0.5}}
