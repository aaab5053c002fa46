"""The training loop: Muon for matrices, Adam for the rest, resumable to the step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import serialization
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax import contrib

from tools.tiny_lm.network import Params, init_params, token_losses


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Parameters of the training, which determine its result together with the corpus.

    Attributes:
        step_tokens: Tokens per step, whatever the length of a window.
        short_tokens: Length of a window for most of training, for cheap attention.
        long_tokens: Length of a window at the end, so that the model can use it.
        long_from: Fraction of the steps after which windows are long.
        library_share: Fraction of the windows from library modules; the rest are tests.
        num_steps: Number of steps; the learning rate falls linearly to zero over them.
        warmup_steps: Number of steps over which the learning rate first rises.
        matrix_rate: Peak learning rate of Muon.
        other_rate: Peak learning rate of Adam (embedding, head, norms).
        seed: Seed of the initial weights and of the order of windows.
    """

    step_tokens: int = 2048
    short_tokens: int = 256
    long_tokens: int = 512
    long_from: float = 0.8
    library_share: float = 0.75
    num_steps: int = 1200
    warmup_steps: int = 60
    matrix_rate: float = 0.02
    other_rate: float = 4e-3
    seed: int = 20261123

    def window_tokens(self, step: int) -> int:
        """Returns the length of a training window at a step."""
        is_long = step >= self.long_from * self.num_steps
        return self.long_tokens if is_long else self.short_tokens


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One row of the training curve; losses in nats per token."""

    step: int
    loss: float
    seconds: float


def train(
    texts: dict[str, np.ndarray],
    recipe: Recipe,
    work_dir: Path,
    *,
    save_every: int = 100,
) -> Iterator[tuple[CurvePoint, Params]]:
    """Trains to the end of the recipe, continuing from `work_dir` if it can.

    State is written to a temporary file and renamed, so that an interruption at any time
    costs at most `save_every` steps.

    Args:
        texts: Tokens of the library modules and of the tests, by "library" and "tests".
        recipe: Parameters of the training.
        work_dir: Folder of the saved state.
        save_every: Number of steps after which the state is saved.

    Yields:
        A row of the training curve and the parameters, every 20 steps.
    """
    params = init_params(jax.random.key(recipe.seed))
    optimizer = _optimizer(recipe, params)
    state = {"params": params, "optimizer": optimizer.init(params)}
    path = work_dir / "state.msgpack"
    meta = {"step": 0, "seconds": 0.0, "loss": 0.0, "recipe": asdict(recipe)}
    if path.exists():
        saved: Any = serialization.msgpack_restore(path.read_bytes())
        meta = json.loads(saved["meta"])
        if meta["recipe"] != asdict(recipe):
            msg = (
                f"{path} was trained with {meta['recipe']}, asked for "
                f"{asdict(recipe)}: remove it, or train with its recipe"
            )
            raise SystemExit(msg)
        state = serialization.from_state_dict(state, saved["state"])
    update = _make_update(optimizer)
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    rows_apart = NamedSharding(mesh, PartitionSpec("rows"))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    params, optimizer_state = state["params"], state["optimizer"]
    loss = meta["loss"]
    started = time.perf_counter() - meta["seconds"]
    for step in range(meta["step"], recipe.num_steps):
        windows = jax.device_put(_windows(texts, recipe, step), rows_apart)
        params, optimizer_state, step_loss = update(params, optimizer_state, windows)
        share = max(0.02, 1 / (step + 1))
        loss += share * (float(step_loss) - loss)
        done = step + 1
        seconds = time.perf_counter() - started
        if done % save_every == 0 or done == recipe.num_steps:
            meta = {
                "step": done,
                "seconds": seconds,
                "loss": loss,
                "recipe": asdict(recipe),
            }
            _save(path, params, optimizer_state, meta)
        if done % 20 == 0 or done == recipe.num_steps:
            yield CurvePoint(step=done, loss=loss, seconds=seconds), params


def restore_params(recipe: Recipe, work_dir: Path) -> Params:
    """Reads the parameters that training saved last."""
    saved: Any = serialization.msgpack_restore(
        (work_dir / "state.msgpack").read_bytes()
    )
    empty = init_params(jax.random.key(recipe.seed))
    return serialization.from_state_dict(empty, saved["state"]["params"])


def _windows(texts: dict[str, np.ndarray], recipe: Recipe, step: int) -> np.ndarray:
    """Returns the windows of one step, which depend only on recipe, seed and step."""
    generator = np.random.default_rng((recipe.seed, step))
    length = recipe.window_tokens(step)
    rows = []
    batch = recipe.step_tokens // length
    for row in range(batch):
        is_library = row < round(batch * recipe.library_share)
        tokens = texts["library" if is_library else "tests"]
        start = int(generator.integers(len(tokens) - length))
        rows.append(tokens[start : start + length + 1])
    return np.stack(rows).astype(np.int32)


def _optimizer(recipe: Recipe, params: Params) -> optax.GradientTransformation:
    def rate(peak: float) -> optax.Schedule:
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, peak, recipe.warmup_steps),
                optax.linear_schedule(
                    peak, 0.0, recipe.num_steps - recipe.warmup_steps
                ),
            ],
            [recipe.warmup_steps],
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        contrib.muon(
            rate(recipe.matrix_rate),
            adam_learning_rate=rate(recipe.other_rate),
            adam_b2=0.98,
            weight_decay=0.01,
            muon_weight_dimension_numbers=_muon_matrices(params),
        ),
    )


def _muon_matrices(params: Params) -> Any:
    """Marks the layers' matrices for Muon; embedding, head and norms use Adam."""
    unmarked = jax.tree.map(lambda _: None, params)
    marked = [
        {
            name: contrib.MuonDimensionNumbers() if leaf.ndim == 2 else None
            for name, leaf in layer.items()
        }
        for layer in params["layers"]
    ]
    return unmarked | {"layers": marked}


def _make_update(optimizer: optax.GradientTransformation) -> Any:
    def loss_of(params: Params, windows: jax.Array) -> jax.Array:
        return token_losses(params, windows).mean()

    def update(params: Params, state: Any, windows: jax.Array) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(params, windows)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    return jax.jit(update, donate_argnums=(0, 1))


def _save(
    path: Path, params: Params, optimizer_state: Any, meta: dict[str, Any]
) -> None:
    state = {"params": params, "optimizer": optimizer_state}
    payload = serialization.msgpack_serialize(
        {"state": serialization.to_state_dict(state), "meta": json.dumps(meta)}
    )
    aside = path.with_suffix(".tmp")
    aside.write_bytes(payload)
    aside.replace(path)
