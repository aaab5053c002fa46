"""Solves a Pyomo model with HiGHS.

The model is passed as one sparse matrix, so that statuses, bounds, cutoffs and Ctrl-C are
HiGHS's own and not an interface's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import highspy
import numpy as np
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

# Pyomo gives models their attributes at run time, which no type checker can follow.
Model: TypeAlias = Any
Status = Literal["optimal", "infeasible", "stopped", "interrupted"]

# Far below any difference between two plans; bytes are the finest at 1e-9 of a device.
TOLERANCE = 1e-9
# Seconds after its time limit that HiGHS may still take to end by itself.
_GRACE_S = 0.5
_STATUSES: dict[Any, Status] = {
    highspy.HighsModelStatus.kInfeasible: "infeasible",
    highspy.HighsModelStatus.kObjectiveBound: "infeasible",
    highspy.HighsModelStatus.kOptimal: "optimal",
    highspy.HighsModelStatus.kTimeLimit: "stopped",
    highspy.HighsModelStatus.kInterrupt: "stopped",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a solve; a solution is written to the model's variables.

    The status is "optimal" within the gap; "infeasible", or worse than the cutoff;
    "stopped" at the time limit; "interrupted" by Ctrl-C. The bound is the cutoff if none is
    better.
    """

    status: Status
    has_solution: bool
    bound: float


def solve(
    model: Model,
    *,
    time_limit_s: float,
    relative_gap: float,
    cutoff: float | None = None,
) -> Outcome:
    """Minimises a mixed-integer linear model and writes the solution to its variables.

    Solutions above the cutoff are not looked for. The time limit includes the passing of
    the model to HiGHS.

    Raises:
        RuntimeError: If HiGHS reports an error, which a sound model does not cause.
    """
    deadline = time.monotonic() + time_limit_s
    form = LinearStandardFormCompiler().write(model, mixed_form=True)
    lp = _as_lp(form)
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        return Outcome(status="stopped", has_solution=False, bound=-np.inf)
    highs = highspy.Highs()
    options = {
        "output_flag": False,
        "threads": 1,
        "time_limit": left_s,
        "mip_rel_gap": relative_gap,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    }
    if cutoff is not None:
        options["objective_bound"] = cutoff
    for name, value in options.items():
        highs.setOptionValue(name, value)
    highs.passModel(lp)
    is_interrupted = _run(highs, deadline + _GRACE_S)
    status = highs.getModelStatus()
    info = highs.getInfo()
    has_solution = info.primal_solution_status == highspy.kSolutionStatusFeasible
    if has_solution:
        values = highs.getSolution().col_value
        for variable, value in zip(form.columns, values, strict=True):
            variable.set_value(value, skip_validation=True)
    bound = info.mip_dual_bound
    if is_interrupted:
        return Outcome(status="interrupted", has_solution=has_solution, bound=bound)
    if status not in _STATUSES:
        msg = f"HiGHS ended with {highs.modelStatusToString(status)!r}: expected an optimum, a proof that there is none, or the time limit"
        raise RuntimeError(msg)
    if _STATUSES[status] == "infeasible":
        has_solution, bound = False, np.inf if cutoff is None else cutoff
    return Outcome(status=_STATUSES[status], has_solution=has_solution, bound=bound)


def _run(highs: Any, deadline: float) -> bool:
    """Runs in a thread, so that Ctrl-C can end it; returns whether it did.

    Some of HiGHS's steps do not look at its time limit: at the deadline it is cancelled.
    """
    highs.HandleUserInterrupt = True
    highs.startSolve()
    try:
        while not highs.wait(0.1)[0]:
            if time.monotonic() > deadline:
                highs.cancelSolve()
    except KeyboardInterrupt:
        highs.cancelSolve()
        while not highs.wait(0.1)[0]:
            pass
        return True
    return False


def _as_lp(form: Any) -> Any:
    matrix = form.A.tocsc()
    lower = np.full(len(form.rhs), -highspy.kHighsInf)
    upper = np.full(len(form.rhs), highspy.kHighsInf)
    # bound_type: -1 is "at least", 0 "equal", 1 "at most".
    for row, (entry, rhs) in enumerate(zip(form.rows, form.rhs, strict=True)):
        if entry.bound_type <= 0:
            lower[row] = rhs
        if entry.bound_type >= 0:
            upper[row] = rhs
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = matrix.shape[1], matrix.shape[0]
    lp.col_cost_ = np.asarray(form.c.todense()).ravel()
    lp.offset_ = float(form.c_offset[0])
    inf = highspy.kHighsInf
    lp.col_lower_ = np.array([-inf if v.lb is None else v.lb for v in form.columns])
    lp.col_upper_ = np.array([inf if v.ub is None else v.ub for v in form.columns])
    lp.row_lower_, lp.row_upper_ = lower, upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = matrix.indptr
    lp.a_matrix_.index_ = matrix.indices
    lp.a_matrix_.value_ = matrix.data
    kinds = highspy.HighsVarType
    lp.integrality_ = [
        kinds.kContinuous if v.is_continuous() else kinds.kInteger for v in form.columns
    ]
    return lp
