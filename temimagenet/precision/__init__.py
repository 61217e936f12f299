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

__all__ = ["Bound", "ImageModel", "Profile", "gaussian_profile", "hybrid_bound", "image_model", "spot_profile"]
