"""Frozen records of every file that planning and running exchange.

What planning and running must agree on is defined here, without JAX or Pyomo.
"""
