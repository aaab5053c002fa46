"""Measured seconds and workspace of a model's layers, on each kind of device."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from llmpq_jax.schema.field_types import (
    MAX_SECONDS,
    ByteCount,
    Count,
    DeviceCount,
    Ratio,
    Seconds,
    Within,
)
from llmpq_jax.schema.precision import Activations, Bits, HeadBits, KvBits
from llmpq_jax.schema.record import record

Phase = Literal["prefill", "decode"]
VocabularyLayer = Literal["embedding", "head"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")


@record
class MeasuredKind:
    """How one kind of device was measured.

    Attributes:
        kind: Name of the kind, as in the cluster file.
        source: Origin of the kind's rows: "measured", or "roofline" if they were
            predicted from data-sheet figures.
        device: Name that JAX gives the measured device; for a CPU its model and cores.
        driver: Version of the device's driver and compiler, as JAX reports it; empty in
            older files.
        platform: Backend as JAX names it.
        jax_version: Version of JAX that measured.
        kernel_path: Kernels that were used: "native-avx512", "pallas-sm80", "xla-sm75",
            "xla", …
        date: ISO date of the measurement.
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

        Native kernels read each row up to its own length. XLA reads the whole cache and
        masks what is beyond.
        """
        is_native = self.kernel_path.startswith("native-")
        return not (is_native and activations in ("float32", "bfloat16"))


@record
class LayerTime:
    """One pass through one decoder layer.

    Attributes:
        kind: Kind of device.
        phase: Phase of the pass: "prefill" of `length` tokens per row, or "decode" of one
            token per row with `length` cached ones.
        bits: Precision of the layer's matrices.
        tensor: Number of devices that the layer is spread over.
        kv_bits: Precision of the cache.
        held_out: True if the row is used to evaluate predictions, not to fit them.
        batch: Number of rows.
        length: Tokens per row, see `phase`.
        slots: Length of the cache in tokens, for a prefill in chunks, which attends to
            all of it; else absent.
        seconds: Median of the measured seconds.
        spread: Half the distance between the quartiles, relative to the median.
        workspace_bytes: Temporary memory of the compiled layer.
    """

    kind: str
    phase: Phase
    bits: Bits
    tensor: DeviceCount = 1
    kv_bits: KvBits = 16
    held_out: bool = False
    batch: Count
    length: Count
    slots: Count | None = None
    seconds: Seconds
    spread: Ratio
    workspace_bytes: ByteCount


@record
class VocabularyLayerTime:
    """One pass through the embedding, or through the head with its norm and sampling.

    Attributes:
        kind: Kind of device.
        part: Vocabulary layer that was measured.
        bits: Precision of the head's matrix; 16 for the embedding.
        rows: Number of tokens embedded, or of rows whose next token is sampled.
        seconds: Median of the measured seconds.
        spread: Half the distance between the quartiles, relative to the median.
        workspace_bytes: Temporary memory of the compiled program.
    """

    kind: str
    part: VocabularyLayer
    bits: HeadBits = 16
    rows: Count
    seconds: Seconds
    spread: Ratio
    workspace_bytes: ByteCount


@record
class LinkTime:
    """One transfer between two devices.

    Attributes:
        source_kind: Kind of the sending device.
        target_kind: Kind of the receiving device.
        source_node: Node of the sending device; absent for a transfer within a node.
        target_node: Node of the receiving device; absent for a transfer within a node.
        num_bytes: Bytes of the transfer.
        seconds: Median of the measured seconds.
        spread: Half the distance between the quartiles, relative to the median.
    """

    source_kind: str
    target_kind: str
    source_node: str | None = None
    target_node: str | None = None
    num_bytes: ByteCount
    seconds: Seconds
    spread: Ratio


@record
class DispatchTime:
    """Dispatch overhead of one stage call, in addition to the layers that it runs.

    A stage waits for others between two calls, and its device must wake up again.

    Attributes:
        kind: Kind of device.
        back_to_back_seconds: Part of `seconds` that remains if calls follow one another
            without a pause. The seconds of layers do not include it, unless it is absent.
        seconds: Median of the measured seconds.
        spread: Half the distance between the quartiles, relative to the median.
    """

    kind: str
    back_to_back_seconds: Annotated[float, Within(least=0, most=MAX_SECONDS)] = 0.0
    seconds: Seconds
    spread: Ratio


@record
class SharedCapacity:
    """Work that a node's devices do at the same time.

    Attributes:
        node: Name of the node in the cluster file.
        phase: Phase of the work; absent for both.
        num_devices: Number of devices that worked at the same time; absent for all.
        capacity: Work that they did together, in devices' worth, as `shared_capacity` in
            the cluster file.
    """

    node: str
    phase: Phase | None = None
    num_devices: Annotated[DeviceCount, Within(least=2)] | None = None
    capacity: Annotated[float, Within(least=1e-6, most=1e6)]


@record
class Drift:
    """How steady a device was during the measurement, by a matrix product timed repeatedly.

    Attributes:
        kind: Kind of device.
        slowest: Longest time of the product, relative to its first.
        fastest: Shortest time of the product, relative to its first.
    """

    kind: str
    slowest: Annotated[float, Within(least=1, most=1e9)]
    fastest: Annotated[float, Within(least=1e-9, most=1)]


@record
class Accuracy:
    """Error of predicted layer seconds at sizes that were held out of the fit.

    Of several rows for one layer the last one counts: it is of all measurements.

    Attributes:
        kind: Kind of device.
        phase: Phase of the layer.
        bits: Precision of the layer's matrices.
        tensor: Number of devices that the layer is spread over.
        kv_bits: Precision of the cache.
        num_fitted: Number of rows that predictions were fitted to.
        num_held_out: Number of held-out rows that were predicted.
        mean_error: Mean of |predicted / measured − 1| over the held-out rows.
        largest_error: Largest of these errors.
        spread: Mean spread of the held-out rows, a lower bound for the error that can be
            expected.
    """

    kind: str
    phase: Phase
    bits: Bits
    tensor: DeviceCount = 1
    kv_bits: KvBits = 16
    num_fitted: Count
    num_held_out: Count
    mean_error: Ratio
    largest_error: Ratio
    spread: Ratio


@record
class Observed:
    """Measured and predicted seconds of a recorded run, of one kind in one phase.

    Predictions of the kind in this phase are multiplied by `measured_s` over
    `predicted_s`, each summed over all such rows. To undo the correction by a run, delete
    its rows.

    Attributes:
        kind: Kind of device.
        phase: Phase of the run.
        predicted_s: Seconds that the measured rows predict for all that the kind's stages
            computed in the phase.
        measured_s: Seconds that the stages took, each as if alone on its machine.
        num_passes: Number of passes of micro-batches through a stage; in decode, one per
            step.
        run: File name of the run's record.
        record: SHA-256 of the record, so that no run counts twice.
        strategy: Fingerprint of the strategy that was run.
        date: ISO date and time of the run.
    """

    kind: str
    phase: Phase
    predicted_s: Seconds
    measured_s: Seconds
    num_passes: Annotated[int, Within(least=1, most=1 << 50)]
    run: str
    record: str
    strategy: str
    date: str


Row: TypeAlias = (
    MeasuredKind
    | LayerTime
    | VocabularyLayerTime
    | DispatchTime
    | LinkTime
    | SharedCapacity
    | Accuracy
    | Drift
    | Observed
)


@record
class Measurements:
    """A whole measurements file.

    Attributes:
        schema: Version of the file format.
        model: Path or name of the model, for display.
        layer_shape: Fingerprint of the layer's shapes; a model with another one cannot be
            planned with these measurements.
        activations: Type of hidden states.
        group_size: Number of weights that share an int4 scale.
        kinds: Kinds of device that were measured. In the file `[[kind]]`.
        layers: Decoder layers. In the file `[[layer]]`.
        vocabulary_layers: Embedding and head. In the file `[[vocabulary_layer]]`.
        dispatch: Dispatch overheads. In the file `[[dispatch]]`; 0 for a kind without.
        links: Transfers between devices. In the file `[[link]]`.
        shared: Capacities of nodes whose devices share a processor. In the file
            `[[shared]]`.
        accuracy: Errors of predictions at held-out sizes. In the file `[[accuracy]]`.
        drift: Steadiness of devices, a row per run of the profiler. In the file
            `[[drift]]`.
        observed: Recorded runs that calibrate the table. In the file `[[observed]]`.
    """

    schema: Literal[1] = 1
    model: str
    layer_shape: str
    activations: Activations
    group_size: Count
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
