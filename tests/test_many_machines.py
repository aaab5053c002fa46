"""The page about many machines: its commands as they stand, and who listens where."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray.scripts.scripts import cli as ray_commands

from llmpq_jax.schema.record_files import write_strategy
from tests.support.listening import processes_of
from tests.support.own_network import own_network
from tests.support.ray_machines import on_nodes
from tests.support.tiny_models import make_strategy, write_tiny_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/many-machines.md").read_text(encoding="utf-8")
PORTS = PAGE.partition("\n## Ports\n")[2].partition("\n## ")[0]
# The page's addresses of its machines, and those of the machines here.
ADDRESSES = {"10.0.0.1": "127.0.0.2", "10.0.0.2": "127.0.0.3"}
EVERYWHERE = ("::", "0.0.0.0")

pytestmark = pytest.mark.xdist_group("ray")


def commands(step: int) -> list[tuple[str, str]]:
    """The commands of a step, each with the machine where it is typed."""
    text = re.findall(rf"^{step}\. .*?(?=^\d+\. |^\S)", PAGE, re.MULTILINE | re.DOTALL)[
        0
    ]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = re.findall(r"^ *\$ (.*)$", "\n".join(blocks), re.MULTILINE)
    for page, here in ADDRESSES.items():
        lines = [line.replace(page, here) for line in lines]
    return [("box" if line.endswith("# on box") else "tower", line) for line in lines]


@dataclass(frozen=True)
class Machines:
    """The page's two machines: each a home folder on this one.

    Attributes:
        folder: Folder of the homes and of the programs.
        network: Words before a command that run it in the machines' network.
        ray_folder: Folder for Ray's sessions, by which its processes are found.
    """

    folder: Path
    network: tuple[str, ...]
    ray_folder: str

    def run(self, name: str, command: str, typed: str = "") -> str:
        """Types a command on a machine; returns its output."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [*self.network, "bash", "-c", command],
            cwd=home,
            env=self._environment(home),
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def watched(self) -> Iterator[set[tuple[str, str, int]]]:
        """Yields a set that has all that listened once the context has ended."""
        seen: set[tuple[str, str, int]] = set()
        with subprocess.Popen(
            [
                *self.network,
                sys.executable,
                "-m",
                "tests.support.listening",
                self.ray_folder,
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as watcher:
            try:
                yield seen
            finally:
                shown, _ = watcher.communicate()
            seen.update(
                (name, address, port) for name, address, port in json.loads(shown)
            )

    def close(self) -> None:
        """Ends all processes; `ray stop` would end those of other clusters too."""
        while running := processes_of(self.ray_folder):
            for process in running:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(running, timeout=10)

    def _environment(self, home: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "RAY_" not in name}
        return kept | {
            "HOME": str(home),
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": self.ray_folder,
            "RAY_raylet_start_wait_time_s": "120",
        }


@pytest.fixture
def page_machines(tmp_path: Path) -> Iterator[Machines]:
    for name, module in (("ray", "ray.scripts.scripts"), ("llmpq-jax", "llmpq_jax")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    # Names of sockets are at most 107 bytes long.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short,
        own_network() as network,
    ):
        machines = Machines(tmp_path, network, short)
        yield machines
        machines.close()


def share_token(machines: Machines) -> None:
    """Types the commands of step 4: what the first prints is pasted into the second."""
    made, pasted = commands(4)
    token = machines.run(*made)
    machines.run(*pasted, typed=token + "\n")


def write_job(folder: Path) -> None:
    """Writes what the page's job reads: a strategy on both machines, and prompts."""
    model = write_tiny_model(folder / "model")
    strategy = make_strategy(model, [((0,), [16, 8]), ((1,), [4, 8])], new_tokens=8)
    apart = on_nodes(strategy, "tower", "box")
    (folder / "tower").mkdir(exist_ok=True)
    write_strategy(folder / "tower/strategy.toml", apart)
    lines = [json.dumps({"prompt": "def f" + "x" * number}) for number in range(6)]
    (folder / "tower/prompts.jsonl").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Row:
    """A row of the page's table of ports."""

    processes: tuple[str, ...]
    is_everywhere: bool
    ports: range
    is_always: bool

    def holds(self, process: str, address: str, port: int) -> bool:
        return (
            process in self.processes
            and port in self.ports
            and address in (EVERYWHERE if self.is_everywhere else ADDRESSES.values())
        )


def table_of_ports() -> list[Row]:
    rows = []
    for line in re.findall(r"^\| (?!port|--)(.*) \|$", PORTS, re.MULTILINE):
        port, process, address, *_ = line.split(" | ")
        numbers = [int(number) for number in re.findall(r"\b\d{4,5}\b", port)]
        first, *_, last = [*numbers, *numbers] or (1, 65535)
        rows.append(
            Row(
                processes=tuple(re.findall(r"`([^`]+)`", process)),
                is_everywhere={"all addresses": True, "the machine's address": False}[
                    address
                ],
                ports=range(first, last + 1),
                is_always="only" not in port,
            )
        )
    return rows


def test_the_token_is_the_same_on_both_machines_and_its_owner_s_alone(page_machines):
    share_token(page_machines)
    texts = set()
    for name in ("tower", "box"):
        path = page_machines.folder / name / ".ray/auth_token"
        assert path.stat().st_mode & 0o777 == 0o600
        texts.add(path.read_text().strip())
    assert len(texts) == 1
    assert len(texts.pop()) == 64


def test_ray_s_commands_ask_for_the_token_and_have_the_options_shown():
    shown = [line for step in (4, 5) for _, line in commands(step) if " ray " in line]
    assert len(shown) == 4
    for line in shown:
        before, _, words = line.partition(" ray ")
        name, *options = shlex.split(words.replace(")", ""), comments=True)
        known = {
            opt for each in ray_commands.commands[name].params for opt in each.opts
        }
        assert {
            word.split("=")[0] for word in options if word.startswith("--")
        } <= known
        assert before == (
            "(umask 077;" if name == "get-auth-token" else "RAY_AUTH_MODE=token"
        )


@pytest.mark.slow
def test_ray_on_one_machine_listens_on_loopback_alone(page_machines):
    write_job(page_machines.folder)
    ((_, line),) = commands(8)
    with page_machines.watched() as seen:
        page_machines.run("tower", line + " --address local")
    names = {name for name, _, _ in seen}
    assert {"llmpq-jax", "gcs_server", "raylet", "ray::StageActor"} <= names
    assert {address for _, address, _ in seen} == {"127.0.0.1"}
    token = page_machines.folder / "tower/.ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700


def _num_nodes(status: str) -> int:
    """Returns the nodes that `ray status` lists."""
    return len(re.findall(r"^ 1 node_", status, re.MULTILINE))


@pytest.mark.full
def test_two_machines_run_a_job_and_listen_where_the_page_says(page_machines):
    share_token(page_machines)
    write_job(page_machines.folder)
    with page_machines.watched() as seen:
        *starting, status = commands(5)
        for each in starting:
            page_machines.run(*each)
        # The page says that the second one takes a few seconds.
        deadline_s = time.monotonic() + 60
        while _num_nodes(page_machines.run(*status)) < 2:
            assert time.monotonic() < deadline_s
            time.sleep(1)
        for step in (7, 8):
            for each in commands(step):
                page_machines.run(*each)
    results = page_machines.folder / "tower/results.jsonl"
    assert len(results.read_text().splitlines()) == 6
    rows = table_of_ports()
    assert len(rows) == 8
    unlisted = [each for each in seen if not any(row.holds(*each) for row in rows)]
    assert unlisted == []
    always = [row for row in rows if row.is_always]
    assert [row for row in always if not any(row.holds(*each) for each in seen)] == []
