"""Predictions of memory and time, compared with the compiler and the clock."""
