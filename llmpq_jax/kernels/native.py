"""The native CPU kernels: found, registered with XLA, and called from traced code."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from llmpq_jax.errors import LlmpqError
from llmpq_jax.kernels.panels import PANEL, ROWS_PER_WORD, VALUE_DTYPES, PanelArray
from llmpq_jax.schema.precision import Bits

_LIBRARY = "libllmpq_jax_kernels.so"
_WISH = "LLMPQ_JAX_KERNELS"  # read by native/library.cc
_TARGETS = {
    "llmpq_jax_attend": "LlmpqAttend",
    "llmpq_jax_product": "LlmpqProduct",
    "llmpq_jax_round": "LlmpqRound",
}
KERNELS = ("portable", "avx2", "avx512", "avx512bf16", "amx")  # the slowest first
_SLOTS_AT_ONCE = 32  # kSlotsAtOnce of native/kernels.h
_HEADS_PADDED_TO = 16


@cache
def native_path() -> str | None:
    """Returns which of `KERNELS` serve this processor, or None without a library.

    The first call registers them with XLA.

    Raises:
        LlmpqError: The environment asks for kernels that this processor cannot run.
    """
    path = _library_path()
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.LlmpqKernelPath.restype = ctypes.c_char_p
    served = library.LlmpqKernelPath()
    if served is None:
        msg = f"environment: {_WISH}={os.environ.get(_WISH, '')} names kernels that are not here: expected one of {', '.join(KERNELS)}, as far as the processor has them; unset it for the fastest"
        raise LlmpqError(msg)
    for target, symbol in _TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
    return served.decode()


def _library_path() -> Path | None:
    beside = Path(__file__).with_name(_LIBRARY)
    if beside.exists():
        return beside
    # An editable install keeps what was compiled apart from the sources.
    try:
        installed = files("llmpq-jax") or ()
    except PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in installed if file.name == _LIBRARY]
    return next((path for path in paths if path.exists()), None)


def multiply_panels(
    hidden: Float[Array, "*rows C"], weights: Sequence[PanelArray]
) -> tuple[Float[Array, "*rows _F"], ...]:
    """Returns hidden @ weight for each weight, in `hidden`'s type, summed in float32.

    The weights are of the same bits and groups; they share one packing of the rows.
    """
    native_path()
    *batch, num_contracted = hidden.shape
    rows = hidden.reshape(-1, num_contracted)
    served = rows.astype(jnp.float32) if hidden.dtype == jnp.float16 else rows
    results = [
        *(
            jax.ShapeDtypeStruct((rows.shape[0], weight.num_features), served.dtype)
            for weight in weights
        ),
        # Where the rows are packed (PackedFloats and SumFloats of native/kernels.h):
        # XLA's own memory, so that its account is complete.
        jax.ShapeDtypeStruct(
            (
                rows.shape[0]
                * (num_contracted + num_contracted % 2 + 2 * weights[0].num_groups + 1),
            ),
            jnp.float32,
        ),
    ]
    operands = [leaf for weight in weights for leaf in (weight.values, weight.scale)]
    *products, _ = jax.ffi.ffi_call("llmpq_jax_product", results)(served, *operands)
    return tuple(
        product.reshape(*batch, -1).astype(hidden.dtype) for product in products
    )


@partial(jax.jit, static_argnames=("bits", "group_size"))
def round_to_panels(
    weight_FC: Float[Array, "F C"], *, bits: Bits, group_size: int
) -> PanelArray:
    """Rounds a matrix as a checkpoint has it, features first, straight into panels.

    The integers and scales are those of `quant.quantizer` on its transpose.

    Args:
        weight_FC: float32, bfloat16 or float16; at 16 bits it is bfloat16 and kept.
        bits: Of the result.
        group_size: Rows that share a scale: all of them at 8 bits.
    """
    native_path()
    num_features, num_contracted = weight_FC.shape
    num_panels = -(-num_features // PANEL)
    shape = (num_panels, num_contracted, PANEL)
    if bits == 4:
        shape = (num_panels, num_contracted // ROWS_PER_WORD, PANEL)
    num_groups = 0 if bits == 16 else num_contracted // group_size
    results = [
        jax.ShapeDtypeStruct(shape, VALUE_DTYPES[bits]),
        jax.ShapeDtypeStruct((num_panels, num_groups, PANEL), jnp.float32),
    ]
    call = jax.ffi.ffi_call("llmpq_jax_round", results)
    values, scale = call(weight_FC, bits=np.int64(bits), group=np.int64(group_size))
    return PanelArray(values, scale, num_padding=num_panels * PANEL - num_features)


def serves_attention(dtype: jnp.dtype) -> bool:
    """Says whether `attend_to_cache` is there on a CPU, for queries of this type."""
    is_served = dtype in (jnp.float32, jnp.bfloat16)
    return is_served and native_path() is not None


def attend_to_cache(
    query_BNH: Float[Array, "B N H"],
    key_BKH: Float[Array, "B K H"],
    value_BKH: Float[Array, "B K H"],
    keys_BSKH: Shaped[Array, "B S K H"],
    values_BSKH: Shaped[Array, "B S K H"],
    position_B: Int[Array, " B"],
    *,
    key_scales_BSK1: Float[Array, "B S K 1"] | None = None,
    value_scales_BSK1: Float[Array, "B S K 1"] | None = None,
    window: int | None = None,
    slopes_N: Float[Array, " N"] | None = None,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Stores each row's new key and value at its position and attends to all before.

    Args:
        query_BNH: Query heads, rotated; head n reads key head n // (N / K).
        key_BKH: The new key, rotated.
        value_BKH: The new value.
        keys_BSKH: The cache, updated in place where XLA may; of the query's type, or
            int8 where there are scales.
        values_BSKH: Likewise.
        position_B: Of the new token in each row.
        key_scales_BSK1: What an integer of the cache is multiplied with.
        value_scales_BSK1: Likewise.
        window: How many tokens back, itself included; all if None.
        slopes_N: Of ALiBi, for each head.

    Returns:
        The mix [B, N, H], the caches and their scales with the new token in them.
    """
    native_path()
    num_rows, num_heads, head_dim = query_BNH.shape
    num_kv_heads = key_BKH.shape[1]
    shared = num_heads // num_kv_heads
    padded = -(-shared // _HEADS_PADDED_TO) * _HEADS_PADDED_TO
    scratch = 2 * shared * head_dim + (_SLOTS_AT_ONCE + 3) * padded
    nothing = jnp.zeros((0,), jnp.float32)
    if key_scales_BSK1 is None or value_scales_BSK1 is None:
        updated = (keys_BSKH, values_BSKH, nothing, nothing)
    else:
        updated = (keys_BSKH, values_BSKH, key_scales_BSK1, value_scales_BSK1)
    if slopes_N is None:
        slopes_N = nothing
    call = jax.ffi.ffi_call(
        "llmpq_jax_attend",
        [
            jax.ShapeDtypeStruct(query_BNH.shape, query_BNH.dtype),
            *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in updated),
            jax.ShapeDtypeStruct((num_rows * num_kv_heads * scratch,), jnp.float32),
        ],
        input_output_aliases={3: 1, 4: 2, 5: 3, 6: 4},
    )
    mixed, keys, values, key_scales, value_scales, _ = call(
        *(query_BNH, key_BKH, value_BKH, *updated),
        *(position_B.astype(jnp.int32), slopes_N),
        window=0 if window is None else window,
    )
    if key_scales_BSK1 is None:
        return mixed, keys, values, None, None
    return mixed, keys, values, key_scales, value_scales
