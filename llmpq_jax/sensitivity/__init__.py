"""Estimates how much quality each layer loses at each bit width."""
