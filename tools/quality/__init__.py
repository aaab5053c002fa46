"""Figures of docs/sensitivity.md and docs/quantization.md, on the tiny model.

    python -m tools.quality operators
    python -m tools.quality assignments
    python -m tools.quality memory
    python -m tools.quality rounding
    python -m tools.quality promise

Each prints a table and a JSON line with versions, command and date.
"""
