"""Planners to compare with, each by its own rules, on the same instances.

All keep the cluster file's order of devices and take the seconds, bytes and ω of the same
instances; `candidate.evaluate` says what their plans cost. docs/comparison.md has the
table.
"""
