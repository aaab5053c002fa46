"""Asks how likely a text is, token by token, to the plan's mix of precisions."""

import numpy as np

from llmpq_jax.runtime import Pipeline

TEXT = "import os\nimport sys\n\ndef main(argv):\n    if len(argv) < 2:\n"

with Pipeline.load("strategies/tiny-four-cpu/strategy.toml") as pipeline:
    token_ids = np.array([pipeline.tokenizer.encode(TEXT)])
    logits = pipeline.score(token_ids)  # [batch, length, vocabulary]

# The logits after one token say how likely the next is.
largest = logits.max(axis=-1, keepdims=True)
log_total = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
next_ids = token_ids[:, 1:]
chosen = np.take_along_axis(logits[:, :-1], next_ids[..., None], axis=-1)[..., 0]
nats = log_total[:, :-1] - chosen
print(f"{nats.mean():.2f} nats a token")
print(f"{nats.sum() / np.log(2) / len(TEXT.encode()):.2f} bits a byte")
