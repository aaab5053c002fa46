"""Slow and obvious independent models that tests compare the package with."""
