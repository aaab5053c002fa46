import threading

import pytest

from llmpq_jax.profiler.shared import measured_capacity


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_that_wait_for_each_other_do_one_devices_work(num_devices):
    lock, done = threading.Lock(), [0.0]

    def call():
        with lock:
            done[0] += 1.0

    assert measured_capacity([call] * num_devices, lambda: done[0]) == 1.0


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_that_do_not_share_do_all_their_work_at_once(num_devices):
    # Each device has hands of its own; the time is that of the busiest.
    done = [0.0] * num_devices

    def call_of(index):
        def call():
            done[index] += 1.0

        return call

    calls = [call_of(index) for index in range(num_devices)]
    assert measured_capacity(calls, lambda: max(done)) == num_devices


def test_a_capacity_is_no_less_than_one_device():
    lock, done = threading.Lock(), [0.0]

    def slow():
        with lock:
            done[0] += 5.0

    def quick():
        with lock:
            done[0] += 1.0

    assert measured_capacity([quick, slow], lambda: done[0]) == 1.0
