"""Definition of the experiment, read from the committed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmpq_jax.schema.record import record
from llmpq_jax.schema.toml import read_record
from llmpq_jax.schema.workload import Workload
from tools.benchmarks.models import CONFIGS, random_model
from tools.generated import ROOT

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "experiments"


@record
class Experiment:
    """Clusters, seeds and lengths.

    Attributes:
        model: Name of a model of `tools.benchmarks.models`, with random weights.
        prompt_seed: Seed of the prompts, which are random tokens.
        batch: Number of prompts served together.
        prompt_length: Number of tokens of each prompt.
        new_tokens: Number of tokens generated for each prompt, whatever they are.
        runs: Number of runs that count, of which the median is taken.
        warm_ups: Number of runs before these, which do not count.
        clusters: Names of the folders in `clusters/`.
        ablated: Names of the clusters on which ablations are measured too.
        gap: Relative gap at which the search for a joint plan stops.
        time_limit_s: Time limit of the search for each joint plan.
    """

    model: str
    prompt_seed: int
    batch: int
    prompt_length: int
    new_tokens: int
    runs: int
    warm_ups: int
    clusters: tuple[str, ...]
    ablated: tuple[str, ...]
    gap: float
    time_limit_s: float

    @property
    def workload(self) -> Workload:
        """Workload that is planned for."""
        return Workload(
            batch=self.batch,
            prompt_length=self.prompt_length,
            new_tokens=self.new_tokens,
        )

    @property
    def model_path(self) -> Path:
        """Folder of the checkpoint, made on first use."""
        return random_model(self.model, ROOT / "build" / "models")

    def prompts(self) -> np.ndarray:
        """Returns the tokens of all prompts, [batch, prompt_length]."""
        generator = np.random.default_rng(self.prompt_seed)
        vocabulary = CONFIGS[self.model]["vocab_size"]
        return generator.integers(3, vocabulary, (self.batch, self.prompt_length))

    def cluster_folder(self, name: str) -> Path:
        """Returns the folder of a cluster's committed files."""
        return HERE / "clusters" / name


def read_experiment() -> Experiment:
    """Reads the committed file."""
    return read_record(Experiment, HERE / "experiment.toml", what="experiment")
