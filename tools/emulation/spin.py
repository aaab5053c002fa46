"""Computes at full speed and prints the work done: one node's part of `achieved`.

    python -m tools.emulation.spin SECONDS [PROCESSOR]

Before each phase it prints that it is ready and waits for a line, so that all nodes
start together. The last line is a JSON object.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import mean

import numpy as np

_BLOCK = bytes(16 << 10)
# Larger than the caches of a processor.
_NUM_READ = 16 << 20
# A short piece of work: as many rounds as take this long without limits.
_SHORT_ROUNDS = 400
_PAUSE_S = 0.05
_MIN_CALLS = 20


def main() -> None:
    """Runs the three phases."""
    seconds = float(sys.argv[1])
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, [int(sys.argv[2])])
    read = np.ones(_NUM_READ, np.float32)
    _wait()
    computing = _rates(_hash, seconds)
    _wait()
    reading = _rates(lambda: read.max(), seconds)
    _wait()
    short = []
    while len(short) < _MIN_CALLS:
        time.sleep(_PAUSE_S)
        started_s = time.perf_counter()
        for _ in range(_SHORT_ROUNDS):
            _hash()
        short.append(time.perf_counter() - started_s)
    result = {"computing": computing, "reading": reading, "short_s": mean(short)}
    print(json.dumps(result), flush=True)


def _wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _hash() -> None:
    hashlib.sha256(_BLOCK).digest()


def _rates(work: Callable[[], object], seconds: float) -> dict[str, float]:
    count, started_s = 0, time.perf_counter()
    processor_s = time.process_time()
    while True:
        work()
        count += 1
        passed_s = time.perf_counter() - started_s
        if passed_s >= seconds:
            processor_s = time.process_time() - processor_s
            return {
                "per_s": count / passed_s,
                "per_processor_s": count / processor_s,
            }


if __name__ == "__main__":
    main()
