"""Messages between processes: arrays on the host, in types that Ray does not copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from llmpq_jax.stage.message import Message


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SerializedMessage:
    """A message as it is sent between processes.

    Attributes:
        message: Message with its payload on the host, as integers if NumPy lacks its
            type.
        dtype: Type of the payload.
    """

    message: Message
    dtype: str


def serialize(message: Message) -> SerializedMessage:
    """Copies a message's arrays to the host.

    A bfloat16 payload becomes integers of the same width: Ray maps arrays of NumPy's own
    types from shared memory, and copies others byte by byte.
    """
    payload = np.asarray(message.payload)
    dtype = payload.dtype.name
    if payload.dtype == jnp.bfloat16:
        payload = payload.view(np.uint16)
    tokens = None if message.tokens is None else np.asarray(message.tokens)
    return SerializedMessage(
        message=replace(message, payload=payload, tokens=tokens), dtype=dtype
    )


def deserialize(serialized: SerializedMessage) -> Message:
    """Returns the message with its payload in its own type."""
    payload = np.asarray(serialized.message.payload).view(jnp.dtype(serialized.dtype))
    return replace(serialized.message, payload=payload)


class MessageCodec:
    """Encodes the messages of one process for a connection, and decodes others'.

    This one sends whole messages through the host's memory.
    """

    def encode(self, message: Message) -> Any:
        """Returns the object to pickle and send."""
        return serialize(message)

    def decode(self, received: Any) -> Message:
        """Returns the message of a received object; an exception ends the connection."""
        return deserialize(received)

    def release(self) -> None:
        """Frees what is held for messages that will not be received: here nothing."""
