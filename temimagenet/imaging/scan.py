"""`Scan`: where the beam really was; the raster grid, its place on the specimen, and the scan noise of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from temimagenet.errors import OpticsError

__all__ = ["Scan", "ScanNoise", "lattice_images", "row_shifts_A", "row_sigma_A"]


@dataclass(frozen=True, eq=False)
class Scan:
    """A raster scan. The beam of pixel (row i, column j) is at x = j p + dx_i, y = i p + dy_i in the scan's frame
    and at r = R (x, y) + offset in the specimen's, with R = [[cos, -sin], [sin, cos]] of `rotation_deg`.

    Attributes:
        shape: rows and columns.
        pixel_size_A: step p between neighbouring pixels and rows in angstrom.
        rotation_deg: angle of the fast scan direction in the specimen's frame.
        offset_A: (x, y) point of the specimen under pixel (0, 0), in angstrom.
        row_shift_A: (rows, 2) displacement (dx, dy) of each row in the scan's frame in angstrom; None is none.
    """

    shape: tuple[int, int]
    pixel_size_A: float
    rotation_deg: float = 0.0
    offset_A: tuple[float, float] = (0.0, 0.0)
    row_shift_A: Float[NDArray[np.float64], "rows 2"] | None = None

    def __post_init__(self) -> None:
        """Raise `OpticsError` for an empty grid, a pixel size that is not positive, or shifts of the wrong shape."""
        if min(self.shape) < 1:
            raise OpticsError(f"scan of {self.shape[0]} x {self.shape[1]} pixels: expected at least 1 x 1")
        if not 0.0 < self.pixel_size_A < np.inf:
            raise OpticsError(f"pixel size {self.pixel_size_A} A: expected a positive length")
        if self.row_shift_A is not None and self.row_shift_A.shape != (self.shape[0], 2):
            raise OpticsError(f"row shifts of shape {self.row_shift_A.shape}: expected ({self.shape[0]}, 2)")

    @property
    def rotation(self) -> Float[NDArray[np.float64], "2 2"]:
        """The matrix R that takes scan coordinates (x, y) to the specimen's axes; exact at multiples of 90 degrees."""
        quarter, rest = divmod(self.rotation_deg, 90.0)
        angle = np.deg2rad(rest)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        exact = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), int(quarter) % 4)
        matrix: NDArray[np.float64] = exact @ turn
        return matrix

    def upsampled(self, factor: int) -> Scan:
        """The same field sampled `factor` times as finely, without scan noise; pixel (0, 0) stays where it is."""
        rows, columns = self.shape
        return replace(
            self,
            shape=(factor * rows, factor * columns),
            pixel_size_A=self.pixel_size_A / factor,
            row_shift_A=None,
        )

    def to_specimen_A(self, xy_px: Float[NDArray[np.float64], "n 2"]) -> Float[NDArray[np.float64], "n 2"]:
        """Specimen coordinates in angstrom of ideal (x, y) positions in pixels."""
        placed: NDArray[np.float64] = np.asarray(xy_px) * self.pixel_size_A @ self.rotation.T + self.offset_A
        return placed

    def to_pixels(self, xy_A: Float[NDArray[np.float64], "n 2"]) -> Float[NDArray[np.float64], "n 2"]:
        """Ideal (x, y) positions in pixels of specimen coordinates in angstrom."""
        pixels: NDArray[np.float64] = (np.asarray(xy_A) - self.offset_A) @ self.rotation / self.pixel_size_A
        return pixels


@dataclass(frozen=True)
class ScanNoise:
    """Random displacement of the beam, constant along each row (Lin et al. 2021, eq. for scan noise).

    d_i = N(0, sigma) sin(2 pi f t_i + phi), drawn for x and y apart, with t_i = i times the line time and f the
    mains frequency; rows of the published images fit sigma 0.20 to 0.23 A and f about 0.19 cycles a row.

    Attributes:
        sigma_A: standard deviation of the normal factor per axis in angstrom.
        modulation: "line-frequency" for the paper's form, None for the same sigma in every row.
        cycles_per_row: f times the line time.
        form: "beam" displaces the beam before electrons are counted; "published" moves rows by whole pixels,
            as in the images published with the paper.
    """

    sigma_A: float = 0.2
    modulation: Literal["line-frequency"] | None = "line-frequency"
    cycles_per_row: float = 0.19
    form: Literal["beam", "published"] = "beam"

    def __post_init__(self) -> None:
        """Raise `OpticsError` for a negative sigma or an unknown form."""
        if not 0.0 <= self.sigma_A < np.inf:
            raise OpticsError(f"scan noise sigma {self.sigma_A} A: expected 0 or more")
        if self.modulation not in ("line-frequency", None):
            raise OpticsError(f"scan noise modulation {self.modulation!r}: expected 'line-frequency' or None")
        if self.form not in ("beam", "published"):
            raise OpticsError(f"scan noise form {self.form!r}: expected 'beam' or 'published'")


def row_shifts_A(
    noise: ScanNoise, rows: int, pixel_size_A: float, rng: np.random.Generator
) -> Float[NDArray[np.float64], "rows 2"]:
    """Draw the displacement (dx, dy) in angstrom of every row of one image.

    Args:
        noise: what to draw.
        rows: number of rows.
        pixel_size_A: pixel size, to which the published form rounds.
        rng: source of randomness; the phase phi is drawn first, then rows in order.
    """
    phase = rng.uniform(0.0, 2.0 * np.pi)
    shifts: NDArray[np.float64] = noise.sigma_A * rng.standard_normal((rows, 2))
    if noise.modulation == "line-frequency":
        shifts *= np.sin(2.0 * np.pi * noise.cycles_per_row * np.arange(rows) + phase)[:, None]
    if noise.form == "published":
        shifts = np.round(shifts / pixel_size_A) * pixel_size_A
    return shifts


def row_sigma_A(noise: ScanNoise, rows: int, rng: np.random.Generator) -> Float[NDArray[np.float64], "rows 2"]:
    """Standard deviation in angstrom of every row's displacement in x and y, given the phase phi.

    Args:
        noise: what is drawn; the published form's rounding is left out.
        rows: number of rows.
        rng: a generator in the state that `row_shifts_A` took it in: phi is its first number.
    """
    phase = rng.uniform(0.0, 2.0 * np.pi)
    sigma = np.full(rows, noise.sigma_A)
    if noise.modulation == "line-frequency":
        sigma = sigma * np.abs(np.sin(2.0 * np.pi * noise.cycles_per_row * np.arange(rows) + phase))
    return np.stack([sigma, sigma], axis=1)


def lattice_images(
    xy_A: Float[NDArray[np.float64], "n 2"],
    cell_A: Float[NDArray[np.float64], "2 2"] | None,
    scan: Scan,
    margin_A: float,
) -> tuple[Float[NDArray[np.float64], "m 2"], Int[NDArray[np.int64], "m"]]:
    """Every lattice image of some specimen positions that lies in a scan's field or within a margin of it.

    Args:
        xy_A: positions in the specimen's frame.
        cell_A: lattice, rows are vectors; None has no images but the positions themselves.
        scan: the field, from half a pixel before the first pixel to half a pixel after the last.
        margin_A: how far outside the field to look.

    Returns:
        Positions in the scan's frame in angstrom, and the index into `xy_A` that each is an image of.
    """
    low = -0.5 * scan.pixel_size_A - margin_A
    high = (np.array(scan.shape[::-1]) - 0.5) * scan.pixel_size_A + margin_A
    shifts = np.zeros((1, 2))
    if cell_A is not None:
        corners = np.array([(x, y) for x in (low, high[0]) for y in (low, high[1])])
        inverse = np.linalg.inv(cell_A)
        span = scan.to_specimen_A(corners / scan.pixel_size_A) @ inverse
        base = xy_A @ inverse
        first = np.floor(span.min(axis=0) - base.max(axis=0)).astype(int)
        last = np.ceil(span.max(axis=0) - base.min(axis=0)).astype(int)
        n1, n2 = np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)), indexing="ij")
        shifts = np.stack([n1.ravel(), n2.ravel()], axis=1) @ cell_A
    everywhere = (xy_A[None, :, :] + shifts[:, None, :]).reshape(-1, 2)
    in_scan = scan.to_pixels(everywhere) * scan.pixel_size_A
    near = ((in_scan >= low) & (in_scan < high)).all(axis=1)
    return in_scan[near], np.tile(np.arange(len(xy_A)), len(shifts))[near]
