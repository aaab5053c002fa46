"""Whole errands, some of which join planning and running."""
