"""Ray's token: made, kept from others, and asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import _raylet

from llmpq_jax.errors import WorkerFailedError
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.engines.ray.authentication import use_token
from tests.support.ray_machines import on_nodes

RAY: Any = _raylet

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture
def token_file(tmp_path: Path) -> Iterator[Path]:
    """Where Ray looks for the token of a user who has none yet."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(tmp_path))
        patched.delenv("RAY_AUTH_TOKEN")
        patched.delenv("RAY_AUTH_MODE")
        RAY.Config.initialize("")
        yield tmp_path / ".ray/auth_token"
    use_token(may_make=False)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_token_is_made_once_and_for_its_owner_alone(token_file):
    before = os.umask(0)
    try:
        use_token(may_make=True)
    finally:
        os.umask(before)
    assert RAY.get_authentication_mode() == RAY.AuthenticationMode.TOKEN
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert mode_of(token_file) == 0o600
    assert mode_of(token_file.parent) == 0o700
    token = token_file.read_text()
    assert len(token) == 64
    use_token(may_make=True)
    assert token_file.read_text() == token
    assert list(token_file.parent.iterdir()) == [token_file]


def test_the_file_of_a_token_is_taken_from_all_but_its_owner(token_file):
    token_file.parent.mkdir()
    token_file.write_text("0" * 64)
    token_file.chmod(0o644)
    use_token(may_make=False)
    assert mode_of(token_file) == 0o600
    assert token_file.read_text() == "0" * 64


def test_no_cluster_is_joined_without_a_token(token_file):
    with pytest.raises(
        WorkerFailedError, match=r"no token .*: expected that of its head"
    ):
        use_token(may_make=False)
    assert not token_file.exists()


def test_a_user_may_do_without_tokens(token_file, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    use_token(may_make=True)
    assert RAY.get_authentication_mode() == RAY.AuthenticationMode.DISABLED
    assert not token_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"), [("RAY_AUTH_TOKEN", "0" * 64), ("RAY_AUTH_MODE", "disabled")]
)
def test_a_cluster_that_refuses_the_token_is_an_error_of_one_line(
    two_stages, start, monkeypatch, variable, value
):
    apart = on_nodes(two_stages, "node0", "node1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        WorkerFailedError,
        match=r"^the Ray cluster at '.*' refuses this machine's token",
    ) as caught:
        Pipeline.load(apart, start=start())
    assert "\n" not in str(caught.value)
