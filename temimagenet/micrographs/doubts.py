"""Doubts about a pixel size: what an image shows cannot be so near, so far apart or so wide where columns are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.localize.protocol import FoundColumns

__all__ = ["clipping_doubts", "repeat_px", "scale_doubts"]

_CLIPPED = 0.01
"""Share of pixels of the highest value from which an image was clipped: counts have a few of them."""

_PART_PX = 1024
"""Edge of the part of the image whose spectrum is looked at."""

_STANDS_OUT = 60.0
"""Power of a lattice's spot over the median around it: of noise, smoothed or not, the greatest is 20."""

_NEAREST_A = 1.1
"""Lattice planes that show strongest are not closer: diamond's {220} are 1.26 A apart."""

_FARTHEST_A = 12.0
"""Nor farther, but in superlattices."""

_FAR_A = 6.5
"""Where next to nothing is found this is far enough to doubt: layers of tungsten diselenide are 6.5 A apart."""

_FEW = 12
"""Fewer sound columns than this are next to nothing where a lattice shows."""

_WIDEST_A = 3.0
"""Spots are not wider at half their height where columns are told apart."""


def repeat_px(image: Float[NDArray[np.floating], "rows columns"]) -> float:
    """Distance of the lattice planes that show strongest, in pixels; nan where none stand out of the spectrum.

    The strongest spot of the power spectrum under a Hann window, of four periods in the image and more.

    Args:
        image: finite values.
    """
    rows, columns = (min(edge, _PART_PX) for edge in image.shape)
    if min(rows, columns) < 16:
        return float("nan")
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    part = image[top : top + rows, left : left + columns].astype(np.float64)
    span = float(np.abs(part).max()) or 1.0
    part = (part - part.mean()) / span * np.outer(np.hanning(rows), np.hanning(columns))
    power = np.abs(np.fft.rfft2(part)) ** 2
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    power[frequency < 4.0 / min(rows, columns)] = 0.0
    strongest = np.unravel_index(power.argmax(), power.shape)
    around = np.abs(frequency - frequency[strongest]) < 0.2 * frequency[strongest]
    if not power[strongest] > _STANDS_OUT * np.median(power[around]):
        return float("nan")
    return float(1.0 / frequency[strongest])


def scale_doubts(
    image: Float[NDArray[np.floating], "rows columns"], columns: FoundColumns, calibration: str
) -> tuple[str, ...]:
    """Why the pixel size may be wrong, or why nothing was found, in sentences; nothing where all is as expected.

    Args:
        image: where the columns were found.
        columns: what was found.
        calibration: where the pixel size comes from.
    """
    size, sound = columns.pixel_size_A, columns.sound
    repeat = repeat_px(image) * size
    by = f"by a pixel size of {100.0 * size:.3g} pm ({calibration})"
    width = columns.width_px[sound & np.isfinite(columns.width_px)]
    wide = float(np.median(width)) * size * 2.0 * np.sqrt(2.0 * np.log(2.0)) if len(width) else 0.0
    doubt = ""
    if repeat < _NEAREST_A:
        doubt = f"{by} lattice planes are {repeat:.2g} A apart, nearer than any that show columns: is it too small?"
    elif repeat > (_FARTHEST_A if sound.sum() >= _FEW else _FAR_A):
        doubt = f"{by} lattice planes are {repeat:.3g} A apart, farther than expected: is it too large?"
    elif wide > _WIDEST_A:
        doubt = f"{by} spots are {wide:.2g} A wide, wider than those of columns: is it too large?"
    elif not len(columns):
        seen = f"{by} lattice planes are {repeat:.3g} A apart: is it right?" if np.isfinite(repeat) else (
            f"is the pixel size right, {100.0 * size:.3g} pm ({calibration})?"
        )  # fmt: skip
        doubt = f"{seen} Columns are bright: of an image with dark ones give the negative."
    told = () if len(columns) else ("No column was found.",)
    return (" ".join((*told, doubt[:1].upper() + doubt[1:])),) if doubt else told


def clipping_doubts(image: Float[NDArray[np.floating], "rows columns"]) -> tuple[str, ...]:
    """Whether so many pixels have the highest value that the image was clipped, in a sentence.

    Args:
        image: finite values, not all the same.
    """
    share = float((image == image.max()).mean())
    if share < _CLIPPED:
        return ()
    return (
        f"{100.0 * share:.2g} % of all pixels have the highest value: where an image is clipped columns are missed or "
        "made up, and intensities are wrong; use it as it was recorded.",
    )
