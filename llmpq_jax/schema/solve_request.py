"""What `llmpq-jax solve` was asked for, as a strategy's `[request]` keeps it.

The model and the workload are not repeated here: the strategy has them.
"""

from __future__ import annotations

from dataclasses import replace

from llmpq_jax.schema.field_types import MAX_SECONDS, Count, DeviceCount, FilePath
from llmpq_jax.schema.online_load import OnlineLoad
from llmpq_jax.schema.precision import USUAL_BITS, Bits, HeadBits, KvBits, WireBits
from llmpq_jax.schema.record import record


@record
class Sources:
    """Files that a plan is made from; paths are relative to the strategy file or absolute.

    Attributes:
        cluster: Path of the cluster file.
        measurements: Path of the measurements; absent where `roofline` is true.
        roofline: True if seconds come from data-sheet figures instead of measurements.
        sensitivity: Path of the sensitivities; by default the variance of each layer's
            weights.
    """

    cluster: FilePath
    measurements: FilePath | None = None
    roofline: bool = False
    sensitivity: FilePath | None = None

    def __post_init__(self) -> None:
        if self.roofline == (self.measurements is not None):
            msg = "give either --measurements FILE, which `llmpq-jax profile` writes, or --roofline"
            raise ValueError(msg)


@record
class LayerPin:
    """Layers that are placed on one device, which then serves alone, not in a mesh.

    Attributes:
        first: First of the layers.
        end: End of the layers, exclusive.
        device: Full name of the device.
    """

    first: int
    end: int
    device: str

    def __str__(self) -> str:
        return f"layers {self.first}:{self.end} on {self.device}"


@record
class BitsPin:
    """Layers that have one given precision.

    Attributes:
        first: First of the layers.
        end: End of the layers, exclusive.
        bits: Precision of each of them.
    """

    first: int
    end: int
    bits: Bits

    def __str__(self) -> str:
        return f"layers {self.first}:{self.end} at {self.bits} bits"


@record
class PlannerChoices:
    """What the planner may choose from, and what is fixed beforehand.

    Attributes:
        bits: Precisions that a layer may have, if the checkpoint has them.
        head_bits: Precisions that the output head may have.
        kv_bits: Precisions that the key-value cache may have, where they were measured.
        wire_bits: Precisions that hidden states between stages may have.
        tensor: Numbers of devices that may hold one stage, where they were measured;
            absent for all that were measured, and for 1 with `roofline`.
        prefill_micro_batch: Prompts of a prefill micro-batch; absent to let the planner
            choose.
        decode_micro_batch: Sequences of a decode micro-batch; absent to let the planner
            choose.
        pin_layers: Layers that are placed on a given device.
        pin_bits: Layers that have a given precision.
        use: Full names of devices that must hold a stage.
        leave_idle: Full names of devices that must not hold a stage.
        round_unquantized: True to round matrices of layers that a quantised checkpoint
            keeps at 16 bits or more.
    """

    bits: tuple[Bits, ...] = USUAL_BITS
    head_bits: tuple[HeadBits, ...] = (16,)
    kv_bits: tuple[KvBits, ...] = (16,)
    wire_bits: tuple[WireBits, ...] = (16,)
    tensor: tuple[DeviceCount, ...] = ()
    prefill_micro_batch: Count | None = None
    decode_micro_batch: Count | None = None
    pin_layers: tuple[LayerPin, ...] = ()
    pin_bits: tuple[BitsPin, ...] = ()
    use: tuple[str, ...] = ()
    leave_idle: tuple[str, ...] = ()
    round_unquantized: bool = False

    def __post_init__(self) -> None:
        for name in self.use:
            if name in self.leave_idle:
                msg = f"--use {name} and --leave-idle {name}: expected one or the other"
                raise ValueError(msg)


@record
class QualityLimits:
    """How much quality a plan may lose.

    Attributes:
        omega_budget: Maximum Σω over the layers; absent without another limit, that of
            a model wholly at 8 bits.
        theta: Seconds that a unit of Σω is worth in the objective.
        max_ppl_increase: Maximum increase of the perplexity on the validation text.
        max_kl: Maximum mean KL divergence from 16 bits on the validation text, in nats
            per token.
        validation_text: Path of a text that the sensitivities were not found on,
            relative to the strategy file or absolute.
        window: Tokens of each window of the validation text.
        validation_tokens: Tokens read of the validation text; absent for all.
    """

    omega_budget: float | None = None
    theta: float = 0.0
    max_ppl_increase: float | None = None
    max_kl: float | None = None
    validation_text: FilePath | None = None
    window: Count = 512
    validation_tokens: Count | None = None

    def __post_init__(self) -> None:
        limits = {
            "--omega-budget": self.omega_budget,
            "--max-ppl-increase": self.max_ppl_increase,
            "--max-kl": self.max_kl,
        }
        given = [name for name, limit in limits.items() if limit is not None]
        if len(given) > 1:
            *others, last = limits
            msg = f"expected one of {', '.join(others)} and {last}, found {' and '.join(given)}"
            raise ValueError(msg)
        is_measured = bool(given) and given != ["--omega-budget"]
        if is_measured != (self.validation_text is not None):
            msg = "expected --validation-text with --max-ppl-increase or --max-kl, and only there"
            raise ValueError(msg)

    @property
    def is_measured(self) -> bool:
        """Whether the limit is measured on a validation text."""
        return self.validation_text is not None

    def with_budget(self, omega_budget: float | None) -> QualityLimits:
        """Returns the limits with a budget for Σω in place of any other limit."""
        return replace(
            self,
            omega_budget=omega_budget,
            max_ppl_increase=None,
            max_kl=None,
            validation_text=None,
        )


@record
class SearchLimits:
    """When the search may end.

    Attributes:
        time_limit_s: Seconds after which the best plan found so far is taken.
        gap: Relative gap at which a plan counts as optimal.
    """

    time_limit_s: float = 60.0
    gap: float = 1e-4

    def __post_init__(self) -> None:
        # Whatever is not a number is in no range.
        if not 0 <= self.time_limit_s <= MAX_SECONDS:
            msg = f"a time limit of {self.time_limit_s} s: expected 0 to {MAX_SECONDS:g} s"
            raise ValueError(msg)
        if not 0 <= self.gap <= 1:
            msg = f"a gap of {self.gap}: expected 0 to 1"
            raise ValueError(msg)


@record
class SolveRequest:
    """What `llmpq-jax solve` was asked for.

    Attributes:
        sources: Files that the plan was made from.
        choices: What the planner could choose from.
        quality: How much quality the plan may lose.
        search: When the search could end.
        online: Requests that arrive at random, if the plan is for them; absent where it
            is for a batch.
    """

    sources: Sources
    choices: PlannerChoices = PlannerChoices()
    quality: QualityLimits = QualityLimits()
    search: SearchLimits = SearchLimits()
    online: OnlineLoad | None = None

    def __post_init__(self) -> None:
        if self.online is not None:
            _check_online(self.choices, self.quality)
        wire_bits = self.choices.wire_bits
        if self.quality.is_measured and wire_bits != (16,):
            msg = f"--wire-bits {' or '.join(map(str, wire_bits))} with --validation-text, which measures weights and cache alone: expected --wire-bits 16 there, or --omega-budget instead of a measured limit"
            raise ValueError(msg)


def _check_online(choices: PlannerChoices, quality: QualityLimits) -> None:
    """Refuses what has no meaning for requests that arrive at random."""
    if choices.prefill_micro_batch not in (None, 1):
        msg = f"--prefill-micro-batch {choices.prefill_micro_batch} with --arrivals: expected 1, since prompts that arrive at random are computed one by one"
        raise ValueError(msg)
    if quality.theta > 0:
        msg = "--theta with --arrivals, where plans are compared by the time of a request: expected --omega-budget or a measured limit instead"
        raise ValueError(msg)
