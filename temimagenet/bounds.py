"""Information bounds: how precisely the columns of one image can be known, whatever the method.

The Cramer-Rao bound of all columns, intensities and the background together; with scan noise the hybrid bound, in
which the displacement of every row is a further unknown with a known prior (Van Trees, Detection, Estimation and
Modulation Theory I (1968), sec. 2.4.3; Rockah & Schultheiss, IEEE Trans. ASSP 35 (1987) 286).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.sparse import coo_array, csr_array
from scipy.special import j0, j1

from temimagenet.errors import OpticsError
from temimagenet.imaging.linear import Contrast, site_weights_A2
from temimagenet.imaging.optics import Detector, Optics
from temimagenet.imaging.scan import Scan, lattice_images
from temimagenet.imaging.scattering import electron_scattering_factor_A
from temimagenet.specimen.specimen import Specimen

__all__ = ["Bound", "ImageModel", "Profile", "gaussian_profile", "hybrid_bound", "image_model", "spot_profile"]

BEYOND_A = 2.0
"""How far outside the image columns are unknown."""

_BEYOND_SIGMA = 1.0
"""Standard deviation, in angstrom and in the logarithm of the intensity, to which a column outside is known beforehand:
roughly the room between its neighbours, so that what cannot be seen of it stays finite."""

SEEN_A = 4.0
"""How far from a column pixels say something about it: its slope has fallen to a few thousandths of the largest."""

REACH_A = 8.0
"""How far a column's spot is followed; the tails of the probe beyond it are left out."""

DRAWS = 8
"""Draws of the row displacements over which the hybrid bound averages."""

_TILE_A, _TILE_PX = 4.0, 64
"""Edge of the tiles in which information is summed, and the most pixels of it."""

DARKEST = 1e-6
"""Least expected counts of a pixel, as a share of the largest: where tails are cut off nothing may be left."""


@dataclass(frozen=True, eq=False)
class Profile:
    """A round spot of unit volume.

    Attributes:
        value: density in 1/A^2 at radius r in A.
        slope: its derivative in 1/A^3.
    """

    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    slope: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def gaussian_profile(sigma_A: float) -> Profile:
    """A Gaussian spot of standard deviation sigma per axis."""

    def value(r: NDArray[np.float64]) -> NDArray[np.float64]:
        density: NDArray[np.float64] = np.exp(-0.5 * (r / sigma_A) ** 2) / (2.0 * np.pi * sigma_A**2)
        return density

    return Profile(value, lambda r: -r / sigma_A**2 * value(r))


def spot_profile(optics: Optics, u_A: float, potential_of: int = 0) -> Profile:
    """The spot that an atom with thermal displacement u per axis leaves in a linear image.

    The Hankel transform of OTF(q) exp(-2 pi^2 u^2 q^2), source included, and its derivative, as splines.

    Args:
        optics: probe and source.
        u_A: thermal displacement.
        potential_of: atomic number whose f_e(q) / f_e(0) shapes the spot, too (`potential` contrast); 0 is none.
    """
    nodes, weights = np.polynomial.legendre.leggauss(512)
    q = 0.5 * optics.q_max_per_A * (nodes + 1.0)
    kernel = np.pi * optics.q_max_per_A * weights * q * optics.otf(q) * np.exp(-2.0 * np.pi**2 * u_A**2 * q**2)
    if potential_of:
        factor = electron_scattering_factor_A(potential_of, np.append(0.0, q))
        kernel *= factor[1:] / factor[0]
    r = np.linspace(0.0, REACH_A + 1.0, 1201)
    value = CubicSpline(r, j0(2.0 * np.pi * np.outer(r, q)) @ kernel)
    slope = CubicSpline(r, -j1(2.0 * np.pi * np.outer(r, q)) @ (2.0 * np.pi * q * kernel))
    return Profile(lambda at: np.asarray(value(at)), lambda at: np.asarray(slope(at)))


@dataclass(frozen=True, eq=False)
class ImageModel:
    """Expected counts of an image: round spots, grouped into columns, on a background.

    Attributes:
        shape: rows and columns of pixels.
        pixel_size_A: pixel size.
        site_xy_A: (S, 2) spots in the scan's frame, angstrom from the centre of pixel (0, 0).
        site_counts: (S,) counts of each spot summed over an infinite image.
        site_column: (S,) column that a spot belongs to, 0..K-1, or -1 for spots that are taken as known; the last
            `beyond` of the columns lie just outside the image and are unknown, too.
        site_profile: (S,) index into `profiles`.
        profiles: kinds of spots.
        background_counts: (rows, columns) counts a pixel of the background; a constant on top of it is unknown.
        beyond: how many of the columns lie outside the image.
    """

    shape: tuple[int, int]
    pixel_size_A: float
    site_xy_A: Float[NDArray[np.float64], "S 2"]
    site_counts: Float[NDArray[np.float64], "S"]
    site_column: Int[NDArray[np.int64], "S"]
    site_profile: Int[NDArray[np.int64], "S"]
    profiles: tuple[Profile, ...]
    background_counts: Float[NDArray[np.float64], "rows columns"]
    beyond: int = 0

    @property
    def columns(self) -> int:
        """K, the number of columns that are unknown."""
        return int(self.site_column.max(initial=-1)) + 1

    def expected(
        self, row_shift_A: Float[NDArray[np.float64], "rows 2"] | None = None
    ) -> tuple[Float[NDArray[np.float64], "rows columns"], csr_array]:
        """Expected counts and their derivatives.

        Args:
            row_shift_A: displacement (dx, dy) of the beam in each row.

        Returns:
            The counts, and a sparse (pixels, 3 K + 3) matrix of derivatives: by x and y of each column in angstrom (all
            x, then all y), by the logarithm of its intensity, by the background, and by the displacement dx and dy of
            the pixel's own row, in which all spots take part, known ones included.
        """
        rows, columns = self.shape
        total, moved, parts = self._parts(np.zeros((rows, 2)) if row_shift_A is None else row_shift_A)
        count, everywhere = self.columns, np.arange(rows * columns)
        pixel_parts, column_parts, value_parts = [], [], []
        for part in parts:
            pixels = (np.arange(rows)[part.rows, None] * columns + np.arange(columns)[part.columns]).ravel()
            for offset, values in zip((0, count, 2 * count), part.values, strict=True):
                pixel_parts.append(pixels)
                column_parts.append(np.full(len(pixels), offset + part.column))
                value_parts.append(values.ravel())
        for offset, values in enumerate((np.ones((rows, columns)), *moved)):
            pixel_parts.append(everywhere)
            column_parts.append(np.full(len(everywhere), 3 * count + offset))
            value_parts.append(values.ravel())
        indices = (np.concatenate(pixel_parts), np.concatenate(column_parts))
        matrix = coo_array((np.concatenate(value_parts), indices), shape=(rows * columns, 3 * count + 3))
        return total, matrix.tocsr()

    def _parts(
        self, row_shift_A: Float[NDArray[np.float64], "rows 2"]
    ) -> tuple[Float[NDArray[np.float64], "rows columns"], Float[NDArray[np.float64], "2 rows columns"], list[_Part]]:
        """The same in pieces: counts, their derivatives by the row's dx and dy, and those by each spot of a column."""
        rows, columns = self.shape
        p, shift = self.pixel_size_A, row_shift_A
        tables = [_Table(profile) for profile in self.profiles]
        total = self.background_counts.astype(np.float64).copy()
        moved = np.zeros((2, rows, columns))
        parts = []
        for (x, y), counts, column, kind in zip(
            self.site_xy_A, self.site_counts, self.site_column, self.site_profile, strict=True
        ):
            i, j = slice(*_span(y, p, rows, REACH_A)), slice(*_span(x, p, columns, REACH_A))
            if i.start >= i.stop or j.start >= j.stop:
                continue
            dx = np.arange(j.start, j.stop) * p + shift[i, :1] - x
            dy = (np.arange(i.start, i.stop) * p + shift[i, 1] - y)[:, None]
            value, over = tables[kind](dx**2 + dy**2, counts * p**2)
            # Moving a column is moving the beam the other way.
            by_x, by_y = -over * dx, -over * dy
            total[i, j] += value
            moved[0, i, j] -= by_x
            moved[1, i, j] -= by_y
            near = slice(*_span(y, p, rows, SEEN_A)), slice(*_span(x, p, columns, SEEN_A))
            if column < 0 or near[0].start >= near[0].stop or near[1].start >= near[1].stop:
                continue
            here = (
                slice(near[0].start - i.start, near[0].stop - i.start),
                slice(near[1].start - j.start, near[1].stop - j.start),
            )
            parts.append(_Part(int(column), *near, np.stack([by_x[here], by_y[here], value[here]])))
        return total, moved, parts


@dataclass(frozen=True, eq=False)
class _Part:
    """Derivatives by x, y and the logarithm of the intensity of a spot of a column, on the pixels that see it."""

    column: int
    rows: slice
    columns: slice
    values: Float[NDArray[np.float64], "3 h w"]


class _Table:
    """A profile cut to `REACH_A`, on a fine grid of radii."""

    _STEP_A = 1e-3

    def __init__(self, profile: Profile) -> None:
        r = np.arange(0.0, REACH_A + 2.0 * self._STEP_A, self._STEP_A)
        # The spot ends where it is cut without a step, so that its derivatives are whole.
        self._value = np.where(r < REACH_A, profile.value(r) - profile.value(np.array(REACH_A)), 0.0)
        self._over = np.where(r < REACH_A, profile.slope(r), 0.0) / np.maximum(r, 1e-12)
        self._over[0] = self._over[1]

    def __call__(self, squared: NDArray[np.float64], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Value and slope over radius at squared radii, times a scale; linear between the grid's points."""
        place = np.minimum(np.sqrt(squared) / self._STEP_A, len(self._value) - 2)
        below = place.astype(np.int64)
        part = place - below
        value, over = (scale * (t[below] + part * (t[below + 1] - t[below])) for t in (self._value, self._over))
        return value, over


def _span(place: float, step: float, count: int, reach: float) -> tuple[int, int]:
    """Pixels within a reach of a place, one more on each side for row shifts."""
    low, high = int(np.floor((place - reach) / step)) - 1, int(np.ceil((place + reach) / step)) + 2
    return max(low, 0), max(min(high, count), 0)


def image_model(
    specimen: Specimen,
    optics: Optics,
    detector: Detector,
    scan: Scan,
    dose_e_per_A2: float,
    background: Float[NDArray[np.float64], "rows columns"] | float = 0.0,
    contrast: Contrast = "adf",
) -> ImageModel:
    """The model of a linear image of a specimen: what `render` counts electrons of.

    Columns on the image and those up to 2 A beyond its edge are unknown. Farther ones are taken as known: no more than
    tails of them are seen.

    Args:
        specimen: what is imaged.
        optics: probe and source.
        detector: annular detector.
        scan: the ideal scan.
        dose_e_per_A2: electrons per A^2.
        background: fraction of the beam, everywhere or for each pixel.
        contrast: contrast of the linear engine.

    Raises:
        OpticsError: the dose is not positive, or no column lies on the image.
    """
    if not 0.0 < dose_e_per_A2 < np.inf:
        raise OpticsError(f"dose {dose_e_per_A2} e/A^2: expected above 0")
    weights = site_weights_A2(specimen, optics, detector, contrast)
    # A column enters with all its sites, at the lattice image that each has next to it.
    offset = specimen.xy_A - specimen.column_xy_A[specimen.column]
    if specimen.cell_A is not None:
        turns = offset @ np.linalg.inv(specimen.cell_A)
        offset = (turns - np.rint(turns)) @ specimen.cell_A
    column_xy, column_index = lattice_images(specimen.column_xy_A, specimen.cell_A, scan, REACH_A)
    p = scan.pixel_size_A
    high = (np.array(scan.shape[::-1]) - 0.5) * p
    # In pixels, as `Columns.inside` has it: the same columns to the last bit.
    inside = ((column_xy / p >= -0.5) & (column_xy / p < np.array(scan.shape[::-1]) - 0.5)).all(axis=1)
    near = ((column_xy >= -0.5 * p - BEYOND_A) & (column_xy < high + BEYOND_A)).all(axis=1) & ~inside
    number = np.where(inside, np.cumsum(inside) - 1, -1)
    number[near] = int(inside.sum()) + np.arange(int(near.sum()))
    if not inside.any():
        raise OpticsError(f"{specimen.name}: no column lies on the image")
    shaped_by = specimen.numbers * (contrast == "potential")
    kinds = sorted(set(zip(specimen.u_A.tolist(), shaped_by.tolist(), strict=True)))
    kind = np.array([kinds.index(pair) for pair in zip(specimen.u_A.tolist(), shaped_by.tolist(), strict=True)])
    xy, counts, owner, profile = [], [], [], []
    for place, index, column in zip(column_xy, column_index, number, strict=True):
        sites = np.flatnonzero(specimen.column == index)
        xy.append(place + offset[sites] @ scan.rotation)
        counts.append(dose_e_per_A2 * weights[sites])
        owner.append(np.full(len(sites), column))
        profile.append(kind[sites])
    return ImageModel(
        scan.shape,
        p,
        np.concatenate(xy),
        np.concatenate(counts),
        np.concatenate(owner).astype(np.int64),
        np.concatenate(profile).astype(np.int64),
        tuple(spot_profile(optics, u, number) for u, number in kinds),
        np.broadcast_to(np.asarray(background, dtype=np.float64) * dose_e_per_A2 * p**2, scan.shape),
        int(near.sum()),
    )


@dataclass(frozen=True, eq=False)
class Bound:
    """The smallest covariance that an unbiased estimate of an image's columns can have.

    Attributes:
        covariance: (3 K + 1, 3 K + 1) of all x, all y in A, logarithms of intensities, and the background in counts.
        columns: K.
    """

    covariance: Float[NDArray[np.float64], "P P"]
    columns: int

    @property
    def xy_A(self) -> Float[NDArray[np.float64], "K 2"]:
        """(K, 2) standard deviations of x and y in angstrom: the absolute bound.

        Infinite where rounding leaves no variance: columns so close that the image does not tell them apart.
        """
        variance = np.diag(self.covariance)[: 2 * self.columns].reshape(2, -1).T
        return np.sqrt(np.where(variance > 0.0, variance, np.inf))

    @property
    def relative_xy_A(self) -> Float[NDArray[np.float64], "K 2"]:
        """(K, 2) the same after the image's mean position is taken off: hold errors without their mean against it."""
        k = self.columns
        centre = np.eye(k) - 1.0 / k
        parts = [np.diag(centre @ self.covariance[a : a + k, a : a + k] @ centre) for a in (0, k)]
        deviation: NDArray[np.float64] = np.sqrt(np.maximum(np.stack(parts, axis=1), 0.0))
        return deviation

    @property
    def intensity(self) -> Float[NDArray[np.float64], "K"]:
        """(K,) relative standard deviation of the intensities; infinite as `xy_A` is."""
        variance = np.diag(self.covariance)[2 * self.columns : 3 * self.columns]
        return np.sqrt(np.where(variance > 0.0, variance, np.inf))


def _tiles(
    model: ImageModel, parts: list[_Part]
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.int64], NDArray[np.float64]]]:
    """The image in tiles: pixels, which unknowns they see, and the (unknowns, h, w) derivatives by those.

    A tile sees few columns: dense products of those are many times as fast as sparse ones of the whole image.
    """
    rows, columns = model.shape
    edge = min(_TILE_PX, int(np.ceil(_TILE_A / model.pixel_size_A)))
    spans = np.array([(p.rows.start, p.rows.stop, p.columns.start, p.columns.stop) for p in parts]).reshape(-1, 4)
    for i, j in product(range(0, rows, edge), range(0, columns, edge)):
        tile = slice(i, min(i + edge, rows)), slice(j, min(j + edge, columns))
        meets = (spans[:, 0] < tile[0].stop) & (spans[:, 1] > i) & (spans[:, 2] < tile[1].stop) & (spans[:, 3] > j)
        seen = [parts[k] for k in np.flatnonzero(meets)]
        names = np.unique([part.column for part in seen]).astype(np.int64)
        unknown = np.zeros((3 * len(names) + 1, tile[0].stop - i, tile[1].stop - j))
        by_column = unknown[:-1].reshape(3, len(names), *unknown.shape[1:])
        for part in seen:
            top, left = max(i, part.rows.start), max(j, part.columns.start)
            low, right = min(tile[0].stop, part.rows.stop), min(tile[1].stop, part.columns.stop)
            by_column[:, np.searchsorted(names, part.column), top - i : low - i, left - j : right - j] += part.values[
                :, top - part.rows.start : low - part.rows.start, left - part.columns.start : right - part.columns.start
            ]
        unknown[-1] = 1.0
        k = model.columns
        yield tile, np.concatenate([names, names + k, names + 2 * k, [3 * k]]), unknown


def hybrid_bound(
    model: ImageModel,
    row_sigma_A: Float[NDArray[np.float64], "rows 2"] | None = None,
    *,
    draws: int = DRAWS,
    rng: np.random.Generator | None = None,
) -> Bound:
    """The bound of a whole image under Poisson counts, with or without scan noise.

    J = E[Fisher information of columns, background and row displacements] over draws of the displacements, plus the
    prior precision 1 / sigma^2 of each; the displacements are then eliminated (Schur complement). A row component of
    zero sigma is known.

    Args:
        model: what is expected.
        row_sigma_A: (rows, 2) standard deviation of each row's displacement in x and y; None is no scan noise.
        draws: draws of the displacements to average over.
        rng: their source of randomness.

    Raises:
        OpticsError: no column lies on the image, no pixel expects counts, or sigma is negative.
    """
    rows = model.shape[0]
    if model.columns == 0:
        raise OpticsError("no column lies on the image: nothing to bound")
    sigma = np.zeros((rows, 2)) if row_sigma_A is None else np.asarray(row_sigma_A, dtype=np.float64)
    if sigma.shape != (rows, 2) or not (sigma >= 0.0).all():
        raise OpticsError(f"row_sigma_A of shape {sigma.shape}: expected ({rows}, 2), 0 or more")
    live = sigma > 0.0
    count = draws if live.any() else 1
    generator = rng or np.random.Generator(np.random.Philox(0))
    size = 3 * model.columns + 1
    direct = np.zeros((size, size))
    mixed = np.zeros((size, 2, rows))
    own = np.zeros((rows, 2, 2))
    for _ in range(count):
        expected, moved, parts = model._parts(generator.standard_normal((rows, 2)) * sigma)
        if not expected.max() > 0.0:
            raise OpticsError("no pixel expects any counts: nothing to bound")
        root = np.sqrt(np.maximum(expected, DARKEST * expected.max()))
        moved /= root
        own += np.einsum("xij,yij->ixy", moved, moved)
        for tile, used, unknown in _tiles(model, parts):
            unknown /= root[tile]
            flat = unknown.reshape(len(used), -1)
            direct[np.ix_(used, used)] += flat @ flat.T
            by_row = unknown.transpose(1, 0, 2) @ moved[:, *tile].transpose(1, 2, 0)
            mixed[used, :, tile[0]] += by_row.transpose(1, 2, 0)
    direct, mixed, own = direct / count, mixed / count, own / count
    # A component that cannot move gets an infinite precision.
    precision = np.where(live, 1.0 / np.where(live, sigma, 1.0) ** 2, np.inf)
    inverse = np.zeros((rows, 2, 2))
    for i in range(rows):
        free = np.flatnonzero(live[i])
        if len(free):
            block = own[i][np.ix_(free, free)] + np.diag(precision[i, free])
            inverse[i][np.ix_(free, free)] = np.linalg.inv(block)
    information = direct - np.einsum("pxi,ixy,qyi->pq", mixed, inverse, mixed, optimize=True)
    inside = model.columns - model.beyond
    of_columns = np.arange(3 * model.columns).reshape(3, -1)
    outside = of_columns[:, inside:].ravel()
    information[outside, outside] += _BEYOND_SIGMA**-2
    kept = np.append(of_columns[:, :inside].ravel(), 3 * model.columns)
    try:
        return Bound(np.linalg.inv(information)[np.ix_(kept, kept)], inside)
    except np.linalg.LinAlgError as error:
        raise OpticsError("two columns cannot be told apart: their spots lie on one another") from error
