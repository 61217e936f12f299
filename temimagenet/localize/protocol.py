"""What every localizer takes and gives: `image, pixel_size_A -> FoundColumns`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from numbers import Real
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from temimagenet.errors import LocalizeError
from temimagenet.imaging.detector import check_image

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Flag", "FoundColumns", "Localizer", "check_image", "check_starts", "doubts", "owners", "repeated"]


class Flag(IntFlag):
    """Why a column should not be trusted; 0 is a sound one."""

    SOUND = 0
    NOT_CONVERGED = 1
    """The fit did not settle."""
    CUT = 2
    """The column's window reaches beyond the image."""
    STRAYED = 4
    """The fit went farther from its start than the column is wide."""
    FAINT = 8
    """Its height is below three standard errors, or negative."""
    ODD_WIDTH = 16
    """Its width is below half or above twice the image's median width."""
    TWICE = 32
    """It began so near an earlier start that they could not be told apart, and is that column once more."""


@dataclass(frozen=True, eq=False)
class FoundColumns:
    """Columns that a localizer found in one image.

    Attributes:
        xy_px: (N, 2) positions (x, y) in pixels, pixel centres at integers.
        sigma_px: (N, 2) standard errors of x and y in pixels; nan where unknown.
        intensity: (N,) signal above background, summed over pixels, in the image's unit.
        intensity_sigma: (N,) its standard error; nan where unknown.
        width_px: (N,) standard deviation of the spot in pixels; nan where the method has none.
        flags: (N,) `Flag` values.
        pixel_size_A: pixel size in angstrom.
    """

    xy_px: Float[NDArray[np.float64], "N 2"]
    sigma_px: Float[NDArray[np.float64], "N 2"]
    intensity: Float[NDArray[np.float64], "N"]
    intensity_sigma: Float[NDArray[np.float64], "N"]
    width_px: Float[NDArray[np.float64], "N"]
    flags: Int[NDArray[np.int64], "N"]
    pixel_size_A: float

    @staticmethod
    def none(pixel_size_A: float) -> FoundColumns:
        """No column at all."""
        pairs, single = np.zeros((0, 2)), np.zeros(0)
        return FoundColumns(pairs, pairs, single, single, single, np.zeros(0, dtype=np.int64), pixel_size_A)

    def __len__(self) -> int:
        """Number of columns, flagged ones included."""
        return len(self.xy_px)

    @property
    def sound(self) -> NDArray[np.bool_]:
        """(N,) columns without any flag."""
        unflagged: NDArray[np.bool_] = self.flags == Flag.SOUND
        return unflagged

    @property
    def xy_pm(self) -> Float[NDArray[np.float64], "N 2"]:
        """Positions in picometres from the centre of pixel (0, 0)."""
        return self.xy_px * self.pixel_size_A * 100.0

    @property
    def sigma_pm(self) -> Float[NDArray[np.float64], "N 2"]:
        """Standard errors in picometres."""
        return self.sigma_px * self.pixel_size_A * 100.0

    def select(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> FoundColumns:
        """Some of the columns, by a mask (N,) or by their numbers."""
        return FoundColumns(
            self.xy_px[which], self.sigma_px[which], self.intensity[which], self.intensity_sigma[which],
            self.width_px[which], self.flags[which], self.pixel_size_A,
        )  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """A row a column: positions and errors in pixels and picometres, intensity, width, flags."""
        import pandas as pd

        x, y = self.xy_px.T
        return pd.DataFrame(
            {
                "x_px": x,
                "y_px": y,
                "x_pm": self.xy_pm[:, 0],
                "y_pm": self.xy_pm[:, 1],
                "sigma_x_pm": self.sigma_pm[:, 0],
                "sigma_y_pm": self.sigma_pm[:, 1],
                "intensity": self.intensity,
                "intensity_sigma": self.intensity_sigma,
                "width_px": self.width_px,
                "flags": self.flags,
            }
        )


class Localizer(Protocol):
    """A method that finds columns."""

    @property
    def name(self) -> str:
        """Short name for tables, settings included."""
        ...

    def __call__(self, image: Float[NDArray[np.float64], "rows columns"], pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image."""
        ...


def check_starts(
    values: Float[NDArray[np.float64], "rows columns"], start_px: ArrayLike, width_px: float
) -> Float[NDArray[np.float64], "N 2"]:
    """Positions to start a fit from as float64, after everything was checked.

    Raises:
        LocalizeError: not finite (N, 2) positions on the image, or a spot narrower than 0.3 pixels or wider than the
            image.
    """
    try:
        start = np.asarray(start_px, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise LocalizeError("starts: expected finite (N, 2) positions (x, y) in pixels") from error
    if start.ndim != 2 or start.shape[1] != 2 or not np.isfinite(start).all():
        raise LocalizeError(f"starts of shape {start.shape}: expected finite (N, 2) positions (x, y) in pixels")
    if not (isinstance(width_px, Real) and 0.3 <= width_px < min(values.shape)):
        raise LocalizeError(f"width {width_px} px: expected 0.3 or more and less than the image")
    outside = ((start < -0.5) | (start > np.array(values.shape[::-1]) - 0.5)).any(axis=1)
    if outside.any():
        number = int(np.flatnonzero(outside)[0])
        raise LocalizeError(f"start {number} at {start[number].tolist()} lies outside the image")
    return start


def owners(start: Float[NDArray[np.float64], "N 2"], width_px: float) -> Int[NDArray[np.int64], "N"]:
    """Which start each one is fitted as: itself, or an earlier one within half a spot's width."""
    owner = np.arange(len(start))
    pairs = KDTree(start).query_pairs(0.5 * width_px, output_type="ndarray") if len(start) else np.zeros((0, 2), int)
    for one, other in pairs[np.lexsort(pairs.T[::-1])].tolist():
        if owner[one] == one and owner[other] == other:
            owner[other] = one
    return owner


def repeated(columns: FoundColumns, owner: Int[NDArray[np.int64], "N"]) -> FoundColumns:
    """A column for every start from those of the starts that were fitted (`owners`)."""
    own, number = np.unique(owner, return_inverse=True)
    twice = np.ones(len(owner), dtype=bool)
    twice[own] = False
    return FoundColumns(
        columns.xy_px[number],
        columns.sigma_px[number],
        columns.intensity[number],
        columns.intensity_sigma[number],
        columns.width_px[number],
        columns.flags[number] | np.where(twice, int(Flag.TWICE), 0),
        columns.pixel_size_A,
    )


def doubts(
    xy: Float[NDArray[np.float64], "N 2"],
    start: Float[NDArray[np.float64], "N 2"],
    width_px: float,
    height: Float[NDArray[np.float64], "N"],
    height_sigma: Float[NDArray[np.float64], "N"],
) -> Int[NDArray[np.int64], "N"]:
    """`Flag.STRAYED` and `Flag.FAINT` of fitted columns, from where they began, and their heights and errors."""
    strayed = ~(np.linalg.norm(xy - start, axis=1) <= 1.5 * width_px)
    faint = ~(height > 3.0 * height_sigma)
    flags: NDArray[np.int64] = strayed * int(Flag.STRAYED) | faint * int(Flag.FAINT)
    return flags
