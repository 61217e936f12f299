"""What follows from a session's columns: classes, lattice and strain, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.analysis import StrainMap, measure_strain
from temimagenet.analysis.classes import CLASS_COLOURS
from temimagenet.analysis.strain import STRAIN_COLOURS, colour_limit
from temimagenet.app.session import Session
from temimagenet.app.settings import Settings
from temimagenet.errors import AppError
from temimagenet.localize import FoundColumns
from temimagenet.micrographs.analyses import analyse_columns
from temimagenet.progress import report

__all__ = ["CLASSES", "SITES", "Quantity", "analyse", "map_strain", "quantities", "tell"]

CLASSES, SITES = "class", "sublattice"
"""What is shown of an analysis; strain's quantities have the names of `StrainMap.shown`."""

_FEWEST = 12
"""Sound columns below which there are neither classes nor a lattice."""

_UNKNOWN = (0.0, 0.0, 0.0, 0.0)
"""Colour of columns that nothing is told of: their rings are seen."""


@dataclass(frozen=True, eq=False)
class Quantity:
    """Values at columns, and their colours.

    Attributes:
        name: what they are, with the unit.
        xy_px: (N, 2) positions (x, y) of the columns in pixels.
        values: (N,) the values; nan where nothing is told.
        colours: (N, 4) red, green, blue and opacity from 0 to 1.
    """

    name: str
    xy_px: Float[NDArray[np.float64], "N 2"]
    values: Float[NDArray[np.float64], "N"]
    colours: Float[NDArray[np.float64], "N 4"]


def analyse(session: Session, settings: Settings) -> Session:
    """Sort the columns by intensity, by place in the unit cell and by their neighbours, as `temimagenet analyse` does.

    Args:
        session: with columns.
        settings: number of classes of intensity; the others are not used.

    Raises:
        AppError: too few sound columns, or neither classes nor a lattice are found.
        LocalizeError: the columns cannot be used.
    """
    columns = _columns(session)
    report("classes and lattice", 0, 1)
    analysis = analyse_columns(columns, settings.classes)
    report("classes and lattice", 1, 1)
    if analysis.classes is None and analysis.lattice is None:
        raise AppError(" ".join(analysis.notes))
    classes = "no" if analysis.classes is None else str(len(analysis.classes))
    given = "" if settings.classes is None else " as given"
    sites = "no lattice" if analysis.lattice is None else f"{len(analysis.lattice)} sublattices"
    return session.did(
        f"{len(columns)} columns sorted: {classes} classes of intensity{given}, {sites}", analysis=analysis,
        settings=replace(session.settings, classes=settings.classes),
    )  # fmt: skip


def map_strain(session: Session, settings: Settings) -> Session:
    """Measure strain at each sound column, as `temimagenet strain` does.

    Args:
        session: with columns.
        settings: the reference region; the others are not used.

    Raises:
        AppError: too few sound columns.
        LocalizeError: too few of them in the region, or no lattice.
    """
    columns = _columns(session)
    report("strain", 0, 1)
    strain = measure_strain(columns, settings.reference_px)
    report("strain", 1, 1)
    count = int(np.isfinite(strain.exx).sum())
    return session.did(
        f"strain at {count} columns against {_region(strain)}", strain=strain,
        settings=replace(session.settings, reference_px=settings.reference_px),
    )  # fmt: skip


def _region(strain: StrainMap) -> str:
    """The reference region in words."""
    edges = strain.reference_px
    return "the whole image" if edges is None else ",".join(f"{edge:g}" for edge in edges)


def _columns(session: Session) -> FoundColumns:
    """The columns, enough of them."""
    columns = session.columns
    if columns is None or not len(columns):
        raise AppError("no columns yet: find some, or place them by hand and refine")
    sound = int(columns.sound.sum())
    if sound < _FEWEST:
        raise AppError(f"{sound} sound columns of {len(columns)}: classes, lattice and strain need {_FEWEST} or more")
    return columns


def quantities(session: Session) -> dict[str, Quantity]:
    """What can be shown of a session, by name: class and sublattice, strain and rotation, as far as they were made.

    Strain is coloured from blue over white to red, alike on both sides of zero (`colour_limit`).
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    made: list[Quantity] = []
    analysis, strain = session.analysis, session.strain
    if analysis is not None:
        told = [] if analysis.classes is None else [(CLASSES, analysis.classes.label, analysis.classes.xy_px)]
        if analysis.lattice is not None:
            told.append((SITES, analysis.lattice.site, analysis.lattice.xy_px))
        palette = np.concatenate([to_rgba_array(CLASS_COLOURS), [_UNKNOWN]])
        for name, label, xy in told:
            colours = palette[np.where(label < 0, -1, label % len(CLASS_COLOURS))]
            made.append(Quantity(name, xy, np.where(label < 0, np.nan, label), colours))
    if strain is not None:
        for name, values in strain.shown.items():
            place = 0.5 + 0.5 * values / colour_limit(values)
            colours = np.array(colormaps[STRAIN_COLOURS](place))
            colours[~np.isfinite(values)] = _UNKNOWN
            made.append(Quantity(name, strain.xy_px, values, colours))
    return {quantity.name: quantity for quantity in made}


def tell(session: Session) -> tuple[str, str]:
    """What was found, in words: of classes and lattice, and of strain. Empty where nothing was made."""
    sorted_, strained = "", ""
    if (analysis := session.analysis) is not None:
        lines = []
        if (classes := analysis.classes) is not None:
            lines = [
                f"class {number}: {classes.mean[number]:.4g} ± {classes.mean_sigma[number]:.2g}, "
                f"{int((classes.label == number).sum())} columns"
                for number in range(len(classes))
            ]
        if (lattice := analysis.lattice) is not None:
            (a, b), (sigma_a, sigma_b) = lattice.lengths_pm, lattice.lengths_sigma_pm
            lines.append(
                f"a = {a:.1f} ± {sigma_a:.2f} pm, b = {b:.1f} ± {sigma_b:.2f} pm, {lattice.angle_deg:.2f}°; "
                f"sublattices of {', '.join(str(int((lattice.site == site).sum())) for site in range(len(lattice)))}"
            )
        sorted_ = "\n".join([*lines, *analysis.notes])
    if (strain := session.strain) is not None:
        a, b = 100.0 * strain.pixel_size_A * np.linalg.norm(strain.vectors_px, axis=1)
        known = int(np.isfinite(strain.exx).sum())
        strained = (
            f"reference {_region(strain)}: {int(strain.reference.sum())} columns, a = {a:.1f} pm, b = {b:.1f} pm; "
            f"strain at {known} of {len(strain.exx)} sound columns"
        )
    return sorted_, strained
