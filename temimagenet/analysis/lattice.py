"""`fit_lattice`: one lattice with a basis fitted to all columns, which tells sublattices and displacements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import KDTree

from temimagenet.analysis.classes import CLASS_COLOURS
from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import FoundColumns
from temimagenet.precision.lattice import lattice_pairs, lattice_precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FittedLattice", "fit_lattice"]

_SITE = 0.5
"""Columns folded into one cell are of one site where groups of them lie nearer than this, in nearest distances."""

_LEAST_SHARE = 0.1
"""A site has at least this share of the columns of the fullest one."""

_OUTLIER = 6.0
"""Columns farther from their place than this many standard deviations (of the median kind) do not shape the lattice."""


_FAR = 0.35
"""Where half of the columns lie farther from their places, in nearest distances, there is no one lattice."""


_CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], dtype=np.float64)
"""Of a cell, around it and back, in parts of its vectors."""


@dataclass(frozen=True, eq=False)
class FittedLattice:
    """A lattice with a basis: column n lies at origin + (cell[n] + site_position[site[n]]) @ vectors + displacement[n].

    Of N columns given, flagged ones and those that belong to no site (adatoms, other grains, false columns) have
    site -1.

    Attributes:
        origin_px: (2,) a place of site 0 (x, y) in pixels.
        vectors_px: (2, 2) the lattice vectors a and b, a row each, in pixels.
        vectors_sigma_px: (2, 2) standard errors, as if columns' displacements were independent.
        site_position: (S, 2) places of the sites in the cell in parts of a and b; site 0 at (0, 0).
        site_intensity: (S,) median intensity of each site, brightest first; nan where unknown.
        site: (N,) the site of each column, its sublattice; -1 for none.
        cell: (N, 2) whole numbers of a and b from the origin to its cell; 0 for none.
        displacement_px: (N, 2) from the column's place on the lattice to where it was found; nan for none.
        xy_px: (N, 2) positions.
        pixel_size_A: pixel size.
    """

    origin_px: Float[NDArray[np.float64], "2"]
    vectors_px: Float[NDArray[np.float64], "2 2"]
    vectors_sigma_px: Float[NDArray[np.float64], "2 2"]
    site_position: Float[NDArray[np.float64], "S 2"]
    site_intensity: Float[NDArray[np.float64], "S"]
    site: Int[NDArray[np.int64], "N"]
    cell: Int[NDArray[np.int64], "N 2"]
    displacement_px: Float[NDArray[np.float64], "N 2"]
    xy_px: Float[NDArray[np.float64], "N 2"]
    pixel_size_A: float

    def __len__(self) -> int:
        """Number of sites in a cell: of sublattices."""
        return len(self.site_position)

    @property
    def vectors_pm(self) -> Float[NDArray[np.float64], "2 2"]:
        """Lattice vectors in picometres."""
        return 100.0 * self.pixel_size_A * self.vectors_px

    @property
    def lengths_pm(self) -> tuple[float, float]:
        """Lengths of a and b."""
        a, b = np.linalg.norm(self.vectors_pm, axis=1)
        return float(a), float(b)

    @property
    def lengths_sigma_pm(self) -> tuple[float, float]:
        """Standard errors of these lengths."""
        along = self.vectors_px / np.linalg.norm(self.vectors_px, axis=1, keepdims=True)
        a, b = 100.0 * self.pixel_size_A * np.sqrt(((along * self.vectors_sigma_px) ** 2).sum(axis=1))
        return float(a), float(b)

    @property
    def angle_deg(self) -> float:
        """Angle between a and b."""
        a, b = self.vectors_px
        return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))

    @property
    def displacement_pm(self) -> Float[NDArray[np.float64], "N 2"]:
        """Displacements in picometres."""
        return 100.0 * self.pixel_size_A * self.displacement_px

    def plot(self) -> Figure:
        """Map of the sublattices with the cell and tenfold displacements, and all columns folded into one cell."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 5.0), layout="constrained")
        place, folded = figure.subplots(1, 2, width_ratios=(1.5, 1.0))
        nm = 0.1 * self.pixel_size_A
        lost = self.site < 0
        place.scatter(*(nm * self.xy_px[lost]).T, s=12, color="0.75", lw=0, label=f"none: {int(lost.sum())}")
        for number in range(len(self)):
            members = self.site == number
            colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
            place.scatter(*(nm * self.xy_px[members]).T, s=12, color=colour, lw=0, label=f"{number}: {members.sum()}")
        kept = ~lost
        arrows = 10.0 * nm * self.displacement_px[kept]
        place.quiver(
            *(nm * self.xy_px[kept]).T, *arrows.T, angles="xy", scale_units="xy", scale=1.0, width=0.002, color="0.2"
        )
        # The cell is drawn near the middle of the map.
        central = np.argmin(np.linalg.norm(self.xy_px - np.median(self.xy_px, axis=0), axis=1) + 1e9 * (self.site != 0))
        place.plot(*(nm * (self.xy_px[central] + _CORNERS @ self.vectors_px)).T, color="0.1", lw=1.2)
        place.set_title("sublattices; displacements tenfold")
        place.legend(frameon=False, fontsize=8, title="site: columns", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        place.invert_yaxis()
        place.set_aspect("equal")
        place.set_xlabel("x / nm")
        place.set_ylabel("y / nm")
        self.plot_cell(folded)
        return figure

    def plot_cell(self, axes: Axes) -> None:
        """All columns folded into one cell, a colour a site, with the lattice constants.

        Args:
            axes: where to draw.
        """
        moved = self.displacement_px @ np.linalg.inv(self.vectors_px)
        for number in range(len(self)):
            spot = self.site_position[number] + moved[self.site == number]
            # Sites near a cell's border are seen on both sides of it.
            for step in np.ndindex(3, 3):
                seen = (spot + np.array(step) - 1.0) @ self.vectors_px * self.pixel_size_A
                axes.scatter(
                    seen[:, 0], seen[:, 1], s=5, alpha=0.3, color=CLASS_COLOURS[number % len(CLASS_COLOURS)], lw=0
                )
        corners = _CORNERS @ self.vectors_px
        axes.plot(*(self.pixel_size_A * corners).T, color="0.1", lw=1.2)
        pad = 0.15 * np.ptp(corners, axis=0).max()
        low, high = corners.min(axis=0) - pad, corners.max(axis=0) + pad
        axes.set_xlim(self.pixel_size_A * low[0], self.pixel_size_A * high[0])
        axes.set_ylim(self.pixel_size_A * high[1], self.pixel_size_A * low[1])
        axes.set_title(f"a = {self.lengths_pm[0]:.1f} pm, b = {self.lengths_pm[1]:.1f} pm, {self.angle_deg:.2f}°")
        axes.set_aspect("equal")
        axes.set_xlabel("x / Å")
        axes.set_ylabel("y / Å")


def fit_lattice(columns: FoundColumns) -> FittedLattice:
    """Fit one lattice with a basis to all sound columns.

    The two vectors are first those of `lattice_precision`. From column to column along them the largest set that they
    connect is numbered; every other column is placed by the nearest one of that set, so that strain does not add up
    over the image. Folded into one cell, the columns gather at the sites. Then vectors and sites are fitted to all
    of them by least squares, those far from their place left out.

    One lattice is fitted: in a strained image displacements grow away from the middle. Behind a dislocation cells may
    be numbered wrongly.

    Args:
        columns: what a localizer found; flagged columns are left out.

    Raises:
        LocalizeError: too few sound columns, no lattice, or several grains.
    """
    sound = np.flatnonzero(columns.sound & np.isfinite(columns.xy_px).all(axis=1))
    kept = columns.select(sound)
    xy = kept.xy_px
    first = lattice_precision(kept)
    vectors = np.stack([first.a.vector_px, first.b.vector_px])
    cell, site = _placed(xy, vectors)
    known = site >= 0
    brightness = [float(np.median(kept.intensity[site == number])) for number in range(int(site.max()) + 1)]
    # Brightest first; by number where intensities are not known.
    order = np.argsort(-np.nan_to_num(np.array(brightness)), kind="stable")
    site[known] = np.argsort(order)[site[known]]
    used = known.copy()
    for _ in range(3):
        design = _design(cell, site, len(order))
        solution = np.linalg.lstsq(design[used], xy[used], rcond=None)[0]
        apart = xy - design @ solution
        spread = 1.4826 * np.median(np.abs(apart[used]), axis=0) + 1e-6 * np.linalg.norm(vectors[0])
        used = known & (np.abs(apart) <= _OUTLIER * spread).all(axis=1)
    off = float(np.median(np.linalg.norm(apart[known], axis=1)))
    nearest = float(np.median(np.asarray(KDTree(xy).query(xy, k=2)[0])[:, 1]))
    if off > _FAR * nearest:
        raise LocalizeError(
            f"no one lattice: half of the columns lie {off:.1f} px and more from where it would have them; an image of "
            "one grain is expected, crop it"
        )
    fitted, origins = solution[-2:].astype(np.float64), solution[:-2].astype(np.float64)
    inverse = np.linalg.pinv(design[used].T @ design[used])
    free = max(int(used.sum()) - len(solution), 1)
    sigma = np.sqrt(np.outer(np.diag(inverse)[-2:], (apart[used] ** 2).sum(axis=0) / free))
    position = (origins - origins[0]) @ np.linalg.inv(fitted)
    whole = np.floor(position + 1e-6)
    cell[known] += whole[site[known]].astype(np.int64)
    all_site = np.full(len(columns), -1, dtype=np.int64)
    all_cell = np.zeros((len(columns), 2), dtype=np.int64)
    displacement = np.full((len(columns), 2), np.nan)
    all_site[sound], all_cell[sound[known]], displacement[sound[known]] = site, cell[known], apart[known]
    return FittedLattice(
        origins[0], fitted, sigma, position - whole, np.array(brightness)[order], all_site, all_cell, displacement,
        columns.xy_px, columns.pixel_size_A,
    )  # fmt: skip


def _design(cell: NDArray[np.int64], site: NDArray[np.int64], sites: int) -> NDArray[np.float64]:
    """(N, S + 2) factors of the sites' origins and of the two vectors in each column's position."""
    return np.concatenate([np.eye(sites)[site], cell.astype(np.float64)], axis=1)


def _placed(
    xy: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Cells (N, 2) and sites (N,) of columns; site -1 where there is none."""
    tree = KDTree(xy)
    main, cell = _numbered(xy, tree, vectors)
    # Each column from the nearest numbered one, itself included.
    anchors = np.flatnonzero(main)
    away, nearest = KDTree(xy[anchors]).query(xy)
    anchor = anchors[np.asarray(nearest, dtype=np.int64)]
    steps = (xy - xy[anchor]) @ np.linalg.inv(vectors)
    cell = cell[anchor] + np.floor(steps).astype(np.int64)
    folded = steps - np.floor(steps)
    # What lies farther away than a cell reaches is another grain, or noise.
    near = np.asarray(away) <= np.linalg.norm(vectors, axis=1).max()
    apart = float(np.median(np.asarray(tree.query(xy, k=2)[0])[:, 1]))
    group = _sites(folded[near], vectors, _SITE * apart)
    site = np.full(len(xy), -1, dtype=np.int64)
    site[near] = group
    # Columns of site 0 just short of the cell's border belong to the next cell.
    for number in range(int(group.max(initial=-1)) + 1):
        members = site == number
        turn = np.exp(2j * np.pi * folded[members])
        middle = np.angle(turn.mean(axis=0)) / (2.0 * np.pi)
        cell[members] += np.rint(folded[members] - middle).astype(np.int64)
    return cell, site


def _numbered(
    xy: NDArray[np.float64], tree: KDTree, vectors: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The largest set of columns (N,) that lattice vectors connect, and how many of each (N, 2) lead to a column."""
    links = [lattice_pairs(xy, tree, vector) for vector in vectors]
    start, end = (np.concatenate(part) for part in zip(*links, strict=True))
    along = np.repeat(np.arange(2), [len(pair[0]) for pair in links])
    step = {
        (one, other): sign * np.eye(2, dtype=np.int64)[way]
        for pairs, sign in ((zip(start, end, along, strict=True), 1), (zip(end, start, along, strict=True), -1))
        for one, other, way in ((int(i), int(j), int(k)) for i, j, k in pairs)
    }
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(len(xy), len(xy))).tocsr()
    part = connected_components(graph, directed=False)[1]
    main: NDArray[np.bool_] = part == np.argmax(np.bincount(part))
    cell = np.zeros((len(xy), 2), dtype=np.int64)
    order, before = breadth_first_order(graph, int(np.argmax(main)), directed=False)
    for column in order[1:].tolist():
        cell[column] = cell[before[column]] + step[int(before[column]), column]
    return main, cell


def _sites(folded: NDArray[np.float64], vectors: NDArray[np.float64], reach: float) -> NDArray[np.int64]:
    """(N,) sites of positions in a cell, as parts of its vectors; -1 where few others are near.

    The fullest is 0. Links go over the cell's border.
    """
    # A few hundred columns show the sites; the others go to the nearest.
    chosen = folded[:: max(1, len(folded) // 1500)]
    apart = chosen[:, None] - chosen
    distance = np.linalg.norm((apart - np.rint(apart)) @ vectors, axis=-1)
    # The cell is reduced, so whole numbers taken off each part leave nearly the shortest vector.
    upper = distance[np.triu_indices(len(chosen), 1)]
    group = fcluster(linkage(upper, "average"), reach, "distance") - 1
    count = np.bincount(group)
    middles = []
    for number in np.argsort(-count, kind="stable"):
        if count[number] < max(2.0, _LEAST_SHARE * count.max()):
            break
        middles.append(np.angle(np.exp(2j * np.pi * chosen[group == number]).mean(axis=0)) / (2.0 * np.pi))
    apart = folded[:, None] - np.array(middles)
    distance = np.linalg.norm((apart - np.rint(apart)) @ vectors, axis=-1)
    site: NDArray[np.int64] = distance.argmin(axis=1)
    site[distance.min(axis=1) > reach] = -1
    return site
