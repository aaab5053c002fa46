"""Nodes of unequal speed and memory on one machine, their limits kept by the kernel.

`python -m tools.emulate_cluster` is the command; README.md says what is limited how.
"""
