"""Localizers by network: `NetworkColumns` reads positions and errors, `NetworkOtsu` the centres of a drawn map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from temimagenet.errors import LocalizeError, ModelError
from temimagenet.localize.otsu import OtsuCentroid
from temimagenet.localize.protocol import Flag, FoundColumns
from temimagenet.models.columns import LEAST_CHANCE
from temimagenet.models.predict import Prediction, recall_model
from temimagenet.models.unet import FINE_MAPS
from temimagenet.models.zoo import TASKS

__all__ = ["VERY_SURE", "NetworkColumns", "NetworkOtsu", "has_columns", "read_map"]

_BORDER_PX = 1.5

VERY_SURE = 0.9
"""Chance of a column whose image has columns, whatever is said of others."""

_RATHER_SURE, _SHARE = 0.7, 1 / 3
"""Without one of that chance, so large a share of what is told must have this: of films and carbon the network believes
a little in many places."""

_LEAST_PEAK = 0.25
"""Of a mask, whose columns are 1: if even the highest is lower, Otsu's threshold would part noise."""


def _predict(
    reader: NetworkColumns | NetworkOtsu, image: ArrayLike, pixel_size_A: float, maps: tuple[str, ...], **more: float
) -> Prediction:
    """What a localizer's network draws; what it cannot work on cannot be located either."""
    try:
        return recall_model(reader.model).predict(
            image, pixel_size_A, maps, device=reader.device, scale=reader.scale, tile_px=reader.tile_px, **more
        )
    except ModelError as error:
        raise LocalizeError(str(error)) from error


def has_columns(chance: Float[NDArray[np.float64], "N"]) -> bool:
    """Whether what a network tells of an image are columns, not texture, from the chance of each."""
    return bool((chance >= VERY_SURE).any() or (len(chance) and (chance >= _RATHER_SURE).mean() >= _SHARE))


@dataclass(frozen=True)
class NetworkColumns:
    """Localizer: a network tells each column's position, signal and their errors at once (`models.columns`).

    It knows no lattice. An image has none where it is sure of too few (`has_columns`). Columns nearer to the border
    than 1.5 pixels are flagged `Flag.CUT`.

    Attributes:
        model: "all", the shipped network, or a file that training wrote.
        least_chance: columns of a smaller chance are left out.
        device: where to work.
        scale: pixels that the network sees along one of the image; None chooses by pixel size (`Model.predict`).
        tile_px: rows and columns of the tiles that large images are worked on in.
    """

    model: str = "all"
    least_chance: float = LEAST_CHANCE
    device: str = "cpu"
    scale: float | None = None
    tile_px: int = 1024

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "network" if self.model == "all" else f"network ({self.model})"

    def __call__(self, image: ArrayLike, pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image.

        Raises:
            LocalizeError: the image cannot be used, or the network tells no columns.
        """
        columns, chance = self.with_chances(image, pixel_size_A)
        return columns if has_columns(chance) else FoundColumns.none(pixel_size_A)

    def with_chances(
        self, image: ArrayLike, pixel_size_A: float
    ) -> tuple[FoundColumns, Float[NDArray[np.float64], "N"]]:
        """The columns of one image and the chance that each is one, even if all chances are small.

        Raises:
            LocalizeError: as calling it.
        """
        found = _predict(self, image, pixel_size_A, (), least_chance=self.least_chance).columns
        if found is None:
            raise LocalizeError(f"model {self.model}: it draws maps and tells no columns; NetworkOtsu reads maps")
        edge = np.array(np.shape(image)[::-1], dtype=np.float64) - 1.0
        cut = ((found.xy_px < _BORDER_PX) | (found.xy_px > edge - _BORDER_PX)).any(axis=1)
        columns = FoundColumns(
            found.xy_px, found.sigma_px, found.intensity, found.intensity_sigma, np.full(len(found.xy_px), np.nan),
            np.where(cut, int(Flag.CUT), int(Flag.SOUND)).astype(np.int64), pixel_size_A,
        )  # fmt: skip
        return columns, found.chance


@dataclass(frozen=True)
class NetworkOtsu:
    """Localizer of Lin et al. (2021): a network draws a map, Otsu's threshold parts it, regions have centres.

    Attributes:
        model: "all", the shipped network, or a file that training wrote.
        map: which map: a label, or the name of the task that draws it.
        centre: as in `OtsuCentroid`.
        device: where to work.
        scale: as in `NetworkColumns`.
        tile_px: likewise.

    Raises:
        LocalizeError: no such centre.
    """

    model: str = "all"
    map: str = "gaussianMask"
    centre: Literal["geometric", "intensity"] = "intensity"
    device: str = "cpu"
    scale: float | None = None
    tile_px: int = 1024

    def __post_init__(self) -> None:
        """Raise `LocalizeError` for a centre that `OtsuCentroid` does not know."""
        OtsuCentroid(centre=self.centre)

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"network map + Otsu ({self.map})" if self.model == "all" else f"network map + Otsu ({self.model})"

    def __call__(self, image: ArrayLike, pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image; standard errors are nan.

        Raises:
            LocalizeError: the image cannot be used, or the network does not draw that map.
        """
        label = TASKS.get(self.map, self.map)
        drawn = _predict(self, image, pixel_size_A, (label,)).maps[label]
        return read_map(drawn, label, pixel_size_A, OtsuCentroid(centre=self.centre, least_area_A2=0.01))


def read_map(
    drawn: Float[NDArray[np.floating], "rows columns"], label: str, pixel_size_A: float, reader: OtsuCentroid
) -> FoundColumns:
    """The columns that a threshold finds in a map, on the image's grid; none in a mask that is nearly empty.

    Args:
        drawn: a map that `Model.predict` drew.
        label: which one.
        pixel_size_A: pixel size of the image.
        reader: the threshold and what follows it.

    Raises:
        LocalizeError: the map cannot be used.
    """
    if float(drawn.max()) < _LEAST_PEAK * float("Mask" in label) or drawn.min() == drawn.max():
        return FoundColumns.none(pixel_size_A)
    fold = 2 if label in FINE_MAPS else 1
    found = reader(drawn, pixel_size_A / fold)
    # Pixel (2 i, 2 j) of a fine map lies on pixel (i, j).
    return replace(
        found, xy_px=found.xy_px / fold, intensity=found.intensity / fold**2, width_px=found.width_px / fold,
        pixel_size_A=pixel_size_A,
    )  # fmt: skip
