"""Counting electrons: dose, Poisson statistics and the peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temimagenet.errors import OpticsError

__all__ = ["MAX_COUNTS", "count_electrons", "dose_for_psnr", "psnr_dB"]

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
