"""Manifest of a results file: what its results came from, so that a run can be resumed."""

from __future__ import annotations

import hashlib
import json
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

_COMMENT = "What the results next to this file came from; generate --resume reads it."
# Files of a checkpoint that turn text into tokens and back, and say where a text ends.
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


@record
class ManifestOptions:
    """Options of the run, for prompts whose lines leave them open.

    Attributes:
        max_new_tokens: Maximum number of new tokens.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_k: Number of likeliest tokens to draw among; 0 for all.
        top_p: Probability that the likeliest tokens to draw among reach together.
        seed: Seed of the draws.
        stop: Texts that end a continuation, which is cut before the first of them.
        chat: Whether plain prompts went through the checkpoint's chat template.
        ignore_eos: Whether generation continued after an end-of-text token.
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
class Manifest:
    """What a file of results came from.

    Attributes:
        schema: Version of the file format.
        program: Name and version of the program that wrote it.
        model: Folder of the checkpoint, for information only.
        fingerprint: Fingerprint of the checkpoint's config and weights.
        tokenizer: SHA-256 of the checkpoint's files that turn text into tokens.
        strategies: Fingerprints of the strategies that served the prompts, in order;
            each begins with the strategy's name in the results.
        unnamed_lines: SHA-256 of the lines without custom_id, which are identified by
            their number only.
        options: Options of the run, for prompts whose lines leave them open.
    """

    schema: Literal[1] = 1
    program: str
    model: str
    fingerprint: str
    tokenizer: str
    strategies: tuple[str, ...]
    unnamed_lines: str
    options: ManifestOptions


def make_manifest(
    strategy: Strategy,
    lines: Iterable[Prompt | BadLine],
    defaults: PromptDefaults,
    *,
    is_chat: bool,
    ignores_eos: bool,
) -> Manifest:
    """Returns the manifest of a run; the lines are read once.

    Raises:
        RequestError: If the lines cannot be read.
    """
    sampling = defaults.sampling
    return Manifest(
        program=f"llmpq-jax {__version__}",
        model=strategy.model.path,
        fingerprint=strategy.model.fingerprint,
        tokenizer=_tokenizer_fingerprint(Path(strategy.model.path)),
        strategies=(strategy_fingerprint(strategy),),
        unnamed_lines=_unnamed_lines_fingerprint(lines),
        options=ManifestOptions(
            max_new_tokens=defaults.max_new_tokens or strategy.workload.new_tokens,
            temperature=float(sampling.temperature),
            top_k=sampling.top_k,
            top_p=float(sampling.top_p),
            seed=sampling.seed,
            stop=defaults.stop,
            chat=is_chat,
            ignore_eos=ignores_eos,
        ),
    )


def manifest_path(results: Path) -> Path:
    """Returns the path of a results file's manifest."""
    return results.with_name(f"{results.name}.manifest.toml")


def plan_path(results: Path, fingerprint: str) -> Path:
    """Returns the path of a strategy that was solved during the run of a results file."""
    return results.with_name(f"{results.name}.plan-{plan_name(fingerprint)}.toml")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes a manifest atomically."""
    write_text(path, to_toml(manifest, comment=_COMMENT))


def check_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Refuses to resume a run with another model, options, lines or strategy.

    Returns the manifest as written, with all strategies that served the run.

    Raises:
        RequestError: If they differ in what decides tokens, or the file is no manifest.
    """
    if not path.exists():
        msg = f"manifest {path}: is missing: expected it next to the results, to identify what they came from; name another file for the results"
        raise RequestError(msg)
    try:
        written = read_record(Manifest, path, what="manifest")
    except SpecError as reason:
        raise RequestError(str(reason)) from reason
    pairs: dict[str, tuple[object, object]] = {
        "the model is another": (written.fingerprint, manifest.fingerprint),
        "the model's tokenizer, chat template or end tokens are others": (
            written.tokenizer,
            manifest.tokenizer,
        ),
        "lines without custom_id have changed, which are identified by their number only": (
            written.unnamed_lines,
            manifest.unnamed_lines,
        ),
    }
    present = asdict(manifest.options)
    for name, was in asdict(written.options).items():
        now = present[name]
        pairs[f"--{name.replace('_', '-')} was {was} and is {now}"] = was, now
    for difference, (was, now) in pairs.items():
        if was != now:
            msg = f"manifest {path}: {difference}: expected all as at the start of the run; undo that or name another file for the results"
            raise RequestError(msg)
    if not set(manifest.strategies) <= set(written.strategies):
        others = ", ".join(map(plan_name, written.strategies))
        msg = f"manifest {path}: the strategy is the plan {plan_name(manifest.strategies[-1])}, which did not serve the run: expected {others}; name that one or another file for the results"
        raise RequestError(msg)
    return written


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
            # The file may have been moved, so its path does not count.
            values = asdict(replace(line, where=""))
            digest.update(json.dumps(values, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"
