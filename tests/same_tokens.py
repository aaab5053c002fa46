"""What "the same tokens" means: equal wherever rounding cannot decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.runtime import Completion, Request
from llmpq_jax.stage.sampling import perturbed_logits, sampling_rows


def logit_tolerance(architecture: Architecture, logits: np.ndarray) -> float:
    """Bounds how far two float32 evaluations of the same weights may lie apart.

    A sum of n products errs by about λ·√n units of roundoff with overwhelming
    probability, if roundings are independent and without bias (Higham and Mary, A New
    Approach to Probabilistic Rounding Error Analysis, 2019); λ = 8. Under the same
    assumption the errors of the nine products of each layer and of the head add up in
    squares. All are taken relative to the largest logit.
    """
    longest = max(architecture.hidden_size, architecture.intermediate_size)
    num_products = 9 * architecture.num_layers + 1
    unit = float(np.finfo(np.float32).eps) / 2
    largest = float(np.abs(logits).max())
    return 8 * math.sqrt(longest * num_products) * unit * largest


@dataclass(frozen=True)
class Verdict:
    """How the chosen tokens compare with a reference's logits along them.

    Attributes:
        num_positions: Tokens compared.
        num_excused: Those whose two best candidates lie within twice the tolerance.
        num_wrong: Those that are not the best although it stands out.
    """

    num_positions: int
    num_excused: int
    num_wrong: int

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.num_positions + other.num_positions,
            self.num_excused + other.num_excused,
            self.num_wrong + other.num_wrong,
        )


def judge(
    request: Request, completion: Completion, logits_LV: np.ndarray, tolerance: float
) -> Verdict:
    """Compares a completion with reference logits teacher-forced along its own tokens.

    Args:
        request: What was asked.
        completion: What came.
        logits_LV: The reference's, after each token of prompt and completion.
        tolerance: Of a logit.
    """
    first = len(request.token_ids) - 1
    tokens = np.asarray(completion.token_ids)
    logits = logits_LV[first : first + len(tokens)]
    sampling = request.sampling
    if sampling.temperature > 0:
        count = len(tokens)
        rows = sampling_rows(
            [sampling.temperature] * count,
            [sampling.top_k] * count,
            [sampling.top_p] * count,
            [sampling.seed] * count,
        )
        position = np.arange(first + 1, first + 1 + count, dtype=np.int32)
        logits = np.asarray(
            perturbed_logits(
                jnp.asarray(logits),
                jax.tree.map(jnp.asarray, rows),
                jnp.asarray(position),
            )
        )
        tolerance = tolerance / sampling.temperature
    best, second = -np.sort(-logits, axis=-1)[:, :2].T
    is_excused = best - second <= 2 * tolerance
    is_wrong = (logits.argmax(axis=-1) != tokens) & ~is_excused
    return Verdict(len(tokens), int(is_excused.sum()), int(is_wrong.sum()))


def judge_all(
    requests: Sequence[Request],
    completions: Sequence[Completion],
    reference_logits: Sequence[np.ndarray],
    tolerance: float,
) -> Verdict:
    """Adds the verdicts of a whole batch up."""
    total = Verdict(0, 0, 0)
    for request, completion, logits in zip(
        requests, completions, reference_logits, strict=True
    ):
        total = total + judge(request, completion, logits, tolerance)
    return total
