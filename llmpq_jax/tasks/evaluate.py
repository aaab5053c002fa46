"""Evaluates a strategy in its own pipeline, compared with the model at 16 bits."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.runtime.engines.engine import StartEngine
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.sensitivity.evaluation import (
    ChoiceEvaluation,
    TextEvaluation,
    TextScores,
    resampled_interval,
)
from llmpq_jax.sensitivity.losses import compare_logits
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text, read_text
from llmpq_jax.tasks.load_pipeline import load_pipeline, start_here
from llmpq_jax.tasks.questions import Question, choose, fraction_right

_USUAL_WINDOW = 512


def evaluate(
    strategy: Strategy,
    *,
    start: StartEngine = start_here,
    text_path: Path | None = None,
    questions: tuple[str, list[Question]] | None = None,
    window: int | None = None,
    max_tokens: int | None = None,
) -> tuple[TextEvaluation | None, ChoiceEvaluation | None]:
    """Loads a strategy's pipeline and evaluates it on a text, on questions, or both.

    `start` starts the engine; by default all stages run in this process. The model at
    16 bits passes through this process's default device layer by layer, so it need not
    fit there. A window has 512 tokens by default, or the strategy's context if that
    is shorter; at most `max_tokens` tokens of the text are read. Returns None for what
    is not asked for.

    Raises:
        RequestError: The text cannot be read, or windows are too long.
        StrategyError: The strategy is for another model, or for missing devices.
        WorkerFailedError: A process or a machine of a stage failed.
    """
    window = _checked_window(strategy, window)
    text = None
    if text_path is not None:
        tokenizer = Tokenizer.load(Path(strategy.model.path))
        text = read_text(text_path, tokenizer, window=window, max_tokens=max_tokens)
    with load_pipeline(strategy, start) as pipeline:
        model = StreamedModel(Path(strategy.model.path))
        evaluation = choices = None
        if text is not None:
            evaluation = _evaluate_text(pipeline, model, text)
        if questions is not None:
            choices = _evaluate_choices(pipeline, model, *questions, longest=window)
    return evaluation, choices


def _checked_window(strategy: Strategy, window: int | None) -> int:
    planned = bucket_length(strategy.workload.context_length)
    if window is None:
        return min(_USUAL_WINDOW, planned)
    if window > planned:
        msg = f"--window is {window}: expected at most {planned}, the context that the strategy plans for; solve with a longer one"
        raise RequestError(msg)
    return window


def _evaluate_text(
    pipeline: Pipeline, model: StreamedModel, text: Text
) -> TextEvaluation:
    with progress_bar("evaluating 16 bits", model.num_layers, unit="layers") as advance:
        hidden = model.forward(text.tokens, on_layer=lambda: advance(1))
    head = model.head()
    parts = []
    rows = _rows_at_once(pipeline)
    with progress_bar(
        "evaluating the strategy", len(text.tokens), unit="windows"
    ) as advance:
        for first in range(0, len(text.tokens), rows):
            each = slice(first, min(first + rows, len(text.tokens)))
            tokens = jnp.asarray(text.tokens[each])
            reference = head(hidden[each])
            served = jnp.asarray(pipeline.score(text.tokens[each]))
            exact_nll = compare_logits(reference, reference, tokens)[0]
            figures = (exact_nll, *compare_logits(served, reference, tokens))
            parts.append([np.asarray(figure) for figure in figures])
            advance(each.stop - each.start)
    exact, nll, kl, agrees = map(np.concatenate, zip(*parts, strict=True))
    return TextEvaluation(
        text=text.name,
        num_windows=len(text.tokens),
        num_tokens=text.num_predicted,
        exact=_scores(exact, text),
        found=_scores(nll, text),
        increase_interval=resampled_interval(
            lambda found, exact: np.exp(found) - np.exp(exact),
            nll.mean(axis=1),
            exact.mean(axis=1),
        ),
        kl_mean=float(kl.mean(dtype=np.float64)),
        kl_interval=resampled_interval(lambda mean: mean, kl.mean(axis=1)),
        kl_99=float(np.percentile(kl, 99)),
        agreement=float(agrees.mean()),
    )


def _scores(nll: np.ndarray, text: Text) -> TextScores:
    total = float(nll.sum(dtype=np.float64))
    return TextScores(
        perplexity=float(np.exp(total / nll.size)),
        bits_per_byte=total / np.log(2) / max(1, text.num_bytes),
    )


def _evaluate_choices(
    pipeline: Pipeline,
    model: StreamedModel,
    name: str,
    questions: list[Question],
    *,
    longest: int,
) -> ChoiceEvaluation:
    head = model.head()

    def exactly(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(head(model.forward(tokens)))

    rows = _rows_at_once(pipeline)

    def as_served(tokens: np.ndarray) -> np.ndarray:
        parts = [
            pipeline.score(tokens[first : first + rows])
            for first in range(0, len(tokens), rows)
        ]
        return np.concatenate(parts)

    shares = []
    for what, score in (("16 bits", exactly), ("the strategy", as_served)):
        with progress_bar(
            f"evaluating {what}", len(questions), unit="questions"
        ) as advance:
            chosen = choose(
                questions,
                pipeline.tokenizer,
                score,
                longest=longest,
                on_question=lambda advance=advance: advance(1),
            )
        shares += [fraction_right(questions, choice) for choice in chosen]
    return ChoiceEvaluation(
        name=name,
        num_questions=len(questions),
        exact=shares[0],
        exact_per_byte=shares[1],
        found=shares[2],
        found_per_byte=shares[3],
    )


def _rows_at_once(pipeline: Pipeline) -> int:
    """Returns a number of sequences that keeps every stage busy with little memory."""
    strategy = pipeline.strategy
    return strategy.micro_batch.prefill * len(strategy.stages)
