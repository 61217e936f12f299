"""The detector: dose, Poisson statistics, the peak signal-to-noise ratio, and what an image from one must be."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from temimagenet.errors import LocalizeError, OpticsError

__all__ = ["MAX_COUNTS", "check_image", "count_electrons", "dose_for_psnr", "psnr_dB", "without_spikes"]

MAX_COUNTS = 65535
"""Largest count a library stores (uint16)."""


def psnr_dB(clean_peak: float, mean_intensity: float, electrons_per_pixel: float) -> float:
    """Peak signal-to-noise ratio 20 log10((peak - background) / sqrt(mean counts)); 20 dB is 10 in linear scale.

    Lin et al., Sci. Rep. 11, 5386 (2021), methods. `clean_peak` is the peak above background and `mean_intensity`
    the mean with background, both as fractions of the beam.
    """
    peak_counts = electrons_per_pixel * clean_peak
    return float(20.0 * np.log10(peak_counts / np.sqrt(electrons_per_pixel * mean_intensity)))


def dose_for_psnr(target_dB: float, clean_peak: float, mean_intensity: float, pixel_size_A: float) -> float:
    """Dose in electrons per A^2 at which an image has a peak signal-to-noise ratio: the inverse of `psnr_dB`.

    Raises:
        OpticsError: the image has no signal.
    """
    if not (clean_peak > 0.0 and mean_intensity > 0.0):
        raise OpticsError("the clean image has no signal in the field of view: no dose gives it a PSNR")
    electrons_per_pixel = 10.0 ** (target_dB / 10.0) * mean_intensity / clean_peak**2
    return float(electrons_per_pixel / pixel_size_A**2)


def count_electrons(
    intensity: Float[Tensor, "rows columns"],
    dose_e_per_A2: float,
    pixel_size_A: float,
    seed: int,
) -> Float[Tensor, "rows columns"]:
    """Poisson counts of an intensity given as fraction of the beam.

    On the CPU the draws come from NumPy's Philox generator, on a GPU from that device's own: the same seed gives
    the same counts on one kind of device, not across kinds.

    Returns:
        float32 tensor of whole counts.

    Raises:
        OpticsError: the dose is negative, or counts would not fit in 16 bits.
    """
    if not 0.0 <= dose_e_per_A2 < np.inf:
        raise OpticsError(f"dose {dose_e_per_A2} e/A^2: expected 0 or more")
    expected = intensity * (dose_e_per_A2 * pixel_size_A**2)
    if float(expected.max()) > 0.95 * MAX_COUNTS:
        raise OpticsError(
            f"dose {dose_e_per_A2:.4g} e/A^2 expects {float(expected.max()):.0f} counts in a pixel: "
            f"lower the dose or PSNR, at most {0.95 * MAX_COUNTS:.0f} counts can be stored"
        )
    if expected.device.type == "cpu":
        generator = np.random.Generator(np.random.Philox(seed))
        return torch.from_numpy(generator.poisson(expected.numpy()).astype(np.float32))
    device_generator = torch.Generator(expected.device).manual_seed(seed)
    return torch.poisson(expected, generator=device_generator)


def check_image(image: ArrayLike, pixel_size_A: float) -> Float[NDArray[np.float64], "rows columns"]:
    """The image as float64, after everything a localizer relies on was checked.

    Raises:
        LocalizeError: no array of real numbers, with masked pixels, not two-dimensional, smaller than 4 x 4, nan or
            infinite somewhere, the same everywhere, of numbers above 1e100 or below 1e-100, or a pixel size that is not
            a positive number.
    """
    try:
        array = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    except (ValueError, TypeError, RuntimeError) as error:
        raise LocalizeError(f"image of type {type(image).__name__}: expected a dense array ({error})") from error
    if array.ndim != 2 or min(array.shape) < 4:
        raise LocalizeError(f"image of shape {array.shape}: expected two dimensions of at least 4 pixels")
    if array.dtype.kind not in "buif":
        raise LocalizeError(f"image of type {array.dtype}: expected real numbers")
    hidden = int(np.sum(image.mask)) if isinstance(image, np.ma.MaskedArray) else 0
    if hidden:
        raise LocalizeError(f"{hidden} pixels are masked: fill them, or cut out a part of the image without any")
    with np.errstate(over="ignore"):
        values = array.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise LocalizeError(
            f"{int(bad.sum())} pixels are nan or infinite, the first at row {row}, column {column}: fill them"
        )
    if values.min() == values.max():
        raise LocalizeError(f"every pixel is {values.min():g}: there is nothing to find in a constant image")
    largest = float(np.abs(values).max())
    if not 1e-100 <= largest <= 1e100:
        raise LocalizeError(f"the largest pixel is {largest:g}: expected 1e-100 to 1e100; multiply the image")
    check_pixel_size(pixel_size_A)
    return values


def check_pixel_size(pixel_size_A: float) -> None:
    """Raise `LocalizeError` for a pixel size that is no positive number, or that no micrograph has."""
    kind = (
        np.asarray(pixel_size_A).dtype.kind if isinstance(pixel_size_A, int | float | np.generic | np.ndarray) else ""
    )
    if kind not in ("i", "u", "f") or np.ndim(pixel_size_A):
        raise LocalizeError(f"pixel size {pixel_size_A!r}: expected a number, in angstrom")
    if not 0.0 < pixel_size_A < np.inf:
        raise LocalizeError(f"pixel size {pixel_size_A} A: expected a positive length")
    if not 1e-4 <= pixel_size_A <= 1e4:
        raise LocalizeError(f"pixel size {pixel_size_A:g} A: expected 0.0001 to 10000; is it in angstrom?")


def without_spikes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hot and dead pixels cut down: what lies four times as far from the median as all but a thousandth on its side."""
    low, middle, high = np.quantile(values, (0.001, 0.5, 0.999))
    least = middle - 4.0 * (middle - low) if low < middle else -np.inf
    most = middle + 4.0 * (high - middle) if high > middle else np.inf
    cut: NDArray[np.float64] = np.clip(values, least, most)
    return cut
