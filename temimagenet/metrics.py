"""Measures that training and benchmark share: which found column is which true one, and how alike two images are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

__all__ = ["MATCH_RADIUS_A", "match", "psnr"]

MATCH_RADIUS_A = 0.5
"""A column counts as found within this distance, or half the way to its nearest neighbour where that is less."""


def match(
    found_px: Float[NDArray[np.float64], "N 2"], true_px: Float[NDArray[np.float64], "K 2"], pixel_size_A: float
) -> tuple[Int[NDArray[np.int64], "M"], Int[NDArray[np.int64], "M"]]:
    """Pair found with true columns: as many as possible, of the least total distance, each within its radius.

    The radius is `MATCH_RADIUS_A` or half the distance to the nearest true column, whichever is smaller, so no found
    column can stand for two true ones.

    Returns:
        Indices of the true and of the found columns, in pairs.
    """
    none = np.zeros(0, dtype=np.int64)
    if not len(found_px) or not len(true_px):
        return none, none
    radius = np.full(len(true_px), MATCH_RADIUS_A / pixel_size_A)
    if len(true_px) > 1:
        radius = np.minimum(radius, 0.5 * np.asarray(KDTree(true_px).query(true_px, k=2)[0])[:, 1])
    distance = np.linalg.norm(true_px[:, None] - found_px[None], axis=2)
    allowed = distance <= radius[:, None]
    # One pair more always outweighs what all others could save.
    dear = 1.0 + 2.0 * len(true_px) * float(radius.max())
    true_index, found_index = linear_sum_assignment(np.where(allowed, distance, dear))
    real = allowed[true_index, found_index]
    return true_index[real].astype(np.int64), found_index[real].astype(np.int64)


def psnr(drawn: Float[NDArray[np.floating], "..."], truth: Float[NDArray[np.floating], "..."]) -> float:
    """Peak signal-to-noise ratio in decibels: 10 log10(range of the truth squared / mean squared error).

    Returns:
        inf where both are the same, nan where the truth is constant.
    """
    span = float(truth.max() - truth.min())
    error = float(np.mean((drawn.astype(np.float64) - truth) ** 2))
    if not span:
        return float("nan")
    return float("inf") if not error else float(10.0 * np.log10(span**2 / error))
