"""What is done to all numbers of devices follows from their axes, and forgets none."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.instance.device_numbers import DeviceNumbers, axes_of
from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.instance import DeviceGroup
from tests.planner.random_instances import subproblem_lists

AXES = axes_of(DeviceNumbers)


def test_every_number_names_its_axes_of_which_one_is_the_device():
    assert set(AXES) == {field.name for field in fields(DeviceNumbers)}
    assert all(axes.count("J") == 1 for axes in AXES.values())
    assert {name for name, axes in AXES.items() if "P" in axes} == {
        name for name in AXES if name.endswith("_s")
    }


@st.composite
def equal_devices(draw):
    """An instance of two devices that differ in nothing, and of a third one."""
    (instance,) = draw(subproblem_lists(max_number=1, min_devices=2, max_devices=2))
    equal = instance.with_devices([0, 0, 1])
    return replace(equal, hop_s=np.full_like(equal.hop_s, 0.3), hosts=())


def type_of(instance, j):
    return next(own for own in device_types(instance).members if j in own)


def changed(values, index):
    """The same array with another value in one place."""
    other = values.copy()
    if values.dtype == bool:
        other[index] = not values[index]
    elif values.dtype == float:
        is_finite = np.isfinite(values[index])
        other[index] = np.nextafter(values[index], np.inf) if is_finite else 1.0
    else:
        other[index] += 1
    return other


@given(equal_devices())
def test_devices_without_a_difference_are_interchangeable(instance):
    assert instance.signature(0) == instance.signature(1)
    assert type_of(instance, 0) == type_of(instance, 1)


@pytest.mark.parametrize("name", AXES)
@given(instance=equal_devices())
def test_any_change_of_any_number_changes_the_devices_signature(name, instance):
    """In both phases, each precision and each layer; no other device's changes."""
    values = getattr(instance.devices, name)
    assert values.ndim == len(AXES[name])
    for index in np.ndindex(values.shape):
        other = replace(instance.devices, **{name: changed(values, index)})
        own = index[AXES[name].index("J")]
        for j in range(instance.num_devices):
            is_equal = other.signature(j) == instance.devices.signature(j)
            assert is_equal == (j != own)
        # Whether a byte of memory makes a difference is for what fits to say.
        if own < 2 and name != "allowed_bytes":
            apart = replace(instance, devices=other)
            assert type_of(apart, 0) != type_of(apart, 1)


@given(equal_devices(), st.booleans())
def test_devices_on_one_machine_or_in_one_group_differ_from_others(instance, is_host):
    members = {"members": (0, 2)}
    apart = replace(
        instance,
        hosts=(Host(**members, prefill_serial=0.0, decode_serial=0.0),)
        if is_host
        else (),
        device_groups=() if is_host else (DeviceGroup(**members, num_devices=2),),
    )
    assert apart.signature(0) != apart.signature(1)
    assert type_of(apart, 0) != type_of(apart, 1)
    wide = Host(members=(0, 0, 1), prefill_serial=0.0, decode_serial=0.0)
    assert replace(instance, hosts=(wide,)).signature(0) != instance.signature(0)
    assert type_of(replace(instance, hosts=(wide,)), 0) == (0,)


@given(equal_devices())
def test_any_change_of_any_hop_makes_devices_differ(instance):
    for index in np.ndindex(instance.hop_s.shape):
        *_, source, target = index
        if source != target and {source, target} & {0, 1}:
            apart = replace(instance, hop_s=changed(instance.hop_s, index))
            assert type_of(apart, 0) != type_of(apart, 1)


@given(subproblem_lists(max_number=1), st.data())
def test_some_devices_have_the_numbers_that_they_had_among_all(instances, data):
    numbers = instances[0].devices
    some = st.lists(st.integers(0, instances[0].num_devices - 1), min_size=1)
    order = data.draw(some)
    taken = numbers.take(order)
    for number, j in enumerate(order):
        assert taken.signature(number) == numbers.signature(j)


@given(subproblem_lists(max_number=1), st.data(), st.floats(1.0, 3.0))
def test_speed_divides_all_seconds_of_some_devices_and_nothing_else(
    instances, data, factor
):
    numbers, num_devices = instances[0].devices, instances[0].num_devices
    members = sorted(data.draw(st.sets(st.integers(0, num_devices - 1))))
    factors = np.ones(num_devices)
    factors[members] = factor
    faster = numbers.sped_up(members, factor)
    for name, axes in AXES.items():
        before, after = getattr(numbers, name), getattr(faster, name)
        if name.endswith("_s"):
            shape = [num_devices if axis == "J" else 1 for axis in axes]
            before = before / factors.reshape(shape)
        assert np.array_equal(after, before)
