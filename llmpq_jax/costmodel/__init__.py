"""Predicts memory, seconds and quality of a plan from records of files, in NumPy alone."""
