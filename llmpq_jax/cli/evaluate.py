"""`llmpq-jax evaluate`: the quality of a strategy, compared with the model at 16 bits."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.options.engine import ENGINE, EngineOptions
from llmpq_jax.cli.options.option_group import command, option
from llmpq_jax.cli.options.shared import FILE, JSON, POSITIVE, STRATEGY, cache_home


@command(
    "evaluate",
    ENGINE,
    strategy_path=STRATEGY,
    text=option("UTF-8 text on which to measure perplexity and KL divergence.", FILE),
    questions=option(
        'Multiple-choice questions as JSON lines {"question": "…", "choices": ["…"], '
        '"answer": 0}, answered by the likelihood of each choice.',
        FILE,
    ),
    window=option(
        "Tokens of each window of text (default: 512, or the context that the strategy "
        "plans for if that is shorter).",
        click.IntRange(min=2),
    ),
    max_tokens=option(
        "Number of tokens to read of the text, spread over it (default: all).", POSITIVE
    ),
    as_json=JSON,
)
def evaluate_command(
    engine: EngineOptions,
    strategy_path: Path,
    text: Path | None,
    questions: Path | None,
    window: int | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Measure what quality a strategy loses, compared with 16 bits.

    The strategy runs in its own pipeline, and the model at 16 bits layer by layer. Texts
    give perplexity and KL divergence, questions the share of right answers.
    """
    if text is None and questions is None:
        msg = "expected --text, --questions, or both"
        raise click.UsageError(msg)
    start = engine.starter(restarts=True)

    from dataclasses import asdict

    from llmpq_jax.report.console import print_json, print_table
    from llmpq_jax.report.quality import choices_table, evaluation_table
    from llmpq_jax.schema.record_files import read_strategy
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.evaluate import evaluate
    from llmpq_jax.tasks.questions import read_questions

    strategy = read_strategy(strategy_path)
    asked = None if questions is None else (questions.name, read_questions(questions))
    keep_compiled(cache_home())
    evaluation, choices = evaluate(
        strategy,
        start=start,
        text_path=text,
        questions=asked,
        window=window,
        max_tokens=max_tokens,
    )
    if as_json:
        found = {"text": evaluation, "questions": choices}
        print_json({name: each and asdict(each) for name, each in found.items()})
        return
    if evaluation is not None:
        print_table(evaluation_table(evaluation))
    if choices is not None:
        print_table(choices_table(choices))
