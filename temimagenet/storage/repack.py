"""A local copy of a library for training: chosen labels, nothing compressed, so that reading is copying."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from temimagenet.errors import ShardError
from temimagenet.labels import MAPS, SCALED, check_labels
from temimagenet.storage.library import (
    CATALOGUE,
    MANIFEST,
    check_place,
    open_shard,
    read_catalogue,
    read_manifest,
    remove_others,
)
from temimagenet.storage.parts import ALWAYS
from temimagenet.storage.shard import Shard, index_of, replacing, sha256_of, sidecar_path, write_indexed

__all__ = ["repack_library"]


def repack_library(
    root: str | Path,
    out: str | Path,
    labels: Sequence[str] | None = None,
    on_shard: Callable[[str], None] = lambda name: None,
) -> Path:
    """Write a library anew without compression, with the maps that training reads; other labels are redrawn as before.

    Samples, splits and values are the same; of images that others made, labels that are not stored are absent. Shards
    that are there already, of the same source and labels, are kept.

    Args:
        root: the library.
        out: folder of the copy.
        labels: maps to store; those that the library stores unless given. Points and radii need no room.
        on_shard: called with each shard's name before it is written, for a progress bar.

    Returns:
        The copy's manifest.

    Raises:
        ShardError: the library is damaged, `out` is the library itself or holds one of another name, or the disk is
            full.
        LabelError: unknown label.
    """
    source, target = Path(root), Path(out)
    maps = None if labels is None else tuple(name for name in check_labels(tuple(labels)) if name in MAPS)
    if source.resolve() == target.resolve():
        raise ShardError(f"{source}: a library cannot be repacked onto itself; name another folder")
    manifest, catalogue = read_manifest(source), read_catalogue(source)
    check_place(target, manifest["name"])
    files: dict[str, Any] = {}
    for name in sorted(catalogue["shard"].unique()):
        on_shard(name)
        path, told = target / name, manifest["files"][name]["sha256"]
        task = f"repacked {told} {'as stored' if maps is None else ' '.join(maps)}"
        if not _is_done(path, task):
            with open_shard(source, name, manifest["files"]) as shard:
                _repack(shard, path, maps, task)
        for file in (path, sidecar_path(path)):
            files[file.relative_to(target).as_posix()] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    remove_others(target, files)
    for name in (CATALOGUE, *(name for name in ("recipe.json",) if name in manifest["files"])):
        with replacing(target / name) as partial:
            partial.write_bytes((source / name).read_bytes())
        files[name] = {"sha256": sha256_of(target / name), "bytes": (target / name).stat().st_size}
    with replacing(target / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest | {"files": files}, indent=1), encoding="utf-8")
    return target / MANIFEST


def _is_done(path: Path, task: str) -> bool:
    """Whether a repacked shard is there, whole and of the same source and labels."""
    try:
        told = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
        return bool(told["task"] == task and told["sha256"] == sha256_of(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _repack(shard: Shard, path: Path, maps: Sequence[str] | None, task: str) -> None:
    """Write one shard."""
    chosen = shard.stored_maps if maps is None else tuple(maps)
    rows = len(shard)
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        shard.copy_tables(file)
        # All of a sample side by side: who streams it asks once.
        scales = {name: np.empty((rows, 2)) for name in chosen if name in SCALED}
        for row in range(rows):
            for name in ALWAYS:
                _put(file, name, rows, row, shard.stored(name, row))
            for name in chosen:
                if name in scales:
                    scaled = shard.scaled(name, row)
                    scales[name][row] = scaled.offset, scaled.step
                    _put(file, name, rows, row, scaled.integers)
                else:
                    _put(file, name, rows, row, shard.mask(name, row))
        for name, pairs in scales.items():
            file[f"{name}_scale"] = pairs
        file["columns"].attrs.update(shard.attributes("columns"))
        file.attrs["task"] = task
        file.attrs["dense"] = set(chosen) == set(MAPS)
        index = index_of(file, (*ALWAYS, *chosen))
        write_indexed(path, file, rows, task, index)


def _put(file: h5py.File, name: str, rows: int, row: int, values: NDArray[Any]) -> None:
    """One sample's array as a chunk of its own."""
    if name not in file:
        file.create_dataset(name, (rows, *values.shape), values.dtype, chunks=(1, *values.shape))
    file[name].id.write_direct_chunk((row,) + (0,) * values.ndim, np.ascontiguousarray(values).tobytes())
