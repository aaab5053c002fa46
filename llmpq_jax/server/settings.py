"""Settings of a server, which do not change while it runs."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmpq_jax.runtime.request import Sampling

# OpenAI's default.
_COMPLETION_TOKENS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        model_name: Name of the model for clients.
        api_key: Key that clients must send, if any.
        max_body_bytes: Largest body of a request.
        max_choices: Largest number of continuations of one request.
        max_file_bytes: Largest file that a client may upload.
        read_timeout_s: Time in which a client must have sent its request, or the next
            part of a file.
        default_completion_tokens: New tokens of a completion that says no maximum.
    """

    model_name: str
    api_key: str | None = None
    max_body_bytes: int = 16 << 20
    max_file_bytes: int = 200 << 20
    max_choices: int = 128
    read_timeout_s: float = 30.0
    default_completion_tokens: int = _COMPLETION_TOKENS


def default_sampling(folder: Path) -> Sampling:
    """Returns the sampling of requests that leave it open: OpenAI's, or the checkpoint's.

    OpenAI's has temperature 1; generation_config.json may have another, as in vLLM.
    """
    sampling = Sampling(temperature=1.0)
    try:
        values: Any = json.loads((folder / "generation_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return sampling
    if not isinstance(values, dict):
        return sampling
    given = {
        name: value
        for name in ("temperature", "top_k", "top_p", "min_p")
        if isinstance(value := values.get(name), int | float)
        and not isinstance(value, bool)
    }
    return replace(sampling, **given)


def with_own_seed(sampling: Sampling) -> Sampling:
    """Returns the sampling with a seed that no other request has."""
    return replace(sampling, seed=secrets.randbits(63))
