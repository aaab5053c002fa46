"""Machines of a Ray cluster on loopback: `Machines`, and the process that runs them.

    python -m tests.support.ray_machines node0 node1

They are started in a process of their own because Ray forks, which a process with JAX's
threads must not do. The process prints the cluster's address, then executes lines of stdin,
"start NAME" and "kill NAME", and answers each with a line. It ends with its stdin.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmpq_jax.runtime import Request, Sampling
from llmpq_jax.schema.strategy import Mesh, Strategy

# Ray replaces 127.0.0.1 by this machine's own address unless clusters of several machines
# are disabled; it reads the variable when it is imported.
ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise Ray writes a token into the home folder.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32)),
}
_ROOT = Path(__file__).parents[2]


class Machines:
    """A cluster's machines, by their names in a strategy."""

    def __init__(self, *names: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_machines", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=_ROOT,
            env=os.environ | ON_LOOPBACK | {"PYTHONPATH": str(_ROOT)},
        )
        self.address = self._answer()

    def start(self, name: str) -> None:
        """Adds a machine."""
        self._ask(f"start {name}")

    def kill(self, name: str) -> None:
        """Kills a machine without a shutdown, as a power cut would."""
        self._ask(f"kill {name}")

    def close(self) -> None:
        """Ends the cluster."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster's process ended"
        return line


def on_nodes(strategy: Strategy, *nodes: str) -> Strategy:
    """Puts the stages of a strategy on these nodes."""
    stages = []
    for stage, node in zip(strategy.stages, nodes, strict=True):
        names = tuple(name.replace("node0", node) for name in stage.devices)
        stages.append(
            replace(stage, device=names[0])
            if stage.mesh is None
            else replace(stage, mesh=Mesh(devices=names, tensor=len(names)))
        )
    return replace(strategy, stages=tuple(stages))


def some_requests(count: int, *, new_tokens: int = 8) -> list[Request]:
    """Makes requests of unequal prompts and lengths, every other one sampled."""
    return [
        Request(
            token_ids=tuple(range(index, 3 * index + 2)),
            max_new_tokens=1 + (5 * index + 7) % new_tokens,
            ignores_eos=True,
            sampling=Sampling(temperature=0.8 * (index % 2), seed=index),
        )
        for index in range(count)
    ]


def set_worker_up(compiled: str, started: str | None = None) -> None:
    """Makes a worker's JAX as strict as a test's, with a cache of compiled programs.

    Args:
        compiled: Folder of the cache.
        started: Folder where the worker makes a file named by its process id.
    """
    import jax

    if started is not None:
        (Path(started) / str(os.getpid())).touch()

    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_compilation_cache_dir", compiled)
    # With a limit JAX locks the folder, which several workers share.
    jax.config.update("jax_compilation_cache_max_size", 1 << 30)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _serve(names: list[str]) -> None:
    from ray.cluster_utils import Cluster

    def options(name: str) -> dict[str, Any]:
        return {
            "num_cpus": 1,
            "resources": {f"llmpq_node:{name}": 1},
            "object_store_memory": 100 << 20,
        }

    # The head holds none of the stages, so that each machine can be killed.
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 100 << 20,
            "include_dashboard": False,
            # A failed machine is noticed sooner than after Ray's half minute.
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 500,
                "health_check_timeout_ms": 2000,
                "health_check_failure_threshold": 3,
                # Each starting worker imports for seconds, and actors start their own.
                "enable_worker_prestart": False,
                "prestart_worker_first_driver": False,
            },
        },
    )
    machines = {name: cluster.add_node(**options(name)) for name in names}
    assert cluster.address is not None
    _say(cluster.address)
    for line in sys.stdin:
        what, name = line.split()
        if what == "start":
            machines[name] = cluster.add_node(**options(name))
        else:
            cluster.remove_node(machines.pop(name), allow_graceful=False)
        _say("done")
    cluster.shutdown()


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    _serve(sys.argv[1:])
