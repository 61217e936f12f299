"""People's own micrographs: files of microscopes read, columns and maps of them written, reports drawn."""

from temimagenet.micrographs.read import Micrograph, Signal, list_signals, read_micrograph
from temimagenet.micrographs.units import PixelSize, to_angstrom

__all__ = ["Micrograph", "PixelSize", "Signal", "list_signals", "read_micrograph", "to_angstrom"]
