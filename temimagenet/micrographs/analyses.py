"""`Analysis` of an image's columns, and the files that tell it and strain: those of the command line and of the app."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from temimagenet.analysis import (
    FittedLattice,
    IntensityClasses,
    Neighbours,
    StrainMap,
    fit_lattice,
    intensity_classes,
    nearest_neighbours,
)
from temimagenet.errors import LocalizeError, MicrographError
from temimagenet.localize.protocol import FoundColumns
from temimagenet.micrographs.files import column_table, encode_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Analysis",
    "analyse_columns",
    "analysis_files",
    "check_region",
    "parse_region",
    "strain_files",
    "strain_notes",
    "tell_analysis",
    "tell_strain",
]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Columns sorted by their neighbours, by intensity, and by place in the cell, as far as each can be told.

    Attributes:
        neighbours: the four nearest of each.
        classes: by intensity; None where there are none.
        lattice: the fitted lattice with its sites; None where there is none.
        notes: why one of them is missing, a sentence each.
    """

    neighbours: Neighbours
    classes: IntensityClasses | None
    lattice: FittedLattice | None
    notes: tuple[str, ...]


def analyse_columns(columns: FoundColumns, classes: int | None = None) -> Analysis:
    """Sort columns in all three ways; what one of them cannot tell the others may.

    Args:
        columns: what a localizer found; flagged columns are left out.
        classes: number of classes of intensity; told by the data unless given.

    Raises:
        LocalizeError: fewer than five sound columns.
    """
    near, notes = nearest_neighbours(columns), []
    sorted_, lattice = None, None
    try:
        sorted_ = intensity_classes(columns, classes)
    except LocalizeError as error:
        notes.append(f"No classes of intensity: {error}.")
    try:
        lattice = fit_lattice(columns)
    except LocalizeError as error:
        notes.append(f"No lattice: {error}.")
    return Analysis(near, sorted_, lattice, tuple(notes))


def tell_analysis(analysis: Analysis) -> dict[str, Any]:
    """What a record tells of an analysis: numbers that are not one column's."""
    near, classes, lattice = analysis.neighbours, analysis.classes, analysis.lattice
    first = near.distance_pm[near.enclosed, 0]
    told: dict[str, Any] = {"nearest_pm": round(float(np.median(first)), 2) if len(first) else None}
    if classes is not None:
        told["classes"] = len(classes)
        told |= {f"class_{name}": getattr(classes, name).tolist() for name in ("mean", "mean_sigma", "spread")}
        told |= {"class_share": classes.share.tolist(), "bic": list(classes.bic), "confused": classes.confused}
    if lattice is not None:
        told["sublattices"] = len(lattice)
        told |= {
            "lengths_pm": lattice.lengths_pm, "lengths_sigma_pm": lattice.lengths_sigma_pm,
            "angle_deg": lattice.angle_deg, "vectors_px": lattice.vectors_px.tolist(),
            "origin_px": lattice.origin_px.tolist(), "site_position": lattice.site_position.tolist(),
            "site_intensity": lattice.site_intensity.tolist(),
        }  # fmt: skip
    return told


def analysis_files(columns: FoundColumns, analysis: Analysis) -> dict[str, bytes | str]:
    """A table with a line of each column, and pictures, by what follows the image's name in the file's.

    Args:
        columns: those that were analysed.
        analysis: what was told of them.
    """
    near, classes, lattice = analysis.neighbours, analysis.classes, analysis.lattice
    table = column_table(columns) | {
        "nearest_pm": near.distance_pm[:, 0], "nearest_sigma_pm": near.sigma_pm[:, 0],
        "enclosed": near.enclosed.astype(np.int64),
    }  # fmt: skip
    pictures: dict[str, bytes | str] = {"_neighbours.png": _drawn(near.plot())}
    if classes is not None:
        table |= {"class": classes.label, "class_probability": classes.probability.max(axis=1)}
        pictures["_classes.png"] = _drawn(classes.plot())
    if lattice is not None:
        table |= {
            "site": lattice.site, "cell_a": lattice.cell[:, 0], "cell_b": lattice.cell[:, 1],
            "displacement_x_pm": lattice.displacement_pm[:, 0], "displacement_y_pm": lattice.displacement_pm[:, 1],
        }  # fmt: skip
        pictures["_lattice.png"] = _drawn(lattice.plot())
    return {"_analysis.csv": encode_table(table), **pictures}


def tell_strain(strain: StrainMap) -> dict[str, Any]:
    """What a record tells of strain: how many columns have one, the reference region and its lattice vectors."""
    return {
        "strained": int(np.isfinite(strain.exx).sum()), "reference_px": strain.reference_px,
        "a_px": strain.vectors_px[0].tolist(), "b_px": strain.vectors_px[1].tolist(),
    }  # fmt: skip


def strain_notes(
    columns: FoundColumns, reference_px: tuple[float, float, float, float] | None = None
) -> tuple[str, ...]:
    """What a user should know of strain against an image's mean: that there is none of grains, a sentence.

    Args:
        columns: those that strain was measured of.
        reference_px: the region that was taken for unstrained; the whole image where None.
    """
    if reference_px is not None:
        return ()
    try:
        fit_lattice(columns)
    except LocalizeError as error:
        return (f"Strain against the image's mean says little here ({error}): give a reference region in one grain.",)
    return ()


def strain_files(strain: StrainMap) -> dict[str, bytes | str]:
    """A table with a line of each sound column, and the four maps, by what follows the image's name in the file's."""
    table = {
        "x_px": strain.xy_px[:, 0], "y_px": strain.xy_px[:, 1], "exx": strain.exx, "eyy": strain.eyy,
        "exy": strain.exy, "rotation_deg": strain.rotation_deg, "reference": strain.reference.astype(np.int64),
    }  # fmt: skip
    return {"_strain.csv": encode_table(table), "_strain.png": _drawn(strain.plot())}


def _drawn(figure: Figure) -> bytes:
    """A figure of Matplotlib as a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def parse_region(text: str) -> tuple[float, float, float, float] | None:
    """A region as a user writes it: "left,top,right,bottom" in pixels; None, the whole image, of an empty text.

    Raises:
        MicrographError: not four numbers, or edges that leave nothing between them.
    """
    if not text.strip():
        return None
    try:
        left, top, right, bottom = (float(edge) for edge in text.split(","))
    except ValueError as error:
        raise MicrographError(f"reference {text!r}: expected left,top,right,bottom in pixels") from error
    if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
        raise MicrographError(f"reference {text!r}: expected left,top,right,bottom in pixels, with room between them")
    return left, top, right, bottom


def check_region(region_px: tuple[float, float, float, float] | None, shape: tuple[int, ...]) -> None:
    """Raise MicrographError unless a region (left, top, right, bottom) meets an image of a shape (rows, columns)."""
    if region_px is None:
        return
    left, top, right, bottom = region_px
    if right < 0.0 or bottom < 0.0 or left > shape[1] - 1 or top > shape[0] - 1:
        edges = ",".join(f"{edge:g}" for edge in region_px)
        raise MicrographError(f"reference {edges}: outside the image, {shape[1]} pixels wide and {shape[0]} high")
