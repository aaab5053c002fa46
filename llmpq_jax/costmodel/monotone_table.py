"""Seconds or bytes at measured sizes, and between and beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Floats = npt.NDArray[np.float64]

# Relative rounding error of a few float64 sums.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MonotoneTable:
    """A quantity measured at some sizes that is non-decreasing in every size.

    A measured point is looked up. Elsewhere the result is a non-negative combination of
    physical features, clipped to the range between the largest value measured at sizes
    no larger and the smallest at sizes no smaller. The table is monotone if the measured
    values are, since both limits and the combination are.

    Attributes:
        sizes: Measured sizes, [points, axes]; axes are rows and tokens, rows, or bytes.
        values: Measured quantity, [points].
        exponents: Exponents of the features, [features, axes]: feature f is the product
            over the axes of size to the power `exponents[f, axis]`. The last feature is
            the constant, a row of zeros.
        coefficients: Non-negative coefficients of the features, [features].
    """

    sizes: Floats
    values: Floats
    exponents: Floats
    coefficients: Floats

    def __call__(self, *size: npt.ArrayLike) -> Floats:
        """Returns the quantity at sizes given as one array per axis, which broadcast."""
        points, shape = as_points(size)
        smaller = (self.sizes[None] <= points[:, None]).all(axis=2)
        larger = (self.sizes[None] >= points[:, None]).all(axis=2)
        lower = np.where(smaller, self.values, 0.0).max(axis=1)
        upper = np.where(larger, self.values, np.inf).min(axis=1)
        clipped = np.maximum(lower, np.minimum(upper, self._fitted(points)))
        exact = smaller & larger
        looked_up = np.where(exact, self.values, 0.0).sum(axis=1)
        values = np.where(np.any(exact, axis=1), looked_up, clipped)
        return values.reshape(shape)

    def fitted(self, *size: npt.ArrayLike) -> Floats:
        """Returns the combination of features, at measured points too."""
        points, shape = as_points(size)
        return self._fitted(points).reshape(shape)

    def _fitted(self, points: Floats) -> Floats:
        return features(points, self.exponents) @ self.coefficients


def fit_table(
    sizes: npt.ArrayLike,
    values: npt.ArrayLike,
    exponents: npt.ArrayLike,
    *,
    is_upper: bool = False,
) -> MonotoneTable:
    """Fits a table to measurements by least squares of relative errors.

    Args:
        sizes: Measured sizes, [points, axes]; a repeated point counts with its median,
            or with its maximum if `is_upper`.
        values: Measured quantity, [points]; positive, or non-negative if `is_upper`.
        exponents: Exponents of the features, [features, axes], see `MonotoneTable`.
        is_upper: True to scale the fit until no measured value is above it, for
            quantities that must not be predicted too small.
    """
    powers = np.asarray(exponents, dtype=float)
    points, measured = merged(sizes, values, np.max if is_upper else np.median)
    # An upper table may hold zeros, whose relative errors would outweigh all others.
    floor = measured.max() * (1e-2 if is_upper else 1e-9) or 1.0
    weights = 1.0 / np.maximum(measured, floor)
    columns = features(points, powers)
    # Columns of unit norm: nnls stops early if norms differ by many powers of ten.
    norms = np.linalg.norm(columns * weights[:, None], axis=0)
    scaled = columns * weights[:, None] / norms
    coefficients = nnls(scaled, measured * weights)[0] / norms
    if is_upper:
        coefficients = _lifted(coefficients, columns, measured)
    return MonotoneTable(
        sizes=points, values=measured, exponents=powers, coefficients=coefficients
    )


def merged(
    sizes: npt.ArrayLike, values: npt.ArrayLike, merge: Callable[[Floats], float]
) -> tuple[Floats, Floats]:
    """Returns each distinct point once, with its values merged into one."""
    measured = np.asarray(values, dtype=float)
    points, group = np.unique(
        np.asarray(sizes, dtype=float), axis=0, return_inverse=True
    )
    groups = [measured[group.ravel() == point] for point in range(len(points))]
    return points, np.array([merge(each) for each in groups])


def as_points(size: tuple[npt.ArrayLike, ...]) -> tuple[Floats, tuple[int, ...]]:
    """Returns sizes given as one array per axis as [points, axes], and their shape."""
    axes = np.broadcast_arrays(*[np.asarray(axis, dtype=float) for axis in size])
    return np.stack([axis.ravel() for axis in axes], axis=1), axes[0].shape


def features(points: Floats, exponents: Floats) -> Floats:
    """Returns the features at each point, [points, features], see `MonotoneTable`."""
    return np.prod(points[:, None, :] ** exponents[None], axis=2)


def _lifted(coefficients: Floats, columns: Floats, values: Floats) -> Floats:
    """Returns coefficients whose fit is nowhere below the measured values."""
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
