"""Authentication in Ray clusters, by a token that all their machines share."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import _raylet

from llmpq_jax.errors import WorkerFailedError

# Ray's type annotations lack it.
_RAY: Any = _raylet
_FOR_ALL_ELSE = 0o077


def use_token(*, may_make: bool) -> None:
    """Has Ray authenticate by a token, unless RAY_AUTH_MODE chooses otherwise.

    Ray itself does so only where it starts a cluster, or finds one by itself. The token
    is that of RAY_AUTH_TOKEN, of the file that RAY_AUTH_TOKEN_PATH names, or of
    ~/.ray/auth_token, which only its owner may read from then on.

    Args:
        may_make: Whether a missing token is made, for a cluster that is to start.

    Raises:
        WorkerFailedError: If there is no token.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray has read its variables before, when it was imported.
    _RAY.Config.initialize("")
    if _RAY.get_authentication_mode() != _RAY.AuthenticationMode.TOKEN:
        return
    path = Path.home() / ".ray" / "auth_token"
    if not _has_token() and may_make:
        _make(path)
    if not _has_token():
        msg = f"there is no token of the Ray cluster: expected that of its head in {path}; copy it from there, or set RAY_AUTH_MODE=disabled if the cluster lets in everybody who reaches it"
        raise WorkerFailedError(msg)
    _restrict(path)


def _has_token() -> bool:
    loader = _RAY.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    return loader.has_token(ignore_auth_mode=True)


def _make(path: Path) -> None:
    """Writes a new token, unless another process has just written one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The temporary file is its owner's alone, and a link to it appears at once.
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
        file.write(secrets.token_hex(32))
        file.flush()
        with suppress(FileExistsError):
            path.hardlink_to(file.name)


def _restrict(path: Path) -> None:
    """Takes a file from all but its owner: `ray get-auth-token` leaves it to the umask."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if mode & _FOR_ALL_ELSE:
            path.chmod(mode & ~_FOR_ALL_ELSE)
