"""What follows from columns: strain, classes of intensity, neighbours, a fitted lattice and its sublattices."""

from temimagenet.analysis.classes import IntensityClasses, intensity_classes
from temimagenet.analysis.lattice import FittedLattice, fit_lattice
from temimagenet.analysis.neighbours import Neighbours, nearest_neighbours
from temimagenet.analysis.strain import StrainMap, measure_strain
from temimagenet.analysis.sublattices import Sublattices, separate_sublattices

__all__ = [
    "FittedLattice",
    "IntensityClasses",
    "Neighbours",
    "StrainMap",
    "Sublattices",
    "fit_lattice",
    "intensity_classes",
    "measure_strain",
    "nearest_neighbours",
    "separate_sublattices",
]
