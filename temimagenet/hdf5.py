"""HDF5 files from anywhere: only what a file itself holds is read, and no more than it can hold."""

from __future__ import annotations

import mmap
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

__all__ = ["check_heaps", "check_self_contained", "contents", "own_dataset", "read_whole"]

_MOST_BYTES = 2**30
"""Of a dataset that is read in one go: a shape of more is damage, or meant to fill the memory."""

_MOST_TEXT = 2**24
"""Entries of a dataset of text."""


_HEAP = b"GCOL\x01\x00\x00\x00"
_OBJECT = 16
"""Bytes of the head of an object in a heap."""


def check_heaps(path: Path) -> None:
    """Look at the global heaps of a file, where texts of its attributes lie, before HDF5 does.

    HDF5 2.0 never comes back from a heap whose free space says that it has no size. A heap is a head of 16 bytes with
    its length, then objects of 8-byte multiples (HDF5 File Format Specification 3.0, III.E).

    Raises:
        ValueError: objects of a heap do not fit it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            end = start + int.from_bytes(content[start + 8 : start + 16], "little")
            place = start + 16
            while place + _OBJECT <= min(end, len(content)):
                free = not int.from_bytes(content[place : place + 2], "little")
                size = int.from_bytes(content[place + 8 : place + 16], "little")
                step = size if free else _OBJECT + -(-size // 8) * 8
                if step <= 0 or place + step > end:
                    raise ValueError(f"the heap at byte {start} is damaged: an object of {size} bytes at byte {place}")
                place += step
            start = content.find(_HEAP, start + len(_HEAP))


def own_dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """A dataset that the file itself holds: reached by hard links, neither virtual nor stored elsewhere.

    Raises:
        KeyError: there is no such dataset.
        ValueError: it leads elsewhere; the message says how.
    """
    group = file
    for part in path.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise KeyError(f"no dataset {path}")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{path} is a link to elsewhere ({type(link).__name__})")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise ValueError(f"{path} is no dataset")
    _check_storage(group, path)
    return group


def read_whole(dataset: h5py.Dataset) -> NDArray[Any]:
    """All of a dataset, of a size that a memory holds; text as objects of type `str`.

    Raises:
        ValueError: it has no shape, or one too large.
    """
    if dataset.shape is None:
        raise ValueError(f"{dataset.name} has no shape")
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if (prod(dataset.shape) if text else dataset.nbytes) > (_MOST_TEXT if text else _MOST_BYTES):
        raise ValueError(f"{dataset.name} has the shape {dataset.shape}: more than such a file holds")
    values: NDArray[Any] = (dataset.asstr() if text else dataset)[()]
    return np.asarray(values)


def contents(path: Path) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """All of a small file of numbers, for `temimagenet.isolated.read_apart`.

    Returns:
        `{"attributes": {group: {name: value}}, "datasets": [name]}`, groups and datasets by their paths without the
        first slash, and the datasets' values.

    Raises:
        OSError: no HDF5 file.
        ValueError: it leads elsewhere, is damaged, holds other things than numbers, or holds more than a gibibyte.
    """
    check_heaps(path)
    with h5py.File(path, "r") as file:
        check_self_contained(file)
        attributes: dict[str, Any] = {"": _plain(file.attrs)}
        datasets: dict[str, h5py.Dataset] = {}

        def visited(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                datasets[name] = item
            else:
                attributes[name] = _plain(item.attrs)

        file.visititems(visited)
        if sum(dataset.nbytes for dataset in datasets.values()) > _MOST_BYTES:
            raise ValueError(f"its {len(datasets)} datasets hold more than such a file does")
        text = [name for name, dataset in datasets.items() if dataset.dtype.kind not in "fiub"]
        if text:
            raise ValueError(f"{text[0]}: no numbers")
        arrays = [read_whole(dataset) for dataset in datasets.values()]
    return {"attributes": attributes, "datasets": list(datasets)}, arrays


def _plain(attributes: Any) -> dict[str, Any]:
    """Attributes as JSON can say them."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in attributes.items()}


def check_self_contained(file: h5py.File) -> None:
    """Look at every link and dataset of a file, following none that leads out of it.

    Raises:
        ValueError: a link or dataset leads to another file, or a chunk would unpack to more than its dataset holds.
    """
    seen: set[Any] = set()
    groups = [file["/"]]
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            where = f"{group.name.rstrip('/')}/{name}"
            if isinstance(link, h5py.SoftLink):
                # Within the file: what it points to is met by its own hard link.
                continue
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{where} is a link to another file ({type(link).__name__})")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_storage(item, where)


def _check_storage(dataset: h5py.Dataset, where: str) -> None:
    """Raise `ValueError` for data that lie in other files, and for chunks that hold more than they should."""
    settings = dataset.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{where} is a virtual dataset, put together of others")
    if settings.get_external_count():
        raise ValueError(f"{where} lies in another file ({settings.get_external(0)[0]!r})")
    if settings.get_layout() == h5py.h5d.CHUNKED and settings.get_nfilters():
        # What deflate and its like make larger, they do by far less than this.
        most = 1.1 * prod(dataset.chunks) * dataset.dtype.itemsize + 1024

        def looked_at(info: Any) -> None:
            if info.size > most:
                raise ValueError(f"{where} has a chunk of {info.size} bytes, {most:.0f} at most are expected")

        dataset.id.chunk_iter(looked_at)
