"""Benchmarks of llmpq-jax, llama.cpp and transformers with equal weights and prompts."""
