"""A crystal repeats: what is where its translations take columns, and places that may be columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

__all__ = ["SAME", "Completed", "Repeats", "complete", "first_of", "nearest"]

Array = NDArray[np.float64]

SAME = 0.6
"""Columns repeat where they lie this many spot widths from where a translation puts them, or nearer."""

_OFF = 1.2
"""Widths that noise puts a faint column off the place where the others say it is."""

_ASTRAY = 2.0
"""A column may be astray by so many spot widths."""

_ALIKE = 2.0
"""Largest ratio of the heights of equivalent columns."""

_NEIGHBOURS = 60
"""Nearest columns among which translations are looked for: cells of a dozen columns have their own in reach."""

_AROUND = 8
"""Columns around one that tell how far a translation takes it there: strain differs by place."""

_BROAD = 24
"""Columns around one that tell whether a translation holds there, as it may in one grain only: several cells, so that
what repeats a part of the columns, such as the centring of titanium in rutile, is told from what repeats all."""

_HOLDS = 0.4
"""Share of these that must repeat."""

_LEAST_COLUMNS = 6
"""Columns that a translation must repeat."""

_BEST_SHARE = 0.75
"""Share of the columns around that a translation repeats, where it holds, in that of the best one there."""

_VECTORS = 16
"""Translations, of each pair of opposite ones one, at most."""

_VOTES = 3
"""Equivalent columns that tell the height of one."""

_AGREED = (4, 0.55)
"""Columns, and their share of the translations that hold there, that must lead to one place."""

_LEAN = 0.5
"""Mean of the unit vectors from these: beyond a straight edge of a crystal, where none is, it is 2 / pi."""

_GRID = 0.25
"""Edge of the squares on which places that columns lead to are counted, in the spot's width."""


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
        near, tree = SAME * width_px, KDTree(xy_px)
        vectors, partners = np.zeros((0, 2)), np.zeros((0, len(xy_px)), dtype=np.int64)
        if len(xy_px) > _LEAST_COLUMNS:
            apart: list[Array] = []
            for vector in _shared(xy_px, height, tree, near):
                if all(np.hypot(*(vector - known)) >= 2.0 * near for known in apart):
                    apart += [vector, -vector]
            vectors = np.array(apart).reshape(-1, 2)
            if len(vectors):
                partners = np.stack([_partners(tree, height, xy_px + vector, height, near) for vector in vectors])
        every = Repeats(xy_px, height, width_px, shape, vectors, partners)
        support = every._support(xy_px)
        holds = support >= _HOLDS
        best = np.where(holds, support.max(axis=0, initial=0.0), 0.0).sum(axis=1)
        own = np.where(holds, support, 0.0).sum(axis=1)
        good = np.flatnonzero((holds.sum(axis=1) >= _LEAST_COLUMNS) & (own >= _BEST_SHARE * best))[: 2 * _VECTORS]
        return replace(every, vectors_px=vectors[good], partner=partners[good])

    def _support(self, places_px: Array) -> Array:
        """(V, M) share of the columns around places (M, 2) that each translation takes to another; none where it takes
        most of them out of the image."""
        support = np.zeros((len(self.vectors_px), len(places_px)))
        if len(self.vectors_px) and len(places_px):
            around = _around(KDTree(self.xy_px), places_px, _BROAD)
            for number, (vector, partner) in enumerate(zip(self.vectors_px, self.partner, strict=True)):
                inside = _inside(self.xy_px + vector, self.shape)[around]
                count = inside.sum(axis=1)
                found = ((partner >= 0)[around] & inside).sum(axis=1)
                support[number] = np.where(count >= _LEAST_COLUMNS, found / np.maximum(count, 1), 0.0)
        return support

    def places(self) -> tuple[Float[Array, "M 2"], Float[Array, "M"]]:
        """Where the translations of several columns agree that there is one, and how high it is: the median of these.

        Each column leads to one place by each translation that holds there, as far as it takes the columns around.
        """
        end, which = self.equivalents(self.xy_px)
        if not len(end):
            return np.zeros((0, 2)), np.zeros(0)
        height, votes, places = self.height[which], KDTree(end), self._crowded(end)

        def led(places: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
            """(M,) how many ends lie at each place; (K,) which place, and which end, of each such pair."""
            told = cast(list[list[int]], votes.query_ball_point(places, SAME * self.width_px))
            count = np.fromiter(map(len, told), np.int64, len(places))
            index = np.fromiter(chain.from_iterable(told), np.int64, int(count.sum()))
            return count, np.repeat(np.arange(len(places)), count), index

        for _ in range(3):
            count, place, index = led(places)
            places = np.where(count[:, None] > 0, _means(place, end[index], len(places)), places)
        count, place, index = led(places)
        possible: Array = np.zeros(len(places))
        for vector, support in zip(self.vectors_px, self._support(places), strict=True):
            possible = possible + ((support >= _HOLDS) & _inside(places - vector, self.shape))
        # How much those that lead to a place lie on one side of it, where the image shows the other side, too.
        direction = (end - self.xy_px[which])[index]
        unit = direction / np.maximum(np.hypot(*direction.T), 1e-9)[:, None]
        both = _inside(places[place] + direction, self.shape)
        leans = np.hypot(*_means(place[both], unit[both], len(places)).T)
        leans[np.bincount(place[both], minlength=len(places)) < _AGREED[0]] = 0.0
        most = np.argsort(-count, kind="stable")
        enough = (count >= np.maximum(_AGREED[0], _AGREED[1] * possible)) & (leans <= _LEAN)
        most = most[enough[most]]
        most = most[first_of(places[most], self.width_px)]
        first = np.cumsum(count) - count
        heights = [height[index[first[at] : first[at] + count[at]]] for at in most]
        return places[most], np.array(list(map(np.median, heights)))

    def _crowded(self, end: Array) -> Array:
        """(M, 2) maxima of how many ends there are."""
        step = _GRID * self.width_px
        size = np.ceil(np.array(self.shape) / step).astype(np.int64) + 1
        counted = np.zeros(size)
        np.add.at(counted, tuple((end[:, ::-1] / step).astype(np.int64).T), 1.0)
        smooth = ndimage.gaussian_filter(counted, SAME / _GRID / 1.5, mode="constant")
        row, column = np.nonzero((ndimage.maximum_filter(smooth, size=7) == smooth) & (smooth > 0.0))
        return (np.stack([column, row], axis=1).astype(np.float64) + 0.5) * step

    def expected(self) -> Float[Array, "N"]:
        """How high each column would be by those that lead to its place; nan where too few do."""
        places, height = self.places()
        if not len(places):
            return np.full(len(self.xy_px), np.nan)
        away, which = nearest(places, self.xy_px)
        own = nearest(self.xy_px, places)[1][which] == np.arange(len(self.xy_px))
        expected: Array = np.where(own & (away <= _OFF * self.width_px), height[which], np.nan)
        return expected

    def equivalents(self, places_px: Float[Array, "M 2"]) -> tuple[Float[Array, "K 2"], Int[NDArray[np.int64], "K"]]:
        """Where translations that hold there take places, as far as they take the columns around; and which of them."""
        ends, which = [np.zeros((0, 2))], [np.zeros(0, dtype=np.int64)]
        if len(self.vectors_px) and len(places_px):
            around = _around(KDTree(self.xy_px), places_px, _AROUND)
            for partner, support in zip(self.partner, self._support(places_px), strict=True):
                known, there = self._carried(places_px, partner, around)
                tells = (support >= _HOLDS) & known.any(axis=1) & _inside(there, self.shape)
                ends.append(there[tells])
                which.append(np.flatnonzero(tells))
        return np.concatenate(ends), np.concatenate(which)

    def _carried(
        self, places_px: Array, partner: NDArray[np.int64], around: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], Array]:
        """Which of the columns around places (M, 2) a translation takes to another; where it takes the places, as far
        as these on average."""
        known = (partner >= 0)[around]
        moved = (self.xy_px[partner] - self.xy_px)[around] * known[..., None]
        return known, places_px + moved.sum(axis=1) / np.maximum(known.sum(axis=1), 1)[:, None]

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
        tree, near = KDTree(self.xy_px), SAME * self.width_px
        around = _around(tree, places_px, _AROUND)
        seen, tells = np.zeros((len(self.partner), count)), np.zeros((len(self.partner), count), dtype=np.bool_)
        for number, partner in enumerate(self.partner):
            known, there = self._carried(places_px, partner, around)
            tells[number] = (known.mean(axis=1) >= _HOLDS) & _inside(there, self.shape)
            away, index = tree.query(there)
            same = (away <= near) & (self.height[index] < _ALIKE * height)
            seen[number] = left(there) + np.where(same, self.height[index], 0.0)
        weight = tells * np.maximum(height, 0.0)
        agreement = (weight * seen).sum(axis=1) / np.maximum((weight * height).sum(axis=1), 1e-300)
        tells &= (agreement >= max(0.0, 0.5 * float(agreement.max())))[:, None]
        told = tells.sum(axis=0)
        return _mean_of((seen * tells).sum(axis=0), told), told


@dataclass(frozen=True, eq=False)
class Completed:
    """Columns as a crystal repeats them.

    Attributes:
        xy_px: (M, 2) places; those that are repeated, where the others say.
        height: (M,) heights.
        source: (M,) which of the columns that were known each is; -1 where only others say that there is one.
        regular: (M,) whether others say so.
    """

    xy_px: Float[Array, "M 2"]
    height: Float[Array, "M"]
    source: Int[NDArray[np.int64], "M"]
    regular: Bool[NDArray[np.bool_], "M"]


def complete(
    xy_px: Float[Array, "N 2"], height: Float[Array, "N"], width_px: float, shape: tuple[int, ...], rounds: int = 1
) -> Completed:
    """Columns, some of which are false or were not found, as their crystal repeats them.

    A column that nothing repeats, near a place where one should be and is not, is that one astray. Anything else that
    nothing repeats stays: it may be a defect, or no part of a crystal.

    Args:
        xy_px: (N, 2) columns.
        height: (N,) their heights or intensities.
        width_px: standard deviation of their spots.
        shape: rows and columns of the image.
        rounds: times that what was completed tells what else is missing.
    """
    found = Completed(xy_px, height, np.arange(len(xy_px)), np.zeros(len(xy_px), dtype=bool))
    for _ in range(rounds):
        places, expected = Repeats.of(found.xy_px, found.height, width_px, shape).places()
        if not len(places):
            break
        away, which = nearest(places, found.xy_px)
        regular = away <= SAME * width_px
        vacant = nearest(found.xy_px, places)[0] > SAME * width_px
        kept = regular.copy() if vacant.any() else np.ones(len(regular), dtype=bool)
        if vacant.any():
            kept |= nearest(places[vacant], found.xy_px)[0] > _ASTRAY * width_px
        found = Completed(
            np.concatenate([np.where(regular[:, None], places[which], found.xy_px)[kept], places[vacant]]),
            np.concatenate([found.height[kept], expected[vacant]]),
            np.concatenate([found.source[kept], np.full(vacant.sum(), -1)]),
            np.concatenate([regular[kept], np.ones(vacant.sum(), dtype=bool)]),
        )
    return found


def _mean_of(total: Array, count: NDArray[np.int64]) -> Array:
    """Means of sums, nan where of fewer than three."""
    mean: Array = np.where(count >= _VOTES, total / np.maximum(count, 1), np.nan)
    return mean


def _means(group: NDArray[np.int64], values: Array, count: int) -> Array:
    """(count, 2) means of the values (K, 2) of each group; zero where there are none."""
    sums = np.stack([np.bincount(group, part, minlength=count) for part in values.T], axis=1)
    means: Array = sums / np.maximum(np.bincount(group, minlength=count), 1)[:, None]
    return means


def _inside(xy: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N,) which places are inside the image."""
    inside: NDArray[np.bool_] = np.all((xy > 0.0) & (xy < np.array(shape[::-1]) - 1.0), axis=1)
    return inside


def _around(tree: KDTree, xy: Array, count: int) -> NDArray[np.int64]:
    """(N, count) the nearest columns to each place."""
    return np.asarray(tree.query(xy, k=min(count, tree.n))[1], dtype=np.int64).reshape(len(xy), -1)


def nearest(places: Array, xy: Array) -> tuple[Array, NDArray[np.int64]]:
    """(N,) how far the nearest of some places is from each point (N, 2), and which it is."""
    away, which = KDTree(places).query(xy)
    return np.asarray(away, dtype=np.float64), np.asarray(which, dtype=np.int64)


def first_of(places_px: Float[Array, "N 2"], reach_px: float) -> Bool[NDArray[np.bool_], "N"]:
    """Which places have none within a reach that comes before them and stays."""
    stays = np.ones(len(places_px), dtype=bool)
    for first, second in sorted(map(sorted, KDTree(places_px).query_pairs(reach_px))):
        stays[second] &= not stays[first]
    return stays


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
    # A tree is searched no further than wanted: a fourth of the time.
    away, index = tree.query(there, distance_upper_bound=near)
    index = np.minimum(index, tree.n - 1)
    partner: NDArray[np.int64] = np.where(np.isfinite(away) & _like(heights[index], height), index, -1)
    return partner
