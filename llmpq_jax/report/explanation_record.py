"""A plan's use of memory and time, and the gains of changes, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.files import json_text
from llmpq_jax.report.explanation import binding

if TYPE_CHECKING:
    from llmpq_jax.planner.whatif import Answer, PlanBreakdown


def explanation_json(
    path: Path, source: str, breakdown: PlanBreakdown, answers: Sequence[Answer]
) -> str:
    """Returns breakdown and answers as JSON; infinite numbers are null."""
    values = {
        "strategy": str(path),
        "source": source,
        **asdict(breakdown),
        "stages": [
            _values(stage, "spare_bytes", "is_full")
            | {"binds": binding(stage, breakdown, answers)}
            for stage in breakdown.stages
        ],
        "phases": [
            asdict(phase)
            | {"total_s": phase.terms.total_s, "slowest": phase.slowest.name}
            | {"dominant": phase.dominant}
            for phase in breakdown.phases
        ],
        "answers": [_values(each, "gain", "max_gain", "brings") for each in answers],
    }
    return json_text(values, indent=2, ensure_ascii=False)


def _values(record: Any, *properties: str) -> dict[str, Any]:
    """Returns the fields and some properties of a record."""
    return asdict(record) | {name: getattr(record, name) for name in properties}
