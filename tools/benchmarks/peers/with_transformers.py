"""Hugging Face transformers on torch, float32, its own `generate`.

python -m tools.benchmarks.peers.with_transformers FOLDER

Answers requests on stdin; see `protocol`.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from tools.benchmarks.peers.protocol import answer, prompts


class _Transformers:
    def __init__(self, folder: str) -> None:
        disable_progress_bar()
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def prepare(self, *, batch: int, prompt: int, new_tokens: int) -> dict[str, Any]:
        vocabulary = self._model.config.vocab_size
        self._ids = torch.tensor(prompts(batch, prompt, vocabulary))
        self._new_tokens = new_tokens
        self._generate(2)
        return {
            "settings": f"{torch.get_num_threads()} threads",
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }

    def run(self) -> dict[str, Any]:
        prefill_s = self._generate(1)
        all_s = self._generate(self._new_tokens)
        return {"prefill_s": prefill_s, "decode_s": all_s - prefill_s}

    def logits(self, *, out: str, prompt: int) -> dict[str, Any]:
        ids = torch.tensor(prompts(1, prompt, self._model.config.vocab_size))
        with torch.no_grad():
            found = self._model(ids).logits[0]
        np.save(out, found.numpy())
        return {}

    def _generate(self, new_tokens: int) -> float:
        started_s = time.perf_counter()
        with torch.no_grad():
            found = self._model.generate(
                self._ids,
                attention_mask=torch.ones_like(self._ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                pad_token_id=0,
            )
        spent_s = time.perf_counter() - started_s
        assert found.shape[1] == self._ids.shape[1] + new_tokens
        return spent_s


if __name__ == "__main__":
    worker = _Transformers(sys.argv[1])
    answer({"prepare": worker.prepare, "run": worker.run, "logits": worker.logits})
