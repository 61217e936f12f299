"""Frozen dataclasses of arrays as groups of HDF5, read back with shapes compared to what their annotations say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import h5py
import numpy as np

__all__ = ["put", "take"]

T = TypeVar("T")

_TYPES = {"Float": np.float64, "Int": np.int64, "Bool": np.bool_}


def put(group: h5py.Group, noun: Any) -> None:
    """Write each field of a dataclass as a dataset of its name; those that are None are left out."""
    for entry in fields(noun):
        value = getattr(noun, entry.name)
        if value is not None:
            group.create_dataset(entry.name, data=value)


def take(group: Mapping[str, Any], kind: type[T], **known: int) -> T:
    """Read a dataclass that `put` wrote.

    Args:
        group: its arrays by name, or the group itself.
        kind: the dataclass. Its fields are arrays annotated by jaxtyping, numbers, or tuples of numbers; one that is
            missing in the group has its default.
        known: lengths by their names in the annotations, such as N; others must agree among the fields.

    Raises:
        KeyError: a field is missing.
        ValueError: shapes that do not fit, or values of another type.
    """
    found: dict[str, Any] = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        told = re.fullmatch(r"(Float|Int|Bool)\[.*['\"]([\w ]*)['\"]\]", str(entry.type))
        if entry.name not in group and entry.default is None:
            continue
        values = np.asarray(group[entry.name])
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{entry.name}: no numbers")
        if told is None:
            found[entry.name] = float(values) if values.ndim == 0 else tuple(values.astype(float).ravel().tolist())
            continue
        wanted = told[2].split()
        if values.ndim != len(wanted):
            raise ValueError(f"{entry.name}: shape {values.shape}, expected ({', '.join(wanted)})")
        for name, length in zip(wanted, values.shape, strict=True):
            if known.setdefault(name, int(name) if name.isdigit() else length) != length:
                raise ValueError(f"{entry.name}: shape {values.shape}, expected {known[name]} along {name}")
        found[entry.name] = values.astype(_TYPES[told[1]])
    return kind(**found)
