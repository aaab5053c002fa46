"""Nodes of unequal speed and memory on one machine, limited by the kernel.

`python -m tools.emulate_cluster` is the command; README.md describes the limits.
"""
