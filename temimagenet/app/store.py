"""Session files: everything but the image's pixels, in HDF5; the image is opened again from its own file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from temimagenet import __version__
from temimagenet.analysis import FittedLattice, IntensityClasses, Neighbours, StrainMap
from temimagenet.app.arrays import put, take
from temimagenet.app.session import Session, digest, open_image
from temimagenet.app.settings import Settings
from temimagenet.errors import AppError
from temimagenet.hdf5 import contents
from temimagenet.isolated import read_apart
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
_TOLD: Mapping[str, type | tuple[type, ...]] = {
    "image": str, "beside": str, "sha256": str, "signal": int, "frame": (str, type(None)),
    "pixel_size_A": (float, int, type(None)), "settings": dict, "steps": list,
}  # fmt: skip
"""What the attribute `session` says, and the types it has."""

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
        # A folder that may not be looked into, a name that is none.
        with suppress(OSError, ValueError):
            if place.is_file():
                return place
    raise AppError(f"the image {was} is gone; put it beside {file.name}")


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a session file holds: what was told, maps, and columns with what follows from them.

    It may be damaged, so it is read in a process apart.
    """
    try:
        listed, values = read_apart(contents, file, ValueError)
        attributes, arrays = listed["attributes"], dict(zip(listed["datasets"], values, strict=True))
        schema = attributes[""]["schema"]
        if schema != _SCHEMA:
            raise AppError(f"{file}: a session of schema {schema}; this version reads {_SCHEMA}")
        told = json.loads(attributes[""]["session"])
        wrong = [name for name, kinds in _TOLD.items() if not isinstance(told.get(name, ...), kinds)]
        if wrong:
            raise ValueError(f"no {', '.join(wrong)}, or of another type")
        maps = {label: array.astype(np.float32) for label, array in _within(arrays, "maps").items()}
        made: dict[str, Any] = {}
        if "columns" in attributes:
            columns = take({**_within(arrays, "columns"), **attributes["columns"]}, FoundColumns)
            made["columns"] = columns
            if "analysis" in attributes:
                made["analysis"] = _analysis(attributes, arrays, len(columns))
            if "strain" in attributes:
                made["strain"] = take(_within(arrays, "strain"), StrainMap, N=int(columns.sound.sum()))
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise AppError(f"{file}: no session of this app, or damaged ({error})") from error
    return told, maps, made


def _within(arrays: Mapping[str, NDArray[Any]], group: str) -> dict[str, NDArray[Any]]:
    """Arrays of a group by their names in it."""
    return {name.removeprefix(f"{group}/"): array for name, array in arrays.items() if name.startswith(f"{group}/")}


def _analysis(attributes: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], count: int) -> Analysis:
    """An analysis of so many columns."""
    parts = {
        name: take(_within(arrays, f"analysis/{name}"), kind, N=count)
        for name, kind in _ANALYSES.items() if f"analysis/{name}" in attributes
    }  # fmt: skip
    notes = tuple(str(note) for note in json.loads(attributes["analysis"]["notes"]))
    return Analysis(parts["neighbours"], parts.get("classes"), parts.get("lattice"), notes)
