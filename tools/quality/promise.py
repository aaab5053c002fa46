"""Five limits on perplexity, each checked on a text that no plan was chosen by."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.quality.experiment import FOLDER, print_result

_LIMITS = (0.05, 0.1, 0.2, 0.3, 0.5)
_CLUSTER = Path("strategies/tiny-two-cpu")


def run(max_tokens: int, seed: int) -> None:
    """Runs the commands a user would: indicate, solve for each limit, evaluate."""
    rows = [("limit", "Σω", "validation", "evaluation", "95 %", "predicted", "held")]
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        sensitivity = Path(folder, "sensitivity.toml")
        _llmpq(
            *("indicate", "--model", FOLDER, "--text", FOLDER / "calibration.txt"),
            *("--out", sensitivity, "--max-tokens", max_tokens, "--seed", seed),
        )
        for limit in _LIMITS:
            path = Path(folder, f"strategy-{limit}.toml")
            solved = _llmpq(
                *("solve", "--model", FOLDER, "--cluster", _CLUSTER / "cluster.toml"),
                *("--measurements", _CLUSTER / "measurements.toml", "--batch", 16),
                *("--prompt-length", 64, "--new-tokens", 64, "--out", path),
                *("--sensitivity", sensitivity, "--max-ppl-increase", limit),
                *("--validation-text", FOLDER / "validation.txt"),
                *("--validation-record", Path(folder, "validation.jsonl")),
            )["strategy"]
            found = _llmpq(
                *("evaluate", "--strategy", path),
                *("--text", FOLDER / "evaluation.txt"),
            )["text"]
            increase = found["found"]["perplexity"] - found["exact"]["perplexity"]
            low, high = found["increase_interval"]
            verdict = (
                "yes"
                if increase <= limit
                else "no"
                if low > limit
                else "within its interval"
            )
            rows.append(
                (
                    f"{limit}",
                    f"{solved['quality']['omega']:.4g}",
                    f"{solved['quality']['measured_ppl_increase']:+.4f}",
                    f"{increase:+.4f}",
                    f"{low:+.4f} to {high:+.4f}",
                    f"{1e3 * solved['predicted']['latency_s']:.1f} ms",
                    verdict,
                )
            )
            values[f"{limit}"] = {
                "omega": solved["quality"]["omega"],
                "validation": solved["quality"]["measured_ppl_increase"],
                "evaluation": [increase, low, high],
                "latency_s": solved["predicted"]["latency_s"],
            }
    print_result("promise", rows, seed=seed, **values)


def _llmpq(*words: object) -> dict:
    command = [sys.executable, "-m", "llmpq_jax", *map(str, words), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)
