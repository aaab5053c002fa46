"""A cluster of emulated devices, and stages that only advance a clock."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial

import jax

from llmpq_jax.arch.architecture import Architecture, Rope
from llmpq_jax.profiler.grid import Grid, Shape
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.cluster import Cluster, Device, Node, Platform

GRID = Grid.of((1, 4), ((16, 32), (8, 16)))
OVERHEAD_S = 0.25
WAKING_S = 0.125
PART_S = {"embedding": 0.5, "head": 2.0}


def architecture(num_layers=4, **overrides):
    fields = {
        "family": "llama",
        "num_layers": num_layers,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "vocabulary_size": 64,
        "max_positions": 64,
        "activation": "silu",
        "is_gated": True,
        "norm": "rms",
        "norm_eps": 1e-5,
        "position": "rope",
        "rope": Rope(theta=1e4),
        "layer_windows": (None,) * num_layers,
        "embedding_size": 32,
    }
    return Architecture(**(fields | overrides))


def device(
    name="cpu:0", kind="cpu-emulated", platform: Platform = "cpu", memory_bytes=1 << 30
):
    return Device(name=name, kind=kind, platform=platform, memory_bytes=memory_bytes)


def cluster(*devices, shared_capacity=None):
    devices = devices or (device("cpu:0"), device("cpu:1"))
    node = Node(name="node0", devices=devices, shared_capacity=shared_capacity)
    return Cluster(name="test", nodes=(node,))


def layer_s(phase, bits, rows, length):
    return (3.0 if phase == "prefill" else 1.0) * rows * length * bits / 16


@dataclass
class FakeMachine:
    """A clock, and the stages that were built."""

    now_s: float = 0.0
    builds: list = field(default_factory=list)
    fails: str | None = None
    slow_round: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clock(self):
        return self.now_s

    def stopwatch(self, **fields):
        arguments = {"warm_ups": 1, "warm_up_s": 0, "min_repeats": 3, "rounds": 1}
        arguments |= fields
        return Stopwatch(clock=self.clock, sleep=lambda _: None, **arguments)

    def work(self, seconds):
        with self.lock:
            self.now_s += seconds

    def ring(self, benches, phase, shape):
        return FakeRing(self, benches, phase, shape)

    def bench(self, _architecture, devices, contents, **_options):
        fields = asdict(contents)
        self.builds.append(fields | {"width": len(devices)})
        return FakeBench(self, fields)


@dataclass
class FakeBench:
    machine: FakeMachine
    fields: dict
    calls: Counter = field(default_factory=Counter)

    def compile(self, wanted):
        list(wanted)

    def workspace_bytes(self, phase, shape):
        if self.machine.fails is not None:
            raise jax.errors.JaxRuntimeError(self.machine.fails)
        return shape.rows * (100 if phase == "prefill" else 10)

    def call(self, phase, shape):
        length = shape.num_tokens if phase == "prefill" else shape.num_slots
        once_s = layer_s(phase, self.fields["bits"], shape.rows, length)
        seconds = OVERHEAD_S + self.fields["num_layers"] * once_s
        for part, its_s in PART_S.items():
            seconds += its_s * shape.rows * self.fields[f"has_{part}"]
        self.calls[phase, shape] += 1
        is_slow = self.calls[phase, shape] == self.machine.slow_round
        return partial(self.machine.work, seconds * (3 if is_slow else 1))

    def free(self):
        pass


@dataclass
class FakeRing:
    """Stages that work one after the other, and wake up for each call."""

    machine: FakeMachine
    benches: tuple
    phase: str
    shape: Shape

    def run_rounds(self, num_micro_batches, rounds):
        for _ in range(num_micro_batches * rounds):
            for bench in self.benches:
                self.machine.work(WAKING_S)
                bench.call(self.phase, self.shape)()

    def hop(self):
        pass

    def close(self):
        pass
