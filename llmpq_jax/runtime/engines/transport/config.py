"""What carries messages between the stages of a run, as every process is told."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Literal

TransportName = Literal["sockets", "calls", "transfer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportConfig:
    """What carries messages between the stages of a run.

    Attributes:
        name: "sockets" for connections from process to process; "calls" for Ray's own;
            "transfer" for connections, and JAX's transfer server for hidden states.
        patience_s: A peer from which nothing is heard for so long is lost.
        key: Of the run; whoever connects shows that it knows it.
    """

    name: TransportName
    patience_s: float
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
