"""Localizers: from an image to atomic columns with standard errors, all by one protocol."""

from temimagenet.localize.gaussian import GaussianRefinement, fit_gaussians
from temimagenet.localize.protocol import Flag, FoundColumns, Localizer, check_image

__all__ = ["Flag", "FoundColumns", "GaussianRefinement", "Localizer", "check_image", "fit_gaussians"]
