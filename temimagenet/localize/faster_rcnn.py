"""`FasterRCNN`: centres of the boxes that a Faster R-CNN draws, a baseline of Lin et al., Sci. Rep. 11, 5386 (2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from temimagenet.errors import LocalizeError, ModelError
from temimagenet.localize.protocol import Flag, FoundColumns
from temimagenet.models.faster_rcnn import ColumnRCNN, find_boxes
from temimagenet.models.zoo import load_network, written

__all__ = ["FasterRCNN"]


@lru_cache(maxsize=4)
def _network(path: str, written: int) -> ColumnRCNN:
    """A network, loaded once, and again when its file was written anew."""
    if not Path(path).is_file():
        raise ModelError(
            f"no file {path}: no Faster R-CNN is shipped, `temimagenet train --preset faster-rcnn` makes one"
        )
    network, _ = load_network(path)
    if not isinstance(network, ColumnRCNN):
        raise ModelError(f"{path}: weights of another network; `temimagenet train --preset faster-rcnn` writes some")
    return network


@dataclass(frozen=True)
class FasterRCNN:
    """Localizer: a box around each column, its centre the position. Needs torchvision (extra `baselines`).

    Columns closer than about 2 r / 3 are found as one. Columns whose box reaches beyond the image are flagged
    `Flag.CUT`. Standard errors, intensities and widths are nan: a box tells none.

    Attributes:
        model: file of weights, as `temimagenet train --preset faster-rcnn` writes; none are shipped.
        least_score: boxes of a lower score are left out.
        device: where to work.
    """

    model: str
    least_score: float = 0.5
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"Faster R-CNN (score {self.least_score:g})"

    def __call__(self, image: ArrayLike, pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image.

        Raises:
            LocalizeError: the image cannot be used, torchvision is not installed, or the file holds no Faster R-CNN.
        """
        try:
            found = find_boxes(
                _network(self.model, written(self.model)),
                image,
                pixel_size_A,
                least_score=self.least_score,
                device=self.device,
            )
        except ModelError as error:
            raise LocalizeError(str(error)) from error
        rows, columns = np.shape(image)
        first, last = found.xy_px - found.size_px / 2.0, found.xy_px + found.size_px / 2.0
        cut = ((first < -0.5) | (last > np.array([columns, rows]) - 0.5)).any(axis=1)
        unknown = np.full(len(found.xy_px), np.nan)
        return FoundColumns(
            found.xy_px, np.full(found.xy_px.shape, np.nan), unknown.copy(), unknown.copy(), unknown,
            np.where(cut, int(Flag.CUT), int(Flag.SOUND)).astype(np.int64), pixel_size_A,
        )  # fmt: skip
