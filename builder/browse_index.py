"""The browse page's index: the catalogue's columns that a visitor filters by, as typed arrays in one small file.

Layout, little endian: `TEMI`, the header's length (uint32), the header in JSON, then the columns, each from a multiple
of eight bytes. A column of words is stored as codes into its `values`; `site/assets/browse-index.js` reads it all.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temimagenet.errors import ShardError

__all__ = ["INDEX", "INDEX_SCHEMA", "MOST_WORDS", "index_bytes", "rounded"]

INDEX = "browse.bin"
INDEX_SCHEMA = 1
"""Raised when pages that know only older ones could not read the file."""

MOST_WORDS = 40
"""Distinct values up to which fields of view and rotations are chosen one by one, and not as a range."""

_WORDS = ("entry", "material", "formula", "zone", "morphology", "condition", "engine", "background", "split")
_EITHER = ("field_of_view_A", "rotation_deg")
_NUMBERS = ("psnr_dB", "dose_e_per_A2", "columns", "scan_sigma_A", "pixel_size_A", "crlb_median_pm")
_ALIGN = 8
_NUMBERED = re.compile(r"(.*?)([0-9]+)")


def index_bytes(catalogue: pd.DataFrame, thumbnails: dict[str, Any], name: str) -> bytes:
    """The index as the content of its file.

    Args:
        catalogue: a row a sample.
        thumbnails: pack and offsets of each shard.
        name: the library's.

    Raises:
        ShardError: identities are not a name and the sample's number.
    """
    first = _NUMBERED.fullmatch(str(catalogue["id"].iloc[0])) if len(catalogue) else None
    prefix, digits = (first[1], len(first[2])) if first else ("", 1)
    numbers = catalogue["index"].to_numpy(np.uint32)
    if list(catalogue["id"]) != [f"{prefix}{number:0{digits}d}" for number in numbers]:
        raise ShardError("the catalogue's identities are not NAME-000000 with the sample's number: render it anew")
    arrays: dict[str, NDArray[Any]] = {"index": numbers, "row": _small(catalogue["row"].to_numpy())}
    values: dict[str, list[str]] = {}
    few = [field for field in _EITHER if rounded(catalogue[field]).nunique() <= MOST_WORDS]
    for field in (*_WORDS, *few, "shard"):
        arrays[field], values[field] = _coded(rounded(catalogue[field]))
    for field in (*_NUMBERS, *(field for field in _EITHER if field not in few)):
        if field in catalogue and catalogue[field].notna().any():
            arrays[field] = catalogue[field].to_numpy(np.float32)
    arrays["thumb"], arrays["thumb_bytes"] = _places(catalogue, thumbnails)
    facts = {
        "schema": INDEX_SCHEMA,
        "name": name,
        "rows": len(catalogue),
        "prefix": prefix,
        "digits": digits,
        "packs": [thumbnails[shard]["pack"] for shard in values["shard"]],
        "notes": {"condition": _optics(catalogue)},
    }
    return _packed(facts, arrays, values)


def rounded(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column whose floating numbers have four digits: those that differ by less are one value to a visitor."""
    return column.map(lambda value: float(f"{value:.4g}")) if pd.api.types.is_float_dtype(column) else column


def _coded(column: pd.Series[Any]) -> tuple[NDArray[Any], list[str]]:
    """Codes into a column's distinct values, and those as text; what is missing is empty."""
    codes, found = pd.factorize(column, sort=True)
    texts = [f"{value:.12g}" if isinstance(value, float) else str(value) for value in found]
    if (codes < 0).any():
        codes, texts = np.where(codes < 0, len(texts), codes), [*texts, ""]
    return _small(codes), texts


def _small(numbers: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in the smallest unsigned type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _places(catalogue: pd.DataFrame, thumbnails: dict[str, Any]) -> tuple[NDArray[np.uint32], NDArray[Any]]:
    """Where each sample's thumbnail begins in its pack, and its bytes."""
    start = np.zeros(len(catalogue), np.uint32)
    size = np.zeros(len(catalogue), np.uint32)
    rows = catalogue["row"].to_numpy()
    for shard, where in catalogue.groupby("shard").indices.items():
        offsets = np.array(thumbnails[str(shard)]["offsets"], np.uint32)
        start[where] = offsets[rows[where]]
        size[where] = offsets[rows[where] + 1] - start[where]
    return start, _small(size)


def _optics(catalogue: pd.DataFrame) -> dict[str, str]:
    """What each condition's number stands for; nothing where its samples differ."""
    told = {}
    fields = ["condition", "energy_keV", "aperture_mrad", "source_size_A"]
    distinct = catalogue[fields].drop_duplicates()
    for condition, group in distinct.groupby("condition"):
        if len(group) == 1:
            energy, aperture, source = group.iloc[0][fields[1:]]
            told[str(condition)] = f"{energy:g} keV, {aperture:g} mrad, {source:g} Å"
    return told


def _packed(facts: dict[str, Any], arrays: dict[str, NDArray[Any]], values: dict[str, list[str]]) -> bytes:
    """Header and columns as the bytes of a file; offsets count from the end of the header."""
    columns: dict[str, Any] = {}
    body = bytearray()
    for field, array in arrays.items():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        columns[field] = {"type": little.dtype.str[1:], "offset": len(body)}
        if field in values:
            columns[field]["values"] = values[field]
        body += little.tobytes()
        body += bytes(-len(body) % _ALIGN)
    header = json.dumps(facts | {"bytes": len(body), "columns": columns}, ensure_ascii=False).encode()
    header += b" " * (-(len(header) + 8) % _ALIGN)
    return b"TEMI" + len(header).to_bytes(4, "little") + header + bytes(body)
