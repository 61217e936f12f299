"""A JSON file for each sample: what it is, and where its bytes lie in the shard. Sample pages and others read them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from rich.progress import track

from builder.ledger import Ledger, digest_of_files
from temimagenet.labels import LABELS, POINTS
from temimagenet.storage.shard import NO_SERIES, Shard, sidecar_path

__all__ = ["FOLDER", "RECORD_SCHEMA", "write_samples"]

FOLDER = "samples"
RECORD_SCHEMA = 1
"""Raised when pages that know only older ones could not read the files."""

_DIGEST = 32
_INDEX = "index.json"


def write_samples(
    ledger: Ledger, library: Path, manifest: dict[str, Any], catalogue: pd.DataFrame, out: Path
) -> tuple[str, ...]:
    """Write `ENGINE/ID.json` of every sample, and `index.json`: shards, their digests and each sample's bytes.

    Args:
        ledger: knows which are there already; a shard's samples are written together.
        library: the library's folder.
        manifest: its manifest.
        catalogue: a row a sample and engine.
        out: the site's folder; the files are in its `samples/`.

    Returns:
        The labels that every sample has: all ten, or of images that others made those that are stored.
    """
    whole = {"name": manifest["name"], "version": manifest["version"], "schema": manifest["schema"]}
    alike = {"library": whole, "licence": manifest["licence"], "citation": manifest["citation"]}
    engines = catalogue.groupby("id", sort=False)["engine"].agg(list).to_dict()
    neighbours = {str(engine): list(group["id"]) for engine, group in catalogue.groupby("engine")}
    place = {(engine, name): i for engine, names in neighbours.items() for i, name in enumerate(names)}
    code = digest_of_files([Path(__file__)])
    shards: dict[str, Any] = {}
    labels = LABELS
    for group, rows in track(catalogue.groupby("shard", sort=False), description="samples"):
        name = str(group)
        shard = {"path": name, **manifest["files"][name]}
        beside = []
        for identity, engine in zip(rows["id"], rows["engine"], strict=True):
            others, at = neighbours[engine], place[engine, identity]
            beside.append(
                {
                    "engines": engines[identity],
                    "previous": others[at - 1] if at else None,
                    "next": others[at + 1] if at + 1 < len(others) else None,
                }
            )
        fields = [{str(key): _plain(value) for key, value in row.items()} for row in rows.to_dict("records")]
        common = {"schema": RECORD_SCHEMA, **alike, "shard": shard}

        def make(
            name: str = name,
            common: dict[str, Any] = common,
            fields: list[dict[str, Any]] = fields,
            beside: list[dict[str, Any]] = beside,
        ) -> tuple[Sequence[Path], dict[str, Any]]:
            return _write_shard(library / name, common, fields, beside, out / FOLDER)

        # Neither catalogue nor sidecar is named by the shard's digest, though both follow from it and the code.
        sidecar = manifest["files"][sidecar_path(Path(name)).as_posix()]["sha256"]
        told = ledger.piece("samples", name, [code, common, fields, beside, sidecar], make)
        shards[name] = {**manifest["files"][name], "sizes": told["sizes"]}
        labels = tuple(label for label in labels if label in told["labels"])
    index = {"schema": RECORD_SCHEMA, "library": whole, "labels": labels, "shards": shards}
    ledger.write("samples", f"{FOLDER}/{_INDEX}", json.dumps(index, separators=(",", ":")))
    return labels


def _write_shard(
    path: Path,
    common: dict[str, Any],
    fields: list[dict[str, Any]],
    beside: list[dict[str, Any]],
    out: Path,
) -> tuple[list[Path], dict[str, Any]]:
    """Write the files of a shard's samples; return them, the bytes of each row's arrays, and the labels of all rows."""
    paths, sizes, labels = [], [0] * len(fields), LABELS
    for row, links, facts in zip(fields, beside, _contents(path), strict=True):
        sizes[row["row"]] = sum(array["size"] for array in facts["arrays"].values())
        if facts["series"] is None:
            labels = tuple(label for label in labels if label in facts["arrays"] or label in POINTS)
        record = {**common, **links, "fields": row, **facts}
        file = out / row["engine"] / f"{row['id']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        paths.append(file)
    return paths, {"sizes": sizes, "labels": labels}


def _contents(path: Path) -> Iterator[dict[str, Any]]:
    """What a shard's samples are, in order: specification, arrays, columns and Fourier series."""
    sidecar = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    with Shard(path) as shard, h5py.File(path, "r") as file:
        specs = shard.text("spec")
        series_index, series_scan = shard.numbers("series_index"), shard.numbers("series_scan")
        start, cells = file["series/start"][:], file["series/cell_A"][:]
        chunks = {name: _chunks(file[f"series/{name}"]) for name in ("hk", "coefficients")} if len(cells) else {}
        for row in range(len(shard)):
            series = None
            if (which := int(series_index[row])) != NO_SERIES:
                first, last = int(start[which]), int(start[which + 1])
                rotation, *offset = (float(value) for value in series_scan[row])
                series = {
                    "start": first,
                    "stop": last,
                    "cell_A": cells[which].tolist(),
                    "rotation_deg": rotation,
                    "offset_A": offset,
                    **{name: _overlapping(facts, first, last) for name, facts in chunks.items()},
                }
            yield {
                # Text, not an object: seeds have 64 bits, more than a number in JavaScript holds.
                "spec": specs[row],
                "kinds": sidecar["kinds"][row],
                "n_columns": sidecar["n_columns"][row],
                "column_fields": sidecar["datasets"]["columns"]["fields"],
                "arrays": {name: _array(entry, row) for name, entry in sidecar["datasets"].items()},
                # None where others made the sample: what its shard does not store cannot be drawn.
                "series": series,
            }


def _array(entry: dict[str, Any], row: int) -> dict[str, Any]:
    """Where one sample's chunk of a dataset lies."""
    scale = {"scale": entry["scale"][row]} if "scale" in entry else {}
    place = {"offset": entry["offsets"][row], "size": entry["sizes"][row], "sha256": entry["sha256"][row]}
    return {"dtype": entry["dtype"], "shape": entry["shape"][1:], **place, **scale}


def _chunks(dataset: h5py.Dataset) -> dict[str, Any]:
    """All chunks of a two-dimensional dataset, which is shuffled and deflated."""
    chunks = []
    for number in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(number)
        packed = dataset.id.read_direct_chunk(info.chunk_offset)[1]
        digest = hashlib.sha256(packed).hexdigest()[:_DIGEST]
        row, column = info.chunk_offset
        chunks.append({"row": row, "column": column, "offset": info.byte_offset, "size": info.size, "sha256": digest})
    return {"dtype": dataset.dtype.str, "chunk": list(dataset.chunks), "chunks": chunks}


def _overlapping(facts: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """The chunks that hold rows `first` to `last`."""
    rows = facts["chunk"][0]
    return facts | {"chunks": [chunk for chunk in facts["chunks"] if first - rows < chunk["row"] < last]}


def _plain(value: Any) -> Any:
    """A catalogue's value as JSON has it; what is missing is null."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)) else value
