"""Style of all pictures: colours that differ in grey too, and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_jax.files import write_bytes
from llmpq_jax.schema.precision import Bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmpq_jax.stage.message import Phase

INK = "#22303c"
QUIET = "#6b7885"
RULE = "#d5dbe0"

# From dark to light, so that they keep their order in grey.
BITS_COLOURS: dict[Bits, str] = {
    32: "#12263f",
    16: "#1f4e79",
    8: "#5b9fc9",
    4: "#f3b562",
}
BITS_INK: dict[Bits, str] = {32: "white", 16: "white", 8: INK, 4: INK}

# Two shades of each phase, for alternate micro-batches.
PHASE_COLOURS: dict[Phase, tuple[str, str]] = {
    "prefill": ("#2a6f97", "#61a5c2"),
    "decode": ("#ee9b4f", "#f6c28b"),
}


def new_figure(width_in: float, height_in: float) -> Figure:
    """Returns an empty figure that needs no display and does not change pyplot's state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def save_figure(
    figure: Figure, path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a picture reproducibly, in the format of its name's ending.

    A PNG contains the metadata, texts by key; by default there are none.
    """
    import matplotlib as mpl
    from matplotlib.text import Text

    # Names of devices are no formulas, however many dollar signs they have.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    is_svg = path.suffix == ".svg"
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "llmpq-jax", "svg.fonttype": "path"}):
        figure.savefig(
            drawn,
            format=path.suffix.removeprefix("."),
            dpi=150,
            facecolor="white",
            metadata={"Date": None}
            if is_svg
            else {"Software": None, **(metadata or {})},
        )
    write_bytes(path, drawn.getvalue())
