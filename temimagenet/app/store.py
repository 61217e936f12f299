"""Session files: everything but the image's pixels, in HDF5; the image is opened again from its own file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from temimagenet import __version__
from temimagenet.analysis import FittedLattice, IntensityClasses, Neighbours, StrainMap
from temimagenet.app.arrays import put, take
from temimagenet.app.session import Opened, Session, digest, open_image
from temimagenet.app.settings import Settings
from temimagenet.errors import AppError
from temimagenet.localize import FoundColumns
from temimagenet.micrographs.analyses import Analysis
from temimagenet.micrographs.files import write_whole

__all__ = ["SESSION_SUFFIX", "is_session", "load_session", "save_session"]

SESSION_SUFFIX = ".session.h5"
"""What names of session files end with."""

_SCHEMA = 1
_ANALYSES: Mapping[str, type[Any]] = {
    "neighbours": Neighbours, "classes": IntensityClasses, "lattice": FittedLattice
}  # fmt: skip
_ARRAYS = tuple(entry.name for entry in fields(FoundColumns) if entry.name != "pixel_size_A")


def is_session(path: str | Path) -> bool:
    """Whether a file's name is that of a session."""
    return str(path).lower().endswith(SESSION_SUFFIX)


def save_session(session: Session, path: str | Path) -> Path:
    """Write a session: where the image is and its digest, settings, steps, maps, columns and analyses.

    Args:
        session: what to keep.
        path: the file; `SESSION_SUFFIX` is added where its name ends otherwise.

    Raises:
        MicrographError: it cannot be written.
    """
    target = Path(path) if is_session(path) else Path(f"{path}{SESSION_SUFFIX}")
    opened = session.opened
    told = {
        "image": str(opened.path), "beside": _beside(opened.path, target), "sha256": opened.sha256,
        "signal": opened.signal, "frame": opened.frame, "pixel_size_A": opened.pixel_size_A,
        "settings": session.settings.to_dict(), "steps": list(session.steps), "version": __version__,
    }  # fmt: skip
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["schema"] = _SCHEMA
        file.attrs["session"] = json.dumps(told)
        maps = file.create_group("maps")
        for label, values in session.maps.items():
            maps.create_dataset(label, data=values, compression="gzip", compression_opts=1, shuffle=True)
        if session.columns is not None:
            group = file.create_group("columns")
            group.attrs["pixel_size_A"] = session.columns.pixel_size_A
            for name in _ARRAYS:
                group.create_dataset(name, data=getattr(session.columns, name))
        if session.analysis is not None:
            group = file.create_group("analysis")
            group.attrs["notes"] = json.dumps(session.analysis.notes)
            for name in _ANALYSES:
                if (part := getattr(session.analysis, name)) is not None:
                    put(group.create_group(name), part)
        if session.strain is not None:
            put(file.create_group("strain"), session.strain)
    return write_whole(target, content.getvalue(), [opened.path])


def load_session(path: str | Path, image: str | Path | None = None) -> Session:
    """Take a session up where it was left.

    Args:
        path: the file.
        image: where its image is now; unless given, where it was, or where it lies seen from the session's file.

    Raises:
        AppError: no session of ours, its image is not found, or that is not the file it was.
        MicrographError: the image cannot be read.
    """
    file = Path(path)
    told, maps, made = _read(file)
    found = _image(file, told) if image is None else Path(image)
    if digest(found) != told["sha256"]:
        raise AppError(f"{found} is not the image that {file.name} was made of: its contents differ")
    session = open_image(found, signal=told["signal"], frame=told["frame"], pixel_size_A=told["pixel_size_A"])
    rows, cols = session.micrograph.image.shape
    for label, values in maps.items():
        if values.shape not in ((rows, cols), (2 * rows, 2 * cols)):
            raise AppError(f"{file}: map {label} of {values.shape} does not fit the image of {rows} x {cols}")
    settings = Settings.from_dict(told["settings"])
    return replace(session, settings=settings, maps=maps, steps=tuple(told["steps"]), **made)


def _beside(image: Path, session: Path) -> str:
    """The image's path as seen from the session's folder; empty where there is none (another drive)."""
    try:
        return os.path.relpath(image, session.resolve().parent)
    except ValueError:
        return ""


def _image(file: Path, told: dict[str, Any]) -> Path:
    """Where the image of a session is."""
    was = Path(told["image"])
    beside = file.resolve().parent / told["beside"] if told["beside"] else was
    for place in (was, beside, file.resolve().parent / was.name):
        if place.is_file():
            return place
    raise AppError(f"the image {was} is gone; put it beside {file.name}")


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a session file holds: what was told, maps, and columns with what follows from them."""
    try:
        with h5py.File(file, "r") as opened:
            schema = int(opened.attrs["schema"])
            if schema != _SCHEMA:
                raise AppError(f"{file}: a session of schema {schema}; this version reads {_SCHEMA}")
            told = json.loads(opened.attrs["session"])
            maps = {label: np.asarray(values[()], dtype=np.float32) for label, values in opened["maps"].items()}
            made: dict[str, Any] = {}
            if "columns" in opened:
                group = opened["columns"]
                arrays = {name: group[name][()] for name in _ARRAYS}
                columns = FoundColumns(**arrays, pixel_size_A=float(group.attrs["pixel_size_A"]))
                made["columns"] = columns
                if "analysis" in opened:
                    made["analysis"] = _analysis(opened["analysis"], len(columns))
                if "strain" in opened:
                    made["strain"] = take(opened["strain"], StrainMap, N=int(columns.sound.sum()))
        missing = {
            entry.name for entry in fields(Opened) if entry.name not in ("path", *told)
        } | {"image", "beside", "settings", "steps"} - set(told)  # fmt: skip
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise AppError(f"{file}: no session of this app, or damaged ({error})") from error
    return told, maps, made


def _analysis(group: h5py.Group, count: int) -> Analysis:
    """An analysis of so many columns."""
    parts = {name: take(group[name], kind, N=count) for name, kind in _ANALYSES.items() if name in group}
    notes = tuple(str(note) for note in json.loads(group.attrs["notes"]))
    return Analysis(parts["neighbours"], parts.get("classes"), parts.get("lattice"), notes)
