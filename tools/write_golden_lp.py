"""Writes every constraint of the formulation on a small example as LP text.

    python -m tools.write_golden_lp

A changed constraint then shows as a readable difference: of the arc-flow model that is
solved in tests/planner/golden, of the fixed-order referee in tests/referees/golden.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
from pyomo.repn.plugins.lp_writer import LPWriter

from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.instance.device_numbers import DeviceNumbers
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes
from llmpq_jax.planner.instance.instance import DeviceGroup, Instance
from llmpq_jax.planner.search.bounds import Scaling
from llmpq_jax.planner.search.node_mip import arc_flow
from llmpq_jax.planner.search.node_mip.candidate_stages import CandidateStages
from llmpq_jax.planner.search.node_mip.expressions import ArcFlow
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.planner.search.shortest_path import NodeBounds
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.schema.workload import MicroBatch
from tests.referees.fixed_order import GOALS, Add, constraints
from tests.referees.fixed_order.quality import add_objective
from tests.referees.fixed_order.variables import Goal, add_variables

FOLDER = Path(__file__).parent.parent / "tests" / "planner" / "golden"
REFEREE_FOLDER = Path(__file__).parent.parent / "tests" / "referees" / "golden"

# Round numbers, so that every coefficient in the files can be traced to its origin.
SCALING = Scaling(time_s=1.0, omega=1.0)


def example() -> Instance:
    """Three layers over a mesh of two, of a group of three, and a device without 4 bits."""
    return Instance(
        micro_batch=MicroBatch(prefill=1, decode=2),
        head_bits=8,
        kv_bits=16,
        bits=(8, 4),
        num_micro_batches=(4, 2),
        new_tokens=6,
        devices=DeviceNumbers(
            layer_s=np.array(
                [[[3.0, 5.0], [7.0, np.inf]], [[0.3, 0.2], [0.7, np.inf]]]
            ),
            dispatch_s=np.array([[0.31, 0.32], [0.031, 0.032]]),
            whole_dispatch_s=np.array([[0.31, 0.32], [0.004, 0.005]]),
            embedding_s=np.array([[1.1, 1.2], [0.01, 0.02]]),
            head_s=np.array([[2.1, 2.2], [0.11, 0.12]]),
            layer_bytes=np.array([[8, 4], [8, 4]]),
            kv_bytes=np.array([2, 2]),
            embedding_bytes=np.array([30, 30]),
            head_bytes=np.array([20, 20]),
            workspace_bytes=np.array([[5, 6], [7, 0]]),
            embedding_workspace_bytes=np.array([3, 4]),
            head_workspace_bytes=np.array([13, 14]),
            allowed_bytes=np.array([100, 90]),
            width=np.array([2, 1]),
            must_use=np.array([False, True]),
            may_hold=np.ones((3, 2), dtype=bool),
        ),
        hop_s=np.array(
            [
                [[[0.0, 9.0], [0.0, 0.0]], [[0.0, 5.0], [0.0, 0.0]]],
                [[[0.0, 0.9], [0.0, 0.0]], [[0.0, 0.5], [0.0, 0.0]]],
            ]
        ),
        wire_bits=(16, 8),
        wire_omega=np.array([0.0, 0.01]),
        buffer_bytes=1,
        received_bytes=2,
        may_have=np.ones((3, 2), dtype=bool),
        device_groups=(DeviceGroup(members=(0,), num_devices=3),),
        hosts=(Host(members=(0, 0, 1), prefill_serial=0.4, decode_serial=0.6),),
        omega=np.array([[0.1, 0.4], [0.2, 0.5], [0.3, 0.6]]),
        fixed_omega=0.05,
        omega_budget=0.9,
        theta=10.0,
    )


def arc_example() -> CandidateStages:
    """Four stages over two meshes, of a group of five, and a device that must be used."""
    given = example()
    return CandidateStages(
        instance=given,
        types=DeviceTypes(
            members=((0, 2), (1,)),
            widths=np.array([2, 1]),
            group_of=np.array([0, 1]),
            group_sizes=np.array([5, 1]),
            must_use=np.array([False, True]),
            hop_s=np.array(
                [
                    [[[8.0, 9.0], [9.5, 0.0]], [[4.0, 5.0], [5.5, 0.0]]],
                    [[[0.8, 0.9], [0.95, 0.0]], [[0.4, 0.5], [0.55, 0.0]]],
                ]
            ),
            hosts=((0, 0, 1),),
        ),
        node_bounds=NodeBounds(min_s=(1.0, 0.1), max_s=(16.0, 1.6)),
        stages=(
            TypedStage(type=0, first=0, index=2, role="first"),
            TypedStage(type=1, first=0, index=0, role="first"),
            TypedStage(type=0, first=1, index=1, role="middle"),
            TypedStage(type=1, first=2, index=0, role="last"),
        ),
        type=np.array([0, 1, 0, 1]),
        first=np.array([0, 0, 1, 2]),
        end=np.array([2, 1, 2, 3]),
        seconds=np.array([[9.1, 8.2, 5.0, 9.2], [0.51, 0.72, 0.2, 0.82]]),
        omega=np.array([0.6, 0.1, 0.5, 0.3]),
    )


def arc_constraint_text(add: arc_flow.Add) -> str:
    """Writes one constraint of the arc-flow model, with a constant as the objective."""
    flow = ArcFlow(candidates=arc_example(), scaling=SCALING)
    arc_flow.add_variables(flow)
    add(flow)
    flow.model.objective = pyo.Objective(expr=0.0)
    return lp_text(flow.model)


def arc_objective_text() -> str:
    """Writes the objective of the arc-flow model alone."""
    flow = ArcFlow(candidates=arc_example(), scaling=SCALING)
    arc_flow.add_variables(flow)
    arc_flow.add_objective(flow)
    return lp_text(flow.model)


def constraint_text(add: Add) -> str:
    """Writes one constraint alone, with a constant as the objective."""
    model = pyo.ConcreteModel()
    add_variables(model, example())
    add(model, example(), SCALING)
    model.objective = pyo.Objective(expr=0.0)
    return lp_text(model)


def objective_text(goal: Goal) -> str:
    """Writes one objective alone."""
    model = pyo.ConcreteModel()
    add_variables(model, example())
    add_objective(model, example(), SCALING, goal=goal)
    return lp_text(model)


def lp_text(model: Model) -> str:
    """Writes a model as LP text: no comments, numbers to twelve digits."""
    text = io.StringIO()
    LPWriter().write(model, text, symbolic_solver_labels=True)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    kept = "\n".join(line for line in lines if line and "\\" not in line) + "\n"
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.12g}", kept)


def golden_texts() -> dict[Path, str]:
    """Returns the text of every golden file by its path."""
    solved = {
        name: arc_constraint_text(add) for name, add in arc_flow.constraints().items()
    }
    solved["minimize"] = arc_objective_text()
    referee = {name: constraint_text(add) for name, add in constraints().items()}
    referee |= {f"minimize_{goal}": objective_text(goal) for goal in GOALS}
    folders = {FOLDER: solved, REFEREE_FOLDER: referee}
    return {
        folder / f"{name}.lp": text
        for folder, texts in folders.items()
        for name, text in texts.items()
    }


def main() -> None:
    """Rewrites both folders."""
    texts = golden_texts()
    for folder in (FOLDER, REFEREE_FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.lp"):
            if path not in texts:
                path.unlink()
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
