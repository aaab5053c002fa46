"""Safetensors in: a Hugging Face checkpoint, read one tensor at a time.

Nothing is imported here: what only reads files must not wait for JAX.
"""
