"""Defines "the same tokens": equal wherever rounding errors cannot decide."""

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
    """Bounds how far two float32 evaluations of the same weights may differ.

    A sum of n products errs by about λ·√n units of roundoff with overwhelming
    probability, if roundings are independent and without bias (Higham and Mary, A New
    Approach to Probabilistic Rounding Error Analysis, 2019); λ = 8. Under the same
    assumption the errors of the nine products of each layer and of the head add up in
    squares. All errors are relative to the largest logit.
    """
    longest = max(architecture.hidden_size, architecture.intermediate_size)
    num_products = 9 * architecture.num_layers + 1
    unit = float(np.finfo(np.float32).eps) / 2
    largest = float(np.abs(logits).max())
    return 8 * math.sqrt(longest * num_products) * unit * largest


@dataclass(frozen=True)
class TokenComparison:
    """Chosen tokens compared with a reference's logits.

    Attributes:
        num_positions: Number of tokens compared.
        num_excused: Tokens whose two best candidates differ by at most twice the
            tolerance.
        num_wrong: Tokens that are not the best one although it differs by more.
    """

    num_positions: int
    num_excused: int
    num_wrong: int

    def __add__(self, other: TokenComparison) -> TokenComparison:
        return TokenComparison(
            self.num_positions + other.num_positions,
            self.num_excused + other.num_excused,
            self.num_wrong + other.num_wrong,
        )


def compare(
    request: Request, completion: Completion, logits_LV: np.ndarray, tolerance: float
) -> TokenComparison:
    """Compares a completion with reference logits teacher-forced along its own tokens.

    Args:
        request: Request of the completion.
        completion: Completion to compare.
        logits_LV: Reference's logits after each token of prompt and completion.
        tolerance: Largest error of a logit.
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
    return TokenComparison(len(tokens), int(is_excused.sum()), int(is_wrong.sum()))


def compare_all(
    requests: Sequence[Request],
    completions: Sequence[Completion],
    reference_logits: Sequence[np.ndarray],
    tolerance: float,
) -> TokenComparison:
    """Compares the completions of a whole batch."""
    total = TokenComparison(0, 0, 0)
    for request, completion, logits in zip(
        requests, completions, reference_logits, strict=True
    ):
        total = total + compare(request, completion, logits, tolerance)
    return total
