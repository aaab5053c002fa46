"""Plans judged on a validation text, and the record of them."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmpq_jax.errors import RequestError
from llmpq_jax.files import write_text
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import decode_record, to_toml
from llmpq_jax.sensitivity.losses import Losses, losses_of
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.sensitivity.variant import Variant, unrounded


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What a user allows.

    Attributes:
        kind: "perplexity": its increase; "kl": the mean divergence from 16 bits, in nats
            per token.
        value: At most so much.
    """

    kind: Literal["perplexity", "kl"]
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationFigures:
    """A plan's figures on the validation text.

    Attributes:
        perplexity: Of the model at 16 bits.
        perplexity_increase: Of the plan.
        kl: Of the plan from 16 bits, nats per token.
    """

    perplexity: float
    perplexity_increase: float
    kl: float

    def value(self, limit: Limit) -> float:
        """Returns what a limit speaks of."""
        return self.perplexity_increase if limit.kind == "perplexity" else self.kl


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One plan and what it is worth.

    Attributes:
        omega_budget: It was solved under.
        strategy: Found.
        validation: Its figures.
        keeps: Whether it keeps the limit.
        is_known: It is in the record of plans already.
    """

    omega_budget: float
    strategy: Strategy
    validation: ValidationFigures
    keeps: bool
    is_known: bool = False


class PlanEvaluator:
    """Judges plans on a validation text, layer by layer on the default device."""

    def __init__(self, model: StreamedModel, text: Text, *, folder: Path) -> None:
        """Takes the model, with its rounded weights if it has any, and the text."""
        self._model = model
        self._text = text
        self._folder = folder

    def perplexity(self) -> float:
        """Returns the perplexity at 16 bits."""
        (exact,) = self._losses([unrounded(self._model.num_layers)])
        return math.exp(float(exact.nll.mean(dtype=np.float64)))

    def __call__(self, strategy: Strategy) -> ValidationFigures:
        """Judges the weights and the cache that a strategy serves."""
        precision = strategy.precision
        variant = Variant(
            bits=strategy.bits, head_bits=precision.head_bits, kv_bits=precision.kv_bits
        )
        exact, found = self._losses([unrounded(self._model.num_layers), variant])
        before = math.exp(float(exact.nll.mean(dtype=np.float64)))
        after = math.exp(float(found.nll.mean(dtype=np.float64)))
        return ValidationFigures(
            perplexity=before,
            perplexity_increase=after - before,
            kl=max(0.0, float(found.kl.mean(dtype=np.float64))),
        )

    def _losses(self, variants: list[Variant]) -> list[Losses]:
        return losses_of(self._model, self._text, variants, folder=self._folder)


def read_evaluated(path: Path, key: str) -> list[Round]:
    """Reads the plans of a record that were judged for the same work.

    Args:
        path: Of JSON lines; a file that is not there holds none.
        key: Of the work: model, cluster, measurements, sensitivities, workload, validation.

    Raises:
        RequestError: A line is not one of a record.
    """
    if not path.exists():
        return []
    known = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"validation record {path}, line {number}"
        try:
            row = json.loads(line)
            if row["key"] != key:
                continue
            validation = ValidationFigures(**row["validation"])
            budget = float(row["omega_budget"])
            content = row["strategy"]
        except (ValueError, KeyError, TypeError) as reason:
            msg = f"{where}: cannot be read ({reason}): expected what `llmpq-jax solve --validation-record` writes; name another file"
            raise RequestError(msg) from reason
        strategy = decode_record(Strategy, content, where=where)
        known.append(
            Round(
                omega_budget=budget,
                strategy=strategy,
                validation=validation,
                keeps=False,
                is_known=True,
            )
        )
    return known


def write_evaluated(path: Path, key: str, rounds: list[Round]) -> None:
    """Adds new rounds to a record; what it held stays."""
    held = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [
        json.dumps(
            {
                "key": key,
                "omega_budget": each.omega_budget,
                "validation": asdict(each.validation),
                "strategy": tomllib.loads(to_toml(each.strategy)),
            }
        )
        for each in rounds
        if not each.is_known
    ]
    write_text(path, held + "".join(line + "\n" for line in lines))
