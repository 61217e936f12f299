"""Files of a batch: which images a user means, what their results are called, and writing them whole."""

from __future__ import annotations

import glob
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temimagenet.errors import MicrographError
from temimagenet.localize.protocol import Flag, FoundColumns
from temimagenet.micrographs.read import SUFFIXES

__all__ = [
    "FORMATS",
    "check_folder",
    "column_table",
    "encode_columns",
    "encode_table",
    "expand",
    "flag_words",
    "result_names",
    "tell_columns",
    "write_whole",
]

Table = dict[str, NDArray[Any]]


def expand(inputs: Sequence[str]) -> list[Path]:
    """Files that a user means by names, folders and patterns, each once, in order.

    A folder stands for the images in it, not for those in its folders; `**` in a pattern looks deeper.

    Raises:
        MicrographError: a folder or pattern without any image.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            several = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
            if not several:
                raise MicrographError(f"folder {text}: no image in it; expected {', '.join(SUFFIXES)}")
        elif not path.exists() and glob.has_magic(text):
            names = [Path(name) for name in glob.glob(text, recursive=True)]  # noqa: PTH207
            several = sorted(item for item in names if item.suffix.lower() in SUFFIXES and item.is_file())
            if not several:
                raise MicrographError(f"pattern {text}: no image matches")
        else:
            several = [path]
        found.update({item.resolve(): item for item in several if item.resolve() not in found})
    return list(found.values())


def result_names(files: Sequence[Path], taken: Callable[[str, Path], bool]) -> list[str]:
    """A name for the results of each file, all different: its stem, with its suffix and folders where stems agree.

    Args:
        files: different files.
        taken: whether a name belongs to another file already.
    """
    depth = [0] * len(files)
    while True:
        names = [_name(file, steps) for file, steps in zip(files, depth, strict=True)]
        folded = [name.casefold() for name in names]
        # The same name on a disk that does not tell upper from lower case.
        clash = [
            folded.count(name.casefold()) > 1 or taken(name, file) for name, file in zip(names, files, strict=True)
        ]
        longer = [
            steps + 1 if alike and steps < len(file.resolve().parts) else steps
            for file, steps, alike in zip(files, depth, clash, strict=True)
        ]
        if longer == depth:
            return _numbered(names)
        depth = longer


def _name(file: Path, steps: int) -> str:
    """A name from a file's stem, its suffix from one step on, and a folder more for each further one."""
    if steps == 0:
        return file.stem
    parts = file.resolve().parts
    folders = [part.strip("/\\:") for part in parts[max(0, len(parts) - steps) : -1]]
    return "_".join([*folders, file.name.replace(".", "_")])


def _numbered(names: Sequence[str]) -> list[str]:
    """Names, with numbers after those that are still the same."""
    seen: dict[str, int] = {}
    different = []
    for name in names:
        count = seen.get(name.casefold(), 0)
        seen[name.casefold()] = count + 1
        different.append(f"{name}_{count + 1}" if count else name)
    return different


def check_folder(folder: Path) -> None:
    """Raise `MicrographError` where a folder is none, or no file could be written into it; nothing is made."""
    there = next((place for place in (folder, *folder.resolve().parents) if place.exists()), folder)
    if not there.is_dir():
        raise MicrographError(f"{there} is a file: expected a folder for the results (--out)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MicrographError(f"folder {there} cannot be written into: choose another for the results (--out)")


def write_whole(path: Path, content: bytes | str, inputs: Iterable[Path] = ()) -> Path:
    """Write a file under another name, then rename it: it exists whole or not at all.

    Args:
        path: the file; its folder is made.
        content: bytes, or text for UTF-8.
        inputs: files that must not be written over.

    Raises:
        MicrographError: it is an input, or cannot be written.
    """
    if path.resolve() in {item.resolve() for item in inputs}:
        raise MicrographError(f"{path} is one of the images: choose another folder for the results (--out)")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise MicrographError(f"{path} cannot be written ({error.strerror or error})") from error
    return path


def flag_words(flag: int) -> str:
    """A column's flags in words: "sound", or such as "cut, faint"."""
    return ", ".join(str(one.name).lower().replace("_", " ") for one in Flag if one and flag & one) or "sound"


def column_table(columns: FoundColumns) -> Table:
    """What is written of each column, a vector of each quantity; flags in words."""
    x, y = columns.xy_px.T
    return {
        "x_px": x, "y_px": y, "sigma_x_px": columns.sigma_px[:, 0], "sigma_y_px": columns.sigma_px[:, 1],
        "x_pm": columns.xy_pm[:, 0], "y_pm": columns.xy_pm[:, 1], "sigma_x_pm": columns.sigma_pm[:, 0],
        "sigma_y_pm": columns.sigma_pm[:, 1], "intensity": columns.intensity,
        "intensity_sigma": columns.intensity_sigma, "width_px": columns.width_px,
        "flags": np.array([flag_words(int(flag)) for flag in columns.flags], dtype=object),
    }  # fmt: skip


def tell_columns(columns: FoundColumns) -> dict[str, Any]:
    """What a record tells of columns: how many, how many flagged, their usual standard error, the pixel size."""
    sigma = columns.sigma_pm[columns.sound]
    known = sigma[np.isfinite(sigma)]
    return {
        "columns": len(columns), "flagged": int((~columns.sound).sum()),
        "standard_error_pm": round(float(np.median(known)), 3) if known.size else None,
        "pixel_size_A": columns.pixel_size_A,
    }  # fmt: skip


def _written(value: Any) -> str:
    """A cell of a csv file: seven digits, nothing where unknown."""
    if isinstance(value, str):
        return value.replace(", ", " + ")
    return f"{value:.7g}" if np.isfinite(value) else ""


def encode_table(table: Table) -> bytes:
    """Comma-separated values, a line of each element of the vectors; unknown numbers are empty."""
    lines = [",".join(table), *(",".join(map(_written, row)) for row in zip(*table.values(), strict=True))]
    return ("\n".join(lines) + "\n").encode()


def _csv(table: Table, columns: FoundColumns, facts: Mapping[str, Any]) -> bytes:
    """Comma-separated values, a line a column."""
    return encode_table(table)


def _json(table: Table, columns: FoundColumns, facts: Mapping[str, Any]) -> bytes:
    """Facts, and a list of columns; unknown numbers are null."""
    records = [
        {
            name: value if isinstance(value, str) else float(value) if np.isfinite(value) else None
            for name, value in zip(table, row, strict=True)
        }
        for row in zip(*table.values(), strict=True)
    ]
    return json.dumps({**facts, "columns": records}, indent=1).encode()


def _hdf5(table: Table, columns: FoundColumns, facts: Mapping[str, Any]) -> bytes:
    """A dataset for each quantity in the group `columns`; facts as JSON in the attribute `facts`."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.attrs["facts"] = json.dumps(facts)
        opened.attrs["pixel_size_A"] = columns.pixel_size_A
        group = opened.create_group("columns")
        for name, values in table.items():
            text = {"dtype": h5py.string_dtype()} if values.dtype == object else {}
            group.create_dataset(name, data=values, **text)
        group.create_dataset("flag_bits", data=columns.flags)
    return file.getvalue()


def _mat(table: Table, columns: FoundColumns, facts: Mapping[str, Any]) -> bytes:
    """Variables of MATLAB: a vector for each quantity, `pixel_size_A`, and facts as JSON."""
    from scipy.io import savemat

    file = io.BytesIO()
    vectors = {name: values[:, None] for name, values in table.items()}
    # SciPy's types know names of files alone.
    target: Any = file
    savemat(target, {**vectors, "pixel_size_A": columns.pixel_size_A, "facts": json.dumps(facts)})
    return file.getvalue()


def _xyz(table: Table, columns: FoundColumns, facts: Mapping[str, Any]) -> bytes:
    """Extended XYZ in angstrom, as ASE and OVITO read it: y upwards, z = 0, a column as an atom X."""
    head = "Properties=species:S:1:pos:R:3:sigma:R:2:intensity:R:1:flags:I:1"
    lines = [str(len(columns)), f'{head} comment="columns of a micrograph in angstrom, y upwards"']
    for xy, sigma, intensity, flag in zip(
        0.01 * columns.xy_pm, 0.01 * columns.sigma_pm, columns.intensity, columns.flags, strict=True
    ):
        lines.append(f"X {xy[0]:.6f} {-xy[1]:.6f} 0 {sigma[0]:.6f} {sigma[1]:.6f} {intensity:.6g} {flag}")
    return ("\n".join(lines) + "\n").encode()


FORMATS: Mapping[str, tuple[str, Callable[[Table, FoundColumns, Mapping[str, Any]], bytes]]] = {
    "csv": ("csv", _csv), "json": ("json", _json), "hdf5": ("h5", _hdf5), "mat": ("mat", _mat), "xyz": ("xyz", _xyz),
}  # fmt: skip
"""Suffix and writer of each format."""


def encode_columns(columns: FoundColumns, form: str, facts: Mapping[str, Any]) -> bytes:
    """Columns as the content of a file.

    Args:
        columns: what was found.
        form: one of `FORMATS`.
        facts: what is told of the image and the method; csv has no place for it.
    """
    return FORMATS[form][1](column_table(columns), columns, facts)
