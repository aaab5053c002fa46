"""Planners to compare with, each by its own rules, in the terms of this one.

All keep the cluster file's order of devices and take the seconds, bytes and ω of the same
instances; `candidate.evaluate` says what their plans cost. docs/comparison.md has the
table.
"""
