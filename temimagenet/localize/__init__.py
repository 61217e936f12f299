"""Localizers: from an image to atomic columns with standard errors, all by one protocol."""

from temimagenet.localize.detect import Detected, detect_columns
from temimagenet.localize.gaussian import GaussianFit, GaussianRefinement, fit_gaussians
from temimagenet.localize.otsu import OtsuCentroid, otsu_threshold
from temimagenet.localize.protocol import Flag, FoundColumns, Localizer, check_image

__all__ = [
    "Detected",
    "Flag",
    "FoundColumns",
    "GaussianFit",
    "GaussianRefinement",
    "Localizer",
    "OtsuCentroid",
    "check_image",
    "detect_columns",
    "fit_gaussians",
    "otsu_threshold",
]
