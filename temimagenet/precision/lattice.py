"""`lattice_precision`: how evenly the columns of a crystal are spaced, a measure of precision that needs no truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import Delaunay, KDTree, QhullError
from scipy.stats import t as student

from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import FoundColumns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LatticePrecision", "Spacing", "lattice_pairs", "lattice_precision"]

_LEAST_COLUMNS = 12
_LEAST_PAIRS = 8
_REACHES = (5.0, 10.0)
"""Lattice vectors are looked for within this many nearest-neighbour distances, then within more."""

_TOLERANCE = 0.3
"""How far from the end of a vector a column may lie, in nearest-neighbour distances."""

_SHARE = 0.6
"""A lattice vector takes at least this share of the columns to another one."""

_OUTLIER = 5.0
"""Separations farther from the median than this many standard deviations (of the median kind) are wrong matches."""

_CHAIN = 1.5
"""The variance of a variance of neighbours' separations, over that of independent ones: neighbours share a column."""


@dataclass(frozen=True, eq=False)
class Spacing:
    """Separations of neighbours along one lattice vector.

    Attributes:
        vector_px: (2,) mean separation (x, y) in pixels.
        length_pm: (P,) separations projected on the vector's direction, wrong matches left out.
        sigma_pm: their standard deviation.
        interval_pm: 95 % interval of it, from the scatter between blocks of image rows; wide where blocks are few. Of
            4 x 4 to 30 x 30 simulated columns, with and without row displacements, 91 to 99 % held the truth.
        outliers: number of wrong matches left out.
    """

    vector_px: Float[NDArray[np.float64], "2"]
    length_pm: Float[NDArray[np.float64], "P"]
    sigma_pm: float
    interval_pm: tuple[float, float]
    outliers: int

    @property
    def mean_pm(self) -> float:
        """Mean separation."""
        return float(self.length_pm.mean())

    @property
    def column_sigma_pm(self) -> float:
        """Standard error of one column along the vector, sigma / sqrt(2), if errors of neighbours are independent."""
        return self.sigma_pm / float(np.sqrt(2.0))

    @property
    def frames_for_1pm(self) -> float:
        """Frames of independent noise to average until the separation is known to 1 pm: (sigma / 1 pm)^2."""
        return self.sigma_pm**2


@dataclass(frozen=True, eq=False)
class LatticePrecision:
    """Spread of the separations along the two shortest vectors of a projected lattice.

    Attributes:
        a: along the shortest lattice vector.
        b: along the shortest one in another direction; together a reduced basis.
        columns: number of columns that were used.
        pixel_size_A: pixel size.
    """

    a: Spacing
    b: Spacing
    columns: int
    pixel_size_A: float

    @property
    def sigma_a_pm(self) -> float:
        """Standard deviation of the separations along a."""
        return self.a.sigma_pm

    @property
    def sigma_b_pm(self) -> float:
        """Standard deviation of the separations along b."""
        return self.b.sigma_pm

    @property
    def angle_deg(self) -> float:
        """Angle between a and b, 60 to 120 degrees."""
        a, b = self.a.vector_px, self.b.vector_px
        return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))

    def plot(self) -> Figure:
        """Histograms of the separations, a panel each (Lin et al. 2021, fig. 11)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 2.8), layout="constrained")
        for axes, name, part in zip(figure.subplots(1, 2), "ab", (self.a, self.b), strict=True):
            axes.hist(part.length_pm, bins="auto", color="0.6")
            axes.set_title(f"{name} = {part.mean_pm:.1f} pm, σ = {part.sigma_pm:.1f} pm")
            axes.set_xlabel("separation / pm")
            axes.set_ylabel("pairs")
        return figure


def lattice_precision(columns: FoundColumns | ArrayLike, pixel_size_A: float | None = None) -> LatticePrecision:
    """Measure how much the separations of neighbouring equivalent columns differ (Lin et al. 2021, fig. 11).

    The lattice is found from the columns themselves: among the vectors between columns, those that take most columns to
    another one, of like intensity where intensities are known. One column of a motif taken to another of the same
    motif (a dumbbell's axis) does not pass; sublattices share their vectors.

    `sigma_pm` is the standard deviation of the separation projected on the mean vector. It holds the errors of both
    columns: sqrt(2) times that of one column if they are independent. Scan noise that neighbours in the same rows share
    cancels, static disorder of the crystal adds. A uniform shear or stretch of the image changes the mean vectors
    alone; a distortion that varies over the image adds to sigma.

    Args:
        columns: what a localizer found, of which the sound columns' separations are taken; or (N, 2) positions in
            pixels.
        pixel_size_A: pixel size, for positions only.

    Raises:
        LocalizeError: positions or pixel size cannot be used, too few columns, or no lattice.
    """
    intensity = None
    if isinstance(columns, FoundColumns):
        if pixel_size_A is not None:
            raise LocalizeError("found columns carry their own pixel size: give none")
        usable = np.isfinite(columns.xy_px).all(axis=1)
        if np.isfinite(columns.intensity).any():
            usable &= columns.intensity > 0.0
            intensity = columns.intensity[usable]
        everything, sound, pixel_size_A = columns.xy_px[usable], columns.sound[usable], columns.pixel_size_A
        xy = everything[sound]
    else:
        xy = everything = np.asarray(columns, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise LocalizeError(f"positions of shape {xy.shape}: expected finite (N, 2) positions (x, y) in pixels")
    if pixel_size_A is None or not 0.0 < pixel_size_A < np.inf:
        raise LocalizeError(f"pixel size {pixel_size_A} A: expected a positive length")
    if len(xy) < _LEAST_COLUMNS:
        raise LocalizeError(f"{len(xy)} columns: a lattice needs {_LEAST_COLUMNS} sound ones or more")
    tree = KDTree(everything)
    nearest = float(np.median(np.asarray(tree.query(everything, k=2)[0])[:, 1]))
    if nearest == 0.0:
        raise LocalizeError("most columns lie on one another: remove duplicates")
    tolerance = _TOLERANCE * nearest
    # Doubtful columns still show the lattice; its spread is taken from sound ones.
    a, b = _basis(everything, tree, nearest, tolerance, intensity)
    tree = KDTree(xy)
    spacings = [_spacing(xy, tree, vector, tolerance, pixel_size_A) for vector in (a, b)]
    return LatticePrecision(spacings[0], spacings[1], len(xy), pixel_size_A)


def _basis(
    xy: NDArray[np.float64],
    tree: KDTree,
    nearest: float,
    tolerance: float,
    intensity: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two shortest lattice vectors that point in different directions."""
    try:
        hull = Delaunay(xy)
    except QhullError as error:
        raise LocalizeError("all columns lie on one line: a lattice needs two directions") from error
    most = 0.0
    for reach in _REACHES:
        vectors, shares, unlike = [], [], []
        for vector in _candidates(xy, tree, reach * nearest, tolerance):
            start, end = _pairs(xy, tree, vector, tolerance)
            if len(start) < _LEAST_PAIRS:
                continue
            expected = int((hull.find_simplex(xy + vector) >= 0).sum())
            vectors.append((xy[end] - xy[start]).mean(axis=0))
            shares.append(min(1.0, len(start) / max(expected, 1)))
            ratio = 1.0 if intensity is None else intensity[end] / intensity[start]
            unlike.append(float(np.median(np.abs(np.log(ratio)))))
        if not vectors:
            continue
        share, other = np.array(shares), np.array(unlike)
        most = max(most, float(share.max()))
        good = share >= max(_SHARE, 0.85 * most)
        if good.any():
            # Atoms of another kind may sit where the lattice would repeat.
            good &= other <= 2.0 * other[good].min() + 0.1
        passed = np.array(vectors)[good]
        passed = passed[np.argsort(np.linalg.norm(passed, axis=1))]
        for b in passed[1:]:
            a = passed[0]
            if abs(a[0] * b[1] - a[1] * b[0]) > 0.3 * np.linalg.norm(a) * np.linalg.norm(b):
                return a, b
    best = f"best {most:.0%}, but in one direction alone" if most >= _SHARE else f"best {most:.0%}"
    raise LocalizeError(
        f"no lattice: no two vectors take {_SHARE:.0%} of the columns to others ({best}); "
        "an image of one crystal is expected, its columns found without many doubles or gaps"
    )


def _candidates(xy: NDArray[np.float64], tree: KDTree, reach: float, tolerance: float) -> NDArray[np.float64]:
    """Peaks of the histogram of pair differences, one of each opposite two."""
    pairs = tree.query_pairs(reach, output_type="ndarray")
    apart = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    apart = np.concatenate([apart, -apart])
    bins = 2 * int(np.ceil(2.0 * reach / tolerance)) + 1
    edge = 0.5 * bins * 0.5 * tolerance
    count, _, _ = np.histogram2d(apart[:, 0], apart[:, 1], bins=bins, range=((-edge, edge), (-edge, edge)))
    smooth = ndimage.gaussian_filter(count, 1.0)
    top = (ndimage.maximum_filter(smooth, size=5) == smooth) & (smooth > 0.02 * smooth.max())
    peaks = (np.argwhere(top) - (bins - 1) / 2.0) * 0.5 * tolerance
    chosen: NDArray[np.float64] = peaks[(peaks[:, 1] > 0.0) | ((peaks[:, 1] == 0.0) & (peaks[:, 0] > 0.0))]
    return chosen


def lattice_pairs(
    xy: NDArray[np.float64], tree: KDTree, vector: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns that a lattice vector takes to one another: where they start and end.

    Args:
        xy: (N, 2) positions in pixels.
        tree: of them.
        vector: (2,) about what takes one to the other.
    """
    nearest = float(np.median(np.asarray(tree.query(xy, k=2)[0])[:, 1]))
    return _pairs(xy, tree, vector, _TOLERANCE * nearest)


def _pairs(
    xy: NDArray[np.float64], tree: KDTree, vector: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns that a vector takes to one another, each the other's nearest."""
    # Peaks of a histogram are coarse: once more around the median.
    for _ in range(2):
        there, nearest = tree.query(xy + vector, distance_upper_bound=tolerance)
        start = np.flatnonzero(np.isfinite(there)).astype(np.int64)
        end = np.asarray(nearest, dtype=np.int64)[start]
        _, back = tree.query(xy[end] - vector)
        mutual = back == start
        start, end = start[mutual], end[mutual]
        if len(start):
            vector = np.median(xy[end] - xy[start], axis=0)
    return start, end


def _spacing(
    xy: NDArray[np.float64],
    tree: KDTree,
    vector: NDArray[np.float64],
    tolerance: float,
    pixel_size_A: float,
) -> Spacing:
    """Separations along a lattice vector, and how well their spread is known."""
    start, end = _pairs(xy, tree, vector, tolerance)
    if len(start) < _LEAST_PAIRS:
        raise LocalizeError(f"{len(start)} pairs of sound columns along {np.round(vector, 1)} px: too few for a spread")
    apart = xy[end] - xy[start]
    mean = np.median(apart, axis=0)
    along = mean / np.linalg.norm(mean)
    frame = np.stack([along, [-along[1], along[0]]], axis=1)
    away = np.abs((apart - mean) @ frame)
    # Exact lattices have no spread: rounding errors are no outliers.
    spread = 1.4826 * np.median(away, axis=0) + 1e-6 * np.linalg.norm(mean)
    good = (away <= _OUTLIER * spread).all(axis=1)
    vector = apart[good].mean(axis=0)
    along = vector / np.linalg.norm(vector)
    length = apart[good] @ along * pixel_size_A * 100.0
    # Row shifts and errors of one block of rows go together.
    middle = 0.5 * (xy[start] + xy[end])[good, 1]
    height = max(float(np.abs(vector[1])), tolerance / _TOLERANCE)
    block = np.floor((middle - middle.min()) / height).astype(np.int64)
    sigma = float(length.std(ddof=1))
    low, high = _interval(length, block, sigma)
    return Spacing(vector, length, sigma, (low, high), int((~good).sum()))


def _interval(
    length: Float[NDArray[np.float64], "P"], block: Int[NDArray[np.int64], "P"], sigma: float
) -> tuple[float, float]:
    """95 % interval of a standard deviation sigma of values in blocks of which neighbours go together.

    The logarithm of the variance has the variance that the blocks' parts in it show, each with its neighbour's, and at
    least that of independent columns. Few blocks know little of their scatter: Student's t.
    """
    if sigma == 0.0:
        return 0.0, 0.0
    part = np.bincount(block, (length - length.mean()) ** 2 / sigma**2 - 1.0) / len(length)
    scatter = float((part**2).sum() + 2.0 * max((part[1:] * part[:-1]).sum(), 0.0))
    blocks = len(np.unique(block))
    wide = float(student.ppf(0.975, max(blocks - 1, 1)))
    factor = np.exp(0.5 * wide * np.sqrt(max(scatter, 2.0 * _CHAIN / len(length))))
    return float(sigma / factor), float(sigma * factor)
