"""Hidden states that wait to be pulled, between two servers of one process."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.runtime.engines.transport.transfer_server import Offer, TransferServer
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import Placement


def server_on(*devices: int, patience_s: float = 30) -> TransferServer:
    there = jax.devices()
    placement = Placement(tuple(there[device] for device in devices))
    carrier = TransportConfig(name="transfer", patience_s=patience_s)
    return TransferServer("127.0.0.1", carrier, placement)


def message(payload: jax.Array | np.ndarray) -> Message:
    return Message(
        phase="decode",
        micro_batch=0,
        step=1,
        groups=(0,),
        first_row=0,
        payload=payload,
        slot_B=np.ones(2, np.int32),
        sampling=greedy_rows(2),
        epoch=1,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("devices", [(0,), (0, 1)])
def test_hidden_states_come_as_they_were_to_the_device_that_pulls(dtype, devices):
    here, there = server_on(*devices), server_on(2)
    values = np.arange(-12, 12).reshape(2, 3, 4)
    hidden = Placement(tuple(jax.devices()[device] for device in devices)).put(
        jnp.asarray(values, dtype)
    )
    sent = pickle.dumps(here.wrap(message(hidden)))
    found = there.unwrap(pickle.loads(sent)).payload
    assert isinstance(found, jax.Array)
    assert found.dtype == dtype
    assert found.devices() == {jax.devices()[2]}
    np.testing.assert_array_equal(np.asarray(found), np.asarray(hidden))


def test_tokens_travel_in_the_message():
    here, there = server_on(0), server_on(1)
    sent = here.wrap(message(jnp.arange(2)))
    assert sent.shape is None
    np.testing.assert_array_equal(there.unwrap(sent).payload, [0, 1])


def test_what_does_not_come_is_given_up_and_others_still_come():
    here, there = server_on(0), server_on(1, patience_s=0.2)
    sent = here.wrap(message(jnp.ones((2, 1, 4))))
    missing = Offer(parcel=sent.parcel, server=sent.server, number=1, shape=(2, 1, 4))
    with pytest.raises(ConnectionError, match=r"did not come in 0\.2 s"):
        there.unwrap(missing)
    there.forget()
    found = there.unwrap(here.wrap(message(jnp.ones((2, 1, 4)))))
    np.testing.assert_array_equal(np.asarray(found.payload), np.ones((2, 1, 4)))
