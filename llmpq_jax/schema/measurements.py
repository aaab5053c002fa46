"""What was measured: seconds and workspace of a layer, on each kind of device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.schema.precision import Activations, Bits, HeadBits, KvBits
from llmpq_jax.schema.record import record

Phase = Literal["prefill", "decode"]
VocabularyLayer = Literal["embedding", "head"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")
Count = Annotated[int, Field(ge=1)]
ByteCount = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@record
class MeasuredKind:
    """How one kind of device was measured.

    Attributes:
        kind: As the cluster file has it.
        source: "measured", or "roofline" where its rows were foretold from the maker's
            figures; a plan says which it was made of.
        device: What JAX calls the device it ran on; of a CPU its maker's name and cores.
        driver: Of the device and its compiler, as JAX has it; empty in older files.
        platform: JAX's backend.
        jax_version: Of the run.
        kernel_path: Which kernels served: "native-avx512", "pallas-sm80", "xla-sm75", "xla", …
        date: ISO date of the run.
    """

    kind: str
    source: Literal["measured", "roofline"] = "measured"
    device: str
    driver: str = ""
    platform: str
    jax_version: str
    kernel_path: str
    date: str

    def reads_whole_cache(self, activations: Activations) -> bool:
        """Whether a decode step takes as long with an empty cache as with a full one.

        Native kernels end at each row's own length; XLA masks the slots behind it, but
        reads them.
        """
        is_native = self.kernel_path.startswith("native-")
        return not (is_native and activations in ("float32", "bfloat16"))


@record
class LayerTime:
    """One decoder layer, once through.

    Attributes:
        kind: Kind of device.
        phase: "prefill" runs `length` tokens of each row; "decode" one token of each
            row against `length` cached ones.
        bits: Of the layer's matrices.
        tensor: Devices the layer is spread over.
        kv_bits: Of the cache.
        held_out: Whether predictions are judged by this row and not made of it.
        batch: Rows.
        length: Tokens, see `phase`.
        slots: Of the cache; said of a prefill in chunks, which looks at all of them.
        seconds: Median.
        spread: Half the distance between the quartiles, over the median.
        workspace_bytes: Temporary memory of the compiled layer.
    """

    kind: str
    phase: Phase
    bits: Bits
    tensor: Count = 1
    kv_bits: KvBits = 16
    held_out: bool = False
    batch: Count
    length: Count
    slots: Count | None = None
    seconds: Seconds
    spread: Spread
    workspace_bytes: ByteCount


@record
class VocabularyLayerTime:
    """The embedding or the head (with its norm and sampling), once through.

    Attributes:
        kind: Kind of device.
        part: Which end of the model.
        bits: Of the head's matrix; 16 for the embedding.
        rows: Tokens embedded, or rows whose next token is chosen.
        seconds: Median.
        spread: As for a layer.
        workspace_bytes: Temporary memory.
    """

    kind: str
    part: VocabularyLayer
    bits: HeadBits = 16
    rows: Count
    seconds: Seconds
    spread: Spread
    workspace_bytes: ByteCount


@record
class LinkTime:
    """One transfer between two devices.

    Attributes:
        source_kind: Kind it left.
        target_kind: Kind it reached.
        source_node: Node it left, where it went to another; absent within a node.
        target_node: Node it reached, likewise.
        num_bytes: Sent.
        seconds: Median.
        spread: As for a layer.
    """

    source_kind: str
    target_kind: str
    source_node: str | None = None
    target_node: str | None = None
    num_bytes: ByteCount
    seconds: Seconds
    spread: Spread


@record
class DispatchTime:
    """What a stage costs by itself on each visit, beside the layers and ends it holds.

    A stage waits for others between two visits, and its device must wake up again.

    Attributes:
        kind: Kind of device.
        back_to_back_seconds: The part of `seconds` that remains where visits follow one another at
            once. It is not in the seconds of layers; where it is absent, they carry it.
        seconds: Median.
        spread: As for a layer.
    """

    kind: str
    back_to_back_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seconds: Seconds
    spread: Spread


@record
class SharedCapacity:
    """How much work a node's devices do together.

    Attributes:
        node: Its name in the cluster file.
        phase: In which phase; absent means both.
        num_devices: So many of them were at work; absent means all.
        capacity: Devices' worth of work done at once, see `cluster.Node`.
    """

    node: str
    phase: Phase | None = None
    num_devices: Annotated[int, Field(ge=2)] | None = None
    capacity: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@record
class Drift:
    """How steady a device was while it was measured, by a product timed now and then.

    Attributes:
        kind: Kind of device.
        slowest: The product's longest time over its first.
        fastest: Its shortest time over its first.
    """

    kind: str
    slowest: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    fastest: Annotated[float, Field(gt=0, le=1)]


@record
class Accuracy:
    """How well a layer's seconds are foretold at sizes that were left out.

    Of several rows of one layer the last counts: it knows all that was measured.

    Attributes:
        kind: Kind of device.
        phase: Of the layer.
        bits: Of the layer's matrices.
        tensor: Devices the layer is spread over.
        kv_bits: Of the cache.
        num_fitted: Rows that predictions were made of.
        num_held_out: Rows that were foretold without them.
        mean_error: Mean over those of |foretold / measured − 1|.
        largest_error: The largest.
        spread: Mean over the same rows of their own spread, which no prediction can be
            expected to beat.
    """

    kind: str
    phase: Phase
    bits: Bits
    tensor: Count = 1
    kv_bits: KvBits = 16
    num_fitted: Count
    num_held_out: Count
    mean_error: Spread
    largest_error: Spread
    spread: Spread


@record
class Observed:
    """What a run took of a kind of device in one phase, beside what its rows foretell.

    Predictions of the kind in this phase are multiplied by `measured_s` over
    `predicted_s`, each summed over all such rows. To forget a run, delete its rows.

    Attributes:
        kind: Kind of device.
        phase: Which.
        predicted_s: Of all that its stages did in the phase, at the sizes that were run,
            by the rows measured alone.
        measured_s: What they took, each as if alone on its machine.
        num_passes: Micro-batches that passed through a stage, in decode steps of them.
        run: File name of the run's record.
        record: SHA-256 of it, so that no run counts twice.
        strategy: Fingerprint of what was run.
        date: When it was.
    """

    kind: str
    phase: Phase
    predicted_s: Seconds
    measured_s: Seconds
    num_passes: Count
    run: str
    record: str
    strategy: str
    date: str


@record
class Measurements:
    """A whole measurements file.

    Attributes:
        schema: Version of the file format.
        model: Path or name of the model, for people.
        layer_shape: Fingerprint of the layer's shapes; planning another is refused.
        activations: Type of the activations measured.
        group_size: Of int4 groups.
        kinds: In the file `[[kind]]`.
        layers: In the file `[[layer]]`.
        vocabulary_layers: In the file `[[vocabulary_layer]]`.
        dispatch: In the file `[[dispatch]]`; a kind without one is taken to cost nothing.
        links: In the file `[[link]]`.
        shared: In the file `[[shared]]`.
        accuracy: In the file `[[accuracy]]`.
        drift: In the file `[[drift]]`, a row for each run of the profiler.
        observed: In the file `[[observed]]`: runs of the engine that were folded in.
    """

    schema: Literal[1] = 1
    model: str
    layer_shape: str
    activations: Activations
    group_size: int
    kinds: Annotated[tuple[MeasuredKind, ...], Field(alias="kind")]
    layers: Annotated[tuple[LayerTime, ...], Field(alias="layer")]
    vocabulary_layers: Annotated[
        tuple[VocabularyLayerTime, ...], Field(alias="vocabulary_layer")
    ]
    dispatch: Annotated[tuple[DispatchTime, ...], Field(alias="dispatch")] = ()
    links: Annotated[tuple[LinkTime, ...], Field(alias="link")] = ()
    shared: tuple[SharedCapacity, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    drift: tuple[Drift, ...] = ()
    observed: tuple[Observed, ...] = ()
