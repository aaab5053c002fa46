"""Writes tests/golden/quantized.npz: what transformers computes on a written checkpoint.

The checkpoint in tests/golden/quantized is written by `checkpoint/writer.py` from
tests/golden/models/llama-tied-grouped; a test compares it byte for byte. Run from the
repository root in a separate environment, like tools/write_golden.py, with the format's
own library:

    python -m pip install torch==2.14.1 transformers==5.24.0 compressed-tensors==0.20.0
    python -m tools.write_golden_quantized
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM

FOLDER = Path("tests/golden/quantized")
SHAPE = (3, 11)


def main() -> None:
    """Runs random tokens in float32, and writes them with their logits."""
    model = AutoModelForCausalLM.from_pretrained(
        str(FOLDER), dtype=torch.float32, attn_implementation="eager"
    )
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, model.config.vocab_size, SHAPE)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits.numpy()
    path = FOLDER.with_suffix(".npz")
    np.savez_compressed(path, tokens=tokens.astype(np.int32), logits=logits)
    print(f"{path}: {list(logits.shape)}, at most {np.abs(logits).max():.3g}")


if __name__ == "__main__":
    main()
