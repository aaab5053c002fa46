"""Predictions of memory and time beside what the compiler and the clock say."""
