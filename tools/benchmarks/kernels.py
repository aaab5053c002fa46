"""Times one weight's product at every precision, against bandwidth and XLA's large products.

    python -m tools.benchmarks.kernels --contracted 4096 --features 11008

Prints a table row for each precision and number of rows, and a JSON line with versions,
command and date. Several copies of a weight are used in turn, so that none is in a cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.kernels import device_kernel_path, multiply, serving_layout
from llmpq_jax.quant import quantize
from tests.referees.quantized_product import reference_product
from tools.benchmarks.throughput import read_bandwidth
from tools.provenance import provenance

_CACHED_BYTES = 256 << 20  # more than any cache holds


@click.command()
@click.option("--contracted", type=int, default=4096)
@click.option("--features", type=int, default=11008)
@click.option("--rows", type=int, multiple=True, default=(1, 2, 4, 8, 16, 32, 128))
@click.option("--activations", default="float32")
@click.option("--repeats", type=int, default=15)
def main(
    contracted: int,
    features: int,
    rows: tuple[int, ...],
    activations: str,
    repeats: int,
) -> None:
    """Times hidden @ weight at 16, 8 and 4 bits."""
    device = jax.devices()[0]
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((contracted, features), np.float32)
    rounded: dict[int, Any] = {
        bits: quantize(jnp.asarray(matrix), bits=bits) for bits in (8, 4)
    }
    weights: dict[int, Any] = {
        bits: serving_layout(weight, device=device)
        for bits, weight in {16: jnp.asarray(matrix, jnp.bfloat16), **rounded}.items()
    }
    read_s = 1 / read_bandwidth()
    large = _large_product_flops(activations)
    figures: list[dict[str, Any]] = []
    for num_rows in rows:
        drawn = generator.standard_normal((num_rows, contracted), np.float32)
        hidden = jnp.asarray(drawn, activations)
        for bits, weight in weights.items():
            num_bytes = contracted * features * bits // 8
            num_operations = 2 * num_rows * contracted * features
            spent_s = _product_s(hidden, weight, num_bytes, repeats)
            row = {
                "rows": num_rows,
                "bits": bits,
                "ms": 1e3 * spent_s,
                "gb_per_s": num_bytes / spent_s / 1e9,
                "share_of_bandwidth": num_bytes * read_s / spent_s,
                "gflop_per_s": num_operations / spent_s / 1e9,
                "share_of_matmul": num_operations / spent_s / large,
            }
            if bits in rounded:
                product = jax.jit(multiply)(hidden, weight)
                row["error"] = _error(product, hidden, rounded[bits])
            figures.append(row)
            click.echo(
                f"| {num_rows} | {bits} | {row['ms']:.3f} ms "
                f"| {row['share_of_bandwidth']:.0%} of bandwidth "
                f"| {row['share_of_matmul']:.0%} of a large product in XLA |"
            )
    click.echo(
        json.dumps(
            {
                "contracted": contracted,
                "features": features,
                "activations": activations,
                "read_gb_per_s": 1e-9 / read_s,
                "xla_matmul_gflop_per_s": large / 1e9,
                "products": figures,
                "device": device.device_kind,
                "kernels": device_kernel_path(device),
                **provenance("tools.benchmarks.kernels"),
            }
        )
    )


def _product_s(hidden: jax.Array, weight: Any, num_bytes: int, repeats: int) -> float:
    """Returns the seconds of one product, over enough copies to fill all caches."""
    num_copies = max(2, -(-_CACHED_BYTES // num_bytes))
    copies = [jax.tree.map(jnp.copy, weight) for _ in range(num_copies)]
    product = jax.jit(multiply)
    return _median_s(lambda copy: product(hidden, copy), copies, repeats)


def _median_s(
    call: Callable[[Any], jax.Array], copies: list[Any], repeats: int
) -> float:
    for copy in copies[:2]:
        call(copy).block_until_ready()
    spans = []
    for repeat in range(repeats):
        started_s = time.perf_counter()
        call(copies[repeat % len(copies)]).block_until_ready()
        spans.append(time.perf_counter() - started_s)
    return median(spans)


def _large_product_flops(activations: str, size: int = 2048) -> float:
    """Returns operations per second of XLA's own product of large square matrices."""
    square = jnp.ones((size, size), activations)
    product = jax.jit(jnp.matmul)
    return (
        2 * size**3 / _median_s(lambda matrix: product(matrix, matrix), [square] * 2, 7)
    )


def _error(product: jax.Array, hidden: jax.Array, weight: Any) -> float:
    expected = reference_product(np.asarray(hidden, np.float64), weight)
    found = np.asarray(product, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    main()
