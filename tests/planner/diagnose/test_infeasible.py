"""Infeasibility is explained: which device lacks what, and which changes were tried."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace

from llmpq_jax.planner import plan
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, measurements, reason, request

LONG = Workload(batch=16, prompt_length=200, new_tokens=50)


def number(pattern, message):
    return re.findall(pattern, message)[0]


def test_the_short_device_is_named_with_its_terms():
    message = reason(request("fast", memory_mib=8, workload=LONG))
    assert re.search(
        r"no plan fits: node0/cpu:0 is short by [\d.]+ MiB even at 4 bits \(4 layers: "
        r"weights [\d.]+ MiB, KV cache 16 MiB, embedding 1 MiB, head [\d.]+ MiB, "
        r"workspace [\d.]+ KiB, buffers [\d.]+ KiB; it may use 8 MiB\), most of it for "
        r"the KV cache; what would fit: ",
        message,
    )


def test_the_shortage_is_what_would_have_to_be_added():
    message = reason(request("fast", memory_mib=8, workload=LONG))
    short = float(number(r"short by ([\d.]+) MiB", message))
    fits = cluster("fast", memory_mib=int(8 + short) + 1)
    assert plan(request("fast", cluster=fits, workload=LONG, prefill=1)).stages
    lacks = cluster("fast", memory_mib=int(8 + short) - 1)
    reason(request("fast", cluster=lacks, workload=LONG))


def test_the_batch_that_is_offered_fits_and_one_more_does_not():
    asked = request("fast", memory_mib=8, workload=LONG)
    batch = int(number(r"a batch of (\d+)", reason(asked)))
    assert plan(replace(asked, workload=replace(LONG, batch=batch)))
    reason(replace(asked, workload=replace(LONG, batch=batch + 1)))


def test_the_prompt_that_is_offered_fits_and_one_longer_does_not():
    asked = request("fast", memory_mib=12, workload=LONG)
    length = int(number(r"prompts of at most (\d+) tokens", reason(asked)))
    assert plan(replace(asked, workload=replace(LONG, prompt_length=length)))
    reason(replace(asked, workload=replace(LONG, prompt_length=length + 1)))


def test_fewer_bits_are_offered_where_they_were_not_allowed():
    asked = request("fast", memory_mib=5, bits=(16, 8))
    assert "layers at 4 bits" in reason(asked)
    assert plan(replace(asked, bits=(16, 8, 4)))


def test_bits_that_were_not_measured_are_not_offered():
    asked = request("fast", memory_mib=5, bits=(16, 8))
    asked = replace(asked, measurements=measurements(bits=(16, 8)))
    assert "what would fit" in reason(asked)
    assert "4 bits" not in reason(asked)


def test_a_smaller_cache_is_offered_where_it_was_measured():
    measured = measurements(caches=(16, 8))
    asked = request("fast", memory_mib=12, workload=LONG, measurements=measured)
    assert "the cache at 8 bits" in reason(asked)
    assert plan(replace(asked, kv_bits=(8,))).precision.kv_bits == 8
    assert "the cache" not in reason(replace(asked, measurements=measurements()))


def test_where_nothing_helps_it_says_so():
    """The head alone fills the device, and what was measured holds it nowhere else."""
    full = measurements()
    ends = tuple(row for row in full.vocabulary_layers if row.bits == 16)
    large = tuple(replace(row, workspace_bytes=2**50) for row in ends)
    asked = request("fast", measurements=replace(full, vocabulary_layers=large))
    message = reason(asked)
    assert message.endswith(
        "nothing that was tried would fit: no smaller batch, shorter prompt or "
        "continuation, no fewer bits, no more devices of one kind or memory on one"
    )
    assert "most of it for the workspace and buffers" in message


def test_every_short_device_is_named_with_its_part():
    message = reason(request("fast", "slow", memory_mib=2))
    assert re.search(
        r"^no plan fits: node0/cpu:\d is short by [\d.]+ KiB even at 4 bits .*, most of it "
        r"for the embedding and head, node0/cpu:\d by [\d.]+ KiB \(embedding and head\); ",
        message,
    )


def test_of_a_budget_too_tight_the_least_that_fits_is_named():
    asked = request("fast", memory_mib=5, omega_budget=0.0)
    lowest = float(number(r"least that fits the memory is ([\d.]+)", reason(asked)))
    assert plan(replace(asked, omega_budget=lowest * 1.001))
    reason(replace(asked, omega_budget=lowest * 0.99))


def test_more_pinned_devices_than_layers_are_counted():
    pinned = cluster("fast", "fast", uses=("always", "always"))
    message = reason(request("fast", num_layers=1, cluster=pinned))
    assert re.search(
        r'2 devices have use = "always" and the model has 1 layers', message
    )


def test_an_embedding_and_a_head_that_no_order_can_hold_are_named():
    """The only layer cannot be on the kind that embeds and on the one with the head."""
    full = measurements()
    ends = tuple(
        row
        for row in full.vocabulary_layers
        if (row.kind, row.part) in {("slow", "embedding"), ("fast", "head")}
    )
    asked = request(
        "fast", "slow", num_layers=1, measurements=replace(full, vocabulary_layers=ends)
    )
    message = reason(asked)
    assert "no choice of devices can embed on its first" in message


def test_a_least_loss_that_is_not_found_in_time_is_not_made_up(monkeypatch):
    module = importlib.import_module("llmpq_jax.planner.diagnose.infeasible")
    own = module.min_omega

    def hurried(*args, **options):
        return replace(own(*args, **options), incumbent=None, is_complete=False)

    monkeypatch.setattr(module, "min_omega", hurried)
    assert reason(request("fast", memory_mib=5, omega_budget=0.01)).startswith(
        "no plan keeps omega within 0.01: the least that fits the memory was not found in"
    )


def test_the_budget_that_is_offered_is_enough():
    asked = request("fast", memory_mib=5, omega_budget=0.01)
    offered = float(number(r"what would do: an omega of ([\d.e+-]+)", reason(asked)))
    assert plan(replace(asked, omega_budget=offered)).stages
    reason(replace(asked, omega_budget=offered * (1 - 1e-6)))
