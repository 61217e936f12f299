"""Pixel sizes: what files say of them in their many units, in angstrom."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from temimagenet.errors import MicrographError

__all__ = ["PixelSize", "is_reciprocal", "parse_length", "pixel_size", "to_angstrom"]

_LENGTHS_A = {
    "m": 1e10, "meter": 1e10, "metre": 1e10, "cm": 1e8, "mm": 1e7, "um": 1e4, "micron": 1e4, "micrometer": 1e4,
    "micrometre": 1e4, "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0, "a": 1.0, "angstrom": 1.0, "ångström": 1.0,
    "å": 1.0, "ang": 1.0, "pm": 0.01, "picometer": 0.01, "picometre": 0.01, "inch": 2.54e8, "in": 2.54e8,
}  # fmt: skip

_ANGLES = ("rad", "mrad", "deg", "degree", "degrees", "°")

_SANE_A = (0.003, 1e4)
"""Pixels of a picture taken by an electron microscope; a printer's 72 dots an inch are 3.5 million angstrom."""


@dataclass(frozen=True)
class PixelSize:
    """Edge of a square pixel.

    Attributes:
        size_A: in angstrom; None where it is not known.
        source: where it comes from, or why it is not known, in words.
    """

    size_A: float | None
    source: str


def _plain(unit: object) -> str:
    """A unit's name in lower case without spaces, brackets and plural."""
    text = unicodedata.normalize("NFKC", str(unit)).replace("\\u00B5", "u").replace("μ", "u").replace("−", "-")
    text = text.strip().strip("[]")
    text = re.sub(r"\s|_", "", text).lower()
    return text[:-1] if text.endswith("s") and text[:-1] in _LENGTHS_A else text


def is_reciprocal(unit: object) -> bool:
    """Whether a unit is one of diffraction patterns: an inverse length or an angle."""
    text = _plain(unit)
    return text.startswith("1/") or text in _ANGLES or bool(re.search(r"\(?-1\)?$", text))


def to_angstrom(value: float, unit: object) -> float | None:
    """A length in angstrom; None where the unit is none of length."""
    factor = _LENGTHS_A.get(_plain(unit))
    return None if factor is None else float(value) * factor


def parse_length(text: str) -> float:
    """A length as a user writes it, in angstrom: "0.13", "13 pm", "0.013nm".

    Raises:
        MicrographError: not a positive number, or a unit that is none of length.
    """
    parts = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\D*)", text)
    try:
        length = to_angstrom(float(parts[1]), parts[2] or "A") if parts else None
    except ValueError:
        length = None
    if length is None or not 0.0 < length < np.inf:
        raise MicrographError(f"pixel size {text!r}: expected a length such as 0.13 (angstrom), 13pm or 0.013nm")
    return length


def pixel_size(scales: tuple[float, float], units: tuple[object, object], where: str) -> PixelSize:
    """The pixel size that two axes tell.

    Args:
        scales: rows' and columns' step.
        units: their units; None or an unknown one makes them uncalibrated.
        where: where the numbers stand.

    Raises:
        MicrographError: pixels that are not square.
    """
    found = [to_angstrom(abs(scale), unit) for scale, unit in zip(scales, units, strict=True)]
    down, across = found
    if down is None or across is None:
        unit = next(unit for unit, length in zip(units, found, strict=True) if length is None)
        named = "" if _plain(unit) in ("", "none", "<undefined>", "px", "pixel", "pixels") else f" (unit {unit!r})"
        return PixelSize(None, f"{where}: not calibrated{named}")
    if not (_SANE_A[0] <= down <= _SANE_A[1] and _SANE_A[0] <= across <= _SANE_A[1]):
        return PixelSize(None, f"{where}: {across:.4g} A, which cannot be")
    if abs(down - across) > 0.01 * across:
        raise MicrographError(
            f"pixels of {across:.4g} (along rows) by {down:.4g} A ({where}): not square; resample the image, or give "
            "the pixel size where this is wrong"
        )
    return PixelSize(0.5 * (down + across), where)
