"""llama.cpp, all sequences decoded in one batch, settings searched.

python -m tools.benchmarks.peers.with_llama_cpp FILE.gguf VOCABULARY

Answers requests on stdin; see `protocol`.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import llama_cpp as api  # pyright: ignore[reportMissingImports]
import numpy as np

from tools.benchmarks.peers.protocol import answer, prompts

_STEPS_TO_SEARCH_BY = 12


@api.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """Drops llama.cpp's log; the module keeps the callback alive."""


@dataclass(frozen=True)
class _Settings:
    threads: int
    micro_batch: int
    flash: bool
    unified: bool

    def __str__(self) -> str:
        return (
            f"{self.threads} threads, ubatch {self.micro_batch}, "
            f"flash {'on' if self.flash else 'off'}, "
            f"{'one' if self.unified else 'split'} KV cache"
        )


class _LlamaCpp:
    def __init__(self, path: str, vocabulary: str) -> None:
        api.llama_log_set(_quiet, ctypes.c_void_p())
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            path.encode(), api.llama_model_default_params()
        )
        self._vocabulary = int(vocabulary)
        self._context: Any = None

    def prepare(self, *, batch: int, prompt: int, new_tokens: int) -> dict[str, Any]:
        self._ids = prompts(batch, prompt, self._vocabulary)
        self._new_tokens = new_tokens
        cores = len(os.sched_getaffinity(0))
        best = _Settings(threads=cores, micro_batch=512, flash=True, unified=False)
        best = self._fastest(
            [
                replace(best, flash=flash, unified=unified)
                for flash, unified in itertools.product((True, False), repeat=2)
            ],
            "decode_s",
        )
        best = self._fastest(
            [replace(best, micro_batch=size) for size in (128, 512, 2048)], "prefill_s"
        )
        best = self._fastest(
            [replace(best, threads=count) for count in {cores, max(1, cores // 2)}],
            "decode_s",
        )
        self._open(best)
        self.run()
        return {
            "settings": str(best),
            "version": f"llama-cpp-python {version('llama-cpp-python')}",
            "system": api.llama_print_system_info().decode(),
        }

    def run(self) -> dict[str, Any]:
        return self._generate(self._new_tokens)

    def logits(self, *, out: str, prompt: int) -> dict[str, Any]:
        (ids,) = prompts(1, prompt, self._vocabulary)
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        found = self._decode(ids, range(prompt), [0] * prompt, [True] * prompt)
        np.save(out, found)
        return {}

    def _fastest(self, choices: list[_Settings], key: str) -> _Settings:
        spent_s = {}
        for settings in choices:
            self._open(settings)
            spent_s[settings] = self._generate(_STEPS_TO_SEARCH_BY)[key]
        return min(spent_s, key=spent_s.__getitem__)

    def _open(self, settings: _Settings) -> None:
        if self._context is not None:
            api.llama_free(self._context)
        batch, prompt = self._ids.shape
        # A split cache gives each sequence its share, which is rounded to 256.
        slots = -(-(prompt + self._new_tokens) // 256) * 256
        parameters = api.llama_context_default_params()
        parameters.n_ctx = batch * slots
        parameters.n_batch = batch * prompt
        parameters.n_ubatch = settings.micro_batch
        parameters.n_seq_max = batch
        parameters.n_threads = settings.threads
        parameters.n_threads_batch = settings.threads
        parameters.kv_unified = settings.unified
        parameters.flash_attn_type = (
            api.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if settings.flash
            else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._context = api.llama_init_from_model(self._model, parameters)
        assert self._context, "llama.cpp made no context"

    def _generate(self, new_tokens: int) -> dict[str, Any]:
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        batch, prompt = self._ids.shape
        rows = np.repeat(np.arange(batch), prompt)
        positions = np.tile(np.arange(prompt), batch)
        started_s = time.perf_counter()
        logits = self._decode(
            self._ids.ravel(), positions, rows, positions == prompt - 1
        )
        tokens = logits.argmax(axis=-1)
        prefilled_s = time.perf_counter()
        for step in range(new_tokens - 1):
            logits = self._decode(
                tokens, [prompt + step] * batch, range(batch), [True] * batch
            )
            tokens = logits.argmax(axis=-1)
        ended_s = time.perf_counter()
        return {
            "prefill_s": prefilled_s - started_s,
            "decode_s": ended_s - prefilled_s,
        }

    def _decode(
        self, tokens: Any, positions: Any, rows: Any, wanted: Any
    ) -> np.ndarray:
        """Returns the logits [wanted, vocabulary], in llama.cpp's own memory."""
        count = len(tokens)
        batch = api.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for index in range(count):
            batch.token[index] = int(tokens[index])
            batch.pos[index] = int(positions[index])
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = int(rows[index])
            batch.logits[index] = bool(wanted[index])
        failed = api.llama_decode(self._context, batch)
        api.llama_batch_free(batch)
        assert failed == 0, f"llama_decode gave {failed}"
        num_wanted = sum(map(bool, wanted))
        found = ctypes.cast(
            api.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float)
        )
        return np.ctypeslib.as_array(found, (num_wanted, self._vocabulary)).copy()


if __name__ == "__main__":
    worker = _LlamaCpp(*sys.argv[1:])
    answer({"prepare": worker.prepare, "run": worker.run, "logits": worker.logits})
