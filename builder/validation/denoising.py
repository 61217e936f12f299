"""How much better a network denoises than filters at their best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from rich.progress import track
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from builder.validation.images import remembered
from builder.validation.report import Claim, Table, spread
from temimagenet.metrics import psnr
from temimagenet.models import Model
from temimagenet.recipe import SampleSpec
from temimagenet.render import render

__all__ = [
    "FILTERS",
    "INPUT_DB",
    "Best",
    "Denoised",
    "best_setting",
    "compare_filters",
    "denoise",
    "denoising_claims",
    "denoising_table",
    "likeness",
]

INPUT_DB = 15.0
"""Peak signal-to-noise ratio of the images, as recipes define it."""

_LEAST_GAIN_DB = 3.0
_NLM_DISTANCE_PX = 11

Image: TypeAlias = 'Float[NDArray[np.float32], "rows columns"]'


def _gaussian(image: Image, setting: float) -> Image:
    """A Gaussian of a standard deviation in pixels."""
    return np.asarray(gaussian_filter(image, setting), np.float32)


def _means(image: Image, setting: float, patch_px: int) -> Image:
    """Non-local means (Buades, Coll & Morel, CVPR 2005); the setting is the cut-off in standard deviations of noise."""
    noise = float(np.sqrt(max(image.mean(), 1e-6)))
    drawn = denoise_nl_means(
        image, patch_size=patch_px, patch_distance=_NLM_DISTANCE_PX, h=setting * noise, sigma=noise, fast_mode=True
    )
    return np.asarray(drawn, np.float32)


def _variation(image: Image, setting: float) -> Image:
    """Total variation (Chambolle 2004); the setting is the weight in standard deviations of noise."""
    noise = float(np.sqrt(max(image.mean(), 1e-6)))
    return np.asarray(denoise_tv_chambolle(image, weight=setting * noise), np.float32)


FILTERS: Mapping[str, tuple[tuple[Callable[[Image, float], Image], float], ...]] = {
    "Gaussian filter": ((_gaussian, 1.5),),
    "non-local means": ((partial(_means, patch_px=5), 0.8), (partial(_means, patch_px=13), 0.8)),
    "total variation": ((_variation, 2.0),),
}
"""Filters by name: of each the forms that are tried, and the setting where the search begins."""


@dataclass(frozen=True)
class Best:
    """The best that a filter reached on an image, each measure at its own best setting.

    Attributes:
        psnr_dB: peak signal-to-noise ratio against the clean image.
        ssim: structural similarity with it.
        setting: the setting of the best PSNR.
    """

    psnr_dB: float
    ssim: float
    setting: float


@dataclass(frozen=True)
class Denoised:
    """One image, denoised.

    Attributes:
        entry: what it shows.
        scan_A: standard deviation of its row displacements.
        given: PSNR and SSIM of the noisy image itself.
        network: those of the network's `noNoise`.
        filters: the best of each filter.
    """

    entry: str
    scan_A: float
    given: Best
    network: Best
    filters: Mapping[str, Best]

    @property
    def gain_dB(self) -> float:
        """PSNR of the network less that of the best filter."""
        return self.network.psnr_dB - max(best.psnr_dB for best in self.filters.values())

    @property
    def gain_ssim(self) -> float:
        """SSIM of the network less that of the best filter."""
        return self.network.ssim - max(best.ssim for best in self.filters.values())


def best_setting(score: Callable[[float], float], start: float, rounds: int = 3) -> tuple[float, float]:
    """Climb from a positive setting to a better one: by factors of two first, then by their square root, and so on.

    Args:
        score: what to make as large as possible.
        start: where to begin.
        rounds: how often the factor is made smaller.

    Returns:
        The best setting that was tried, and its score: never below that of the start.
    """
    best, reached, factor = start, score(start), 2.0
    for _ in range(rounds):
        for towards in (factor, 1.0 / factor):
            while (other := score(best * towards)) > reached:
                best, reached = best * towards, other
        factor = np.sqrt(factor)
    return float(best), float(reached)


def likeness(drawn: Image, truth: Image, setting: float = float("nan")) -> Best:
    """PSNR and SSIM of an image against the clean one, whose range is the unit of both."""
    span = float(truth.max() - truth.min())
    similar: Any = structural_similarity(drawn.astype(np.float64), truth.astype(np.float64), data_range=span)
    return Best(psnr(drawn, truth), float(similar), setting)


def compare_filters(image: Image, truth: Image) -> dict[str, Best]:
    """Every filter at its best on one image."""
    found = {}
    for name, forms in FILTERS.items():
        tried = [best for form, start in forms for best in _tried(form, start, image, truth)]
        most = max(tried, key=lambda best: best.psnr_dB)
        found[name] = replace(most, ssim=max(best.ssim for best in tried))
    return found


def _tried(form: Callable[[Image, float], Image], start: float, image: Image, truth: Image) -> list[Best]:
    """What a filter reached at each setting on the way to its best PSNR."""
    tried: list[Best] = []

    def score(setting: float) -> float:
        tried.append(likeness(form(image, setting), truth, setting))
        return tried[-1].psnr_dB

    best_setting(score, start)
    return tried


def denoise(model: Model, specs: Sequence[SampleSpec], folder: Path) -> list[Denoised]:
    """Denoise images at `INPUT_DB`, their scan noise as it was drawn; images of vacuum are left out.

    Args:
        model: the network.
        specs: images.
        folder: where what filters reach is remembered.
    """
    made = []
    for spec in track(specs, description=f"denoising at {INPUT_DB:g} dB"):
        noisy = replace(spec, psnr_dB=INPUT_DB)
        sample = render([noisy], ("noNoise",))[0]
        image = sample.image.numpy()
        truth = sample.labels["noNoise"].numpy() * np.float32(sample.dose_e_per_A2 * sample.pixel_size_A**2)
        if truth.min() == truth.max():
            continue

        def at_best(image: Image = image, truth: Image = truth) -> dict[str, Any]:
            return {name: asdict(best) for name, best in compare_filters(image, truth).items()}

        known = remembered(folder, f"filters {sorted(FILTERS)}", noisy, at_best)
        drawn = model.predict(image, sample.pixel_size_A, "noNoise").maps["noNoise"]
        made.append(
            Denoised(
                spec.entry, spec.scan_noise.sigma_A, likeness(image, truth), likeness(drawn, truth),
                {name: Best(**best) for name, best in known.items()},
            )
        )  # fmt: skip
    return made


def denoising_claims(images: Sequence[Denoised]) -> tuple[Claim, ...]:
    """Gains over the best filter of each image."""
    gain, similar = spread([one.gain_dB for one in images]), spread([one.gain_ssim for one in images])
    over = f"standard deviation {gain.deviation:.2f} dB, {gain.count} images"
    also = f"standard deviation {similar.deviation:.3f}, {similar.count} images"
    return (
        Claim("PSNR gain over the best filter", gain.mean, _LEAST_GAIN_DB, unit="dB", over=over),
        Claim("SSIM gain over the best filter", similar.mean, 0.0, over=also),
    )


def denoising_table(images: Sequence[Denoised]) -> Table:
    """Means and standard deviations of every method."""
    methods: dict[str, list[Best]] = {"noisy image": [one.given for one in images]}
    methods |= {name: [one.filters[name] for one in images] for name in FILTERS}
    methods["network (noNoise)"] = [one.network for one in images]
    rows = []
    for name, reached in methods.items():
        peak, similar = spread([best.psnr_dB for best in reached]), spread([best.ssim for best in reached])
        gain = spread([one.network.psnr_dB - best.psnr_dB for one, best in zip(images, reached, strict=True)])
        rows.append((name, peak.mean, peak.deviation, similar.mean, similar.deviation, gain.mean, gain.deviation))
    head = ("Method", "PSNR (dB)", "s.d.", "SSIM", "s.d.", "Network’s gain (dB)", "s.d.")
    return Table(f"Means and standard deviations over {len(images)} images.", head, tuple(rows), (0, 2, 2, 3, 3, 2, 2))
