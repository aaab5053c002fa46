"""The recipe of the tiny language model that ships in `examples/`."""
