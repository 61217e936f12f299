"""What a network sees of an image: pixels of a size it was trained on, mean 0, standard deviation 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from temimagenet.errors import ModelError
from temimagenet.imaging.detector import without_spikes

__all__ = [
    "ABOVE_ZERO",
    "PIXEL_RANGE_A",
    "Grid",
    "Levels",
    "choose_grid",
    "levels",
    "normalise",
    "scaled_grid",
    "to_image_unit",
    "to_network_unit",
]

PIXEL_RANGE_A = (0.085, 0.2)
"""Pixel sizes that the shipped networks take as they are. They saw 0.06 to 0.2 A, but noise that a filter or a zoom has
smoothed over several fine pixels looks like columns."""

_MOST_PIXELS = 2**27
"""Pixels of a grid at most: 11,585 x 11,585."""

_COMFORTABLE_A = 0.12
"""Finer images are binned until their pixels are about as large; coarser ones are interpolated to it."""


@dataclass(frozen=True)
class Levels:
    """What was subtracted from an image and what it was divided by.

    Attributes:
        mean: mean of the image, hot pixels cut down, in its own unit.
        deviation: standard deviation of the same.
    """

    mean: float
    deviation: float


def levels(image: Float[NDArray[np.float64], "rows columns"]) -> Levels:
    """Mean and standard deviation of an image whose hot pixels were cut down (`normalise` cuts them likewise).

    Raises:
        ModelError: every pixel is the same.
    """
    cut = without_spikes(image)
    deviation = float(cut.std())
    if not deviation > 0.0:
        raise ModelError(f"every pixel is {float(image.flat[0]):g}: there is nothing to see in a constant image")
    return Levels(float(cut.mean()), deviation)


def normalise(
    image: Float[NDArray[np.float64], "rows columns"], scale: Levels | None = None
) -> tuple[Float[NDArray[np.float32], "rows columns"], Levels]:
    """An image brought to mean 0 and standard deviation 1, and how to bring it back: image = mean + deviation * it.

    Args:
        image: intensities in any unit.
        scale: levels to use; the image's own unless given.

    Raises:
        ModelError: every pixel is the same.
    """
    scale = scale or levels(image)
    return ((without_spikes(image) - scale.mean) / scale.deviation).astype(np.float32), scale


@dataclass(frozen=True)
class Grid:
    """The grid that a network works on, and its place on the image's.

    Attributes:
        step_px: its pixels' edge in pixels of the image; a whole number where the image is binned.
        pixel_size_A: its pixel size in angstrom.
        shape: its rows and columns.
    """

    step_px: float
    pixel_size_A: float
    shape: tuple[int, int]

    def to_image_px(self, xy_px: Float[NDArray[np.float64], "N 2"]) -> Float[NDArray[np.float64], "N 2"]:
        """Positions (x, y) on this grid, as positions on the image: exact, whatever the step."""
        return (xy_px + 0.5) * self.step_px - 0.5

    def resample(self, image: Float[NDArray[np.float64], "rows columns"]) -> Float[NDArray[np.float64], "rows columns"]:
        """The image on this grid: mean of the pixels that are binned, or cubic splines."""
        if self.step_px == 1.0:
            return image
        if self.step_px > 1.0:
            step = int(self.step_px)
            rows, columns = self.shape
            blocks = image[: rows * step, : columns * step].reshape(rows, step, columns, step)
            return np.asarray(blocks.mean(axis=(1, 3)), np.float64)
        places = [(np.arange(count) + 0.5) * self.step_px - 0.5 for count in self.shape]
        return np.asarray(
            ndimage.map_coordinates(image, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest"), np.float64
        )

    def restore(
        self, drawn: Float[NDArray[np.float32], "rows columns"], shape: tuple[int, int]
    ) -> Float[NDArray[np.float32], "rows columns"]:
        """A map that was drawn on this grid, or twice as fine, on the image's grid, or twice as fine.

        Linear between pixels; values per pixel of the image stay what they are.

        Args:
            drawn: the map; as many times finer than this grid as the result is to be than the image.
            shape: rows and columns of the image.
        """
        if self.step_px == 1.0:
            return drawn
        # Pixel (2 i, 2 j) lies on (i, j): fine grids share the first pixel's centre, not its edge.
        finer = drawn.shape[0] // self.shape[0]
        places = [finer * ((np.arange(finer * count) / finer + 0.5) / self.step_px - 0.5) for count in shape]
        values = ndimage.map_coordinates(drawn, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
        return np.asarray(values, dtype=np.float32)


def choose_grid(shape: tuple[int, int], pixel_size_A: float, range_A: tuple[float, float] = PIXEL_RANGE_A) -> Grid:
    """The grid to work on: the image's own where its pixels lie in a range, else binned or interpolated.

    Args:
        shape: rows and columns of the image.
        pixel_size_A: its pixel size.
        range_A: least and largest pixel size that needs no change.

    Raises:
        ModelError: a pixel size that is not positive, or so large or small that columns cannot be seen, or a grid of
            too many pixels.
    """
    if not 0.0 < pixel_size_A < np.inf:
        raise ModelError(f"pixel size {pixel_size_A} A: expected a positive length")
    if range_A[0] <= pixel_size_A <= range_A[1]:
        return Grid(1.0, pixel_size_A, shape)
    if pixel_size_A < range_A[0]:
        step = max(2, int(_COMFORTABLE_A / pixel_size_A + 0.5))
        if min(shape) // step < 4:
            raise ModelError(
                f"pixel size {pixel_size_A:g} A: {shape[0]} x {shape[1]} pixels show less than half an angstrom; "
                "is it in angstrom?"
            )
        return Grid(float(step), step * pixel_size_A, (shape[0] // step, shape[1] // step))
    if pixel_size_A > 1.0:
        raise ModelError(f"pixel size {pixel_size_A:g} A: columns are not resolved; is it in angstrom?")
    step_px = _COMFORTABLE_A / pixel_size_A
    rows, columns = (int(count / step_px) for count in shape)
    if rows * columns > _MOST_PIXELS:
        raise ModelError(
            f"pixel size {pixel_size_A:g} A: an image of {shape[0]} x {shape[1]} would be seen on {rows} x {columns} "
            "pixels, too many; crop it, or correct the pixel size"
        )
    return Grid(step_px, _COMFORTABLE_A, (rows, columns))


def scaled_grid(shape: tuple[int, int], pixel_size_A: float, scale: float) -> Grid:
    """The grid of an image that is enlarged or shrunk by a number, whatever its pixel size.

    Args:
        shape: rows and columns of the image.
        pixel_size_A: its pixel size.
        scale: pixels of the grid along a pixel of the image: 1 to 8, or one over a whole number up to 8 for bins.

    Raises:
        ModelError: a pixel size that is not positive, another scale, or a grid of fewer than 4 x 4 or too many pixels.
    """
    if not 0.0 < pixel_size_A < np.inf:
        raise ModelError(f"pixel size {pixel_size_A} A: expected a positive length")
    binned = round(1.0 / scale) if 0.0 < scale < 1.0 else 1
    if not (1.0 <= scale <= 8.0 or (1 < binned <= 8 and abs(binned * scale - 1.0) < 1e-6)):
        raise ModelError(f"scale {scale}: expected 1 to 8, or 1/2, 1/3 and so on to 1/8")
    step_px = float(binned) if scale < 1.0 else 1.0 / scale
    rows, columns = (int(count / step_px + 1e-9) for count in shape)
    if min(rows, columns) < 4 or rows * columns > _MOST_PIXELS:
        raise ModelError(
            f"scale {scale:g} makes {rows} x {columns} pixels of the image: expected at least 4 x 4 and at most "
            f"{_MOST_PIXELS // 2**20} million"
        )
    return Grid(step_px, step_px * pixel_size_A, (rows, columns))


_SHARP = "noNoiseNoBackgroundSuperresolution"

ABOVE_ZERO = (_SHARP, "noBackgroundnoNoise", "noNoiseNoBackgroundUpinterpolation2x")
"""Images that are 0 where no column is."""

_SHARPER = 30.0
"""Gaussians of 0.2 A are about so many times as high as the spots of an image: keeps what is learned near 1."""


def to_network_unit(name: str, truth: Tensor, scale: Levels) -> Tensor:
    """A label as a network learns it: masks as they are, images in standard deviations of what it sees.

    Args:
        name: which label.
        truth: a mask, or expected counts per pixel of the image.
        scale: the image's levels.
    """
    if "Mask" in name:
        return truth
    if name in ABOVE_ZERO:
        return truth / (scale.deviation * (_SHARPER if name == _SHARP else 1.0))
    return (truth - scale.mean) / scale.deviation


def to_image_unit(name: str, drawn: Tensor, scale: Levels) -> Tensor:
    """A map as a network draws it, in the image's unit; masks are cut to 0 and 1."""
    if "Mask" in name:
        return drawn.clamp(0.0, 1.0)
    if name in ABOVE_ZERO:
        return drawn * (scale.deviation * (_SHARPER if name == _SHARP else 1.0))
    return drawn * scale.deviation + scale.mean
