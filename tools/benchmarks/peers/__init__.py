"""The same weights, prompts and machine: llmpq-jax beside llama.cpp and transformers."""
