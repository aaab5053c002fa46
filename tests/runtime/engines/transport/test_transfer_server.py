"""Hidden states are pulled from one server of a process by another."""

from __future__ import annotations

import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.runtime.engines.transport import TransportConfig
from llmpq_jax.runtime.engines.transport.transfer_server import (
    TransferServer,
)
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import StageSharding


def server_on(*devices: int, timeout_s: float = 30) -> TransferServer:
    there = jax.devices()
    sharding = StageSharding(tuple(there[device] for device in devices))
    config = TransportConfig(name="transfer", timeout_s=timeout_s)
    return TransferServer("127.0.0.1", config, sharding)


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
def test_hidden_states_are_pulled_unchanged_to_the_device_that_pulls(dtype, devices):
    here, there = server_on(*devices), server_on(2)
    values = np.arange(-12, 12).reshape(2, 3, 4)
    hidden = StageSharding(tuple(jax.devices()[device] for device in devices)).put(
        jnp.asarray(values, dtype)
    )
    sent = pickle.dumps(here.encode(message(hidden)))
    found = there.decode(pickle.loads(sent)).payload
    assert isinstance(found, jax.Array)
    assert found.dtype == dtype
    assert found.devices() == {jax.devices()[2]}
    np.testing.assert_array_equal(np.asarray(found), np.asarray(hidden))


def test_tokens_are_sent_in_the_message():
    here, there = server_on(0), server_on(1)
    sent = here.encode(message(jnp.arange(2)))
    assert sent.shape is None
    np.testing.assert_array_equal(there.decode(sent).payload, [0, 1])


def test_a_pull_times_out_and_later_pulls_succeed():
    here, there = server_on(0), server_on(1, timeout_s=0.2)
    sent = here.encode(message(jnp.ones((2, 1, 4))))
    missing = replace(sent, uuid=1)
    with pytest.raises(ConnectionError, match=r"timed out after 0\.2 s"):
        there.decode(missing)
    there.release()
    found = there.decode(here.encode(message(jnp.ones((2, 1, 4)))))
    np.testing.assert_array_equal(np.asarray(found.payload), np.ones((2, 1, 4)))
