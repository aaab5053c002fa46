"""The cache of executables, tried in separate processes: JAX is configured once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from jax._src import monitoring
from llmpq_jax.tasks.compile_cache import keep_compiled

hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name))
kept = keep_compiled(Path(sys.argv[1]))
jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(kept, hits.count("/jax/compilation_cache/cache_hits"))
"""


def _run(home: Path, **variables: str) -> tuple[str, int]:
    environment = {
        name: value for name, value in os.environ.items() if name[:4] != "JAX_"
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(home)],
        env=environment | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, hits = done.stdout.split()
    return kept, int(hits)


def test_a_second_start_finds_what_the_first_compiled(tmp_path):
    kept, hits = _run(tmp_path)
    assert Path(kept).parent == tmp_path / "llmpq-jax" / "compiled"
    assert hits == 0
    again, hits = _run(tmp_path)
    assert again == kept
    assert hits > 0


def test_a_user_who_chose_a_folder_or_none_is_obeyed(tmp_path):
    chosen = tmp_path / "chosen"
    home = tmp_path / "home"
    assert _run(home, JAX_COMPILATION_CACHE_DIR=str(chosen))[0] == "None"
    assert _run(home, JAX_ENABLE_COMPILATION_CACHE="false")[0] == "None"
    assert not home.exists()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "llmpq-jax").write_text("a file where a folder should be")
    assert _run(tmp_path) == ("None", 0)
