"""`separate_sublattices`: columns sorted by their place in the cell and by intensity, and which do not fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from temimagenet.analysis.classes import IntensityClasses, intensity_classes
from temimagenet.analysis.lattice import FittedLattice, fit_lattice
from temimagenet.localize.protocol import FoundColumns

__all__ = ["Sublattices", "separate_sublattices"]

_SURE = 0.99
"""Probability above which a column is said to be of another class than its site's."""


@dataclass(frozen=True, eq=False)
class Sublattices:
    """Columns by position and by intensity.

    Attributes:
        lattice: by position; `lattice.site` is the sublattice of each column.
        classes: by intensity; `classes.label` is the class of each column.
        count: (S, K) columns of each site that are of each class.
        usual_class: (S,) the commonest class of each site.
        odd: (N,) columns that are with 99 % probability of another class than their site's: foreign atoms, columns
            with atoms missing, or a wrong site.
    """

    lattice: FittedLattice
    classes: IntensityClasses
    count: Int[NDArray[np.int64], "S K"]
    usual_class: Int[NDArray[np.int64], "S"]
    odd: Bool[NDArray[np.bool_], "N"]


def separate_sublattices(columns: FoundColumns, classes: int | None = None) -> Sublattices:
    """Separate columns into sublattices, by place in the fitted cell (`fit_lattice`) and by intensity.

    Args:
        columns: what a localizer found, intensities known; flagged columns are left out.
        classes: number of classes of intensity (`intensity_classes`); told by the data unless given.

    Raises:
        LocalizeError: no lattice, or classes cannot be told.
    """
    lattice, sorted_ = fit_lattice(columns), intensity_classes(columns, classes)
    both = (lattice.site >= 0) & (sorted_.label >= 0)
    count = np.zeros((len(lattice), len(sorted_)), dtype=np.int64)
    np.add.at(count, (lattice.site[both], sorted_.label[both]), 1)
    usual = count.argmax(axis=1).astype(np.int64)
    odd = np.zeros(len(columns), dtype=bool)
    odd[both] = sorted_.probability[both, usual[lattice.site[both]]] < 1.0 - _SURE
    return Sublattices(lattice, sorted_, count, usual, odd)
