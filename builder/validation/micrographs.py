"""Experimental micrographs: nothing is known of them but that crystals are even."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from builder.validation.report import Table
from temimagenet.errors import LocalizeError
from temimagenet.localize import FoundColumns, GaussianFit
from temimagenet.precision import lattice_precision

__all__ = ["MICROGRAPHS", "Evenness", "Micrograph", "evenness", "evenness_table", "fitted", "read_micrograph"]


@dataclass(frozen=True)
class Micrograph:
    """An experimental image in `tests/data`.

    Attributes:
        file: its file.
        title: what it shows.
        pixel_size_A: pixel size.
        even: whether it shows one crystal, whose columns form a lattice.
    """

    file: str
    title: str
    pixel_size_A: float
    even: bool


MICROGRAPHS = (
    Micrograph("si110_8.9pm.png", "Si [110], 8.9 pm a pixel", 0.089, True),
    Micrograph("gold_grain_boundary.png", "grain boundary in gold, 13 pm a pixel", 0.13, False),
)


def read_micrograph(path: Path) -> Float[NDArray[np.float64], "rows columns"]:
    """Its grey values."""
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.float64)


@dataclass(frozen=True)
class Evenness:
    """How evenly a method finds a crystal's columns to be spaced.

    Attributes:
        micrograph: what was looked at.
        method: by what.
        columns: number of columns found.
        spread: standard deviation in pm and its 95 % interval, along two lattice vectors; empty of no lattice.
    """

    micrograph: str
    method: str
    columns: int
    spread: tuple[tuple[float, float, float], ...]


def fitted(image: Float[NDArray[np.float64], "rows columns"], pixel_size_A: float) -> FoundColumns:
    """Columns by detection and least-squares Gaussian fits."""
    return GaussianFit("least-squares")(image, pixel_size_A)


def evenness(found: FoundColumns, micrograph: Micrograph, method: str) -> Evenness:
    """The spread of neighbours' separations, where one crystal is shown and a lattice is found."""
    spread: tuple[tuple[float, float, float], ...] = ()
    if micrograph.even:
        try:
            lattice = lattice_precision(found)
            spread = tuple((spacing.sigma_pm, *spacing.interval_pm) for spacing in (lattice.a, lattice.b))
        except LocalizeError:
            spread = ()
    return Evenness(micrograph.title, method, len(found), spread)


def evenness_table(measured: Sequence[Evenness]) -> Table:
    """All of it; no spread where there is no lattice to speak of."""
    rows: list[tuple[str | float, ...]] = []
    for one in measured:
        told = [f"{value:.1f} ({low:.1f} to {high:.1f})" for value, low, high in one.spread] or ["–", "–"]
        rows.append((one.micrograph, one.method, one.columns, *told))
    head = ("Micrograph", "Method", "Columns", "σ along a (pm)", "σ along b (pm)")
    caption = "Spread of neighbours’ separations with 95 % intervals; it holds the errors of both columns."
    return Table(caption, head, tuple(rows), (0, 0, 0, 1, 1))
