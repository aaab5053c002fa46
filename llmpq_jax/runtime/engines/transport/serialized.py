"""Messages as Ray carries them: arrays on the host, in types that it does not copy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from llmpq_jax.stage.message import Message


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SerializedMessage:
    """A message between two processes.

    Attributes:
        message: Its payload as integers where NumPy has no such type.
        dtype: Of the payload.
    """

    message: Message
    dtype: str


def pack(message: Message) -> SerializedMessage:
    """Brings a message to the host.

    bfloat16 travels as integers of the same width: Ray hands arrays of NumPy's own types
    on as they lie in shared memory, and would copy others byte by byte.
    """
    payload = np.asarray(message.payload)
    dtype = payload.dtype.name
    if payload.dtype == jnp.bfloat16:
        payload = payload.view(np.uint16)
    tokens = None if message.tokens is None else np.asarray(message.tokens)
    return SerializedMessage(
        message=replace(message, payload=payload, tokens=tokens), dtype=dtype
    )


def unpack(parcel: SerializedMessage) -> Message:
    """Returns the message with its payload in its own type."""
    payload = np.asarray(parcel.message.payload).view(jnp.dtype(parcel.dtype))
    return replace(parcel.message, payload=payload)


class MessageSerializer:
    """Messages travel in parcels, whole."""

    def wrap(self, message: Message) -> SerializedMessage:
        """Returns what is sent of a message."""
        return pack(message)

    def unwrap(self, item: SerializedMessage) -> Message:
        """Returns the message that has come."""
        return unpack(item)

    def forget(self) -> None:
        """Does nothing: nothing is held."""
