"""Transport of messages between the processes of stages, and its configuration."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Literal

TransportName = Literal["sockets", "calls", "transfer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportConfig:
    """How messages are sent between the stages of a run.

    Attributes:
        name: "sockets" for TCP connections between processes, "calls" for Ray's actor
            calls, "transfer" for TCP connections with JAX's transfer server for hidden
            states.
        timeout_s: Seconds without a sign of life after which a peer has failed.
        key: Secret of the run, which both ends of a connection prove to know.
    """

    name: TransportName
    timeout_s: float
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)


def cause_text(reason: BaseException) -> str:
    """Returns why a connection ended, for messages: some exceptions have no text."""
    return str(reason) or type(reason).__name__
