"""What a catalogue's columns and a sample's arrays are, in a sentence each, for metadata that machines read."""

from __future__ import annotations

__all__ = ["ARRAYS", "FIELDS", "unit_of"]

FIELDS = {
    "id": "Name of the sample, the same in every engine's images.",
    "index": "Number of the sample in the recipe.",
    "split": "train, test or heldout: structures that training never sees.",
    "entry": "Name of the recipe's entry that it was drawn from.",
    "material": "Name of the material.",
    "formula": "Chemical formula.",
    "zone": "Zone axis along the beam; empty for amorphous films and random specimens.",
    "morphology": "bulk, layer, particle, amorphous or random.",
    "thickness_A": "Thickness along the beam; missing for layers and particles.",
    "realisation": "Which of the entry's random structures; missing for crystals.",
    "condition": "Number of the microscope's condition.",
    "energy_keV": "Energy of the beam.",
    "aperture_mrad": "Half angle of the probe-forming aperture.",
    "source_size_A": "Full width at half maximum of the source's image.",
    "defocus_A": "Defocus; C1 is its negative.",
    "C3_mm": "Third-order spherical aberration.",
    "C5_mm": "Fifth-order spherical aberration.",
    "detector_inner_mrad": "Inner angle of the annular detector.",
    "detector_outer_mrad": "Outer angle of the annular detector.",
    "contrast": "How the linear engine weighs a column: adf, potential or z-power.",
    "field_of_view_A": "Edge of the image.",
    "pixel_size_A": "Edge of a pixel.",
    "image_size": "Pixels along the image's edge.",
    "rotation_deg": "Angle of the specimen against the fast scan.",
    "offset_x_A": "Place of pixel (0, 0) in the specimen, along x.",
    "offset_y_A": "Place of pixel (0, 0) in the specimen, along y.",
    "scan_sigma_A": "Standard deviation of the rows' displacements, along each axis.",
    "scan_modulation": "How the displacements' strength changes in time: none, constant or line-frequency.",
    "scan_form": "beam: displaced before electrons are counted; published: rows moved by whole pixels.",
    "background": "Kind of background: constant, ramp or nonlinear.",
    "background_level": "Sum of the background's amplitudes, in peaks of the clean image.",
    "psnr_dB": "Peak signal-to-noise ratio of the linear image, whose dose its twin has, too: 20 log10 of (peak less "
    "background) over the root of the mean counts.",
    "radius_A": "Radius of circularMask.",
    "engine": "linear or multislice.",
    "shard": "Path in the library of the HDF5 file that holds the sample.",
    "row": "Row of the sample in its shard's arrays.",
    "dose_e_per_A2": "Electrons on the specimen.",
    "clean_peak": "Largest value of the linear clean image, as a fraction of the beam.",
    "columns": "Atomic columns inside the image.",
    "mean_to_linear": "Mean of the clean image over the linear one's.",
    "column_to_linear_min": "Least ratio of a column's peak to the linear one's.",
    "column_to_linear_max": "Largest ratio of a column's peak to the linear one's.",
    "column_shift_pm": "Largest distance of a column's maximum from its true position; missing for linear images.",
    "sha256": "SHA-256 of specification, image and columns.",
    "crlb_median_pm": "Median of the columns' Cramer-Rao bounds in x and y; missing where there are none.",
}
"""Columns of `catalogue.parquet`; their units are in their names."""

ARRAYS = {
    "image": ("The micrograph: electrons counted in each pixel.", "e"),
    "circularMask": ("1 inside the radius of a column, 0 elsewhere.", ""),
    "smallcircularMask": ("1 inside 0.7 times the radius of a column, 0 elsewhere.", ""),
    "gaussianMask": ("Gaussians of unit peak and 0.2 Å full width at half maximum, all columns alike.", ""),
    "noNoise": ("The image without shot noise and scan noise, with background.", "fraction of the beam"),
    "noBackgroundnoNoise": ("The clean image: no noise, no background.", "fraction of the beam"),
    "noNoiseNoBackgroundSuperresolution": ("Gaussians of unit volume times each column's weight, 0.2 Å wide.", ""),
    "noNoiseNoBackgroundUpinterpolation2x": ("The clean image on twice as many pixels.", "fraction of the beam"),
    "noNoiseUpinterpolation2x": (
        "The noiseless image with background on twice as many pixels.",
        "fraction of the beam",
    ),
    "position": ("x and y of every column in the image.", "px"),
    "positionRadius": ("x, y and radius of every column in the image.", "px"),
}
"""The image and its ten labels: what each is, and its unit."""

_UNITS = {
    "_e_per_A2": "e/Å²",
    "_A": "Å",
    "_pm": "pm",
    "_dB": "dB",
    "_keV": "keV",
    "_mrad": "mrad",
    "_deg": "°",
    "_mm": "mm",
}


def unit_of(field: str) -> str:
    """The unit that a column's name ends with; empty for numbers without one and for words."""
    return next((unit for end, unit in _UNITS.items() if field.endswith(end)), "")
