"""Information bounds: how precisely the columns of one image can be known, whatever the method.

The Cramer-Rao bound of all columns, intensities and the background together; with scan noise the hybrid bound, in
which the displacement of every row is a further unknown with a known prior (Van Trees, Detection, Estimation and
Modulation Theory I (1968), sec. 2.4.3; Rockah & Schultheiss, IEEE Trans. ASSP 35 (1987) 286).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.sparse import coo_array, csr_array
from scipy.special import j0, j1

from temimagenet.errors import OpticsError
from temimagenet.imaging.linear import site_weights_A2
from temimagenet.imaging.optics import Detector, Optics
from temimagenet.imaging.scan import Scan, lattice_images
from temimagenet.specimen.specimen import Specimen

__all__ = ["Bound", "ImageModel", "Profile", "gaussian_profile", "hybrid_bound", "image_model", "spot_profile"]

REACH_A = 8.0
"""How far a column's spot is followed; the tails of the probe beyond it are left out."""

_STEPS_PER_A2 = 4000
_TILE_PX = 32


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


def spot_profile(optics: Optics, u_A: float) -> Profile:
    """The spot that an atom with thermal displacement u per axis leaves in a linear `adf` image.

    The Hankel transform of OTF(q) exp(-2 pi^2 u^2 q^2), source included, and its derivative, as splines.
    """
    nodes, weights = np.polynomial.legendre.leggauss(512)
    q = 0.5 * optics.q_max_per_A * (nodes + 1.0)
    kernel = np.pi * optics.q_max_per_A * weights * q * optics.otf(q) * np.exp(-2.0 * np.pi**2 * u_A**2 * q**2)
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
        site_column: (S,) column that a spot belongs to, 0..K-1, or -1 for spots that are taken as known.
        site_profile: (S,) index into `profiles`.
        profiles: kinds of spots.
        background_counts: (rows, columns) counts a pixel of the background; a constant on top of it is unknown.
    """

    shape: tuple[int, int]
    pixel_size_A: float
    site_xy_A: Float[NDArray[np.float64], "S 2"]
    site_counts: Float[NDArray[np.float64], "S"]
    site_column: Int[NDArray[np.int64], "S"]
    site_profile: Int[NDArray[np.int64], "S"]
    profiles: tuple[Profile, ...]
    background_counts: Float[NDArray[np.float64], "rows columns"]

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
        p = self.pixel_size_A
        shift = np.zeros((rows, 2)) if row_shift_A is None else row_shift_A
        count = self.columns
        total = self.background_counts.astype(np.float64).copy()
        moved = np.zeros((2, rows, columns))
        pixel_parts, column_parts, value_parts = [], [], []
        for (x, y), counts, column, kind in zip(
            self.site_xy_A, self.site_counts, self.site_column, self.site_profile, strict=True
        ):
            i = np.arange(*_span(y, p, rows, REACH_A))
            j = np.arange(*_span(x, p, columns, REACH_A))
            if not len(i) or not len(j):
                continue
            dx = j[None, :] * p + shift[i, 0][:, None] - x
            dy = np.broadcast_to((i * p + shift[i, 1])[:, None] - y, dx.shape)
            r = np.hypot(dx, dy)
            profile = self.profiles[kind]
            near = r < REACH_A
            scale = counts * p**2
            # The spot ends where it is cut without a step, so that its derivatives are whole.
            value = np.where(near, scale * (profile.value(r) - profile.value(np.array(REACH_A))), 0.0)
            over = np.where(near, scale * profile.slope(r), 0.0) / np.maximum(r, 1e-12)
            # Moving a column is moving the beam the other way.
            by_x, by_y = -over * dx, -over * dy
            block = np.ix_(i, j)
            total[block] += value
            moved[0][block] -= by_x
            moved[1][block] -= by_y
            if column < 0:
                continue
            pixels = (i[:, None] * columns + j[None, :]).ravel()
            for offset, part in ((0, by_x), (count, by_y), (2 * count, value)):
                pixel_parts.append(pixels)
                column_parts.append(np.full(len(pixels), offset + column))
                value_parts.append(part.ravel())
        everywhere = np.arange(rows * columns)
        for offset, part in ((0, np.ones(rows * columns)), (1, moved[0].ravel()), (2, moved[1].ravel())):
            pixel_parts.append(everywhere)
            column_parts.append(np.full(len(everywhere), 3 * count + offset))
            value_parts.append(part)
        indices = (np.concatenate(pixel_parts), np.concatenate(column_parts))
        matrix = coo_array((np.concatenate(value_parts), indices), shape=(rows * columns, 3 * count + 3))
        return total, matrix.tocsr()


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
) -> ImageModel:
    """The model of a linear `adf` image of a specimen: what `render` counts electrons of.

    Columns on the image are unknown, those just outside known.

    Args:
        specimen: what is imaged.
        optics: probe and source.
        detector: annular detector.
        scan: the ideal scan.
        dose_e_per_A2: electrons per A^2.
        background: fraction of the beam, everywhere or for each pixel.

    Raises:
        OpticsError: the dose is not positive, or no column lies on the image.
    """
    if not 0.0 < dose_e_per_A2 < np.inf:
        raise OpticsError(f"dose {dose_e_per_A2} e/A^2: expected above 0")
    weights = site_weights_A2(specimen, optics, detector)
    # A column enters with all its sites, at the lattice image that each has next to it.
    offset = specimen.xy_A - specimen.column_xy_A[specimen.column]
    if specimen.cell_A is not None:
        turns = offset @ np.linalg.inv(specimen.cell_A)
        offset = (turns - np.rint(turns)) @ specimen.cell_A
    column_xy, column_index = lattice_images(specimen.column_xy_A, specimen.cell_A, scan, REACH_A)
    p = scan.pixel_size_A
    high = (np.array(scan.shape[::-1]) - 0.5) * p
    inside = ((column_xy >= -0.5 * p) & (column_xy < high)).all(axis=1)
    number = np.where(inside, np.cumsum(inside) - 1, -1)
    if not inside.any():
        raise OpticsError(f"{specimen.name}: no column lies on the image")
    kinds, kind = np.unique(specimen.u_A, return_inverse=True)
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
        tuple(spot_profile(optics, float(u)) for u in kinds),
        np.broadcast_to(np.asarray(background, dtype=np.float64) * dose_e_per_A2 * p**2, scan.shape),
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
        """(K, 2) standard deviations of x and y in angstrom: the absolute bound."""
        deviation: NDArray[np.float64] = np.sqrt(np.diag(self.covariance)[: 2 * self.columns].reshape(2, -1).T)
        return deviation

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
        """(K,) relative standard deviation of the intensities."""
        deviation: NDArray[np.float64] = np.sqrt(np.diag(self.covariance)[2 * self.columns : 3 * self.columns])
        return deviation


class _Table:
    """A profile at even steps of r^2, where it is smooth: density, and slope over r, both 0 from a reach on."""

    def __init__(self, profile: Profile) -> None:
        square = np.arange(int(REACH_A**2 * _STEPS_PER_A2) + 1) / _STEPS_PER_A2
        self.r = np.sqrt(square)
        # The spot ends where it is cut without a step, as in `ImageModel.expected`.
        self.value = profile.value(self.r) - profile.value(np.array(REACH_A))
        safe = np.maximum(self.r, 1e-4)
        self.over = profile.slope(safe) / safe
        self.value[-1] = self.over[-1] = 0.0

    def reach_A(self, scale: float, floor: float) -> float:
        """Radius beyond which a spot of `scale` counts A^2 tells less than 1e-4 of what it tells of its place or
        intensity, where a pixel expects `floor` counts besides it."""
        expected = np.maximum(self.value, 0.0) * scale + floor
        # Even steps of r^2 are even steps of area.
        told = [(self.over * self.r) ** 2 / expected, self.value**2 / expected]
        beyond = [1.0 - np.cumsum(part) / part.sum() for part in told]
        return float(self.r[max(int(np.argmax(part < 1e-4)) for part in beyond)])

    def parts(self, reach_A: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Density and slope over r within a reach, and the density beyond it."""
        near = self.r < reach_A
        return np.where(near, self.value, 0.0), np.where(near, self.over, 0.0), np.where(near, 0.0, self.value)


def _information(
    model: ImageModel, shifts: Float[NDArray[np.float64], "draws rows 2"]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fisher information, averaged over draws of the row displacements, summed tile by tile.

    Spots are followed as far as they tell something; beyond, they only add to the expected counts, as if the rows had
    not moved.

    Returns:
        (P, P) of columns and background, (P, 2, rows) between those and the displacements, (rows, 2, 2) of the
        displacements of each row; P = 3 K + 1.
    """
    rows = model.shape[0]
    p, k = model.pixel_size_A, model.columns
    order = np.argsort(model.site_column, kind="stable")
    xy, scale = model.site_xy_A[order], model.site_counts[order] * p**2
    owner, kind = model.site_column[order], model.site_profile[order]
    tables = [_Table(profile) for profile in model.profiles]
    far = model.background_counts.astype(np.float64).copy()
    everything = [(table.value, table.over, table.value) for table in tables]
    for i, j, here in _tiles(model.shape, p, xy, REACH_A):
        x, y = j * p - xy[here, 0, None], i * p - xy[here, 1, None]
        square = y[:, :, None] ** 2 + x[:, None, :] ** 2
        far[np.ix_(i, j)] += (_look(everything, 0, square, kind[here]) * scale[here, None, None]).sum(axis=0)
    floor = float(far.min())
    if floor <= 0.0:
        raise OpticsError("a pixel expects no counts: give the model a background")
    reach = [table.reach_A(float(scale[kind == n].max(initial=0.0)), floor) for n, table in enumerate(tables)]
    parts = [table.parts(r) for table, r in zip(tables, reach, strict=True)]
    # What is near is looked up anew in every draw.
    for i, j, here in _tiles(model.shape, p, xy, max(reach)):
        x, y = j * p - xy[here, 0, None], i * p - xy[here, 1, None]
        square = y[:, :, None] ** 2 + x[:, None, :] ** 2
        far[np.ix_(i, j)] -= (_look(parts, 0, square, kind[here]) * scale[here, None, None]).sum(axis=0)

    direct = np.zeros((3 * k + 1, 3 * k + 1))
    mixed = np.zeros((3 * k + 1, 2, rows))
    own = np.zeros((rows, 2, 2))
    margin = max(reach) + float(np.abs(shifts).max(initial=0.0))
    for i, j, here in _tiles(model.shape, p, xy, margin):
        columns_here, first = np.unique(owner[here], return_index=True)
        known = int(len(columns_here) > 0 and columns_here[0] < 0)
        live = columns_here[known:]
        for shift in shifts[:, i]:
            # (sites, rows, columns) arrays: the way from each site to each pixel.
            x = (j * p)[None, None, :] + shift[None, :, None, 0] - xy[here, 0, None, None]
            y = (i * p + shift[:, 1])[None, :, None] - xy[here, 1, None, None]
            square = x**2 + y**2
            weight = scale[here, None, None]
            value = _look(parts, 0, square, kind[here]) * weight
            over = _look(parts, 1, square, kind[here]) * weight
            by = [over * x, over * y, value]
            expected = far[np.ix_(i, j)] + value.sum(axis=0)
            if expected.min() <= 0.0:
                raise OpticsError("a pixel expects no counts: give the model a background")
            root = 1.0 / np.sqrt(expected)
            beam = np.stack([by[0].sum(axis=0), by[1].sum(axis=0)]) * root
            own[i] += np.einsum("xij,yij->ixy", beam, beam)
            # Moving a column is moving the beam the other way.
            sums = [np.add.reduceat(part, first, axis=0)[known:] if len(first) else part for part in by]
            unknown = np.concatenate([-sums[0], -sums[1], sums[2], np.ones((1, len(i), len(j)))]) * root
            flat = unknown.reshape(len(unknown), -1)
            index = np.concatenate([live, live + k, live + 2 * k, np.array([3 * k])])
            direct[np.ix_(index, index)] += flat @ flat.T
            mixed[np.ix_(index, np.arange(2), i)] += np.einsum("pij,xij->pxi", unknown, beam, optimize=True)
    count = len(shifts)
    return direct / count, mixed / count, own / count


def _look(
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
    which: int,
    square: NDArray[np.float64],
    kind: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Table entries at squared distances; the first axis runs over sites, of which `kind` tells the table."""
    last = len(parts[0][0]) - 1
    at = np.minimum(square * _STEPS_PER_A2 + 0.5, last).astype(np.int32)
    if len(parts) == 1:
        return parts[0][which].take(at)
    out = np.empty(square.shape)
    for n, part in enumerate(parts):
        out[kind == n] = part[which].take(at[kind == n])
    return out


def _tiles(
    shape: tuple[int, int], pixel_size_A: float, xy: NDArray[np.float64], reach_A: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Square tiles of an image: rows, columns, and the sites within a reach of the tile."""
    for top in range(0, shape[0], _TILE_PX):
        for left in range(0, shape[1], _TILE_PX):
            i = np.arange(top, min(top + _TILE_PX, shape[0]))
            j = np.arange(left, min(left + _TILE_PX, shape[1]))
            low = np.array([left, top]) * pixel_size_A - reach_A
            high = np.array([j[-1], i[-1]]) * pixel_size_A + reach_A
            yield i, j, np.flatnonzero(((xy > low) & (xy < high)).all(axis=1))


def hybrid_bound(
    model: ImageModel,
    row_sigma_A: Float[NDArray[np.float64], "rows 2"] | None = None,
    *,
    draws: int = 8,
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
        OpticsError: no column lies on the image, a pixel expects no counts at all, or sigma is negative.
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
    shifts = generator.standard_normal((count, rows, 2)) * sigma
    direct, mixed, own = _information(model, shifts)
    # A component that cannot move gets an infinite precision.
    precision = np.where(live, 1.0 / np.where(live, sigma, 1.0) ** 2, np.inf)
    inverse = np.zeros((rows, 2, 2))
    for i in range(rows):
        free = np.flatnonzero(live[i])
        if len(free):
            block = own[i][np.ix_(free, free)] + np.diag(precision[i, free])
            inverse[i][np.ix_(free, free)] = np.linalg.inv(block)
    seen = np.einsum("pxi,ixy->pyi", mixed, inverse).reshape(len(direct), -1)
    information = direct - seen @ mixed.reshape(len(direct), -1).T
    try:
        return Bound(np.linalg.inv(information), model.columns)
    except np.linalg.LinAlgError as error:
        raise OpticsError("two columns cannot be told apart: their spots lie on one another") from error
