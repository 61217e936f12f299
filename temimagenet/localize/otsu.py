"""`OtsuCentroid`: a threshold, connected regions and their centres, as in Lin et al., Sci. Rep. 11, 5386 (2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import Flag, FoundColumns, check_image

__all__ = ["OtsuCentroid", "otsu_threshold"]

_BINS = 256


@dataclass(frozen=True)
class OtsuCentroid:
    """Localizer: regions above Otsu's threshold, a column each. Best on the map of a model that separates columns.

    Columns whose regions touch are found as one. Standard errors are nan: a centre does not tell its own. The
    intensity is the sum over the region of what exceeds the threshold.

    Attributes:
        blur_A: standard deviation of a Gaussian blur before the threshold; 0 for none.
        centre: "geometric" takes the mean position of a region's pixels; "intensity" weights by what exceeds the
            threshold.
        least_area_A2: smaller regions are left out.
        threshold: where regions begin between the least (0) and the greatest value (1); Otsu's unless given.
    """

    blur_A: float = 0.0
    centre: Literal["geometric", "intensity"] = "geometric"
    least_area_A2: float = 0.05
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Raise `LocalizeError` for an unknown centre, a blur or area that is negative or not finite, or a threshold
        that is not between 0 and 1."""
        if self.centre not in ("geometric", "intensity"):
            raise LocalizeError(f"centre {self.centre!r}: expected 'geometric' or 'intensity'")
        for name, value in (("blur", self.blur_A), ("least area", self.least_area_A2)):
            if not 0.0 <= value < np.inf:
                raise LocalizeError(f"{name} {value}: expected 0 or more")
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise LocalizeError(f"threshold {self.threshold}: expected between 0 and 1, or None for Otsu's")

    @property
    def name(self) -> str:
        """Short name for tables."""
        threshold = "Otsu" if self.threshold is None else f"threshold {100.0 * self.threshold:g} %"
        return f"{threshold} ({self.centre}, blur {self.blur_A:g} A, least area {self.least_area_A2:g} A^2)"

    def __call__(self, image: ArrayLike, pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image or map; regions on the image's border are flagged `Flag.CUT`.

        Raises:
            LocalizeError: the image cannot be used.
        """
        values = check_image(image, pixel_size_A)
        if self.blur_A > 0.0:
            values = ndimage.gaussian_filter(values, self.blur_A / pixel_size_A)
        if values.min() == values.max():
            raise LocalizeError(f"a blur of {self.blur_A:g} A leaves a constant image: blur less")
        if self.threshold is None:
            threshold = otsu_threshold(values)
        else:
            threshold = float(values.min() + self.threshold * np.ptp(values))
        # Regions that meet at corners are one.
        regions, count = ndimage.label(values > threshold, structure=np.ones((3, 3)))
        area = np.bincount(regions.ravel(), minlength=count + 1)
        wanted = 1 + np.flatnonzero(area[1:] * pixel_size_A**2 >= self.least_area_A2)
        excess = values - threshold
        intensity = np.bincount(regions.ravel(), excess.ravel(), minlength=count + 1)[wanted].astype(np.float64)
        y, x = np.indices(values.shape)
        weight = np.ones(values.shape) if self.centre == "geometric" else excess
        total, by_x, by_y = (
            np.bincount(regions.ravel(), (weight * part).ravel(), minlength=count + 1)[wanted] for part in (1, x, y)
        )
        xy = np.stack([by_x, by_y], axis=1) / total[:, None]
        border = np.concatenate([regions[[0, -1]].ravel(), regions[:, [0, -1]].ravel()])
        flags = np.where(np.isin(wanted, border), int(Flag.CUT), int(Flag.SOUND)).astype(np.int64)
        unknown = np.full(len(wanted), np.nan)
        return FoundColumns(
            xy, np.full((len(wanted), 2), np.nan), intensity, unknown.copy(), unknown, flags, pixel_size_A
        )


def otsu_threshold(values: NDArray[np.float64]) -> float:
    """The threshold that best parts values in two (Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62).

    It maximises the variance between classes over the edges of 256 bins; a value above it is bright.

    Args:
        values: any shape, finite, not all the same.
    """
    count, edges = np.histogram(values, bins=_BINS)
    middle = 0.5 * (edges[1:] + edges[:-1])
    below, moment = np.cumsum(count)[:-1], np.cumsum(count * middle)[:-1]
    above, rest = values.size - below, (count * middle).sum() - moment
    # The first and last bins are never empty, so both classes have members.
    between = below * above * (moment / below - rest / above) ** 2
    # In a gap every edge is as good: the middle one is taken.
    best = np.flatnonzero(between >= between.max() * (1.0 - 1e-12))
    return float(edges[1:-1][best].mean())
