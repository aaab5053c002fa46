"""Plans of all methods, run by one engine on emulated clusters.

`python -m tools.experiments sensitivity|profile|plan|run|quality|table`, in this order;
experiment.toml defines the measurements. Each step writes to build/experiments, from where
an interrupted run continues.
"""
