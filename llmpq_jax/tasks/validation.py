"""Evaluates plans on a validation text, and keeps a record of them."""

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
from llmpq_jax.sensitivity.losses import Losses, Variant, losses_of, unrounded
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Limit on the loss of quality, measured on a validation text.

    Attributes:
        kind: "perplexity" for its increase, or "kl" for the mean KL divergence from 16
            bits, in nats per token.
        value: Maximum of the increase or the divergence.
    """

    kind: Literal["perplexity", "kl"]
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationFigures:
    """Quality of a plan on the validation text.

    Attributes:
        perplexity: Perplexity of the model at 16 bits.
        perplexity_increase: Perplexity of the plan minus that at 16 bits.
        kl: Mean KL divergence of the plan from 16 bits, in nats per token.
    """

    perplexity: float
    perplexity_increase: float
    kl: float

    def value(self, limit: Limit) -> float:
        """Returns the figure that a limit is set on."""
        return self.perplexity_increase if limit.kind == "perplexity" else self.kl


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round of the search: a plan, and its quality on the validation text.

    Attributes:
        omega_budget: Budget for Σω that it was solved under.
        strategy: Plan that was found.
        validation: Quality of the plan.
        keeps: True if the plan keeps the limit.
        is_known: True if the plan was in the record already.
    """

    omega_budget: float
    strategy: Strategy
    validation: ValidationFigures
    keeps: bool
    is_known: bool = False


class PlanEvaluator:
    """Evaluates plans on a validation text, layer by layer on the default device."""

    def __init__(self, model: StreamedModel, text: Text, *, folder: Path) -> None:
        """Takes the model, with its calibrated weights if it has any, and the text."""
        self._model = model
        self._text = text
        self._folder = folder

    def perplexity(self) -> float:
        """Returns the perplexity at 16 bits."""
        (exact,) = self._losses()
        return _perplexity(exact)

    def __call__(self, strategy: Strategy) -> ValidationFigures:
        """Evaluates the weights and the cache that a strategy serves."""
        precision = strategy.precision
        variant = Variant(
            bits=strategy.bits, head_bits=precision.head_bits, kv_bits=precision.kv_bits
        )
        exact, found = self._losses(variant)
        before = _perplexity(exact)
        return ValidationFigures(
            perplexity=before,
            perplexity_increase=_perplexity(found) - before,
            kl=max(0.0, float(found.kl.mean(dtype=np.float64))),
        )

    def _losses(self, *variants: Variant) -> list[Losses]:
        all_variants = [unrounded(self._model.num_layers), *variants]
        return losses_of(self._model, self._text, all_variants, folder=self._folder)


def _perplexity(losses: Losses) -> float:
    return math.exp(float(losses.nll.mean(dtype=np.float64)))


def read_evaluated(path: Path, key: str) -> list[Round]:
    """Reads the plans of a record that were evaluated for the problem of a key.

    Raises:
        RequestError: A line cannot be read.
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
        except (ValueError, KeyError, TypeError, RecursionError) as reason:
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
    """Adds the new rounds to a record."""
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
