from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmpq_jax.errors import CheckpointError
from llmpq_jax.sensitivity.losses import Losses
from llmpq_jax.tasks import validation
from llmpq_jax.tasks.validation import PlanEvaluator


@pytest.mark.parametrize("nll", [np.nan, np.inf, 1e4])
def test_a_loss_that_has_no_perplexity_is_refused(
    monkeypatch: pytest.MonkeyPatch, nll: float
) -> None:
    losses = Losses(
        nll=np.full((1, 2), nll, np.float32),
        kl=np.zeros((1, 2), np.float32),
        agrees=np.ones((1, 2), np.bool_),
    )
    monkeypatch.setattr(validation, "losses_of", lambda *_, **__: [losses])
    model: Any = SimpleNamespace(num_layers=2)
    text: Any = None
    evaluator = PlanEvaluator(model, text, folder=Path())
    with pytest.raises(
        CheckpointError, match=r"loss on the validation text is .*: expected a number"
    ):
        evaluator.perplexity()
