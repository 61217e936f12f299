"""`save_results`: files of a session, those that AtomSegNet wrote and others."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from temimagenet import __version__
from temimagenet.app.figures import four_panels, plot_intensities
from temimagenet.app.session import Session
from temimagenet.errors import AppError
from temimagenet.localize import FoundColumns
from temimagenet.micrographs.analyses import analysis_files, strain_files, tell_analysis, tell_strain
from temimagenet.micrographs.files import FORMATS, encode_columns, tell_columns, write_whole
from temimagenet.micrographs.pictures import overlay_png, overlay_svg, png, tiff, to_8bit
from temimagenet.models.unet import FINE_MAPS

__all__ = ["KINDS", "save_results"]

KINDS: Mapping[str, str] = {
    "maps": "Model output (.mat, .tif, .png)",
    "markers": "Image with markers (.png, .svg)",
    "panels": "Four panels (.png)",
    "columns": "Atom positions",
    "histogram": "Intensities (.png)",
    "analysis": "Classes, lattice, neighbours (.csv, .json, .png)",
    "strain": "Strain (.csv, .json, .png)",
}
"""What can be saved, and what it is called."""


def save_results(
    session: Session, folder: str | Path, kinds: Sequence[str] = tuple(KINDS), formats: Sequence[str] = ("csv", "mat")
) -> list[Path]:
    """Write what there is of the kinds asked for, each file whole or not at all, and a record of how it was made.

    Args:
        session: what was made of an image.
        folder: where to; it is made.
        kinds: of `KINDS`. What was not made yet is left out.
        formats: of positions, of `micrographs.files.FORMATS`.

    Returns:
        The files.

    Raises:
        AppError: an unknown kind or format, or nothing to save.
        MicrographError: a file cannot be written.
    """
    unknown = [word for word in (*kinds, *formats) if word not in KINDS and word not in FORMATS]
    if unknown:
        raise AppError(f"{', '.join(unknown)}: expected some of {', '.join([*KINDS, *FORMATS])}")
    micrograph, columns = session.micrograph, session.columns
    facts: dict[str, Any] = {
        "image": micrograph.path.name, "signal": micrograph.title, "pixel_size_A": micrograph.pixel_size_A,
        "calibration": micrograph.calibration, "settings": session.settings.to_dict(), "steps": list(session.steps),
        "version": __version__, "unit": "positions from the centre of the first pixel, x along rows, y downwards",
    }  # fmt: skip
    contents: dict[str, bytes | str] = {}
    if "maps" in kinds and session.maps:
        contents |= _maps(session, facts)
    if columns is not None:
        if "markers" in kinds:
            contents["_columns.png"] = overlay_png(micrograph.image, columns)
            contents["_columns.svg"] = overlay_svg(micrograph.image, columns)
        if "panels" in kinds:
            for label, values in session.maps.items():
                drawn = values[::2, ::2] if label in FINE_MAPS else values
                contents[f"_four_panel_{label}.png"] = four_panels(micrograph.image, drawn, columns)
        if "columns" in kinds:
            for form in dict.fromkeys(formats):
                contents[f"_columns.{FORMATS[form][0]}"] = encode_columns(columns, form, facts)
        if "histogram" in kinds:
            picture = io.BytesIO()
            plot_intensities(columns).savefig(picture, format="png", dpi=150)
            contents["_intensities.png"] = picture.getvalue()
        contents |= _analyses(session, columns, kinds)
    if not contents:
        raise AppError("nothing to save yet: draw maps or find columns first")
    contents["_app.json"] = _record(
        session, {**facts, "sha256": session.opened.sha256, "columns": None if columns is None else len(columns)}
    )
    stem = Path(folder) / micrograph.path.stem
    return [write_whole(Path(f"{stem}{end}"), part, [session.opened.path]) for end, part in contents.items()]


def _record(session: Session, told: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """A record of how a file was made: where the image is from, and what is told."""
    micrograph = session.micrograph
    record = {
        "source": str(session.opened.path), "signal": micrograph.title, "pixel_size_A": micrograph.pixel_size_A,
        "calibration": micrograph.calibration, "facts": dict(micrograph.facts), **told,
        "notes": [*micrograph.notes, *notes], "version": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return json.dumps(record, indent=1, default=str)


def _analyses(session: Session, columns: FoundColumns, kinds: Sequence[str]) -> dict[str, bytes | str]:
    """The files that `temimagenet analyse` and `strain` write; their records tell the steps instead of a method."""
    contents: dict[str, bytes | str] = {}
    told = {**tell_columns(columns), "steps": list(session.steps)}
    if "analysis" in kinds and session.analysis is not None:
        contents |= analysis_files(columns, session.analysis)
        contents["_analyse.json"] = _record(
            session, {**told, **tell_analysis(session.analysis)}, session.analysis.notes
        )  # fmt: skip
    if "strain" in kinds and session.strain is not None:
        contents |= strain_files(session.strain)
        contents["_strain.json"] = _record(session, {**told, **tell_strain(session.strain)})
    return contents


def _maps(session: Session, facts: Mapping[str, Any]) -> dict[str, bytes | str]:
    """Maps and the image for MATLAB in one file, and each map as TIFF and PNG."""
    from scipy.io import savemat

    image, size = session.micrograph.image, session.pixel_size_A
    file: Any = io.BytesIO()
    savemat(
        file,
        {**session.maps, "origin": image, "pixel_size_A": size, "facts": json.dumps(facts)},
        do_compression=True,
    )
    contents: dict[str, bytes | str] = {"_maps.mat": file.getvalue()}
    for label, values in session.maps.items():
        contents[f"_{label}.tif"] = tiff(values, size / 2.0 if label in FINE_MAPS else size)
        contents[f"_{label}.png"] = png(to_8bit(np.asarray(values), (0.0, 1.0) if "Mask" in label else None))
    return contents
