"""The planning problem in numbers: instances, candidates and what they cost."""
