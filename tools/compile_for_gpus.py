"""Compiles products for absent GPUs and prints their temporary memory.

    python -m tools.compile_for_gpus

Needs the extra `cuda`, and no GPU: XLA compiles for a description of one, down to machine
code. The temporary memory shows whether a packed weight is multiplied without a copy: a
converted copy of a 4096 × 4096 matrix takes 32 MiB in 16 bits. Nothing is run, so nothing
is timed.
"""

from __future__ import annotations

import importlib.util
import os
import re
from types import SimpleNamespace
from typing import Any, Literal

import click
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from llmpq_jax.kernels import Weight, multiply, serving_layout
from llmpq_jax.quant import quantize
from llmpq_jax.units import format_bytes

# Name: compute capability, multiprocessors, shared memory of a program and of a
# multiprocessor, memory, bytes per second, cache, threads and lanes of a multiprocessor.
GPUS = {
    "V100": (7, 0, 80, 98304, 98304, 16 << 30, 898e9, 6 << 20, 2048, 64),
    "T4": (7, 5, 40, 65536, 65536, 15 << 30, 320e9, 4 << 20, 1024, 64),
    "A100": (8, 0, 108, 166912, 167936, 40 << 30, 1555e9, 40 << 20, 2048, 64),
    "A6000": (8, 6, 84, 101376, 102400, 48 << 30, 768e9, 6 << 20, 1536, 128),
    "H100": (9, 0, 132, 232448, 233472, 80 << 30, 3352e9, 50 << 20, 2048, 128),
}
_WEIGHTS: tuple[tuple[Literal[4, 8], int], ...] = ((4, 128), (8, 4096))
_SIZE = 4096


@click.command()
@click.option("--rows", type=int, multiple=True, default=(1, 8, 32, 512))
@click.option("--activations", default="bfloat16")
def main(rows: tuple[int, ...], activations: str) -> None:
    """Compiles a 4096 × 4096 matrix's products at 4 and 8 bits for each GPU."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        msg = "JAX has no CUDA plugin here: nothing is compiled; install llmpq-jax with its extra `cuda`, a GPU is not needed"
        raise click.ClickException(msg)
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    for name in GPUS:
        for bits, group_size in _WEIGHTS:
            weight = served_weight(name, bits, group_size=group_size, size=_SIZE)
            for num_rows in rows:
                hidden = jax.ShapeDtypeStruct((num_rows, _SIZE), activations)
                compiled = _compile(name, hidden, weight)
                memory, text = compiled.memory_analysis(), compiled.as_text()
                assert memory is not None
                assert text is not None
                click.echo(
                    f"| {name} | {bits} bits | {num_rows} "
                    f"| {format_bytes(memory.temp_size_in_bytes)} "
                    f"| {_multiplied_by(text)} |"
                )


def served_weight(
    name: str, bits: Literal[4, 8], *, group_size: int, size: int
) -> Weight:
    """Returns a square weight in the layout that a GPU serves."""
    major, minor = GPUS[name][:2]
    device = SimpleNamespace(platform="gpu", compute_capability=f"{major}.{minor}")
    weight = quantize(jnp.ones((size, size)), bits=bits, group_size=group_size)
    return serving_layout(weight, device=device)


def _compile(name: str, hidden: Any, weight: Weight) -> jax.stages.Compiled:
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=_description(name), topology="1x1x1"
    )
    sharding = NamedSharding(
        topologies.make_mesh(topology, (1,), ("device",)), PartitionSpec()
    )
    described = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        (hidden, weight),
    )
    return jax.jit(multiply, out_shardings=sharding).lower(*described).compile()


def _description(name: str) -> str:
    """Returns a GPU's properties in the text form of XLA's GpuTargetConfigProto."""
    major, minor, cores, shared, core_shared, memory, speed, cache, threads, lanes = (
        GPUS[name]
    )
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {cores} fpus_per_core: {lanes}
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {shared}
  shared_memory_per_core: {core_shared}
  device_memory_size: {memory} memory_bandwidth: {int(speed)} l2_cache_size: {cache}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  clock_rate_ghz: 1.5
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


def _multiplied_by(text: str) -> str:
    if "__gpu$xla.gpu.triton" in text:
        return "Pallas"
    if "__triton" in text:
        return "XLA's Triton fusion"
    return "cuBLAS" if re.search(r"__cublas", text) else "a reduction"


if __name__ == "__main__":
    main()
