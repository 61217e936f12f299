"""What follows from columns: strain against a reference region of the same image."""

from temimagenet.analysis.strain import StrainMap, measure_strain

__all__ = ["StrainMap", "measure_strain"]
