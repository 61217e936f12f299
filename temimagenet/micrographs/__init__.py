"""People's own micrographs: files of microscopes read, columns and maps of them written, reports drawn."""

from temimagenet.micrographs.interchange import from_atomap, from_hyperspy, to_atomap
from temimagenet.micrographs.read import Micrograph, Signal, list_signals, read_micrograph
from temimagenet.micrographs.units import PixelSize, to_angstrom

__all__ = [
    "Micrograph",
    "PixelSize",
    "Signal",
    "from_atomap",
    "from_hyperspy",
    "list_signals",
    "read_micrograph",
    "to_angstrom",
    "to_atomap",
]
