"""A crystal repeats: what is where its translations take columns, and places that may be columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

__all__ = ["Repeats"]

Array = NDArray[np.float64]

_SAME = 0.6
"""Columns repeat where they lie this many spot widths from where a translation puts them, or nearer."""

_ALIKE = 2.0
"""Largest ratio of the heights of equivalent columns."""

_NEIGHBOURS = 60
"""Nearest columns among which translations are looked for: cells of a dozen columns have their own in reach."""

_AROUND = 8
"""Columns around one that tell whether and how a translation holds there: grains and strain differ by place."""

_HOLDS = 0.4
"""Share of these that must repeat."""

_LEAST_COLUMNS = 6
"""Columns that a translation must repeat."""

_BEST_SHARE = 0.75
"""Share of the columns that a translation repeats where it holds, in that of the best: those of a part of the columns,
such as the centring of titanium in rutile, are none."""

_VECTORS = 16
"""Translations, of each pair of opposite ones one, at most."""

_VOTES = 3
"""Equivalent columns that tell the height of one."""


@dataclass(frozen=True, eq=False)
class Repeats:
    """Translations of a crystal, or of several, that columns show.

    Attributes:
        xy_px: (N, 2) columns.
        height: (N,) their heights.
        width_px: standard deviation of their spots.
        shape: rows and columns of the image.
        vectors_px: (V, 2) translations; with each its opposite.
        partner: (V, N) the column to which each translation takes each column, -1 where there is none.
    """

    xy_px: Float[Array, "N 2"]
    height: Float[Array, "N"]
    width_px: float
    shape: tuple[int, ...]
    vectors_px: Float[Array, "V 2"]
    partner: Int[NDArray[np.int64], "V N"]

    @staticmethod
    def of(xy_px: Float[Array, "N 2"], height: Float[Array, "N"], width_px: float, shape: tuple[int, ...]) -> Repeats:
        """What columns show: vectors between columns of like height that many share."""
        near, tree = _SAME * width_px, KDTree(xy_px)
        vectors: list[Array] = []
        partners: list[NDArray[np.int64]] = []
        shares: list[float] = []
        if len(xy_px) > _LEAST_COLUMNS:
            around = _around(tree, xy_px)
            for vector in _shared(xy_px, height, tree, near):
                if any(np.hypot(*(vector - known)) < 2.0 * near for known in vectors):
                    continue
                for way in (vector, -vector):
                    partner = _partners(tree, height, xy_px + way, height, near)
                    holds = ((partner >= 0)[around].mean(axis=1) >= _HOLDS) & _inside(xy_px + way, shape)
                    vectors.append(way)
                    partners.append(partner)
                    shares.append(float((partner >= 0)[holds].mean()) if holds.sum() >= _LEAST_COLUMNS else 0.0)
        good = np.flatnonzero(np.array(shares) >= max(_BEST_SHARE * max(shares, default=0.0), _HOLDS))[: 2 * _VECTORS]
        return Repeats(
            xy_px, height, width_px, shape,
            np.array(vectors).reshape(-1, 2)[good], np.array(partners, np.int64).reshape(-1, len(xy_px))[good],
        )  # fmt: skip

    def expected(self) -> Float[Array, "N"]:
        """Mean height of the columns that are equivalent to each; nan where fewer than three are known."""
        known = self.partner >= 0
        return _mean_of(np.where(known, self.height[self.partner], 0.0).sum(axis=0), known.sum(axis=0))

    def at_equivalents(
        self, places_px: Float[Array, "M 2"], height: Float[Array, "M"], left: Callable[[Array], Array]
    ) -> tuple[Float[Array, "M"], Int[NDArray[np.int64], "M"]]:
        """Mean height where translations take places that may be columns, and how many translations say so.

        A translation says something of a place if most columns around obey it; where the crystal is strained it takes
        the place where it takes these. One by which heights are not alike belongs to a part of the columns, and counts
        for nothing.

        Args:
            places_px: places that may be columns.
            height: heights of spots there.
            left: heights of spots at places (K, 2), by what the known columns leave over.
        """
        count = len(places_px)
        if not len(self.vectors_px) or not count:
            return np.full(count, np.nan), np.zeros(count, dtype=np.int64)
        tree, near = KDTree(self.xy_px), _SAME * self.width_px
        around = _around(tree, places_px)
        seen, tells = np.zeros((len(self.partner), count)), np.zeros((len(self.partner), count), dtype=np.bool_)
        for number, partner in enumerate(self.partner):
            known = (partner >= 0)[around]
            moved = (self.xy_px[partner] - self.xy_px)[around] * known[..., None]
            there = places_px + moved.sum(axis=1) / np.maximum(known.sum(axis=1), 1)[:, None]
            tells[number] = (known.mean(axis=1) >= _HOLDS) & _inside(there, self.shape)
            away, index = tree.query(there)
            same = (away <= near) & (self.height[index] < _ALIKE * height)
            seen[number] = left(there) + np.where(same, self.height[index], 0.0)
        weight = tells * np.maximum(height, 0.0)
        agreement = (weight * seen).sum(axis=1) / np.maximum((weight * height).sum(axis=1), 1e-300)
        tells &= (agreement >= max(0.0, 0.5 * float(agreement.max())))[:, None]
        told = tells.sum(axis=0)
        return _mean_of((seen * tells).sum(axis=0), told), told


def _mean_of(total: Array, count: NDArray[np.int64]) -> Array:
    """Means of sums, nan where of fewer than three."""
    mean: Array = np.where(count >= _VOTES, total / np.maximum(count, 1), np.nan)
    return mean


def _inside(xy: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N,) which places are inside the image."""
    inside: NDArray[np.bool_] = np.all((xy > 0.0) & (xy < np.array(shape[::-1]) - 1.0), axis=1)
    return inside


def _around(tree: KDTree, xy: Array) -> NDArray[np.int64]:
    """(N, 8) the nearest columns to each place."""
    return np.asarray(tree.query(xy, k=min(_AROUND, tree.n))[1], dtype=np.int64).reshape(len(xy), -1)


def _shared(xy: Array, height: Array, tree: KDTree, near: float) -> list[Array]:
    """Vectors between columns of like height that many have in common, one of each two opposite, shortest first."""
    index = np.asarray(tree.query(xy, k=min(_NEIGHBOURS + 1, len(xy)))[1])[:, 1:]
    alike = _like(height[index], height[:, None])
    vectors = (xy[index] - xy[:, None])[alike]
    vectors = vectors[(vectors[:, 1] > 0.0) | ((vectors[:, 1] == 0.0) & (vectors[:, 0] > 0.0))]
    if not len(vectors):
        return []
    # How many end in each square of half what still is the same place, and around it.
    reach = float(np.abs(vectors).max()) + near
    bins = 2 * int(np.ceil(2.0 * reach / near))
    counted, down, across = np.histogram2d(
        vectors[:, 1], vectors[:, 0], bins=(bins // 2, bins), range=((0.0, reach), (-reach, reach))
    )
    smooth = ndimage.gaussian_filter(counted, 1.0, mode="constant")
    top = (ndimage.maximum_filter(smooth, size=5) == smooth) & (smooth > 0.05 * smooth.max())
    row, column = np.nonzero(top)
    most = np.argsort(-smooth[row, column], kind="stable")[: 4 * _VECTORS]
    middle = np.stack([0.5 * (across[1:] + across[:-1])[column], 0.5 * (down[1:] + down[:-1])[row]], axis=1)[most]
    ends = KDTree(vectors)
    means = [vectors[ends.query_ball_point(place, near)].mean(axis=0) for place in middle]
    return sorted(means, key=lambda vector: float(np.hypot(*vector)))


def _like(height: Array, other: Array) -> NDArray[np.bool_]:
    """Whether heights are positive and alike."""
    alike: NDArray[np.bool_] = (height > 0.0) & (height < _ALIKE * other) & (other < _ALIKE * height)
    return alike


def _partners(tree: KDTree, heights: Array, there: Array, height: Array, near: float) -> NDArray[np.int64]:
    """(N,) which of a tree's columns is at each place, of a height like the one wanted; -1 where there is none."""
    away, index = tree.query(there)
    partner: NDArray[np.int64] = np.where((away <= near) & _like(heights[index], height), index, -1)
    return partner
