"""Seconds between and beyond measured sizes: a physical law, corrected by a table.

The law is a linear combination of features (operations, bytes, a constant) with
non-negative coefficients. The table is the grid spanned by all measured sizes; between its
points seconds are interpolated in proportion to the law, beyond it the law's increase is
added to the value at its edge. Law and table are both non-decreasing in every size. Reasons
are in docs/cost-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, nnls

from llmpq_jax.costmodel.monotone_table import Floats, as_points, features, merged

# Weight in the isotonic regression of a grid point that was not measured, relative to one
# that was.
_UNMEASURED_WEIGHT = 1e-3
_MAX_SWEEPS = 100
_REWEIGHTINGS = 4
# Relative slope of the linear term that is added to the law's shape: it makes an axis on
# which the law is constant invertible.
_LINEAR_SHARE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class InterpolatedLatency:
    """Seconds as a function of one or two sizes.

    Attributes:
        axes: Grid points of each size, increasing from 0.
        values: Seconds at the grid points, [points of axis 0, …], non-decreasing.
        exponents: Exponents of the law's features, [features, axes], see `MonotoneTable`.
        coefficients: Non-negative coefficients of the law, [features].
        uses_table: True if the table is interpolated, False if the law alone answers.
    """

    axes: tuple[Floats, ...]
    values: Floats
    exponents: Floats
    coefficients: Floats
    uses_table: bool

    def __call__(self, *size: npt.ArrayLike) -> Floats:
        """Returns the seconds at sizes given as one array per axis, which broadcast."""
        points, shape = as_points(size)
        seconds = self._interpolated(points) if self.uses_table else self.law(points)
        return seconds.reshape(shape)

    def law(self, points: Floats) -> Floats:
        """Returns the law's seconds at points given as [points, axes]."""
        return features(points, self.exponents) @ self.coefficients

    def _interpolated(self, points: Floats) -> Floats:
        largest = np.array([axis[-1] for axis in self.axes])
        inside = np.minimum(points, largest)
        beyond = self.law(points) - self.law(inside)
        weights = [self._weights(axis, inside[:, axis]) for axis in range(len(largest))]
        seconds = beyond
        for corner in product((0, 1), repeat=len(largest)):
            share = np.ones(len(points))
            index = []
            for side, (lower, upper_share) in zip(corner, weights, strict=True):
                share = share * (upper_share if side else 1.0 - upper_share)
                index.append(lower + side)
            seconds = seconds + share * self.values[tuple(index)]
        return seconds

    def _weights(self, axis: int, sizes: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
        """Returns the index of the grid point below each size, and the upper one's weight."""
        known = self.axes[axis]
        lower = np.clip(np.searchsorted(known, sizes, "right") - 1, 0, len(known) - 2)
        shape = self._shape(axis, known)
        step = shape[lower + 1] - shape[lower]
        return lower, (self._shape(axis, sizes) - shape[lower]) / step

    def _shape(self, axis: int, sizes: Floats) -> Floats:
        """Returns the law along one axis, with the other sizes at their largest.

        Features are products of powers, so the law has the same shape along one axis at
        every value of the others if all features that grow with it grow equally.
        """
        points = np.array([[known[-1] for known in self.axes]] * len(sizes))
        whole = self.law(points)
        points[:, axis] = sizes
        linear = _LINEAR_SHARE * (whole + 1.0) * sizes / self.axes[axis][-1]
        return self.law(points) + linear


def fit_interpolated_latency(
    sizes: npt.ArrayLike,
    seconds: npt.ArrayLike,
    exponents: npt.ArrayLike,
    *,
    noise: float = 0.0,
) -> InterpolatedLatency:
    """Fits law and table to measurements, and selects one of the two.

    The law, which averages over all measurements, is selected if their mean deviation
    from it is at most their noise; otherwise the table is.

    Args:
        sizes: Measured sizes, [points, axes]; a repeated point counts with its median.
        seconds: Measured seconds, [points], positive.
        exponents: Exponents of the features, [features, axes], see `MonotoneTable`.
        noise: Relative error of a measured value; 0 always selects the table.
    """
    points, values = merged(sizes, seconds, np.median)
    powers = np.asarray(exponents, dtype=float)
    coefficients = _law(points, values, powers)
    law = np.maximum(features(points, powers) @ coefficients, np.finfo(float).tiny)
    deviations = np.abs(values / law - 1.0)
    axes = tuple(np.concatenate([[0.0], np.unique(sizes)]) for sizes in points.T)
    return InterpolatedLatency(
        axes=axes,
        values=_table(axes, points, values, powers, coefficients),
        exponents=powers,
        coefficients=coefficients,
        uses_table=bool(deviations.mean() > noise) or noise == 0.0,
    )


def _table(
    axes: tuple[Floats, ...],
    points: Floats,
    values: Floats,
    powers: Floats,
    coefficients: Floats,
) -> Floats:
    """Returns the values of the whole grid, made monotone."""
    grid = np.array(list(product(*axes)))
    law = features(grid, powers) @ coefficients
    shape = tuple(len(axis) for axis in axes)
    measured = np.ravel_multi_index(
        tuple(np.searchsorted(a, s) for a, s in zip(axes, points.T, strict=True)), shape
    )
    # A grid point that was not measured has the ratio to the law of the nearest one that was.
    scale = points.max(axis=0)
    distance = np.abs(grid[:, None] / scale - points[None] / scale).sum(axis=2)
    ratio = values / np.maximum(law[measured], np.finfo(float).tiny)
    table = law * ratio[distance.argmin(axis=1)]
    table[measured] = values
    weights = np.full(len(grid), _UNMEASURED_WEIGHT)
    weights[measured] = 1.0
    # Relative errors are minimised, as in the law.
    weights /= np.maximum(table, values.min()) ** 2
    return _monotone(table.reshape(shape), weights.reshape(shape))


def _law(points: Floats, values: Floats, powers: Floats) -> Floats:
    """Returns the non-negative coefficients with the least squares of relative errors.

    Errors are relative to the law, by iteratively reweighted least squares: relative to
    the measured values, noise of ± σ would bias the law's seconds down by σ².
    """
    columns = features(points, powers)
    weights = 1.0 / values
    coefficients = np.zeros(len(powers))
    for _ in range(_REWEIGHTINGS):
        weighted = columns * weights[:, None]
        # Columns of unit norm: nnls stops early if norms differ by many powers of ten.
        norms = np.linalg.norm(weighted, axis=0)
        coefficients = nnls(weighted / norms, values * weights)[0] / norms
        # Limits the weight of points that are far from the law.
        weights = 1.0 / np.clip(columns @ coefficients, values / 2, values * 2)
    return coefficients


def _monotone(values: Floats, weights: Floats) -> Floats:
    """Returns the nearest values that are non-decreasing along every axis.

    Dykstra's alternating projections (Boyle and Dykstra, 1986) onto the tables that are
    monotone along one axis each.
    """
    corrections = [np.zeros_like(values) for _ in range(values.ndim)]
    found = values
    for _ in range(_MAX_SWEEPS):
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
    # The last projection was along one axis only. A running maximum removes what is left
    # of decreases by rounding along the others.
    for axis in range(values.ndim):
        found = np.maximum.accumulate(found, axis=axis)
    return found
