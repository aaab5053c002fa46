"""Makes a plan by hand: the same cut, every layer at 8 bits, and runs both."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.record_files import read_strategy, write_strategy

PROMPT = "def read_lines(path):"

solved = read_strategy(Path("strategies/tiny-four-cpu/strategy.toml"))
edited = replace(
    solved,
    stages=tuple(
        # What was predicted and proven does not hold for an edited plan.
        replace(stage, bits=(8,) * stage.num_layers, predicted=None)
        for stage in solved.stages
    ),
    quality=None,
    predicted=None,
    certificate=None,
)
with TemporaryDirectory() as folder:
    path = Path(folder) / "edited.toml"
    write_strategy(path, edited)
    for name, strategy in (("solved", solved), ("edited", path)):
        with Pipeline.load(strategy) as pipeline:
            (completion,) = pipeline.generate([PROMPT], max_new_tokens=24)
        print(f"── {name}: {completion.text!r}")
