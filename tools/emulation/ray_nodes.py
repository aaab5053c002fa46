"""Ray nodes as processes of emulated nodes."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llmpq_jax.errors import ClusterError
from tools.emulation.duty_cycle import family
from tools.emulation.ending import end_processes
from tools.emulation.nodes import EmulatedNodes

# Each node has an address of its own on loopback; Ray would replace 127.0.0.1 by the
# machine's address, which other machines can reach.
_HEAD = "127.0.0.2"
_FIRST_NODE = 3
_PATIENCE_S = 120.0
_STORE_BYTES = 100 << 20
_OPTIONS = (
    "--block",
    f"--object-store-memory={_STORE_BYTES}",
    # Any free ports: nodes of one machine would collide in a range.
    "--min-worker-port=0",
    "--max-worker-port=0",
)


class RayNodes:
    """A Ray cluster: its head without limits, and a Ray node inside each emulated node.

    The head offers no processors, so that all work is done by the nodes. A node offers
    one, and the resource `llmpq_node:NAME` by which the engine finds it. Processes are
    ended by their ids; no other Ray cluster of this machine is affected.

    Attributes:
        address: Address for `RAY_ADDRESS` and `ray.init`.
        environment: Environment variables of processes that connect.
    """

    def __init__(self, nodes: EmulatedNodes) -> None:
        """Starts the head and the nodes, and waits until all of them are alive.

        Raises:
            ClusterError: If Ray is not installed, or a node does not start.
        """
        program = Path(sys.executable).parent / "ray"
        if not program.exists():
            msg = f"Ray is not installed: expected {program}; install ray, or run a command in one node with `exec`"
            raise ClusterError(msg)
        self._folder = tempfile.TemporaryDirectory(
            prefix="llmpq-ray-", ignore_cleanup_errors=True
        )
        self._log = (Path(self._folder.name) / "start.log").open("w+")
        quiet = {"stdout": self._log, "stderr": subprocess.STDOUT}
        # Ray refuses connections without the token.
        self.environment = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32)),
        }
        port = _free_port()
        self.address = f"{_HEAD}:{port}"
        command = [str(program), "start", *_OPTIONS]
        head = ["--head", f"--port={port}", "--num-cpus=0"]
        head.append(f"--node-ip-address={_HEAD}")
        head += ["--include-dashboard=false", f"--temp-dir={self._folder.name}"]
        self._head: subprocess.Popen[Any] = subprocess.Popen(
            [*command, *head], env={**os.environ, **self.environment}, **quiet
        )
        started = [self._head]
        try:
            self._wait_for(1, started)
            # The start of Ray is not part of the emulation.
            with nodes.at_full_speed():
                self._start_nodes(nodes, command, started, quiet)
        except BaseException:
            self.close()
            raise

    def _start_nodes(
        self,
        nodes: EmulatedNodes,
        command: list[str],
        started: list[subprocess.Popen[Any]],
        quiet: dict[str, Any],
    ) -> None:
        for number, node in enumerate(nodes.emulation.speeds.nodes, _FIRST_NODE):
            resources = json.dumps({f"llmpq_node:{node.name}": 1})
            own = [f"--address={self.address}", "--num-cpus=1"]
            own += [f"--node-ip-address=127.0.0.{number}", f"--resources={resources}"]
            process = nodes.start(
                node.name, [*command, *own], environment=self.environment, **quiet
            )
            started.append(process)
            # One after another: two that start at once choose the same name for their
            # sockets, and one of them fails.
            self._wait_for(len(started), started)

    def close(self) -> None:
        """Ends the head; the nodes end with the emulated nodes."""
        end_processes([self._head], family(self._head.pid))
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for(self, num_nodes: int, started: list[subprocess.Popen[Any]]) -> None:
        """Waits until a number of nodes is alive.

        Raises:
            ClusterError: If one has ended, or does not start in time.
        """
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            if any(process.poll() is not None for process in started):
                break
            asked = subprocess.run(
                [sys.executable, "-c", _COUNT, self.address],
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                check=False,
            )
            if asked.returncode == 0 and int(asked.stdout.split()[-1]) >= num_nodes:
                return
        self._log.seek(0)
        last = self._log.read().strip().splitlines()[-3:]
        msg = f"Ray cluster {self.address}: {num_nodes} nodes did not start: {' / '.join(last)}: expected them within {_PATIENCE_S:g} s"
        raise ClusterError(msg)


# In another process, so that this one does not join the cluster.
_COUNT = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_HEAD, 0))
        return int(free.getsockname()[1])
