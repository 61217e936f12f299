"""Precision: the physical limit of an image, benchmark cases, and how close localizers come."""

from temimagenet.bounds import (
    Bound,
    ImageModel,
    Profile,
    gaussian_profile,
    hybrid_bound,
    image_model,
    spot_profile,
)
from temimagenet.precision.cases import CASE_SET_VERSION, CASES, BenchmarkImage, Case, case_images
from temimagenet.precision.evaluate import compare, evaluate
from temimagenet.precision.lattice import LatticePrecision, Spacing, lattice_precision
from temimagenet.precision.records import Record, load_localizer, read_record, read_records, verify, write_record
from temimagenet.precision.scores import Estimate, ImageScore, score_image

__all__ = [
    "CASES",
    "CASE_SET_VERSION",
    "BenchmarkImage",
    "Bound",
    "Case",
    "Estimate",
    "ImageModel",
    "ImageScore",
    "LatticePrecision",
    "Profile",
    "Record",
    "Spacing",
    "case_images",
    "compare",
    "evaluate",
    "gaussian_profile",
    "hybrid_bound",
    "image_model",
    "lattice_precision",
    "load_localizer",
    "read_record",
    "read_records",
    "score_image",
    "spot_profile",
    "verify",
    "write_record",
]
