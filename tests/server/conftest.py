"""A server with a small model, and clients of it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.server.batches.service import BatchService
from llmpq_jax.server.connections import listen
from llmpq_jax.server.run import make_server
from llmpq_jax.server.settings import ServerSettings
from llmpq_jax.server.state import ServerState
from tests.support.tiny_models import make_strategy, write_tiny_model

NAME = "tiny"
_TEMPLATE = (
    "{# calls are <tool_call>{JSON}</tool_call> #}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}[{{ call.function.name }} "
    "{{ call.function.arguments.city }}]{% endfor %}"
    "{% endfor %}{% if loud %}!{% endif %}<answer>"
)


@contextmanager
def running(
    state: ServerState, batches: BatchService | None = None, *, port: int = 0
) -> Iterator[str]:
    """Runs a server in a thread of its own; yields its address."""
    server = make_server(state, batches)

    async def serve(listening: socket.socket) -> None:
        answering = asyncio.create_task(batches.run()) if batches else None
        await server.serve(sockets=[listening])
        if answering is not None:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    with listen("127.0.0.1", port) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(serve(listening)))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_tiny_model(tmp_path_factory.mktemp("server") / "model")
    path = made / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"chat_template": _TEMPLATE}
    path.write_text(json.dumps(settings))
    return made


@pytest.fixture(scope="session")
def pipeline(folder: Path) -> Iterator[Pipeline]:
    strategy = make_strategy(
        folder,
        [((0,), [16, 8, 8, 16])],
        batch=4,
        decode=4,
        prompt_length=200,
        new_tokens=56,
    )
    with Pipeline.load(strategy) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def serving(pipeline: Pipeline) -> Iterator[ServingLoop]:
    loop = ServingLoop(pipeline, max_waiting=32)
    loop.prepare()
    loop.start()
    yield loop
    loop.close(timeout_s=60)
    assert loop.error is None


@pytest.fixture(scope="session")
def state(serving: ServingLoop) -> ServerState:
    made = ServerState(ServerSettings(model_name=NAME))
    made.serve(serving)
    return made


@pytest.fixture(scope="session")
def address(state: ServerState) -> Iterator[str]:
    with running(state) as found:
        yield found


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{address}/v1", api_key="none", timeout=60, max_retries=0
    ) as made:
        yield made
