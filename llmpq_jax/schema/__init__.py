"""The nouns: frozen records of everything that is written to a file.

What planning and running must agree on lives here, free of JAX and of Pyomo.
"""
