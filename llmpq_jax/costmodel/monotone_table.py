"""Reads seconds or bytes off a measured table, and between its points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Floats = npt.NDArray[np.float64]

# Two places that should agree may differ by the rounding of a few float64 sums.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MonotoneTable:
    """A quantity measured at some sizes that never falls when a size grows.

    A measured point is looked up. Between and beyond, a non-negative combination of
    physical features answers, held between the largest measured value at sizes no
    larger and the smallest at sizes no smaller. Where the measured values are
    themselves monotone, so is the table: both limits and the combination are.

    Attributes:
        sizes: [points, axes]; the axes are rows and tokens, or rows, or bytes.
        values: [points].
        exponents: [features, axes]: feature f is the product over the axes of size to
            the power `exponents[f, axis]`; a row of zeros is the constant.
        coefficients: [features], none below 0.
    """

    sizes: Floats
    values: Floats
    exponents: Floats
    coefficients: Floats

    def __call__(self, *size: npt.ArrayLike) -> Floats:
        """Returns the quantity at sizes given axis by axis, which broadcast."""
        points, shape = _points(size)
        smaller = (self.sizes[None] <= points[:, None]).all(axis=2)
        larger = (self.sizes[None] >= points[:, None]).all(axis=2)
        least = np.where(smaller, self.values, 0.0).max(axis=1)
        most = np.where(larger, self.values, np.inf).min(axis=1)
        between = np.maximum(least, np.minimum(most, self._combined(points)))
        exact = smaller & larger
        looked_up = np.where(exact, self.values, 0.0).sum(axis=1)
        answers = np.where(np.any(exact, axis=1), looked_up, between)
        return answers.reshape(shape)

    def fitted(self, *size: npt.ArrayLike) -> Floats:
        """Returns the combination of features alone, also where something was measured."""
        points, shape = _points(size)
        return self._combined(points).reshape(shape)

    def _combined(self, points: Floats) -> Floats:
        return features(points, self.exponents) @ self.coefficients


def fit_table(
    sizes: npt.ArrayLike,
    values: npt.ArrayLike,
    exponents: npt.ArrayLike,
    *,
    is_upper: bool = False,
) -> MonotoneTable:
    """Fits a table to measurements, in the least squares of relative errors.

    Args:
        sizes: [points, axes]. Of a point measured twice the median counts, or the
            largest where `is_upper`.
        values: [points], above 0 or, where `is_upper`, from 0 up.
        exponents: Of the features, see `MonotoneTable`.
        is_upper: Scale the fit until no measured value lies above it, for
            quantities that must not be foretold too small.
    """
    every = np.asarray(sizes, dtype=float)
    measured = np.asarray(values, dtype=float)
    powers = np.asarray(exponents, dtype=float)
    unique, place = np.unique(every, axis=0, return_inverse=True)
    merge = np.max if is_upper else np.median
    merged = np.array(
        [merge(measured[place.ravel() == point]) for point in range(len(unique))]
    )
    # An upper table may hold zeros, whose relative error would outweigh all others.
    floor = merged.max() * (1e-2 if is_upper else 1e-9) or 1.0
    weights = 1.0 / np.maximum(merged, floor)
    columns = features(unique, powers)
    # Unit columns: nnls stops early when they differ by many powers of ten.
    norms = np.linalg.norm(columns * weights[:, None], axis=0)
    scaled = columns * weights[:, None] / norms
    coefficients = nnls(scaled, merged * weights)[0] / norms
    if is_upper:
        coefficients = _lifted(coefficients, columns, merged)
    return MonotoneTable(
        sizes=unique, values=merged, exponents=powers, coefficients=coefficients
    )


def _points(size: tuple[npt.ArrayLike, ...]) -> tuple[Floats, tuple[int, ...]]:
    """Returns sizes given axis by axis as [points, axes], and the axes' common shape."""
    axes = np.broadcast_arrays(*[np.asarray(axis, dtype=float) for axis in size])
    return np.stack([axis.ravel() for axis in axes], axis=1), axes[0].shape


def features(points: Floats, exponents: Floats) -> Floats:
    """Returns [points, features], see `MonotoneTable.exponents`."""
    return np.prod(points[:, None, :] ** exponents[None], axis=2)


def _lifted(coefficients: Floats, columns: Floats, values: Floats) -> Floats:
    fitted = columns @ coefficients
    needed = values > 0
    if not needed.any():
        return coefficients
    if (fitted[needed] <= 0).any():
        lifted = coefficients.copy()
        lifted[-1] += values.max()
        return lifted
    factor = float((values[needed] / fitted[needed]).max())
    return coefficients * max(1.0, factor * (1.0 + _ROUNDING))
