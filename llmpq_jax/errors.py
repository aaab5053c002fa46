"""What can go wrong, as types.

    LlmpqError
    ├── SpecError              a file of ours cannot be read as what it should be
    │   ├── ClusterError       a cluster that contradicts itself or the machine
    │   ├── MeasurementError   measurements that do not serve this model or cluster
    │   └── StrategyError      a strategy that does not fit model, cluster or machine
    ├── UnsupportedModelError  an architecture or a config field we do not implement
    ├── CheckpointError        weights or tokenizer files that are missing or damaged
    ├── InfeasibleError        no plan satisfies the limits
    ├── RequestError           a prompt or a sampling choice that cannot be served
    └── WorkerLostError        a process or machine that ran a stage, or should, is gone

Every message says what was found, where, what was expected, and what to do. The
commands print it in one line and exit with 1:

    try:
        pipeline = Pipeline.load("strategy.toml")
    except LlmpqError as error:
        print(error)
"""


class LlmpqError(Exception):
    """The base of all errors this package raises on purpose."""


class SpecError(LlmpqError):
    """A file cannot be read as the record it should hold."""


class ClusterError(SpecError):
    """A cluster contradicts itself or the machine at hand."""


class MeasurementError(SpecError):
    """Measurements are missing, damaged, or of another model or device."""


class StrategyError(SpecError):
    """A strategy does not fit its model, its cluster or the machine at hand."""


class UnsupportedModelError(LlmpqError):
    """A model's architecture, or a field of its config, is not implemented."""


class CheckpointError(LlmpqError):
    """A checkpoint's weights or tokenizer are missing, damaged or of another shape."""


class InfeasibleError(LlmpqError):
    """No plan satisfies the limits; the message says which device is short of what."""


class RequestError(LlmpqError):
    """A prompt or a sampling choice cannot be served."""


class WorkerFailedError(LlmpqError):
    """A process or a machine that ran a stage, or should, is gone."""
