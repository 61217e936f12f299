"""Columns a second of the fits, on all cores and on images of some 2,000 columns, beside atomap's from the same starts.

Prints numbers, judges none. Detection is told apart: it costs the same whatever fit follows.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from adapters import BASELINES, installed
from rich.console import Console
from rich.table import Table

from temimagenet.imaging.background import Background
from temimagenet.imaging.optics import CONDITIONS
from temimagenet.imaging.scan import ScanNoise
from temimagenet.localize import detect_columns, fit_gaussians, fit_scan_aware
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import render

TURNS = 5
FIELD_A = 104.0


def _image(size: int, jitter_A: float) -> tuple[np.ndarray, float]:
    """Pt [110] under condition 1 at 20 dB, 104 A across, and its pixel size."""
    recipe = load_recipe("v1")
    specs = (sample_spec(recipe, index) for index in range(4000))
    spec = next(s for s in specs if s.entry == "Pt [110]" and s.optics == CONDITIONS[1])
    spec = replace(
        spec, image_size=size, field_of_view_A=FIELD_A, rotation_deg=15.0, psnr_dB=20.0,
        scan_noise=ScanNoise(jitter_A, modulation=None), background=Background("constant", 0.1),
    )  # fmt: skip
    sample = render([spec], ())[0]
    return sample.image.numpy().astype(float), sample.pixel_size_A


def _rates(columns: int, turns: int, work: Callable[..., object], *given: object, **settings: object) -> np.ndarray:
    """Columns a second of each turn, after one that does not count."""
    work(*given, **settings)
    rates = []
    for _ in range(turns):
        begin = time.perf_counter()
        work(*given, **settings)
        rates.append(columns / (time.perf_counter() - begin))
    return np.array(rates)


def _told(rates: np.ndarray) -> str:
    """Median, least and most."""
    return f"{np.median(rates):.0f} [{rates.min():.0f}, {rates.max():.0f}]"


def test_precision_speed() -> None:
    """One table: what, image, columns, columns a second."""
    table = Table("what", "image", "columns", "columns/s, median [least, most]")
    gaussian = 0.0
    for size in (512, 1024):
        edge = f"{size} x {size}"
        image, pixel_A = _image(size, 0.0)
        start = detect_columns(image, pixel_A)
        count = len(start)
        table.add_row("detection", edge, str(count), _told(_rates(count, TURNS, detect_columns, image, pixel_A)))
        for estimator, elliptic in (("poisson", False), ("least-squares", False), ("poisson", True)):
            rates = _rates(
                count, TURNS, fit_gaussians, image, pixel_A, start.xy_px, start.width_px,
                estimator=estimator, elliptic=elliptic,
            )  # fmt: skip
            kind = "elliptic" if elliptic else "round"
            table.add_row(f"Gaussian fit, {kind}, {estimator}", edge, str(count), _told(rates))
            if size == 512 and estimator == "poisson":
                gaussian = max(gaussian, float(np.median(rates)))
    image, pixel_A = _image(512, 0.0)
    for baseline in BASELINES:
        if installed(baseline):
            # Its search for starts is a small part of its time.
            found = len(baseline(image, pixel_A))
            rate = float(_rates(found, 1, baseline, image, pixel_A)[0])
            told = f"{rate:.1f}: the Gaussian fit's {gaussian / rate:.0f}th part"
            table.add_row(baseline.name, "512 x 512", str(found), told)
    for size in (512, 1024):
        image, pixel_A = _image(size, 0.1)
        start = detect_columns(image, pixel_A)
        rates = _rates(len(start), TURNS, fit_scan_aware, image, pixel_A, start.xy_px, start.width_px)
        table.add_row("scan-aware fit", f"{size} x {size}", str(len(start)), _told(rates))
    Console(width=120).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{torch.get_num_threads()} threads, peak memory of the process {peak:.2f} GB")
