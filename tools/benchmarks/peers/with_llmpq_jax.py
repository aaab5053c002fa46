"""This project: one stage of one precision.

python -m tools.benchmarks.peers.with_llmpq_jax FOLDER BITS ACTIVATIONS

Answers requests on stdin; see `protocol`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from llmpq_jax import __version__
from llmpq_jax.kernels import kernel_path
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.precision import Activations, Bits
from tools.benchmarks.models import even_strategy
from tools.benchmarks.peers.protocol import answer, prompts


class _LlmpqJax:
    def __init__(self, folder: str, bits: str, activations: str) -> None:
        self._folder = Path(folder)
        self._bits: Bits = cast("Bits", int(bits))
        self._activations: Activations = cast("Activations", activations)
        self._pipeline: Pipeline | None = None

    def prepare(self, *, batch: int, prompt: int, new_tokens: int) -> dict[str, Any]:
        self.close()
        self._pipeline = Pipeline.load(
            even_strategy(
                self._folder,
                bits=self._bits,
                head_bits=16 if self._bits == 16 else 8,
                num_stages=1,
                batch=batch,
                prefill=batch,
                decode=batch,
                prompt_length=prompt,
                new_tokens=new_tokens,
                activations=self._activations,
            )
        )
        vocabulary = self._pipeline.architecture.vocabulary_size
        self._requests = [
            Request(
                token_ids=tuple(row.tolist()),
                max_new_tokens=new_tokens,
                ignores_eos=True,
            )
            for row in prompts(batch, prompt, vocabulary)
        ]
        self._pipeline.prepare(self._requests)
        self.run()
        return {
            "settings": f"{kernel_path('cpu')}, {self._activations}",
            "version": f"llmpq-jax {__version__}, jax {jax.__version__}",
        }

    def run(self) -> dict[str, Any]:
        assert self._pipeline is not None
        list(self._pipeline.serve(self._requests))
        record = self._pipeline.batches[-1]
        return {"prefill_s": record.prefill_s, "decode_s": record.decode_s}

    def logits(self, *, out: str, prompt: int) -> dict[str, Any]:
        assert self._pipeline is not None
        vocabulary = self._pipeline.architecture.vocabulary_size
        (ids,) = prompts(1, prompt, vocabulary).tolist()
        np.save(out, self._pipeline.score([ids])[0])
        return {}

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()


if __name__ == "__main__":
    worker = _LlmpqJax(*sys.argv[1:])
    answer({"prepare": worker.prepare, "run": worker.run, "logits": worker.logits})
    worker.close()
