"""A server under Ray for thousands of requests: clients leave, and workers are killed.

    python -m tools.soak --requests 5000 --kill-every 500

Requests are a few dozen different ones, at random, and clients leave some of them in the middle.
Each answer is compared with that of a pipeline in this process, one request at a time. Memory and
open files are those of the server's process. Prints a row whenever a worker is killed, and one JSON
line; ends with status 1 if something was lost, wrong, or leaked.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import psutil

from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.schema.strategy import Strategy
from tools.benchmarks.models import even_strategy
from tools.provenance import provenance
from tools.serve_process import serve_process

_MODEL = Path("examples/tiny-code-lm")
_PROMPTS = Path("examples/prompts.jsonl")
_NUM_DIFFERENT = 48
_CANCELLED_SHARE = 0.05
_MAX_GROWTH = 0.05
# Requests before memory is compared with: by then all programs are compiled and all workers
# have been killed once.
_WARM_UP_SHARE = 0.2
_ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Asked:
    """A request's body, and the text that answers it."""

    body: dict[str, Any]
    text: str


@dataclass
class Outcomes:
    """What has become of the requests so far."""

    num_done: int = 0
    num_cancelled: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def num_ended(self) -> int:
        """Number of requests that ended in whatever way."""
        return self.num_done + self.num_cancelled + len(self.failed)


def expected_answers(strategy: Strategy) -> list[Asked]:
    """Serves each of the different requests alone, in this process."""
    chooser = random.Random(0)
    words = _PROMPTS.read_text("utf-8").split()
    asked: list[Asked] = []
    with Pipeline.load(strategy) as pipeline:
        for number in range(_NUM_DIFFERENT):
            prompt = " ".join(chooser.choices(words, k=chooser.randint(1, 12)))
            token_ids = tuple(pipeline.tokenizer.encode(prompt)[:64])
            max_tokens = chooser.randint(4, 32)
            temperature = chooser.choice([0.0, 0.8])
            request = Request(
                token_ids=token_ids,
                max_new_tokens=max_tokens,
                ignores_eos=True,
                sampling=Sampling(temperature=temperature, seed=number),
            )
            (completion,) = pipeline.serve([request])
            body = {
                "prompt": token_ids,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "seed": number,
                "ignore_eos": True,
                "stream": True,
            }
            asked.append(Asked(body, completion.text))
    return asked


async def ask(
    client: httpx.AsyncClient, asked: Asked, outcomes: Outcomes, chooser: random.Random
) -> None:
    """Sends a request, and compares its answer or leaves it in the middle."""
    leaves_after = None
    if chooser.random() < _CANCELLED_SHARE:
        leaves_after = chooser.randint(0, 4)
    text = ""
    try:
        async with client.stream("POST", "/completions", json=asked.body) as answer:
            if answer.status_code != 200:
                outcomes.failed.append(f"{answer.status_code} {await answer.aread()}")
                return
            parts = 0
            async for line in answer.aiter_lines():
                if leaves_after is not None and parts >= leaves_after:
                    outcomes.num_cancelled += 1
                    return
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    if "error" in chunk:
                        outcomes.failed.append(chunk["error"]["message"])
                        return
                    text += chunk["choices"][0]["text"]
                    parts += 1
    except httpx.HTTPError as reason:
        outcomes.failed.append(repr(reason))
        return
    outcomes.num_done += 1
    if text != asked.text:
        outcomes.wrong.append(f"{text!r} instead of {asked.text!r}")


def workers(server: psutil.Process) -> list[psutil.Process]:
    """Returns the processes of stages that Ray has started for a server."""
    found = []
    for process in server.children(recursive=True):
        try:
            if "StageActor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def state_of(server: psutil.Process, client: httpx.Client) -> dict[str, float]:
    """Returns memory, open files and slots of a server."""
    metrics = client.get("/metrics").text

    def value(name: str) -> float:
        (found,) = re.findall(rf"^llmpq:{name}{{.*}} (\S+)$", metrics, re.MULTILINE)
        return float(found)

    return {
        "memory_mib": server.memory_info().rss / (1 << 20),
        "open_files": server.num_fds(),
        "threads": server.num_threads(),
        "running": value("num_requests_running"),
        "waiting": value("num_requests_waiting"),
    }


async def put_load(
    url: str,
    answers: list[Asked],
    outcomes: Outcomes,
    *,
    num_requests: int,
    at_once: int,
) -> None:
    """Lets clients together send a number of requests."""
    chooser = random.Random(1)
    left = iter(range(num_requests))

    async def one_client(client: httpx.AsyncClient) -> None:
        for _ in left:
            await ask(client, chooser.choice(answers), outcomes, chooser)

    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(
        base_url=url, timeout=300, trust_env=False, limits=limits
    ) as client:
        await asyncio.gather(*(one_client(client) for _ in range(at_once)))


async def soak(
    url: str,
    server: psutil.Process,
    answers: list[Asked],
    *,
    num_requests: int,
    kill_every: int,
    at_once: int,
) -> tuple[Outcomes, list[dict[str, float]]]:
    """Puts the load on a server, and kills a worker now and then."""
    chooser = random.Random(2)
    samples: list[dict[str, float]] = []
    outcomes = Outcomes()
    load = asyncio.create_task(
        put_load(url, answers, outcomes, num_requests=num_requests, at_once=at_once)
    )
    started_s = time.monotonic()
    num_kills = 0
    with httpx.Client(base_url=url.removesuffix("/v1"), trust_env=False) as client:

        def sample() -> None:
            row = {
                "requests": outcomes.num_ended,
                "seconds": time.monotonic() - started_s,
            }
            samples.append(row | state_of(server, client))
            click.echo(
                "| "
                + " | ".join(f"{value:.0f}" for value in samples[-1].values())
                + " |"
            )

        while not load.done():
            await asyncio.sleep(0.1)
            if outcomes.num_ended >= (num_kills + 1) * kill_every:
                num_kills += 1
                await asyncio.to_thread(sample)
                if found := workers(server):
                    chooser.choice(found).kill()
                else:
                    outcomes.failed.append("there is no worker to kill")
        await load
        # Clients that left are noticed within a step.
        await asyncio.sleep(2)
        sample()
    return outcomes, samples


@click.command()
@click.option("--requests", "num_requests", type=int, default=5000)
@click.option("--kill-every", type=int, default=500)
@click.option("--at-once", type=int, default=12, help="Clients at the same time.")
def main(num_requests: int, kill_every: int, at_once: int) -> None:
    """Serve, kill, compare, and say what grew."""
    strategy = even_strategy(
        _MODEL.resolve(),
        bits=8,
        head_bits=16,
        num_stages=2,
        batch=8,
        prefill=1,
        decode=4,
        prompt_length=64,
        new_tokens=32,
    )
    answers = expected_answers(strategy)
    click.echo(
        "| requests | s | memory, MiB | open files | threads | running | waiting |"
    )
    with serve_process(
        strategy,
        *("--engine", "ray", "--address", "local"),
        environment=os.environ | _ON_LOOPBACK,
    ) as process:
        outcomes, samples = asyncio.run(
            soak(
                process.url,
                psutil.Process(process.pid),
                answers,
                num_requests=num_requests,
                kill_every=kill_every,
                at_once=at_once,
            )
        )
        tracebacks = [line for line in process.lines if "Traceback" in line]
    warm = next(
        each for each in samples if each["requests"] >= _WARM_UP_SHARE * num_requests
    )
    last = samples[-1]
    growth = last["memory_mib"] / warm["memory_mib"] - 1
    problems = [*outcomes.wrong[:5], *outcomes.failed[:5], *tracebacks[:1]]
    if outcomes.num_ended != num_requests:
        problems.append(f"{num_requests - outcomes.num_ended} requests were lost")
    if growth > _MAX_GROWTH:
        problems.append(f"memory grew by {growth:.1%}")
    if last["open_files"] > warm["open_files"] + at_once:
        problems.append(f"{last['open_files'] - warm['open_files']:.0f} files are open")
    if last["running"] or last["waiting"]:
        problems.append("slots are in use though nobody asks")
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(
        json.dumps(
            {
                "requests": num_requests,
                "answered": outcomes.num_done,
                "cancelled": outcomes.num_cancelled,
                "wrong": len(outcomes.wrong),
                "failed": len(outcomes.failed),
                "memory_growth": growth,
                "samples": samples,
                **provenance("tools.soak"),
            }
        )
    )
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
