"""Batch files: prompts in, results out."""
