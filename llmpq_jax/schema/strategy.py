"""The plan: which device holds which layers at which bits, and how the batch is cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.precision import (
    Activations,
    Bits,
    HeadBits,
    KvBits,
    Rounding,
    WireBits,
)
from llmpq_jax.schema.record import record
from llmpq_jax.schema.solve_request import SolveRequest
from llmpq_jax.schema.workload import MicroBatch, Workload


@record
class ModelReference:
    """Which model a plan is for.

    Attributes:
        path: Its checkpoint folder, relative to the strategy file or absolute.
        architecture: Its family, for people.
        num_layers: Decoder layers.
        fingerprint: Of its config and its weights' index; another model is refused.
        rounded: Folder of its weights rounded with care, where `precision.rounding` is
            not "nearest"; relative to the strategy file or absolute.
    """

    path: str
    architecture: str
    num_layers: int
    fingerprint: str
    rounded: str | None = None


@record
class PrecisionChoice:
    """Precisions that hold for the whole model.

    Attributes:
        activations: Type of hidden states.
        head_bits: Of the output head's matrix.
        kv_bits: Of the cache; 16 keeps it in the activations' type.
        rounding: How weights are quantised.
        group_size: Weights that share an int4 scale, at most; see `precision`.
    """

    activations: Activations = "bfloat16"
    head_bits: HeadBits = 16
    kv_bits: KvBits = 16
    rounding: Rounding = "nearest"
    group_size: Literal[32, 64, 128] = 128


@record
class Mesh:
    """Equal devices that hold one stage together.

    Attributes:
        devices: Full names, all on one node.
        tensor: How many shards each matrix is cut into; equals the number of devices.
    """

    devices: tuple[str, ...]
    tensor: int

    def __post_init__(self) -> None:
        if self.tensor != len(self.devices) or self.tensor < 2:
            msg = (
                f"mesh has {len(self.devices)} devices and tensor = {self.tensor}: "
                "expected the same number, 2 or more (one device is `device = …`)"
            )
            raise ValueError(msg)
        if len(set(self.devices)) != len(self.devices):
            msg = f"mesh names a device twice: {list(self.devices)}"
            raise ValueError(msg)


@record
class StagePrediction:
    """What the planner expects of one stage.

    Attributes:
        prefill_s: Seconds of one prefill micro-batch.
        decode_s: Seconds of one decode step of one micro-batch, mean over the steps.
        memory_bytes: Bytes used on each of its devices.
        allowed_bytes: Bytes it may use there.
        memory: `memory_bytes` by part; absent where a person or an older version wrote
            the plan.
    """

    prefill_s: float
    decode_s: float
    memory_bytes: int
    allowed_bytes: int
    memory: MemoryTerms | None = None


@record
class Stage:
    """A run of consecutive layers on one device, or on one mesh of equal devices.

    Attributes:
        device: Full name of its device; absent where `mesh` is there.
        mesh: Its devices where the stage is spread over several.
        layers: From, up to but without.
        bits: One precision per layer, in layer order.
        wire_bits: Of the hidden states it hands on; at 8 each token has a scale.
        predicted: What the planner expects of it.
    """

    device: str | None = None
    mesh: Mesh | None = None
    layers: tuple[int, int]
    bits: tuple[Bits, ...]
    wire_bits: WireBits = 16
    predicted: StagePrediction | None = None

    def __post_init__(self) -> None:
        if (self.device is None) == (self.mesh is None):
            msg = f"stage of layers {list(self.layers)} has both or neither of device and mesh: expected exactly one"
            raise ValueError(msg)
        first, end = self.layers
        if not 0 <= first < end:
            msg = f"layers = {[first, end]}: expected [from, up to but without], from 0 up and not empty"
            raise ValueError(msg)
        if len(self.bits) != end - first:
            msg = f"stage of layers {[first, end]} lists {len(self.bits)} bits: expected {end - first}, one per layer"
            raise ValueError(msg)

    @property
    def devices(self) -> tuple[str, ...]:
        """Full names of its devices."""
        if self.mesh is not None:
            return self.mesh.devices
        return (self.device,) if self.device is not None else ()

    @property
    def num_layers(self) -> int:
        """How many layers it holds."""
        return len(self.bits)


@record
class Quality:
    """What the plan costs in quality, by the sensitivities it was made with.

    Attributes:
        omega: Σω over the layers.
        budget: The Σω it was held under: what was asked for, or by default that of a
            model wholly at 8 bits, or the least that fits; absent where there was no
            limit.
        method: Where ω comes from.
        note: What a person should know of it.
        validation_text: Name of the text it was judged on before it was trusted; absent where
            it was not.
        measured_ppl_increase: Measured there, beside 16 bits.
        measured_kl: Likewise, KL divergence from 16 bits in nats per token.
    """

    omega: float
    budget: float | None = None
    method: str
    note: str | None = None
    validation_text: str | None = None
    measured_ppl_increase: float | None = None
    measured_kl: float | None = None


@record
class Prediction:
    """What the planner expects of the whole plan.

    Attributes:
        prefill_s: Until every prompt has its first token.
        decode_s: From there to the last token.
        latency_s: Both together.
        throughput_tokens_per_s: New tokens over latency.
        source: Of the seconds behind it: "measured", or "roofline" where no device was
            measured and makers' figures stand in.
    """

    prefill_s: float
    decode_s: float
    latency_s: float
    throughput_tokens_per_s: float
    source: Literal["measured", "roofline"] = "measured"


@record
class Certificate:
    """What is proven of the plan.

    Attributes:
        gap: (objective − bound) / objective.
        objective: What was minimised, of this plan: seconds, plus θ·Σω where θ > 0.
        bound: No plan among those covered has a smaller objective.
        covers: Over which choices the proof holds.
        solver: Name and version.
        seconds: Spent on the search.
    """

    gap: float
    objective: float
    bound: float
    covers: str
    solver: str
    seconds: float


@record
class Provenance:
    """How the plan came to be.

    Attributes:
        program: Name and version that wrote it.
        command: As typed.
        date: ISO date.
        cluster: Name of the cluster.
        measurements: SHA-256 of the measurements file, or of the catalogue of devices
            where none was measured.
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
        model: What it is for.
        workload: What it was planned for; `generate` serves no longer context.
        micro_batch: How the batch is cut.
        precision: What holds for the whole model.
        stages: In pipeline order; in the file `[[stage]]`.
        quality: Its cost in quality.
        predicted: Its cost in time.
        certificate: How good it is proven to be.
        provenance: How it came to be.
        request: What `llmpq-jax solve` was asked for; absent where the plan was written
            by hand.
    """

    schema: Literal[1] = 1
    model: ModelReference
    workload: Workload
    micro_batch: MicroBatch
    precision: PrecisionChoice
    stages: Annotated[tuple[Stage, ...], Field(alias="stage")]
    quality: Quality | None = None
    predicted: Prediction | None = None
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
        if self.stages[-1].wire_bits != 16:
            msg = f"the last stage has wire_bits = {self.stages[-1].wire_bits}: expected none, since it hands on tokens"
            raise ValueError(msg)
        names = [name for stage in self.stages for name in stage.devices]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            msg = f"device {doubles[0]!r} serves two stages: expected each device once"
            raise ValueError(msg)

    def received_bits(self, number: int) -> WireBits:
        """Returns the precision of the hidden states that a stage is handed."""
        return self.stages[number - 1].wire_bits if number else 16

    @property
    def bits(self) -> tuple[Bits, ...]:
        """Precision of every layer, in layer order."""
        return tuple(bits for stage in self.stages for bits in stage.bits)
