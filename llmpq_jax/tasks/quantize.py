"""Writes the weights that a strategy serves as a checkpoint, with progress on stderr."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.open_store import open_store
from llmpq_jax.checkpoint.writer import WrittenModule, write_served_weights
from llmpq_jax.files import new_folder
from llmpq_jax.report.console import progress_bar
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from llmpq_jax.schema.strategy import Strategy

STRATEGY = "strategy.toml"
# Files that are copied, besides weights and config.json.
_COPIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenCheckpoint:
    """A checkpoint that was written.

    Attributes:
        strategy: Strategy that serves the new folder, its path as seen from here.
        parts: Embedding, layers and head, in model order.
    """

    strategy: Strategy
    parts: tuple[WrittenModule, ...]

    @property
    def bytes_before(self) -> int:
        """Bytes of all tensors that it was made from."""
        return sum(part.bytes_before for part in self.parts)

    @property
    def bytes_after(self) -> int:
        """Bytes of all its tensors."""
        return sum(part.bytes_after for part in self.parts)


def write_checkpoint(
    strategy_path: Path, out: Path, *, overwrite: bool = False
) -> WrittenCheckpoint:
    """Writes a checkpoint of the weights that a strategy would load, and its strategy.

    Raises:
        RequestError: The folder exists already and is not to be replaced, or was not
            written by this function.
        CheckpointError, StrategyError, UnsupportedModelError: The strategy cannot be
            served from its checkpoint, or that cannot be written.
    """
    strategy = read_strategy(strategy_path)
    before = Path(strategy.model.path)
    rounded = strategy.model.rounded
    kept = [strategy_path, before, *([] if rounded is None else [Path(rounded)])]
    marks = ("config.json", STRATEGY)
    with new_folder(
        out, what="checkpoint", replaces=overwrite, marks=marks, kept=kept
    ) as folder:
        store = open_store(strategy)
        num_parts = strategy.model.num_layers + 2
        with progress_bar("quantising", num_parts, unit="parts") as advance:
            parts = write_served_weights(
                store, strategy, folder, on_module=lambda: advance(1)
            )
        for pattern in _COPIED:
            for path in before.glob(pattern):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        served = _strategy_of(strategy, folder)
        write_strategy(folder / STRATEGY, served)
        # Headers alone: that the folder is the model the strategy asks for.
        open_store(served)
    moved = replace(served.model, path=str(out))
    return WrittenCheckpoint(strategy=replace(served, model=moved), parts=parts)


def _strategy_of(strategy: Strategy, folder: Path) -> Strategy:
    """Returns the strategy that serves the written folder."""
    model = replace(
        strategy.model,
        # Relative, so that the file names it relative to itself.
        path=os.path.relpath(folder),
        fingerprint=model_fingerprint(folder),
        rounded=None,
    )
    precision = replace(strategy.precision, rounding="nearest")
    return replace(strategy, model=model, precision=precision)
