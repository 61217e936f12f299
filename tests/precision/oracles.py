"""Localizers that know the answer, for tests: truth plus noise, bias, gaps or a lattice's rigidity."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from temimagenet.localize import FoundColumns
from temimagenet.precision import BenchmarkImage, case_images


def columns(xy_px, pixel_size_A, sigma_px=np.nan, flags=None):
    """Found columns with what a score needs."""
    n = len(xy_px)
    blank = np.full(n, np.nan)
    flags = np.zeros(n, dtype=np.int64) if flags is None else np.asarray(flags)
    return FoundColumns(np.array(xy_px, float), np.full((n, 2), sigma_px), blank, blank, blank, flags, pixel_size_A)


class Oracle:
    """Recognises a benchmark image and answers by a function of its truth."""

    def __init__(
        self,
        answer: Callable[[BenchmarkImage, np.random.Generator], FoundColumns],
        cases: Iterable[str],
        images: int,
        name: str = "oracle",
    ) -> None:
        self.name = name
        self._answer = answer
        self._truth = {
            truth.image.tobytes(): truth for case in cases for truth in case_images(case, range(images), bounds=False)
        }

    def __call__(self, image, pixel_size_A):
        truth = self._truth[image.tobytes()]
        return self._answer(truth, np.random.default_rng([len(self.name), truth.spec.noise_seed]))


def noisy(sigma_pm: float, response: float = 1.0, claimed_pm: float | None = None):
    """Truth plus normal noise per axis; displacements are followed by a share `response`."""

    def answer(truth, rng):
        p = truth.pixel_size_A
        xy = truth.xy_px + rng.normal(size=truth.xy_px.shape) * sigma_pm / (100.0 * p)
        if truth.displacement_A is not None:
            xy -= (1.0 - response) * truth.displacement_A / p
        keep = ((xy >= -0.5) & (xy < np.array(truth.image.shape) - 0.5)).all(axis=1)
        return columns(xy[keep], p, (claimed_pm or sigma_pm or np.nan) / (100.0 * p))

    return answer
