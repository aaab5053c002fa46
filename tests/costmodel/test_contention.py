"""A serial fraction is by the node's line, or by what was measured of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.costmodel.contention import node_serial_fraction
from llmpq_jax.schema.cluster import Device, Node
from llmpq_jax.schema.measurements import SharedCapacity
from tests.costmodel.records import layer_time, measured_kind, measurements

DEVICES = tuple(
    Device(name=f"cpu:{number}", kind="cpu", platform="cpu", memory_bytes=1 << 30)
    for number in range(4)
)
NODE = Node(name="node0", devices=DEVICES)
NOTHING = measurements(
    measured_kind("native-avx512"), layer_time("decode", 1, 16, 1e-3)
)


def table(*rows):
    return replace(NOTHING, shared=rows)


def row(capacity, num_devices=None, phase=None, node="node0"):
    return SharedCapacity(
        node=node, phase=phase, num_devices=num_devices, capacity=capacity
    )


@pytest.mark.parametrize(
    ("capacity", "expected"), [(1.0, 1.0), (4.0, 0.0), (1.6, 0.5), (9.0, 0.0)]
)
def test_a_node_s_line_is_of_all_its_devices(capacity, expected):
    node = replace(NODE, shared_capacity=capacity)
    measured = table(row(1.1))
    assert node_serial_fraction(node, measured, "decode") == pytest.approx(expected)


def test_measured_are_several_numbers_of_devices_in_each_phase():
    measured = table(
        row(1.9, 2, "prefill"),
        row(1.6, 2, "decode"),
        row(1.0, 2, "decode", node="other"),
        row(4 / (1 + 0.5 * 3), 4, "decode"),
        # Measured anew: the last one counts.
        row(2 / 1.3, 2, "decode"),
    )
    found = node_serial_fraction(NODE, measured, "decode")
    assert found == pytest.approx((0.3 + 0.5) / 2)
    prefill = node_serial_fraction(NODE, measured, "prefill")
    assert prefill == pytest.approx(2 / 1.9 - 1)


def test_older_rows_are_of_all_devices_and_of_both_phases():
    assert node_serial_fraction(NODE, table(row(1.6)), "prefill") == pytest.approx(0.5)


def test_devices_of_which_nothing_is_said_share_nothing():
    assert node_serial_fraction(NODE, NOTHING, "decode") is None


def test_a_device_alone_shares_with_nobody():
    node = Node(name="node0", devices=DEVICES[:1], shared_capacity=1.0)
    assert node_serial_fraction(node, NOTHING, "decode") == 0.0
