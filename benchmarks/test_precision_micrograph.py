"""Precision on a real micrograph of Si [110]: spread of the lattice, and the response at the same settings.

A method could narrow the spread by shrinking towards the lattice. So the image is drawn again from what a fit found,
columns displaced at random, and the displacements that each method finds are regressed on the true ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from adapters import BASELINES, installed
from PIL import Image
from rich.console import Console
from rich.table import Table

from temimagenet.localize import GaussianFit, Localizer, ScanAware, ScanFit, detect_columns, fit_scan_aware
from temimagenet.metrics import match
from temimagenet.precision import lattice_precision

MICROGRAPH = Path(__file__).parents[1] / "tests" / "data" / "si110_8.9pm.png"
PIXEL_A = 0.089
DISPLACED_PM = 15.0
DRAWS = 6


def _redrawn(fit: ScanFit, xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An 8-bit micrograph like the one that was fitted, with columns elsewhere, new displacements of rows and noise."""
    a, b, c, w = fit.spot
    height = fit.columns.intensity * np.sqrt(a * c - b * b) / (2.0 * np.pi * (1.0 - w + 4.0 * w))
    rows, columns = fit.model.shape
    shift = rng.normal(size=(rows, 2)) * fit.row_sigma_px
    image = fit.background.copy()
    for (x, y), h in zip(xy, height, strict=True):
        u = np.arange(columns) + shift[:, :1] - x
        v = (np.arange(rows) + shift[:, 1] - y)[:, None]
        form = a * u**2 + 2.0 * b * u * v + c * v**2
        image += h * ((1.0 - w) * np.exp(-0.5 * form) + w * np.exp(-0.125 * form))
    noise = np.sqrt(np.maximum(fit.noise[0] + fit.noise[1] * image, 0.0))
    return np.clip(np.rint(image + noise * rng.normal(size=image.shape)), 0.0, 255.0)


def _response(method: Localizer, fit: ScanFit, seed: int) -> tuple[float, float]:
    """Slopes in x and y of found on true displacements of one redrawn image."""
    rng = np.random.Generator(np.random.Philox(seed))
    away = rng.normal(size=fit.columns.xy_px.shape) * DISPLACED_PM / (100.0 * PIXEL_A)
    truth = fit.columns.xy_px + away
    found = method(_redrawn(fit, truth, rng), PIXEL_A)
    inside = found.sound & ((found.xy_px > 12.0) & (found.xy_px < np.array(fit.model.shape[::-1]) - 13.0)).all(axis=1)
    other, one = match(found.xy_px[inside], truth, PIXEL_A)
    moved = found.xy_px[inside][one] - fit.columns.xy_px[other]
    x, y = (np.polyfit(away[other, axis], moved[:, axis], 1)[0] for axis in range(2))
    return float(x), float(y)


def test_precision_on_a_micrograph(pytestconfig: pytest.Config) -> None:
    """Gaussian fits, the scan-aware fit and atomap on the same micrograph and the same redrawn ones."""
    image = np.asarray(Image.open(MICROGRAPH), dtype=float)
    start = detect_columns(image, PIXEL_A)
    fit = fit_scan_aware(image, PIXEL_A, start.xy_px, start.width_px)
    methods: list[Localizer] = [ScanAware(), GaussianFit("poisson"), GaussianFit("least-squares")]
    methods += [baseline for baseline in BASELINES if installed(baseline) and baseline.package == "atomap"]
    x_pm, y_pm = (100.0 * PIXEL_A * width for width in fit.row_sigma_px)
    table = Table(
        "method", "columns", "sigma_a pm", "sigma_b pm", "response x", "response y", "frames for 1 pm",
        title=f"Si [110], {PIXEL_A * 100:.1f} pm a pixel, rows displaced by {x_pm:.1f} and {y_pm:.1f} pm; "
        f"response to {DISPLACED_PM:g} pm, {DRAWS} images",
    )  # fmt: skip
    spreads, slopes = {}, {}
    for method in methods:
        lattice = lattice_precision(method(image, PIXEL_A))
        slope = np.array([_response(method, fit, seed) for seed in range(DRAWS)])
        mean, error = slope.mean(axis=0), slope.std(axis=0, ddof=1) / np.sqrt(DRAWS)
        spread = [
            f"{spacing.sigma_pm:.1f} [{spacing.interval_pm[0]:.1f}, {spacing.interval_pm[1]:.1f}]"
            for spacing in (lattice.a, lattice.b)
        ]
        frames = f"{lattice.a.frames_for_1pm:.0f}, {lattice.b.frames_for_1pm:.0f}"
        told = [f"{m:.3f} +- {e:.3f}" for m, e in zip(mean, error, strict=True)]
        table.add_row(method.name, str(lattice.columns), *spread, *told, frames)
        spreads[method.name] = np.array([lattice.a.sigma_pm, lattice.b.sigma_pm])
        slopes[method.name] = mean
    Console(width=150).print(table)
    ours = ScanAware().name
    assert (spreads[ours] < spreads[GaussianFit("poisson").name]).all()
    assert (slopes[ours] > 0.97).all()
