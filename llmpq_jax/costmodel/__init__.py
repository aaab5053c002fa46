"""Predicts memory, seconds and quality of a plan from spec records, in NumPy alone."""
