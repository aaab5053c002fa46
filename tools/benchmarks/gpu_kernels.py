"""Products of Llama 3 8B's matrices on a GPU, over its copy bandwidth, cuBLAS and torch.

    python -m tools.benchmarks.gpu_kernels

Prints a table row for each matrix, number of rows and precision, and a JSON line with
versions, command and date. 16 bits are bfloat16 through XLA, which calls cuBLAS; torch is
timed as well if it is installed. Many copies of a weight are multiplied in one call, so that
none is in the cache, and the dispatch overhead is spread over all of them.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import click
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from llmpq_jax.kernels import device_kernel_path, multiply, serve_matrix
from llmpq_jax.quant import quantize
from llmpq_jax.schema.precision import USUAL_BITS
from llmpq_jax.stage.emulated_devices import JaxDevice
from tests.referees.quantized_product import reference_product
from tools.provenance import provenance

SHAPES = ((4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096))
_MIN_COPIES = 8
CACHED_BYTES = 256 << 20  # more than any GPU's cache holds


@click.command()
@click.option("--rows", type=int, multiple=True, default=(1, 8, 32, 512))
@click.option("--activations", default="bfloat16")
@click.option("--repeats", type=int, default=15)
def main(rows: tuple[int, ...], activations: str, repeats: int) -> None:
    """Times hidden @ weight at 16, 8 and 4 bits."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        msg = f"JAX finds no GPU here, only {device.platform}: nothing is timed; run this on a machine with an NVIDIA GPU, where llmpq-jax is installed with its extra `cuda`"
        raise click.ClickException(msg)
    bandwidth = copy_bandwidth(device)
    figures = [
        figure
        for shape in SHAPES
        for figure in time_products(
            device, shape, rows, activations=activations, repeats=repeats
        )
    ]
    for figure in figures:
        figure["share_of_copy"] = figure["weight_bytes"] / figure["s"] / bandwidth
        click.echo(
            f"| {figure['contracted']} × {figure['features']} | {figure['rows']} "
            f"| {figure['what']} | {1e6 * figure['s']:.1f} µs "
            f"| {figure['share_of_copy']:.0%} of copy bandwidth "
            f"| {figure['flop_per_s'] / 1e12:.1f} TFLOP/s |"
        )
    click.echo(
        json.dumps(
            {
                "activations": activations,
                "copy_gb_per_s": bandwidth / 1e9,
                "products": figures,
                "device": device.device_kind,
                "kernels": device_kernel_path(device),
                "torch": _torch_version(),
                **provenance("tools.benchmarks.gpu_kernels"),
            }
        )
    )


def time_products(
    device: JaxDevice,
    shape: tuple[int, int],
    rows: Sequence[int],
    *,
    activations: str,
    repeats: int,
) -> list[dict[str, Any]]:
    """Times one matrix at each precision and number of rows.

    Returns:
        Name, sizes and seconds of each product, and at low bit widths its relative error
        against float64, in the norm of the whole product.
    """
    generator = np.random.default_rng(0)
    contracted, features = shape
    matrix = generator.standard_normal((features, contracted), np.float32).T
    matrix = matrix.astype(ml_dtypes.bfloat16)
    figures = []
    for bits in USUAL_BITS:
        weight = serve_matrix(matrix, bits=bits, group_size=128, device=device)
        num_copies = max(_MIN_COPIES, -(-CACHED_BYTES // weight.nbytes))
        copies = [jax.tree.map(jnp.copy, weight) for _ in range(num_copies)]
        rounded = None if bits in (16, 32) else quantize(jnp.asarray(matrix), bits=bits)
        for num_rows in rows:
            drawn = generator.standard_normal((num_rows, contracted), np.float32)
            hidden = jax.device_put(jnp.asarray(drawn, activations), device)
            spent_s = _median_s(_product_of_each, (hidden, copies), repeats)
            figures.append(
                _figure(
                    shape, num_rows, f"{bits} bits", weight.nbytes, spent_s / num_copies
                )
            )
            if rounded is not None:
                found = jax.jit(multiply)(hidden, weight)
                expected = reference_product(np.asarray(hidden, np.float64), rounded)
                error = np.linalg.norm(np.asarray(found, np.float64) - expected)
                figures[-1]["error"] = float(error / np.linalg.norm(expected))
        del copies
    if device.platform == "gpu" and _torch_version() is not None:
        figures += _time_torch(shape, rows, repeats)
    return figures


@jax.jit
def _product_of_each(operands: tuple[jax.Array, list[Any]]) -> list[jax.Array]:
    hidden, weights = operands
    return [multiply(hidden, weight) for weight in weights]


def copy_bandwidth(device: JaxDevice, num_bytes: int = 1 << 30) -> float:
    """Returns bytes per second, read and written, of copying memory on a device."""
    values = jax.device_put(jnp.zeros(num_bytes // 4, jnp.float32), device)
    # A sum with a number that is not constant, so that the result is no alias.
    one = jax.device_put(jnp.ones((1,), jnp.float32), device)
    copy = jax.jit(lambda operands: operands[0] + operands[1])
    return 2 * num_bytes / _median_s(copy, (values, one), 15)


def _figure(
    shape: tuple[int, int], num_rows: int, what: str, weight_bytes: int, spent_s: float
) -> dict[str, Any]:
    contracted, features = shape
    return {
        "contracted": contracted,
        "features": features,
        "rows": num_rows,
        "what": what,
        "weight_bytes": weight_bytes,
        "s": spent_s,
        "flop_per_s": 2 * num_rows * contracted * features / spent_s,
    }


def _median_s(call: Callable[[Any], Any], operands: Any, repeats: int) -> float:
    jax.block_until_ready(call(operands))
    spans = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        jax.block_until_ready(call(operands))
        spans.append(time.perf_counter() - started_s)
    return median(spans)


def _time_torch(
    shape: tuple[int, int], rows: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Times torch's bfloat16 product on the same GPU, over as many copies."""
    torch: Any = importlib.import_module("torch")
    contracted, features = shape
    num_bytes = 2 * contracted * features
    num_copies = max(_MIN_COPIES, -(-CACHED_BYTES // num_bytes))
    kind = {"dtype": torch.bfloat16, "device": "cuda"}
    weights = [torch.randn(features, contracted, **kind) for _ in range(num_copies)]
    figures = []
    for num_rows in rows:
        hidden = torch.randn(num_rows, contracted, **kind)
        spans = []
        for _ in range(repeats + 1):
            torch.cuda.synchronize()
            started_s = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(hidden, weight)
            torch.cuda.synchronize()
            spans.append(time.perf_counter() - started_s)
        spent_s = median(spans[1:]) / num_copies
        figures.append(_figure(shape, num_rows, "torch bfloat16", num_bytes, spent_s))
    return figures


def _torch_version() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return None
    return importlib.import_module("torch").__version__


if __name__ == "__main__":
    main()
