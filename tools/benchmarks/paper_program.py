"""The paper's own program, with the corrected objective, to compare with the planner.

Binary z[i, j, b] puts layer i on stage j at b bits, for one order of devices, all of them
used, and one pair of micro-batches; x[i, j] + x[i − 1, k] ≤ 1 for j < k keeps stages
contiguous. Everything else the planner decides is given to it here: the order and the
micro-batches of the plan that the planner found.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyomo.environ as pyo

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.planner import PlanRequest
from llmpq_jax.planner.instance.build import make_instance
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.search.node_mip.highs import solve
from llmpq_jax.schema.record_files import read_cluster, read_strategy
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.unmeasured import config_alone, roofline_measurements
from tools.paper_clusters import ROOT


def timed_paper_program(folder: Path, model: str, *, limit_s: float) -> dict[str, Any]:
    """Solves the program for the order and micro-batches of the strategy in a folder."""
    strategy = read_strategy(folder / "strategy.toml")
    instance = _instance(folder, ROOT / "strategies" / "models" / model, strategy)
    program = write_program(instance)
    certificate = strategy.certificate
    assert certificate is not None
    begin = time.monotonic()
    outcome = solve(
        program, time_limit_s=limit_s, relative_gap=max(certificate.gap, 1e-4)
    )
    seconds = time.monotonic() - begin
    found: Any = pyo.value(program.objective) if outcome.has_solution else None
    return {
        "paper_program_seconds": round(seconds, 2),
        "paper_program_status": outcome.status,
        "paper_program_objective": found,
        "paper_program_bound": outcome.bound,
    }


def write_program(instance: Instance) -> Any:
    """Writes the program of an instance whose devices are in pipeline order."""
    i, d, last = instance, instance.devices, instance.num_devices - 1
    num_prefill, num_decode = i.num_micro_batches
    unit = float(d.allowed_bytes.max())
    model = _empty_model()
    layers, stages = range(i.num_layers), range(i.num_devices)
    bits = range(len(i.bits))
    model.z = pyo.Var(
        layers,
        stages,
        bits,
        domain=pyo.Binary,
        bounds=lambda _, layer, j, b: (0, int(d.supported[j, b])),
    )
    names = ("prefill_slowest", "decode_slowest", "decode_round")
    for name in names:
        setattr(model, name, pyo.Var(domain=pyo.NonNegativeReals))

    def x(m: Any, layer: int, j: int) -> Any:
        return sum(m.z[layer, j, b] for b in bits)

    def stage(m: Any, p: int, j: int) -> Any:
        total = sum(
            float(d.layer_s[p, j, b]) * m.z[layer, j, b]
            for layer in layers
            for b in bits
            if d.supported[j, b]
        )
        total += float(d.dispatch_s[p, j])
        total += float(d.embedding_s[p, j]) if j == 0 else 0.0
        return total + (float(d.head_s[p, j]) if j == last else 0.0)

    prefill = [stage(model, PREFILL, j) for j in stages]
    decode = [stage(model, DECODE, j) for j in stages]
    hops = [(0, j, j + 1) for j in range(last)]
    model.one = pyo.Constraint(
        layers, rule=lambda m, layer: sum(x(m, layer, j) for j in stages) == 1
    )
    model.memory = pyo.Constraint(
        stages,
        rule=lambda m, j: (
            _held(m, i, j)
            <= 1 * (float(d.allowed_bytes[j] - _fixed_bytes(i, j)) / unit)
        ),
    )
    model.contiguous = pyo.Constraint(
        layers,
        stages,
        stages,
        rule=lambda m, layer, j, k: (
            x(m, layer, j) + x(m, layer - 1, k) <= 1
            if layer > 0 and j < k
            else pyo.Constraint.Skip
        ),
    )
    model.first = pyo.Constraint(expr=x(model, 0, 0) == 1)
    model.last = pyo.Constraint(expr=x(model, i.num_layers - 1, last) == 1)
    model.slow_p = pyo.Constraint(
        stages, rule=lambda m, j: prefill[j] <= m.prefill_slowest
    )
    model.slow_d = pyo.Constraint(
        stages, rule=lambda m, j: decode[j] <= m.decode_slowest
    )
    once_p = sum(prefill) + sum(float(i.hop_s[PREFILL][hop]) for hop in hops)
    once_d = sum(decode) + sum(float(i.hop_s[DECODE][hop]) for hop in hops)
    model.busy = pyo.Constraint(
        expr=num_decode * model.decode_slowest <= model.decode_round
    )
    model.empty = pyo.Constraint(expr=once_d <= model.decode_round)
    z: Any = model.z
    omega = sum(
        float(i.omega[layer, b]) * z[layer, j, b]
        for layer in layers
        for j in stages
        for b in bits
    )
    if i.omega_budget is not None:
        model.budget = pyo.Constraint(
            expr=omega / i.omega_budget <= 1 + 1e-9 - i.fixed_omega / i.omega_budget
        )
    model.objective = pyo.Objective(
        expr=once_p
        + (num_prefill - 1) * model.prefill_slowest
        + once_d
        + (num_decode - 1) * model.decode_slowest
        + (i.new_tokens - 2) * model.decode_round
        + i.theta * omega
    )
    return model


def _empty_model() -> Any:
    # Pyomo gives models their attributes at run time, which no type checker can follow.
    return pyo.ConcreteModel()


def _held(model: Any, instance: Instance, j: int) -> Any:
    d = instance.devices
    unit = float(d.allowed_bytes.max())
    return sum(
        float(d.layer_bytes[j, b] + d.kv_bytes[j]) / unit * model.z[layer, j, b]
        for layer in range(instance.num_layers)
        for b in range(len(instance.bits))
    )


def _fixed_bytes(instance: Instance, j: int) -> int:
    """Embedding, head, buffers and the largest workspace, which the paper reserves too."""
    d = instance.devices
    workspace = d.workspace_bytes[j].max()
    size = instance.buffer_bytes
    if j > 0:
        size += instance.received_bytes
    if j == 0:
        size += d.embedding_bytes[j]
        workspace = max(workspace, d.embedding_workspace_bytes[j])
    if j == instance.num_devices - 1:
        size += d.head_bytes[j]
        workspace = max(workspace, d.head_workspace_bytes[j])
    return int(size + workspace)


def _instance(folder: Path, model: Path, strategy: Strategy) -> Instance:
    cluster = read_cluster(folder / "cluster.toml")
    architecture = read_architecture(model)
    measured = roofline_measurements(model, architecture, cluster, strategy.workload)
    reference, sensitivity = config_alone(model, architecture, group_size=128)
    request = PlanRequest(
        architecture=architecture,
        model=reference,
        cluster=cluster,
        measurements=measured,
        sensitivity=sensitivity,
        workload=strategy.workload,
        activations="bfloat16",
    )
    problem = make_problem(request)
    assert strategy.quality is not None
    whole = make_instance(
        problem,
        strategy.micro_batch,
        problem.precision(16, 16),
        omega_budget=strategy.quality.budget,
    )
    names = [node_device.name for node_device in problem.node_devices]
    return whole.with_devices([names.index(s.devices[0]) for s in strategy.stages])
