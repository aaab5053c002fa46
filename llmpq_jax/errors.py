"""Errors that the package raises on purpose.

    LlmpqError
    ├── SpecError              a file that does not hold the record that it should
    │   ├── ClusterError       a cluster that contradicts itself or the machine
    │   ├── MeasurementError   measurements that do not fit the model or the cluster
    │   └── StrategyError      a strategy that does not fit model, cluster or machine
    ├── UnsupportedModelError  an architecture or a config field that is not implemented
    ├── CheckpointError        weights or tokenizer files that are missing or damaged
    ├── InfeasibleError        limits that no plan satisfies
    ├── TimeLimitError         a search that ended before it found a plan or ruled one out
    ├── RequestError           a request that cannot be served, or an output
    │   └── ContextLengthError a prompt and new tokens that the context has no room for
    └── WorkerFailedError      a process or machine of a stage that failed

Every message says what was found, where, what was expected, and what to do. The commands
print it in one line and exit with 1:

    try:
        pipeline = Pipeline.load("strategy.toml")
    except LlmpqError as error:
        print(error)
"""


class LlmpqError(Exception):
    """Base class of all errors that the package raises on purpose."""


class SpecError(LlmpqError):
    """A file does not hold the record that it should."""


class ClusterError(SpecError):
    """A cluster contradicts itself or the machine."""


class MeasurementError(SpecError):
    """Measurements are missing, damaged, or of another model or device."""


class StrategyError(SpecError):
    """A strategy does not fit its model, its cluster or the machine."""


class UnsupportedModelError(LlmpqError):
    """The architecture of a model, or a field of its config, is not implemented."""


class CheckpointError(LlmpqError):
    """A checkpoint's weights or tokenizer are missing, damaged or of another shape."""


class InfeasibleError(LlmpqError):
    """No plan satisfies the limits; the message says what is missing on which device."""


class TimeLimitError(LlmpqError):
    """A search had too little time to find a plan, or to prove that there is none."""


class RequestError(LlmpqError):
    """A prompt or a sampling option cannot be served, or an output cannot be written."""


class ContextLengthError(RequestError):
    """A prompt, with its new tokens, is longer than what a strategy or a model serves."""


class WorkerFailedError(LlmpqError):
    """A process or a machine that runs a stage, or should run one, failed."""
