"""A serial fraction comes from the cluster file, or else from measurements of the node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.costmodel.pipeline_schedule import node_serial_fraction
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
def test_the_capacity_in_the_cluster_file_is_that_of_all_devices(capacity, expected):
    node = replace(NODE, shared_capacity=capacity)
    measured = table(row(1.1))
    assert node_serial_fraction(node, measured, "decode") == pytest.approx(expected)


def test_the_fraction_is_the_mean_over_measured_numbers_of_devices_of_a_phase():
    measured = table(
        row(1.9, 2, "prefill"),
        row(1.6, 2, "decode"),
        row(1.0, 2, "decode", node="other"),
        row(4 / (1 + 0.5 * 3), 4, "decode"),
        # Measured again: the last one counts.
        row(2 / 1.3, 2, "decode"),
    )
    found = node_serial_fraction(NODE, measured, "decode")
    assert found == pytest.approx((0.3 + 0.5) / 2)
    prefill = node_serial_fraction(NODE, measured, "prefill")
    assert prefill == pytest.approx(2 / 1.9 - 1)


def test_rows_without_phase_and_number_count_for_both_phases_and_all_devices():
    assert node_serial_fraction(NODE, table(row(1.6)), "prefill") == pytest.approx(0.5)


def test_devices_without_a_capacity_share_nothing():
    assert node_serial_fraction(NODE, NOTHING, "decode") is None


def test_a_single_device_has_no_serial_fraction():
    node = Node(name="node0", devices=DEVICES[:1], shared_capacity=1.0)
    assert node_serial_fraction(node, NOTHING, "decode") == 0.0
