"""The kinds of file that docs/strategy-format.md describes, each with an example.

The examples are read and written by the code before they are printed, so the page shows
what the program writes.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """One kind of file.

    Attributes:
        file: Usual name of the file.
        cls: Record that the file holds.
        introduction: Purpose of the file, and what writes it.
        example: Parsed data of an example.
    """

    file: str
    cls: type[Any]
    introduction: str
    example: dict[str, Any]


_STRATEGY = """
schema = 1
model = { path = "tiny", architecture = "llama", num_layers = 6, fingerprint = "sha256:2f1c…" }
workload = { batch = 16, prompt_length = 64, new_tokens = 64 }
micro_batch = { prefill = 4, decode = 8 }
precision = { activations = "bfloat16", head_bits = 16, kv_bits = 16, rounding = "nearest", group_size = 64 }
quality = { omega = 0.31, budget = 0.4, method = "weight-variance" }
predicted = { prefill_s = 0.4, decode_s = 2.1, latency_s = 2.5, throughput_tokens_per_s = 409.6 }
certificate = { gap = 0.0, objective = 2.5, bound = 2.5, covers = "every subset of the devices in file order, all cuts and bits, 25 micro-batch pairs", solver = "HiGHS 1.15.1", seconds = 1.7 }

[request]
sources = { cluster = "cluster.toml", measurements = "measurements.toml" }
choices = { kv_bits = [16, 8], pin_bits = [{ first = 0, end = 1, bits = 16 }], use = ["desk/cuda:0"] }
quality = { omega_budget = 0.4 }

[[stage]]
device = "desk/cuda:0"
layers = [0, 4]
bits = [16, 8, 8, 8]
predicted = { prefill_s = 0.05, decode_s = 0.016, memory_bytes = 2415919104, allowed_bytes = 15476981760, memory = { weights = 1879048192, kv_cache = 402653184, embedding = 67108864, head = 0, workspace = 58720256, buffers = 8388608 } }

[[stage]]
mesh = { devices = ["server/cuda:0", "server/cuda:1"], tensor = 2 }
layers = [4, 6]
bits = [8, 4]
"""

_CLUSTER = """
schema = 1
name = "a desk and a server"

[[node]]
name = "desk"
device = [{ name = "cuda:0", kind = "T4", platform = "cuda", memory = "15 GiB", reserve = "600 MiB" }]

[[node]]
name = "server"
device = [
  { name = "cuda:0", kind = "V100", platform = "cuda", memory = "32 GiB", reserve = "1 GiB", use = "always" },
  { name = "cuda:1", kind = "V100", platform = "cuda", memory = "32 GiB", reserve = "1 GiB" },
]

[[link]]
between = ["desk", "server"]
bandwidth_bytes_per_s = 1.1e9
latency_s = 6e-5
"""

_MEASUREMENTS = """
schema = 1
model = "tiny"
layer_shape = "sha256:91ab…"
activations = "bfloat16"
group_size = 64
kind = [{ kind = "T4", device = "Tesla T4", driver = "PJRT C API cuda 12090, driver 550.54.15", platform = "gpu", jax_version = "0.10.2", kernel_path = "xla-sm75", date = "2026-01-31" }]
layer = [
  { kind = "T4", phase = "prefill", bits = 8, batch = 4, length = 64, seconds = 2.1e-3, spread = 0.02, workspace_bytes = 1048576 },
  { kind = "T4", phase = "decode", bits = 8, batch = 8, length = 128, seconds = 4.5e-4, spread = 0.03, workspace_bytes = 65536 },
]
vocabulary_layer = [{ kind = "T4", part = "head", rows = 8, seconds = 2.4e-4, spread = 0.04, workspace_bytes = 131072 }]
link = [{ source_kind = "T4", target_kind = "V100", num_bytes = 1048576, seconds = 1.0e-3, spread = 0.1 }]
shared = [{ node = "desk", capacity = 1.0 }]
accuracy = [{ kind = "T4", phase = "decode", bits = 8, num_fitted = 10, num_held_out = 3, mean_error = 0.031, largest_error = 0.058, spread = 0.02 }]
drift = [{ kind = "T4", slowest = 1.04, fastest = 0.99 }]
observed = [{ kind = "T4", phase = "decode", predicted_s = 2.1, measured_s = 2.5, num_passes = 1024, run = "run.jsonl", record = "sha256:77c0…", strategy = "sha256:5d1e…", date = "2026-02-01T10:00:00+00:00" }]
"""

_SENSITIVITY = """
schema = 1
model = "tiny"
fingerprint = "sha256:2f1c…"
method = "weight-variance"
unit = "mean squared error of the weights"
group_size = 64
layer = [
  { layer = 0, bits = 8, omega = 0.002 },
  { layer = 0, bits = 4, omega = 0.21 },
]
"""

FILES = (
    FileKind(
        file="strategy.toml",
        cls=Strategy,
        introduction="A plan: the layers and precisions of each device, and the micro-batches. Written by `llmpq-jax solve` or by hand, run by `llmpq-jax generate`.",
        example=tomllib.loads(_STRATEGY),
    ),
    FileKind(
        file="cluster.toml",
        cls=Cluster,
        introduction="The devices that a plan may use, and their links. Written by `llmpq-jax devices` or by hand.",
        example=tomllib.loads(_CLUSTER),
    ),
    FileKind(
        file="measurements.toml",
        cls=Measurements,
        introduction="Seconds and workspace of a layer on each kind of device. Written by `llmpq-jax profile`, which adds rows to an existing file; read by `llmpq-jax solve`.",
        example=tomllib.loads(_MEASUREMENTS),
    ),
    FileKind(
        file="sensitivity.toml",
        cls=Sensitivity,
        introduction="The quality that each layer loses at each precision. Written by `llmpq-jax indicate`. Optional: without it `llmpq-jax solve` uses the variance of the rounding of the weights, and says so.",
        example=tomllib.loads(_SENSITIVITY),
    ),
)
