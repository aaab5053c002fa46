"""Strategies made of the incumbents of searches."""
