"""Seconds between and beyond measured sizes: a physical law, and a table around it.

The law is a combination of features (operations, bytes, the call itself) whose
coefficients are not negative. The table is the rectangle of all measured sizes. Between
its points values are interpolated, along each axis in steps of the law's own shape: a
device that follows the law is so foretold exactly, and one that leaves it, because its
scores outgrow a processor's cache or its kernels change with the rows, is followed from
point to point. Beyond the rectangle the law's increase is added.

Both never fall when a size grows. Of the interpolation this holds because the points do:
noise is taken out of them by isotonic regression before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, nnls

from llmpq_jax.costmodel.monotone_table import Floats, features

# Of a point that was not measured beside one that was, in the isotonic regression.
_UNMEASURED = 1e-3
_SWEEPS = 100
_REWEIGHTINGS = 4
# A law that says nothing of an axis leaves it to this small linear part.
_STRAIGHT = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class InterpolatedLatency:
    """Seconds over one or two sizes.

    Attributes:
        axes: For each size the values in the table, increasing from 0.
        values: By those, never falling along an axis.
        exponents: [features, axes], see `tables.MonotoneTable`.
        coefficients: [features], none below 0: the law.
        is_table: Whether the table answers, or else the law alone.
    """

    axes: tuple[Floats, ...]
    values: Floats
    exponents: Floats
    coefficients: Floats
    is_table: bool

    def __call__(self, *size: npt.ArrayLike) -> Floats:
        """Returns the seconds at sizes given axis by axis, which broadcast."""
        axes = np.broadcast_arrays(*[np.asarray(axis, dtype=float) for axis in size])
        points = np.stack([axis.ravel() for axis in axes], axis=1)
        answers = self._looked_up(points) if self.is_table else self.law(points)
        return answers.reshape(axes[0].shape)

    def law(self, points: Floats) -> Floats:
        """Returns the law's seconds at [points, axes]."""
        return features(points, self.exponents) @ self.coefficients

    def _looked_up(self, points: Floats) -> Floats:
        most = np.array([axis[-1] for axis in self.axes])
        inside = np.minimum(points, most)
        beyond = self.law(points) - self.law(inside)
        weights = [self._weights(axis, inside[:, axis]) for axis in range(len(most))]
        seconds = beyond
        for corner in product((0, 1), repeat=len(most)):
            share = np.ones(len(points))
            place = []
            for side, (lower, upper_share) in zip(corner, weights, strict=True):
                share = share * (upper_share if side else 1.0 - upper_share)
                place.append(lower + side)
            seconds = seconds + share * self.values[tuple(place)]
        return seconds

    def _weights(self, axis: int, sizes: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
        """Returns the table's next smaller place, and the share of the one above it."""
        known = self.axes[axis]
        lower = np.clip(np.searchsorted(known, sizes, "right") - 1, 0, len(known) - 2)
        shape = self._shape(axis, known)
        step = shape[lower + 1] - shape[lower]
        return lower, (self._shape(axis, sizes) - shape[lower]) / step

    def _shape(self, axis: int, sizes: Floats) -> Floats:
        """Returns what the law adds along an axis, where the other sizes are largest.

        Each feature is a product of powers, so that along one axis the law has the same
        shape wherever the others are, if all features that grow with it do so alike.
        """
        points = np.array([[known[-1] for known in self.axes]] * len(sizes))
        whole = self.law(points)
        points[:, axis] = sizes
        straight = _STRAIGHT * (whole + 1.0) * sizes / self.axes[axis][-1]
        return self.law(points) + straight


def fit_interpolated_latency(
    sizes: npt.ArrayLike,
    seconds: npt.ArrayLike,
    exponents: npt.ArrayLike,
    *,
    noise: float = 0.0,
) -> InterpolatedLatency:
    """Fits law and table to measurements, and keeps what foretells better.

    Where the measured seconds leave the law by no more than their own noise, the law
    answers, which averages over all of them; else the table does.

    Args:
        sizes: [points, axes]; of a point measured twice the median counts.
        seconds: [points], above 0.
        exponents: Of the features, see `tables.MonotoneTable`.
        noise: How far a measured value is from the true one, as a share of it.
    """
    points, values = _merged(sizes, seconds)
    powers = np.asarray(exponents, dtype=float)
    coefficients = _law(points, values, powers)
    law = np.maximum(features(points, powers) @ coefficients, np.finfo(float).tiny)
    departures = np.abs(values / law - 1.0)
    axes = tuple(np.concatenate([[0.0], np.unique(sizes)]) for sizes in points.T)
    return InterpolatedLatency(
        axes=axes,
        values=_table(axes, points, values, powers, coefficients),
        exponents=powers,
        coefficients=coefficients,
        is_table=bool(departures.mean() > noise) or noise == 0.0,
    )


def _merged(sizes: npt.ArrayLike, seconds: npt.ArrayLike) -> tuple[Floats, Floats]:
    every = np.asarray(sizes, dtype=float)
    measured = np.asarray(seconds, dtype=float)
    points, place = np.unique(every, axis=0, return_inverse=True)
    groups = [measured[place.ravel() == point] for point in range(len(points))]
    return points, np.array([np.median(group) for group in groups])


def _table(
    axes: tuple[Floats, ...],
    points: Floats,
    values: Floats,
    powers: Floats,
    coefficients: Floats,
) -> Floats:
    """Returns the values of the whole rectangle, made monotone."""
    every = np.array(list(product(*axes)))
    law = features(every, powers) @ coefficients
    shape = tuple(len(axis) for axis in axes)
    place = np.ravel_multi_index(
        tuple(np.searchsorted(a, s) for a, s in zip(axes, points.T, strict=True)), shape
    )
    # What was not measured lies as far from the law as its nearest measured point.
    scale = points.max(axis=0)
    distance = np.abs(every[:, None] / scale - points[None] / scale).sum(axis=2)
    ratio = values / np.maximum(law[place], np.finfo(float).tiny)
    table = law * ratio[distance.argmin(axis=1)]
    table[place] = values
    weights = np.full(len(every), _UNMEASURED)
    weights[place] = 1.0
    # Relative errors count, as in the law.
    weights /= np.maximum(table, values.min()) ** 2
    return _monotone(table.reshape(shape), weights.reshape(shape))


def _law(points: Floats, values: Floats, powers: Floats) -> Floats:
    """Returns the coefficients of the least squares of relative errors.

    Errors are taken relative to the law, by fitting it again with its own weights:
    relative to the measured values, noise of ± σ would make it too quick by σ².
    """
    columns = features(points, powers)
    weights = 1.0 / values
    coefficients = np.zeros(len(powers))
    for _ in range(_REWEIGHTINGS):
        weighted = columns * weights[:, None]
        # Unit columns: nnls stops early when they differ by many powers of ten.
        norms = np.linalg.norm(weighted, axis=0)
        coefficients = nnls(weighted / norms, values * weights)[0] / norms
        # Where the law is far off, a point keeps a weight near its own.
        weights = 1.0 / np.clip(columns @ coefficients, values / 2, values * 2)
    return coefficients


def _monotone(values: Floats, weights: Floats) -> Floats:
    """Returns the nearest values that never fall along an axis.

    Dykstra's alternating projections (Boyle and Dykstra, 1986) between the tables that
    are monotone along one axis and those that are along the other.
    """
    corrections = [np.zeros_like(values) for _ in range(values.ndim)]
    found = values
    for _ in range(_SWEEPS):
        before = found
        for axis, correction in enumerate(corrections):
            wanted = found + correction
            found = np.empty_like(wanted)
            lines = np.moveaxis(wanted, axis, -1)
            for line in np.ndindex(lines.shape[:-1]):
                np.moveaxis(found, axis, -1)[line] = isotonic_regression(
                    lines[line], weights=np.moveaxis(weights, axis, -1)[line]
                ).x
            corrections[axis] = wanted - found
        if np.allclose(found, before, rtol=1e-12, atol=0.0):
            break
    # The last projections were along one axis each: rounding aside, a running maximum
    # changes nothing.
    for axis in range(values.ndim):
        found = np.maximum.accumulate(found, axis=axis)
    return found
