"""Weights in groups: what they hold, and which devices and weights get them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels import (
    GroupArray,
    device_kernel_path,
    kernel_path,
    serve_matrix,
    serving_layout,
)
from llmpq_jax.kernels.groups import to_groups
from llmpq_jax.kernels.nibbles import unpack_groups
from llmpq_jax.quant import quantize
from llmpq_jax.schema.precision import group_size_for, matrix_bytes
from tests.kernels.group_cases import draw_weight, fake_gpu
from tests.referees.quantized_product import reference_weight

OLD, NEW = fake_gpu("7.5"), fake_gpu("8.0")


@given(
    num_groups=st.integers(1, 4),
    group_size=st.integers(1, 20).map(lambda half: 2 * half),
    num_features=st.integers(1, 12).map(lambda half: 2 * half),
    bits=st.sampled_from([4, 8]),
    has_zero_point=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_groups_hold_the_integers_unchanged(
    num_groups, group_size, num_features, bits, has_zero_point, seed
):
    weight = draw_weight(
        np.random.default_rng(seed),
        num_groups=num_groups,
        group_size=group_size,
        num_features=num_features,
        bits=bits,
        has_zero_point=has_zero_point,
    )
    groups = to_groups(weight, kernel="xla")
    assert groups.nbytes == weight.nbytes
    assert (groups.num_groups, groups.group_size) == (num_groups, group_size)
    assert (groups.num_contracted, groups.num_features) == (
        num_groups * group_size,
        num_features,
    )
    parts = unpack_groups(jnp.asarray(groups.values, jnp.int32), bits=bits)
    values = np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)
    if groups.zero_point is not None:
        values -= np.asarray(groups.zero_point, np.float64)[:, None]
    found = values * np.asarray(groups.scale, np.float64)[:, None]
    assert (found.reshape(-1, num_features) == reference_weight(weight)).all()


def test_two_integers_of_a_byte_are_half_a_group_apart():
    weight = quantize(
        jnp.asarray(np.random.default_rng(0).normal(size=(64, 6))), bits=4
    )
    groups = to_groups(weight, kernel="pallas")
    integers = np.rint(reference_weight(weight) / np.asarray(weight.scale))
    stored = np.asarray(groups.values)
    assert stored.shape == (1, 32, 6)
    assert ((stored[0] & 15).astype(int) - 8 == integers[:32]).all()
    assert ((stored[0] >> 4).astype(int) - 8 == integers[32:]).all()


@pytest.mark.parametrize("num_contracted", [64, 96, 256])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("capability", ["7.0", "9.0"])
def test_what_is_served_has_the_bytes_that_planning_predicts(
    num_contracted, bits, capability
):
    matrix = np.random.default_rng(0).normal(size=(num_contracted, 24))
    weight = quantize(jnp.asarray(matrix), bits=bits)
    served = serving_layout(weight, device=fake_gpu(capability))
    group = group_size_for(num_contracted, 128)
    assert isinstance(served, jax.Array) is False
    assert served.nbytes == matrix_bytes(num_contracted, 24, bits=bits, group=group)


@pytest.mark.parametrize(
    ("device", "path"),
    [
        (fake_gpu("6.0"), "xla-sm60"),
        (fake_gpu("7.0"), "xla-sm70"),
        (fake_gpu("7.5"), "xla-sm75"),
        (fake_gpu("8.0"), "pallas-sm80"),
        (fake_gpu("8.6"), "pallas-sm86"),
        (fake_gpu("9.0"), "pallas-sm90"),
        (fake_gpu("12.0"), "pallas-sm120"),
        (fake_gpu("gfx90a"), "xla"),
        (SimpleNamespace(platform="tpu"), "xla"),
    ],
)
def test_a_device_names_its_kernels(device, path):
    assert device_kernel_path(device) == path


def test_a_cpu_names_its_native_kernels():
    path = device_kernel_path(jax.devices("cpu")[0])
    assert path == kernel_path("cpu")
    assert path == "xla" or path.startswith("native-")


def _kernel(weight, device, **cuts):
    served = serving_layout(weight, device=device, **cuts)
    return served.kernel if isinstance(served, GroupArray) else None


def test_weights_go_to_the_product_that_serves_them():
    generator = np.random.default_rng(0)

    def draw(num_groups, group_size, bits, **kwargs):
        sizes = {"num_groups": num_groups, "group_size": group_size}
        return draw_weight(generator, **sizes, num_features=8, bits=bits, **kwargs)

    for weight in (
        draw(2, 32, 4),
        draw(1, 128, 4),
        draw(2, 16, 8),
        draw(2, 64, 4, has_permutation=True),
        draw(1, 64, 8, has_zero_point=True),
    ):
        assert _kernel(weight, NEW) == "pallas"
        assert _kernel(weight, OLD) == "xla"
    # One scale per feature: XLA's own fusion, of each device's share as of the whole.
    assert _kernel(draw(1, 64, 8), NEW) is None
    assert _kernel(draw(2, 64, 8), NEW, num_row_cuts=2) is None
    assert _kernel(draw(4, 64, 8), NEW, num_row_cuts=2) == "pallas"
    assert _kernel(draw(1, 64, 8), OLD) == "xla"
    # Too few rows in a group for a tensor core.
    assert _kernel(draw(3, 8, 4), NEW) == "xla"
    assert _kernel(draw(3, 8, 8), NEW) is None
    # An odd group cannot be halved.
    assert _kernel(draw(1, 45, 4), NEW) is None
    assert _kernel(draw(1, 45, 4), OLD) is None


def test_sixteen_bits_and_other_platforms_stay_as_they_are():
    plain = jnp.ones((64, 8), jnp.bfloat16)
    weight = quantize(jnp.ones((64, 8)), bits=4)
    for device in (OLD, NEW, fake_gpu("gfx90a"), SimpleNamespace(platform="tpu")):
        assert serving_layout(plain, device=device) is plain
    assert serving_layout(weight, device=fake_gpu("gfx90a")) is weight


def test_a_matrix_comes_from_the_host_into_groups(monkeypatch):
    monkeypatch.setattr(
        "llmpq_jax.kernels.layout.device_kernel_path", lambda _: "pallas-sm80"
    )
    matrix = np.random.default_rng(0).normal(size=(128, 8)).astype(np.float32)
    served = serve_matrix(matrix, bits=4, group_size=64, device=jax.devices("cpu")[0])
    expected = to_groups(
        quantize(jnp.asarray(matrix), bits=4, group_size=64), kernel="pallas"
    )
    assert isinstance(served, GroupArray)
    assert replace(served, values=expected.values, scale=expected.scale) == expected
    np.testing.assert_array_equal(np.asarray(served.values), expected.values)
    np.testing.assert_array_equal(np.asarray(served.scale), expected.scale)
