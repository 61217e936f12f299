"""Whether maps keep what columns scatter: integrated intensities against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from rich.progress import track
from scipy.spatial import KDTree

from builder.validation.images import group_of, limits_of, resolvable, truth_of, with_noise
from builder.validation.report import Claim, Table, spread
from temimagenet.models import Model
from temimagenet.recipe import Recipe, SampleSpec
from temimagenet.render import render

__all__ = ["MAPS", "Sums", "cell_sums", "intensity_claims", "intensity_table", "measure_sums", "slope"]

MAPS: Mapping[str, str] = {
    "noNoise": "denoised",
    "noBackgroundnoNoise": "without background",
    "noNoiseNoBackgroundSuperresolution": "superresolution",
}
"""Maps that are integrated, and how they are called here."""

_REACH = 1.5
"""Cells end this many spot radii from their column."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Integrated intensities of one image's columns, in units of their true mean.

    Attributes:
        entry: what it shows.
        truth: (K,) those of the true map, by map.
        drawn: (K,) those of the network's, by map.
    """

    entry: str
    truth: Mapping[str, Float[NDArray[np.float64], "K"]]
    drawn: Mapping[str, Float[NDArray[np.float64], "K"]]


def cell_sums(
    values: Float[NDArray[np.floating], "rows columns"], xy_px: Float[NDArray[np.float64], "K 2"], reach_px: float
) -> Float[NDArray[np.float64], "K"]:
    """Sums of a map over the pixels nearest to each column (its Voronoi cell) and within a reach of it."""
    row, column = np.indices(values.shape)
    away, owner = KDTree(xy_px).query(np.stack([column.ravel(), row.ravel()], axis=1), distance_upper_bound=reach_px)
    near = np.isfinite(away)
    weights = values.ravel()[near].astype(np.float64)
    return np.asarray(np.bincount(np.asarray(owner)[near], weights, minlength=len(xy_px)), np.float64)


def slope(truth: Float[NDArray[np.float64], "N"], drawn: Float[NDArray[np.float64], "N"]) -> float:
    """Slope of the least-squares line through the origin; nan without columns."""
    square = float(truth @ truth)
    return float(truth @ drawn) / square if square else float("nan")


def measure_sums(model: Model, specs: Mapping[str, Sequence[SampleSpec]], folder: Path) -> list[Sums]:
    """Integrated intensities of the resolvable columns, clear of the border, of the images of detection at 20 dB.

    Images without such a column are left out.

    Args:
        model: the network.
        specs: images by entry.
        folder: where bounds are remembered.
    """
    made = []
    for of_entry in track(specs.values(), description="intensities"):
        for spec in of_entry:
            sample = render([with_noise(spec, 20.0)], tuple(MAPS))[0]
            truth = truth_of(sample, resolvable(sample.columns.xy_A, limits_of(sample, folder).xy_A))
            counted = truth.asked & truth.clear_of_border(truth.xy_px)
            if not counted.any():
                continue
            drawn = model.predict(sample.image.numpy(), sample.pixel_size_A, tuple(MAPS)).maps
            counts = sample.dose_e_per_A2 * sample.pixel_size_A**2
            true_sums, drawn_sums = {}, {}
            for name in MAPS:
                known = sample.labels[name].numpy() * counts
                sums = [cell_sums(m, truth.xy_px, _REACH * truth.radius_px)[counted] for m in (known, drawn[name])]
                unit = float(sums[0].mean())
                true_sums[name], drawn_sums[name] = sums[0] / unit, sums[1] / unit
            made.append(Sums(spec.entry, true_sums, drawn_sums))
    return made


def _pooled(images: Sequence[Sums], name: str) -> float:
    """Slope over the columns of all images."""
    if not images:
        return float("nan")
    truth = np.concatenate([one.truth[name] for one in images])
    return slope(truth, np.concatenate([one.drawn[name] for one in images]))


def _columns(images: Sequence[Sums]) -> int:
    """Number of columns."""
    return sum(len(next(iter(one.truth.values()))) for one in images)


def intensity_claims(images: Sequence[Sums]) -> tuple[Claim, ...]:
    """Slopes over all columns."""
    over = f"{_columns(images):,} columns in {len(images)} images"
    return tuple(
        Claim(f"Slope of integrated intensities, {called}", _pooled(images, name), 0.97, 1.03, over=over)
        for name, called in MAPS.items()
    )


def intensity_table(images: Sequence[Sums], recipe: Recipe) -> Table:
    """Slopes by group of entries, and their standard deviation over images."""
    group = {entry.name: group_of(entry) for entry in recipe.entries}
    rows = []
    for title in [*dict.fromkeys(group.values()), "all"]:
        mine = [one for one in images if title in ("all", group[one.entry])]
        row: tuple[str | float, ...] = (title,)
        for name in MAPS:
            each = spread([slope(one.truth[name], one.drawn[name]) for one in mine])
            row += (_pooled(mine, name), each.deviation)
        rows.append((*row, _columns(mine), len(mine)))
    slopes = (title for called in MAPS.values() for title in (f"Slope, {called}", "s.d. over images"))
    head = ("Group", *slopes, "Columns", "Images")
    return Table("Slopes of drawn on true intensities.", head, tuple(rows), (0, *(2 * len(MAPS) * (3,)), 0, 0))
