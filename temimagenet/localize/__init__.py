"""Localizers: from an image to atomic columns with standard errors, all by one protocol."""

from temimagenet.localize.detect import Detected, detect_columns
from temimagenet.localize.faster_rcnn import FasterRCNN
from temimagenet.localize.gaussian import GaussianFit, fit_gaussians
from temimagenet.localize.network import NetworkColumns, NetworkOtsu
from temimagenet.localize.otsu import OtsuCentroid, otsu_threshold
from temimagenet.localize.protocol import Flag, FoundColumns, Localizer, check_image
from temimagenet.localize.scan_aware import ScanAware, ScanFit, fit_scan_aware

__all__ = [
    "Detected",
    "FasterRCNN",
    "Flag",
    "FoundColumns",
    "GaussianFit",
    "Localizer",
    "NetworkColumns",
    "NetworkOtsu",
    "OtsuCentroid",
    "ScanAware",
    "ScanFit",
    "check_image",
    "detect_columns",
    "fit_gaussians",
    "fit_scan_aware",
    "otsu_threshold",
]
