"""A plan: the layers and precisions of each device, and the micro-batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from llmpq_jax.schema.cluster import check_name
from llmpq_jax.schema.field_types import (
    ByteCount,
    FilePath,
    Loss,
    Predicted,
    ProvenBound,
    ProvenValue,
    Within,
)
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.online_load import OnlinePrediction
from llmpq_jax.schema.precision import (
    Activations,
    Bits,
    HeadBits,
    KvBits,
    Rounding,
    WireBits,
    check_activations,
)
from llmpq_jax.schema.record import first_duplicate, record
from llmpq_jax.schema.solve_request import SolveRequest
from llmpq_jax.schema.workload import MAX_LAYERS, MicroBatch, Workload


@record
class ModelReference:
    """The model that a plan is for.

    Attributes:
        path: Path of the checkpoint folder, relative to the strategy file or absolute.
        architecture: Family of the model, for display.
        num_layers: Number of decoder layers.
        fingerprint: Fingerprint of the model's config and weights; a model with another
            one is refused.
        rounded: Path of the folder of calibrated weights, relative to the strategy file
            or absolute; absent if `precision.rounding` is "nearest".
    """

    path: FilePath
    architecture: str
    num_layers: Annotated[int, Within(least=1, most=MAX_LAYERS)]
    fingerprint: str
    rounded: FilePath | None = None


@record
class PrecisionChoice:
    """Precisions of the whole model.

    Attributes:
        activations: Type of hidden states.
        head_bits: Precision of the output head's matrix.
        kv_bits: Precision of the cache; 16 is the type of hidden states.
        rounding: Rounding method of the weights.
        group_size: Maximum number of weights that share an int4 scale.
        rounds_unquantized: True if matrices of layers that a quantised checkpoint keeps
            at 16 bits or more are rounded to their layer's precision.
    """

    activations: Activations = "bfloat16"
    head_bits: HeadBits = 16
    kv_bits: KvBits = 16
    rounding: Rounding = "nearest"
    group_size: Literal[32, 64, 128] = 128
    rounds_unquantized: bool = False


@record
class Mesh:
    """Equal devices that hold one stage together.

    Attributes:
        devices: Full names of the devices, all on one node.
        tensor: Number of shards of each matrix; equals the number of devices.
    """

    devices: tuple[str, ...]
    tensor: int

    def __post_init__(self) -> None:
        if self.tensor != len(self.devices) or self.tensor < 2:
            msg = f"mesh has {len(self.devices)} devices and tensor = {self.tensor}: expected the same number, 2 or more (one device is `device = …`)"
            raise ValueError(msg)
        if len(set(self.devices)) != len(self.devices):
            msg = f"mesh names a device twice: {list(self.devices)}"
            raise ValueError(msg)


@record
class StagePrediction:
    """Predicted seconds and memory of one stage.

    Attributes:
        prefill_s: Seconds of one prefill micro-batch.
        decode_s: Seconds of one decode step of one micro-batch, mean over the steps.
        memory_bytes: Bytes used on each of the stage's devices.
        allowed_bytes: Bytes that the stage may use on each of them.
        memory: Breakdown of `memory_bytes`; absent in plans written by hand or by an
            older version.
    """

    prefill_s: Predicted
    decode_s: Predicted
    memory_bytes: ByteCount
    allowed_bytes: ByteCount
    memory: MemoryTerms | None = None


@record
class Stage:
    """Consecutive layers on one device, or on one mesh of equal devices.

    Attributes:
        device: Full name of the stage's device; absent if it has a mesh.
        mesh: Devices of a stage that is spread over several; absent if it has one device.
        layers: First layer, and end of the layers, exclusive.
        bits: Precision of each layer, in layer order.
        wire_bits: Precision of the hidden states that the stage sends; at 8, each token
            has a scale.
        predicted: Predicted seconds and memory of the stage.
    """

    device: str | None = None
    mesh: Mesh | None = None
    layers: tuple[int, int]
    bits: tuple[Bits, ...]
    wire_bits: WireBits = 16
    predicted: StagePrediction | None = None

    def __post_init__(self) -> None:
        for name in self.devices:
            check_name("device", name)
        if (self.device is None) == (self.mesh is None):
            msg = f"stage of layers {list(self.layers)} has both or neither of device and mesh: expected exactly one"
            raise ValueError(msg)
        first, end = self.layers
        if not 0 <= first < end:
            msg = f"layers = {[first, end]}: expected [first, end) from 0 up and not empty"
            raise ValueError(msg)
        if len(self.bits) != end - first:
            msg = f"stage of layers {[first, end]} lists {len(self.bits)} bits: expected {end - first}, one per layer"
            raise ValueError(msg)

    @property
    def devices(self) -> tuple[str, ...]:
        """Full names of the stage's devices."""
        if self.mesh is not None:
            return self.mesh.devices
        return (self.device,) if self.device is not None else ()

    @property
    def num_layers(self) -> int:
        """Number of layers of the stage."""
        return len(self.bits)


@record
class Quality:
    """Quality that the plan loses, by the sensitivities that it was made with.

    Attributes:
        omega: Sum of ω over the layers. Rounded up when it is written.
        budget: Maximum Σω of the plan: the requested one, or by default that of a model
            wholly at 8 bits or the smallest that fits; absent without a limit. Rounded up
            when it is written.
        method: Method by which ω was estimated.
        note: Remark on the estimate, for display.
        validation_text: Name of the text that the plan was evaluated on; absent if it was
            not evaluated.
        measured_ppl_increase: Increase of the perplexity on that text, compared with
            16 bits.
        measured_kl: KL divergence from 16 bits on that text, in nats per token.
    """

    omega: Loss
    budget: Loss | None = None
    method: str
    note: str | None = None
    validation_text: str | None = None
    measured_ppl_increase: Predicted | None = None
    measured_kl: Predicted | None = None


@record
class Prediction:
    """Predicted seconds of the whole plan.

    Attributes:
        prefill_s: Seconds until every prompt has its first token.
        decode_s: Seconds from then to the last token.
        latency_s: Seconds of both phases.
        throughput_tokens_per_s: New tokens per second of latency.
        source: Origin of the seconds: "measured", or "roofline" if they were predicted
            from data-sheet figures.
    """

    prefill_s: Predicted
    decode_s: Predicted
    latency_s: Predicted
    throughput_tokens_per_s: Predicted
    source: Literal["measured", "roofline"] = "measured"


@record
class Certificate:
    """Proof of how good the plan is.

    Attributes:
        gap: Relative optimality gap, (objective − bound) / objective; in the file that of
            the two numbers as they are written.
        objective: Objective of the plan, in seconds; plus θ·Σω if θ > 0. Rounded up when
            it is written.
        bound: Lower bound of the objective of every plan that the proof covers. Rounded
            down when it is written.
        covers: Choices that the proof covers.
        solver: Name and version of the solver.
        seconds: Seconds of the search.
    """

    gap: Annotated[float, Within(least=0)]
    objective: ProvenValue
    bound: ProvenBound
    covers: str
    solver: str
    seconds: Predicted

    @model_serializer(mode="wrap")
    def _with_the_gap_written(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        values = handler(self)
        if info.context is not None:
            values["gap"] = relative_gap(values["objective"], values["bound"])
        return values


def relative_gap(value: float, bound: float) -> float:
    """Returns (value − bound) / value: by how much a plan of a value may be improved."""
    return 0.0 if value <= 0 else max(0.0, (value - bound) / value)


@record
class Provenance:
    """Origin of the plan.

    Attributes:
        program: Name and version of the program that wrote the plan.
        command: Command line as it was typed.
        date: ISO date of the plan.
        cluster: Name of the cluster.
        measurements: SHA-256 of the measurements file; of the catalogue of devices if no
            device was measured.
    """

    program: str
    command: str
    date: str
    cluster: str
    measurements: str


@record
class Strategy:
    """A whole strategy file.

    Attributes:
        schema: Version of the file format.
        model: Model that the plan is for.
        workload: Workload that the plan is for; `generate` serves no longer context.
        micro_batch: Micro-batches that the batch is divided into.
        precision: Precisions of the whole model.
        stages: Stages in pipeline order. In the file `[[stage]]`.
        quality: Quality that the plan loses.
        predicted: Predicted seconds of the plan.
        online: Predicted times of requests that arrive at random, if the plan is for them.
        certificate: Proof of how good the plan is.
        provenance: Origin of the plan.
        request: What `llmpq-jax solve` was asked for; absent in plans written by hand.
    """

    schema: Literal[1] = 1
    model: ModelReference
    workload: Workload
    micro_batch: MicroBatch
    precision: PrecisionChoice
    stages: Annotated[tuple[Stage, ...], Field(alias="stage")]
    quality: Quality | None = None
    predicted: Prediction | None = None
    online: OnlinePrediction | None = None
    certificate: Certificate | None = None
    provenance: Provenance | None = None
    request: SolveRequest | None = None

    def __post_init__(self) -> None:
        expected = 0
        for number, stage in enumerate(self.stages):
            first, end = stage.layers
            if first != expected:
                msg = f"stage {number} starts at layer {first}: expected {expected}, where the one before it ends"
                raise ValueError(msg)
            expected = end
        if expected != self.model.num_layers:
            msg = f"the stages end at layer {expected}: expected {self.model.num_layers}, the model's number of layers"
            raise ValueError(msg)
        check_activations(
            self.precision.activations, (*self.bits, self.precision.head_bits)
        )
        if self.stages[-1].wire_bits != 16:
            msg = f"the last stage has wire_bits = {self.stages[-1].wire_bits}: expected none, since it sends tokens"
            raise ValueError(msg)
        twice = first_duplicate(name for stage in self.stages for name in stage.devices)
        if twice is not None:
            msg = f"device {twice!r} is in two stages: expected each device once"
            raise ValueError(msg)

    def received_bits(self, number: int) -> WireBits:
        """Returns the precision of the hidden states that a stage receives."""
        return self.stages[number - 1].wire_bits if number else 16

    @property
    def bits(self) -> tuple[Bits, ...]:
        """Precision of every layer, in layer order."""
        return tuple(bits for stage in self.stages for bits in stage.bits)
