"""Benchmarks of kernels, pipelines and the planner, and of other programs."""
