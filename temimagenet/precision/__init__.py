"""Precision: the physical limit of an image, benchmark cases, and how close localizers come."""

from temimagenet.precision.bounds import (
    Bound,
    ImageModel,
    Profile,
    gaussian_profile,
    hybrid_bound,
    image_model,
    spot_profile,
)
from temimagenet.precision.lattice import LatticePrecision, Spacing, lattice_precision

__all__ = [
    "Bound",
    "ImageModel",
    "LatticePrecision",
    "Profile",
    "Spacing",
    "gaussian_profile",
    "hybrid_bound",
    "image_model",
    "lattice_precision",
    "spot_profile",
]
