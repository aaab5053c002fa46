"""`python -m llmpq_jax` is the command `llmpq-jax`."""

from llmpq_jax.cli import main

if __name__ == "__main__":
    main()
