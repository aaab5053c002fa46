"""Messages between processes are received as they were sent."""

from __future__ import annotations

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.runtime.engines.transport.serialized import deserialize, serialize
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "int32"])
def test_a_message_is_received_as_it_was_sent(dtype):
    values = np.arange(-12, 12).reshape(2, 3, 4)
    message = Message(
        phase="decode",
        micro_batch=3,
        step=2,
        groups=(3,),
        first_row=0,
        payload=jnp.asarray(values, dtype),
        slot_B=np.array([4, 5], np.int32),
        sampling=greedy_rows(2),
        tokens=jnp.ones((8, 2), jnp.int32),
        steps_left=5,
        epoch=7,
    )
    received = pickle.loads(pickle.dumps(serialize(message)))
    # NumPy's own types, which Ray does not copy.
    assert received.message.payload.dtype.kind in "iuf"
    found = deserialize(received)
    assert found.payload.dtype == dtype
    np.testing.assert_array_equal(found.payload, np.asarray(message.payload))
    np.testing.assert_array_equal(found.tokens, np.ones((8, 2)))
    assert (found.epoch, found.steps_left, found.micro_batch) == (7, 5, 3)
