"""What second turns and grammars cost on the HTTP server.

    python -m tools.benchmarks.serve_features

Second turns: the time to first token of a prompt of 2,000 tokens, and of one that continues it by 30,
for one conversation after the other. Grammars: time per token of 8 requests at the same time, with and
without a JSON schema, in turns.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import numpy as np
import openai

from llmpq_jax.schema.strategy import Strategy
from tools.benchmarks.models import CONFIGS, even_strategy, random_model
from tools.provenance import provenance
from tools.serve_process import NAME, serve_process

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz    ", np.uint8)
_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}


async def stream_s(
    client: openai.AsyncOpenAI, prompt: str, max_tokens: int, **extra: Any
) -> tuple[float, float]:
    """Returns the time to first token, and the time per token after it."""
    sent_s = time.perf_counter()
    first_s = last_s = 0.0
    num_tokens = 0
    stream = await client.completions.create(
        model=NAME,
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=extra,
    )
    async for chunk in stream:
        last_s = time.perf_counter()
        first_s = first_s or last_s
        if chunk.usage is not None:
            num_tokens = chunk.usage.completion_tokens
    return first_s - sent_s, (last_s - first_s) / max(1, num_tokens - 1)


def text_of(generator: np.random.Generator, num_tokens: int) -> str:
    """Returns a random text; a token of the random models is a letter."""
    return bytes(generator.choice(_LETTERS, num_tokens)).decode()


async def second_turns(
    client: openai.AsyncOpenAI, *, num_conversations: int, num_tokens: int
) -> list[tuple[float, float]]:
    """Returns the times to first token of each conversation's first and second turn."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(num_conversations):
        prompt = text_of(generator, num_tokens)
        first_s, _ = await stream_s(client, prompt, 16, ignore_eos=True)
        prompt += text_of(generator, 30)
        second_s, _ = await stream_s(client, prompt, 16, ignore_eos=True)
        found.append((first_s, second_s))
    return found


async def grammars(
    client: openai.AsyncOpenAI, *, rounds: int, at_once: int, new_tokens: int
) -> list[tuple[float, float]]:
    """Returns the time per token without and with a grammar, of each round."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(rounds):
        row = []
        for extra in ({}, {"structured_outputs": {"json": _SCHEMA}}):
            prompts = [text_of(generator, 32) for _ in range(at_once)]
            times = await asyncio.gather(
                *(
                    stream_s(client, prompt, new_tokens, ignore_eos=True, **extra)
                    for prompt in prompts
                )
            )
            row.append(median(token_s for _, token_s in times))
        found.append((row[0], row[1]))
    return found


def _ratios(rows: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [second / first for first, second in rows]
    low, _, high = quantiles(ratios, n=4)
    return {
        "first_s": median(first for first, _ in rows),
        "second_s": median(second for _, second in rows),
        "ratio": median(ratios),
        "quartiles": [low, high],
    }


def _strategy(folder: Path, *, rows: int, prompt: int, new_tokens: int) -> Strategy:
    return even_strategy(
        folder,
        bits=8,
        head_bits=8,
        num_stages=1,
        batch=rows,
        prefill=1,
        decode=rows,
        prompt_length=prompt,
        new_tokens=new_tokens,
        activations="float32",
    )


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--conversations", type=int, default=9)
@click.option("--tokens", type=int, default=2000)
@click.option("--rounds", type=int, default=7)
@click.option("--at-once", type=int, default=8)
@click.option("--new-tokens", type=int, default=64)
def main(
    model: str,
    models: Path,
    conversations: int,
    tokens: int,
    rounds: int,
    at_once: int,
    new_tokens: int,
) -> None:
    """Measure second turns, then grammars."""
    folder = random_model(model, models).resolve()

    async def measure() -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        long = _strategy(folder, rows=4, prompt=tokens + 48, new_tokens=16)
        with serve_process(long) as server:
            async with _client(server.url) as client:
                await stream_s(client, "a" * tokens, 16, ignore_eos=True)
                turns = await second_turns(
                    client, num_conversations=conversations, num_tokens=tokens
                )
        short = _strategy(folder, rows=at_once, prompt=64, new_tokens=new_tokens)
        with serve_process(short) as server:
            async with _client(server.url) as client:
                kwargs = {"at_once": at_once, "new_tokens": new_tokens}
                await grammars(client, rounds=1, **kwargs)
                return turns, await grammars(client, rounds=rounds, **kwargs)

    turns, times = asyncio.run(measure())
    figures = {"second turns": _ratios(turns), "grammars": _ratios(times)}
    for name, each in figures.items():
        click.echo(
            f"| {name} | {each['first_s']:.4f} | {each['second_s']:.4f} "
            f"| {each['ratio']:.3f} ({each['quartiles'][0]:.3f}–{each['quartiles'][1]:.3f}) |"
        )
    line = figures | {"model": model, "tokens": tokens, "at_once": at_once}
    click.echo(json.dumps(line | provenance("tools.benchmarks.serve_features")))


def _client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=3600)


if __name__ == "__main__":
    main()
