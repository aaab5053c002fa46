"""Sizes at which layers, embedding and head are timed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from llmpq_jax.schema.buckets import (
    PREFILL_CHUNK_TOKENS,
    bucket_length,
    num_prefill_chunks,
)
from llmpq_jax.schema.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One micro-batch, timed in both phases as the runtime would serve it.

    Attributes:
        rows: Rows of the micro-batch, one for each prompt.
        num_tokens: Tokens of each prompt, padding included: the length of a prefill.
        num_slots: Cache slots of each prompt: the length of a decode step.
    """

    rows: int
    num_tokens: int
    num_slots: int

    def __post_init__(self) -> None:
        if not (self.rows >= 1 and 1 <= self.num_tokens <= self.num_slots):
            msg = f"{self}: expected at least one row and token, and a cache that holds the prompt"
            raise ValueError(msg)

    @property
    def num_chunks(self) -> int:
        """Number of calls that its prefill takes."""
        return num_prefill_chunks(self.num_tokens, PREFILL_CHUNK_TOKENS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """All sizes of a profile.

    Attributes:
        shapes: Micro-batches that layers are timed with.
        embedding_rows: Numbers of tokens that the embedding looks up.
        head_rows: Numbers of rows whose next token the head chooses.
        held_out: Further micro-batches of layers, to evaluate predictions by.
    """

    shapes: tuple[Shape, ...]
    embedding_rows: tuple[int, ...]
    head_rows: tuple[int, ...]
    held_out: tuple[Shape, ...] = ()

    @classmethod
    def of(
        cls,
        rows: tuple[int, ...],
        lengths: tuple[tuple[int, int], ...],
        held_out: tuple[Shape, ...] = (),
    ) -> Grid:
        """Returns the product of numbers of rows and (tokens, slots) pairs.

        The embedding is timed at the token counts of both phases in the first pair, the
        head at every number of rows.
        """
        looked_up = {*rows, *(count * lengths[0][0] for count in rows)}
        return cls(
            shapes=tuple(
                Shape(rows=count, num_tokens=tokens, num_slots=slots)
                for tokens, slots in lengths
                for count in rows
            ),
            embedding_rows=tuple(sorted(looked_up)),
            head_rows=rows,
            held_out=held_out,
        )

    @property
    def middle(self) -> Shape:
        """Shape of the longest lengths with the middle number of rows."""
        num_slots = max(shape.num_slots for shape in self.shapes)
        longest = [shape for shape in self.shapes if shape.num_slots == num_slots]
        longest.sort(key=lambda shape: shape.rows)
        return longest[len(longest) // 2]

    @property
    def max_tokens(self) -> int:
        """Tokens of the largest prefill."""
        return max(shape.rows * shape.num_tokens for shape in self.shapes)


QUICKSTART_GRID = Grid.of(
    (1, 4, 16),
    ((64, 128), (16, 32)),
    held_out=(
        Shape(rows=2, num_tokens=32, num_slots=64),
        Shape(rows=8, num_tokens=48, num_slots=96),
    ),
)
_MAX_HELD_OUT = {"quick": 2, "usual": 3, "full": 8}
_FIRST_BUCKET = bucket_length(1)

Thoroughness = Literal["quick", "usual", "full"]


def grid_for(workload: Workload, thoroughness: Thoroughness = "usual") -> Grid:
    """Returns the sizes that plans of a workload need.

    Numbers of rows are the powers of two below the batch size, and the batch size.
    Lengths are the buckets that the runtime pads to, and one shorter pair, so that shorter
    prompts and contexts are between two measurements. A few numbers of rows between
    those are held out, at lengths between. "quick" has three numbers of rows and holds two
    sizes out; "full" adds repeatedly halved lengths, for shorter workloads, and holds more
    sizes out.
    """
    batch = workload.batch
    rows = tuple(sorted({batch, *(1 << n for n in range((batch - 1).bit_length()))}))
    tokens = bucket_length(workload.prompt_length)
    slots = bucket_length(workload.context_length)
    longest = (tokens, max(tokens, slots))
    shorter_tokens = bucket_length(-(-workload.prompt_length // 2))
    first_context = bucket_length(workload.prompt_length + 1)
    if first_context == slots:
        first_context = bucket_length(-(-workload.context_length // 2))
    shorter = (shorter_tokens, max(shorter_tokens, first_context))
    if thoroughness == "quick":
        rows = tuple(sorted({1, rows[len(rows) // 2], batch}))
    lengths = [longest] if shorter == longest else [longest, shorter]
    if thoroughness == "full":
        lengths += _halved(longest)
    held_out = _between(rows, shorter, longest, max_shapes=_MAX_HELD_OUT[thoroughness])
    return Grid.of(rows, tuple(dict.fromkeys(lengths)), held_out=held_out)


def _halved(longest: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns repeatedly halved lengths, down to the first bucket."""
    pairs = []
    tokens, slots = longest
    while slots > _FIRST_BUCKET:
        tokens, slots = (bucket_length(max(1, size // 2)) for size in (tokens, slots))
        pairs.append((tokens, max(tokens, slots)))
    return pairs


def _between(
    rows: tuple[int, ...],
    shorter: tuple[int, int],
    longest: tuple[int, int],
    *,
    max_shapes: int,
) -> tuple[Shape, ...]:
    """Returns shapes with rows, and where buckets allow lengths, between others."""
    tokens, slots = (
        bucket_length((short + long) // 2)
        for short, long in zip(shorter, longest, strict=True)
    )
    middles = [(low + high) // 2 for low, high in pairwise(rows) if high - low > 1]
    step = max(1, -(-len(middles) // max_shapes))
    return tuple(
        Shape(rows=count, num_tokens=tokens, num_slots=max(tokens, slots))
        for count in middles[::-step]
    )
