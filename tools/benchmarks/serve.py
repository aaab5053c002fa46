"""An open-loop load on the HTTP server: throughput and latencies over the rate of arrivals.

    python -m tools.benchmarks.serve --rates 0.5,1,2,inf --lengths lengths.json

Requests arrive at random (Poisson), with prompts and replies of the lengths of a file, and are
streamed. `--peer URL` puts the same load on another server with OpenAI's interface, in turns.
The same requests are also served by `Pipeline.serve`, which knows them all beforehand.

Prints a table row for each server and rate, and a JSON line; `--out FOLDER` has them as CSV and
as a picture.
"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import cast

import click
import numpy as np
import openai

from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import Strategy
from tools.benchmarks.models import CONFIGS, even_strategy, random_model
from tools.provenance import provenance
from tools.serve_process import NAME, serve_process

# A token of the random models is a byte.
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz    ", np.uint8)


@dataclass(frozen=True)
class Job:
    """A request of the load.

    Attributes:
        at_s: Time of its arrival.
        prompt: Text with one token for each letter.
        new_tokens: Tokens of its reply.
    """

    at_s: float
    prompt: str
    new_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What happened to a request.

    Attributes:
        first_token_s: Time from its arrival to the first part of the answer.
        token_s: Time per token after the first part.
        num_tokens: Tokens of the answer, as the server counts them.
        ended_s: Time of its end, from the start of the load.
    """

    first_token_s: float
    token_s: float
    num_tokens: int
    ended_s: float


@dataclass(frozen=True)
class Row:
    """One server at one rate.

    Attributes:
        server: Name of the server.
        rate_per_s: Requests per second.
        tokens_per_s: New tokens per second, from the first arrival to the last end.
        first_token_s: Median time to the first token.
        first_token_p99_s: 99th percentile of it.
        token_s: Median time per token after the first.
        errors: Number of requests that failed.
    """

    server: str
    rate_per_s: float
    tokens_per_s: float
    first_token_s: float
    first_token_p99_s: float
    token_s: float
    errors: int


def make_jobs(
    lengths: list[tuple[int, int]],
    *,
    rate_per_s: float,
    max_prompt: int,
    max_new_tokens: int,
    seed: int = 0,
) -> list[Job]:
    """Returns requests of these lengths, which arrive at random.

    Servers keep what they have computed of a prompt, so loads that follow each other need
    seeds of their own.
    """
    generator = np.random.default_rng(seed)
    at_s = 0.0
    jobs: list[Job] = []
    for prompt, new_tokens in lengths:
        letters = generator.choice(_LETTERS, min(prompt, max_prompt))
        jobs.append(
            Job(
                at_s=at_s,
                prompt=bytes(letters).decode(),
                new_tokens=max(2, min(new_tokens, max_new_tokens)),
            )
        )
        if math.isfinite(rate_per_s):
            at_s += generator.exponential(1 / rate_per_s)
    return jobs


async def put_load(url: str, model: str, jobs: list[Job]) -> list[Outcome | None]:
    """Sends requests at their times; returns what happened to each, None if it failed."""
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=3600
    ) as client:
        started_s = time.perf_counter()

        async def one(job: Job) -> Outcome | None:
            await asyncio.sleep(job.at_s)
            try:
                return await _stream(client, model, job, started_s)
            except openai.OpenAIError as reason:
                click.echo(f"failed: {reason}", err=True)
                return None

        return await asyncio.gather(*map(one, jobs))


async def _stream(
    client: openai.AsyncOpenAI, model: str, job: Job, started_s: float
) -> Outcome:
    sent_s = time.perf_counter()
    first_s = last_s = 0.0
    num_tokens = 0
    stream = await client.completions.create(
        model=model,
        prompt=job.prompt,
        max_tokens=job.new_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        last_s = time.perf_counter()
        first_s = first_s or last_s
        if chunk.usage is not None:
            num_tokens = chunk.usage.completion_tokens
    num_tokens = num_tokens or job.new_tokens
    return Outcome(
        first_token_s=first_s - sent_s,
        token_s=(last_s - first_s) / max(1, num_tokens - 1),
        num_tokens=num_tokens,
        ended_s=last_s - started_s,
    )


def row_of(server: str, rate_per_s: float, found: list[Outcome | None]) -> Row:
    """Returns the figures of one load."""
    done = [each for each in found if each is not None]
    if not done:
        msg = f"{server}: all {len(found)} requests failed"
        raise click.ClickException(msg)
    first_s = [each.first_token_s for each in done]
    return Row(
        server=server,
        rate_per_s=rate_per_s,
        tokens_per_s=sum(each.num_tokens for each in done)
        / max(each.ended_s for each in done),
        first_token_s=median(first_s),
        first_token_p99_s=float(np.percentile(first_s, 99)),
        token_s=median(each.token_s for each in done),
        errors=len(found) - len(done),
    )


def offline_tokens_per_s(strategy: Strategy, jobs: list[Job]) -> float:
    """Returns the new tokens per second where all requests are known beforehand."""
    with Pipeline.load(strategy) as pipeline:
        requests = [
            Request(
                token_ids=pipeline.tokenizer.encode(job.prompt),
                max_new_tokens=job.new_tokens,
                ignores_eos=True,
            )
            for job in jobs
        ]
        pipeline.prepare(requests)
        started_s = time.perf_counter()
        list(pipeline.serve(requests))
        return sum(job.new_tokens for job in jobs) / (time.perf_counter() - started_s)


def draw(rows: list[Row], path: Path) -> None:
    """Draws throughput and time to the first token over the rate."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for server in dict.fromkeys(row.server for row in rows):
        own = [row for row in rows if row.server == server]
        places = [_place(row.rate_per_s, rows) for row in own]
        left.plot(places, [row.tokens_per_s for row in own], "o-", label=server)
        right.plot(places, [row.first_token_s for row in own], "o-", label=server)
    rates = sorted({row.rate_per_s for row in rows})
    for axes, text in (
        (left, "new tokens per second"),
        (right, "median time to first token (s)"),
    ):
        axes.set_xticks([_place(rate, rows) for rate in rates])
        axes.set_xticklabels(
            ["all at once" if math.isinf(rate) else f"{rate:g}" for rate in rates]
        )
        axes.set_xlabel("requests per second")
        axes.set_ylabel(text)
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=150)


def _place(rate_per_s: float, rows: list[Row]) -> float:
    return sorted({row.rate_per_s for row in rows}).index(rate_per_s)


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--bits", type=click.Choice(["4", "8", "16"]), default="8")
@click.option("--rows", type=int, default=8, help="Requests served at a time.")
@click.option("--rates", default="0.5,1,2,inf", help="Requests per second, in turns.")
@click.option("--requests", "num_requests", type=int, default=48)
@click.option("--lengths", type=click.Path(path_type=Path), required=True)
@click.option("--max-prompt", type=int, default=512)
@click.option("--max-new-tokens", type=int, default=256)
@click.option("--peer", help="Base URL of another server, with /v1.")
@click.option("--peer-model", default="model")
@click.option("--peer-name", default="peer", help="Name in tables and pictures.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: str,
    models: Path,
    bits: str,
    rows: int,
    rates: str,
    num_requests: int,
    lengths: Path,
    max_prompt: int,
    max_new_tokens: int,
    peer: str | None,
    peer_model: str,
    peer_name: str,
    out: Path | None,
) -> None:
    """Put the same load on servers at several rates."""
    strategy = even_strategy(
        random_model(model, models),
        bits=cast("Bits", int(bits)),
        head_bits=8,
        num_stages=1,
        batch=rows,
        prefill=1,
        decode=rows,
        prompt_length=max_prompt,
        new_tokens=max_new_tokens,
        activations="float32",
    )
    pairs = [tuple(pair) for pair in json.loads(lengths.read_text())["pairs"]]
    found: list[Row] = []
    with serve_process(strategy) as server:
        servers = {"llmpq-jax": (server.url, NAME)}
        if peer is not None:
            servers[peer_name] = (peer, peer_model)
        for seed, rate in enumerate(map(float, rates.split(","))):
            jobs = make_jobs(
                cast("list[tuple[int, int]]", pairs[:num_requests]),
                rate_per_s=rate,
                max_prompt=max_prompt,
                max_new_tokens=max_new_tokens,
                seed=seed,
            )
            for name, (address, known_as) in servers.items():
                outcomes = asyncio.run(put_load(address, known_as, jobs))
                row = row_of(name, rate, outcomes)
                found.append(row)
                click.echo(
                    f"| {name} | {rate:g} | {row.tokens_per_s:.1f} "
                    f"| {row.first_token_s:.3f} | {row.first_token_p99_s:.3f} "
                    f"| {1e3 * row.token_s:.1f} | {row.errors} |"
                )
    jobs = make_jobs(
        cast("list[tuple[int, int]]", pairs[:num_requests]),
        rate_per_s=math.inf,
        max_prompt=max_prompt,
        max_new_tokens=max_new_tokens,
    )
    offline = offline_tokens_per_s(strategy, jobs)
    click.echo(f"| offline | – | {offline:.1f} |")
    figures = {
        "model": model,
        "bits": int(bits),
        "rows": rows,
        "requests": num_requests,
        # JSON has no infinity.
        "results": [asdict(row) | {"rate_per_s": str(row.rate_per_s)} for row in found],
        "offline_tokens_per_s": offline,
        **provenance("tools.benchmarks.serve"),
    }
    click.echo(json.dumps(figures))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "serve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(asdict(found[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in found)
        draw(found, out / "serve.png")


if __name__ == "__main__":
    main()
