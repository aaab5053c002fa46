"""`llmpq-jax evaluate`: how good a strategy is beside the model at 16 bits."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.shared_options import (
    FILE,
    POSITIVE,
    cache_home,
    json_option,
    strategy_option,
)


@click.command("evaluate")
@strategy_option
@click.option(
    "--text",
    type=FILE,
    metavar="FILE",
    help="UTF-8 text to take perplexity and KL divergence on.",
)
@click.option(
    "--questions",
    type=FILE,
    metavar="FILE",
    help='JSON lines {"question": "…", "choices": ["…"], "answer": 0}, answered by '
    "likelihood.",
)
@click.option(
    "--window",
    type=click.IntRange(min=2),
    help="Tokens of each piece of text; by default 512, or what the strategy plans for.",
)
@click.option(
    "--most-tokens",
    type=POSITIVE,
    help="Read of the text, spread over it; by default all.",
)
@json_option
def evaluate_command(
    strategy_path: Path,
    text: Path | None,
    questions: Path | None,
    window: int | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Judge a strategy by its own pipeline, beside 16 bits."""
    if text is None and questions is None:
        msg = "expected --text, --questions, or both"
        raise click.UsageError(msg)
    import json
    from dataclasses import asdict

    from llmpq_jax.report.console import say, show
    from llmpq_jax.report.quality import choices_table, evaluation_table
    from llmpq_jax.schema.strategy_file import read_strategy
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.evaluate import evaluate
    from llmpq_jax.tasks.questions import read_questions

    strategy = read_strategy(strategy_path)
    asked = None if questions is None else (questions.name, read_questions(questions))
    keep_compiled(cache_home())
    evaluation, choices = evaluate(
        strategy,
        text_path=text,
        questions=asked,
        window=window,
        max_tokens=max_tokens,
    )
    if as_json:
        values = {"text": evaluation, "questions": choices}
        told = {name: each and asdict(each) for name, each in values.items()}
        say(json.dumps(told, indent=2))
        return
    if evaluation is not None:
        show(evaluation_table(evaluation))
    if choices is not None:
        show(choices_table(choices))
