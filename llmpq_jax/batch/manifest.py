"""What a file of results came from, written beside it, so that a job can go on later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from llmpq_jax import __version__
from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.batch.prompt import BadLine, Prompt, PromptDefaults
from llmpq_jax.errors import RequestError, SpecError
from llmpq_jax.files import write_text
from llmpq_jax.schema.record import record
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import read_record, to_toml

_COMMENT = "What the results beside this file came from; generate --resume reads it."
# Of a checkpoint: what turns text into tokens and back, and says where a text ends.
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


@record
class JobChoices:
    """What held for prompts that did not say otherwise.

    Attributes:
        max_new_tokens: At most so many.
        temperature: 0 takes the likeliest token.
        top_k: Draws among so many likeliest tokens; 0 among all.
        top_p: Draws among the fewest tokens whose probabilities reach it.
        seed: Of the draws.
        stop: A continuation ends before the first of these texts.
        chat: Plain prompts went through the checkpoint's chat template.
        ignore_eos: Whatever the model said, it went on.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()
    chat: bool = False
    ignore_eos: bool = False


@record
class Job:
    """What a file of results came from.

    Attributes:
        schema: Version of the file format.
        program: Name and version that wrote it.
        model: The checkpoint's folder, for people.
        fingerprint: Of the checkpoint's config and weights.
        tokenizer: SHA-256 of the checkpoint's files that turn text into tokens.
        strategies: Fingerprints of the strategies that served it, in their order; they
            begin with the names that results give to them.
        unnamed_lines: SHA-256 of the lines that have no custom_id, which are told apart
            by their number alone.
        choices: What held for prompts that did not say otherwise.
    """

    schema: Literal[1] = 1
    program: str
    model: str
    fingerprint: str
    tokenizer: str
    strategies: tuple[str, ...]
    unnamed_lines: str
    choices: JobChoices


def make_job(
    strategy: Strategy,
    lines: Iterable[Prompt | BadLine],
    choices: PromptDefaults,
    *,
    is_chat: bool,
    ignores_eos: bool,
) -> Job:
    """Describes the serving of lines by a strategy.

    Raises:
        RequestError: The lines cannot be read.
    """
    sampling = choices.sampling
    return Job(
        program=f"llmpq-jax {__version__}",
        model=strategy.model.path,
        fingerprint=strategy.model.fingerprint,
        tokenizer=_tokenizer_fingerprint(Path(strategy.model.path)),
        strategies=(strategy_fingerprint(strategy),),
        unnamed_lines=_unnamed_lines_fingerprint(lines),
        choices=JobChoices(
            max_new_tokens=choices.max_new_tokens or strategy.workload.new_tokens,
            temperature=float(sampling.temperature),
            top_k=sampling.top_k,
            top_p=float(sampling.top_p),
            seed=sampling.seed,
            stop=choices.stop,
            chat=is_chat,
            ignore_eos=ignores_eos,
        ),
    )


def job_path(results: Path) -> Path:
    """Returns where the job of a file of results is described."""
    return results.with_name(f"{results.name}.job.toml")


def plan_path(results: Path, fingerprint: str) -> Path:
    """Returns where a strategy lies that was solved while a file of results was written."""
    return results.with_name(f"{results.name}.plan-{plan_name(fingerprint)}.toml")


def write_job(path: Path, job: Job) -> None:
    """Writes a job; it is there whole or not at all."""
    write_text(path, to_toml(job, comment=_COMMENT))


def check_same_job(path: Path, job: Job) -> Job:
    """Refuses to go on with another job than the one that is described in a file.

    Args:
        path: The file.
        job: That is to go on.

    Returns:
        The job as the file has it, with all strategies that served it.

    Raises:
        RequestError: They differ in what decides tokens, or the file is none.
    """
    if not path.exists():
        msg = f"job {path}: is not there: expected it beside the results, to tell what they came from; name another file for the results"
        raise RequestError(msg)
    try:
        begun = read_record(Job, path, what="job")
    except SpecError as reason:
        raise RequestError(str(reason)) from reason
    changed: dict[str, tuple[object, object]] = {
        name: (asdict(begun)[name], asdict(job)[name])
        for name in ("fingerprint", "tokenizer", "unnamed_lines")
    }
    changed |= {
        f"--{name.replace('_', '-')}": (was, asdict(job.choices)[name])
        for name, was in asdict(begun.choices).items()
    }
    told = {
        "fingerprint": "the model is another",
        "tokenizer": "the model's tokenizer, chat template or end tokens are others",
        "unnamed_lines": "lines without custom_id have changed, which are told apart by their number alone",
    }
    for name, (was, now) in changed.items():
        if was != now:
            what = told.get(name, f"{name} was {was} and is {now}")
            msg = f"job {path}: {what}: expected all as it was begun; undo that or name another file for the results"
            raise RequestError(msg)
    if not set(job.strategies) <= set(begun.strategies):
        others = ", ".join(map(plan_name, begun.strategies))
        msg = f"job {path}: the strategy is the plan {plan_name(job.strategies[-1])}, which is none that served it: expected {others}; name that one or another file for the results"
        raise RequestError(msg)
    return begun


def _tokenizer_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _TEXT_FILES:
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return f"sha256:{digest.hexdigest()}"


def _unnamed_lines_fingerprint(lines: Iterable[Prompt | BadLine]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        if line.custom_id == f"line-{line.number}":
            # Wherever the file may lie now.
            digest.update(repr(replace(line, where="")).encode())
    return f"sha256:{digest.hexdigest()}"
