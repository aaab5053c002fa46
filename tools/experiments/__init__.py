"""Plans of all methods, run by one engine on emulated clusters.

`python -m tools.experiments sensitivity|profile|plan|run|table`, in this order; what is
measured is fixed in experiment.toml. Between steps files lie in build/experiments, where an
interrupted run goes on.
"""
