"""Experimental micrographs: columns marked by eye, and crystals that are even."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import KDTree

from builder.validation.report import Claim, Table
from temimagenet.errors import LocalizeError
from temimagenet.localize import FoundColumns, GaussianFit
from temimagenet.precision import lattice_precision

__all__ = [
    "MICROGRAPHS",
    "Evenness",
    "Micrograph",
    "annotation_claims",
    "evenness",
    "evenness_claims",
    "evenness_table",
    "fitted",
    "read_micrograph",
]

_REACH_A = 0.45


@dataclass(frozen=True)
class Micrograph:
    """An experimental image in `tests/data`.

    Attributes:
        file: its file.
        title: what it shows.
        pixel_size_A: pixel size.
        even: whether it shows one crystal, whose columns form a lattice.
        marks: file of its columns, marked by looking at each.
        margin_px: how near to the border columns are not marked.
    """

    file: str
    title: str
    pixel_size_A: float
    even: bool
    marks: str
    margin_px: float


MICROGRAPHS = (
    Micrograph("si110_8.9pm.png", "Si [110], 8.9 pm a pixel", 0.089, True, "si110_columns.csv", 12.0),
    Micrograph(
        "gold_grain_boundary.png", "grain boundary in gold, 13 pm a pixel", 0.13, False,
        "gold_grain_boundary_columns.csv", 5.0,
    ),
)  # fmt: skip


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


def annotation_claims(
    xy_px: Float[NDArray[np.float64], "N 2"], micrograph: Micrograph, folder: Path
) -> tuple[Claim, Claim]:
    """Columns missed and columns found where there are none, by the marks in a folder.

    Those within two pixels of where marks end, or beyond, do not count.
    """
    marks = np.loadtxt(folder / micrograph.marks, delimiter=",", skiprows=1)
    with Image.open(folder / micrograph.file) as image:
        end = np.array(image.size) - 1.0
    margin, reach_px = micrograph.margin_px + 2.0, _REACH_A / micrograph.pixel_size_A

    def counted(points: Float[NDArray[np.float64], "M 2"]) -> Float[NDArray[np.float64], "M 2"]:
        return points[np.all((points >= margin) & (points <= end - margin), axis=1)]

    missed = KDTree(xy_px).query(counted(marks))[0] > reach_px if len(xy_px) else np.ones(len(counted(marks)))
    false = KDTree(marks).query(counted(xy_px))[0] > reach_px
    over = f"{len(counted(marks))} columns"
    return (
        Claim(f"Columns missed, {micrograph.title}", float(np.sum(missed)), most=0.0, over=over),
        Claim(f"False columns, {micrograph.title}", float(np.sum(false)), most=0.0, over=over),
    )


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


def evenness_claims(network: Evenness, gaussian: Evenness) -> list[Claim]:
    """Spreads of the network's columns, asked to be below those of Gaussian fits."""
    return [
        Claim(
            f"σ along {axis}, {network.micrograph}", mine[0], most=other[0], unit="pm",
            over=f"95 % interval {mine[1]:.1f} to {mine[2]:.1f}; Gaussian fit {other[1]:.1f} to {other[2]:.1f}",
        )
        for axis, mine, other in zip("ab", network.spread, gaussian.spread, strict=False)
    ]  # fmt: skip


def evenness_table(measured: Sequence[Evenness]) -> Table:
    """All of it; no spread where there is no lattice to speak of."""
    rows: list[tuple[str | float, ...]] = []
    for one in measured:
        told = [f"{value:.1f} ({low:.1f} to {high:.1f})" for value, low, high in one.spread] or ["–", "–"]
        rows.append((one.micrograph, one.method, one.columns, *told))
    head = ("Micrograph", "Method", "Columns", "σ along a (pm)", "σ along b (pm)")
    caption = "Spread of neighbours’ separations with 95 % intervals; it holds the errors of both columns."
    return Table(caption, head, tuple(rows), (0, 0, 0, 1, 1))
