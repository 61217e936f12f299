"""Ways to damage a library: bytes, whole files, JSON and what an HDF5 file says of itself."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

MANIFEST = "manifest.json"


def reseal(root: Path, changed: str) -> None:
    """Recompute the digests on the way to a changed file: a shard's in its sidecar, every file's in the manifest."""
    path = root / changed
    names = [changed]
    if path.suffix == ".h5" and path.is_file():
        sidecar = path.with_suffix(".json")
        told = json.loads(sidecar.read_text())
        content = path.read_bytes()
        sidecar.write_text(json.dumps(told | {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}))
        names.append(sidecar.relative_to(root).as_posix())
    manifest = json.loads((root / MANIFEST).read_text())
    for name in names:
        file = root / name
        if file.is_file():
            content = file.read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (root / MANIFEST).write_text(json.dumps(manifest))


def flip(data: bytearray, draw: random.Random) -> bytes:
    """One to eight bits."""
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def truncate(data: bytearray, draw: random.Random) -> bytes:
    """The beginning alone."""
    return bytes(data[: draw.randrange(len(data))])


def overwrite(data: bytearray, draw: random.Random) -> bytes:
    """A stretch of zeros, ones or noise."""
    start = draw.randrange(len(data))
    length = min(draw.choice([1, 2, 4, 8, 64, 512, 4096]), len(data) - start)
    filler = draw.choice([bytes(length), b"\xff" * length, draw.randbytes(length)])
    return bytes(data[:start] + filler + data[start + length :])


def insert(data: bytearray, draw: random.Random) -> bytes:
    """Some bytes more."""
    at = draw.randrange(len(data))
    return bytes(data[:at] + draw.randbytes(draw.randint(1, 64)) + data[at:])


def leave_out(data: bytearray, draw: random.Random) -> bytes:
    """Some bytes less."""
    at = draw.randrange(len(data))
    return bytes(data[:at] + data[at + draw.randint(1, 64) :])


def exchange(data: bytearray, draw: random.Random) -> bytes:
    """Two stretches change places."""
    length = draw.randint(1, max(1, len(data) // 8))
    first, second = sorted(draw.randrange(len(data) - length + 1) for _ in range(2))
    one, two = data[first : first + length], data[second : second + length]
    data[second : second + length] = one
    data[first : first + length] = two
    return bytes(data)


def metadata(data: bytearray, draw: random.Random) -> bytes:
    """One byte near one of HDF5's own structures, where damage is understood rather than skipped."""
    marks = [at for mark in (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"\x89HDF") if (at := data.find(mark)) >= 0]
    at = draw.choice(marks or [0]) + draw.randrange(96)
    data[min(at, len(data) - 1)] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
    return bytes(data)


BYTES: Mapping[str, Callable[[bytearray, random.Random], bytes]] = {
    function.__name__: function for function in (flip, truncate, overwrite, insert, leave_out, exchange, metadata)
}

STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, float("nan"), "", "x", "../../outside", "/etc/passwd",
    "..\\outside", "C:\\outside", "a\0b", "shards/../../outside", [], {}, [[]], {"x": {}}, "\ud800",
)  # fmt: skip


def strange_json(text: str, draw: random.Random) -> str:
    """One value, key or whole branch of a JSON document is something else, gone or twice as deep as any."""
    data = json.loads(text)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        # Lists of numbers are alike: some of them stand for all.
        for key in keys if len(keys) < 20 else draw.sample(list(keys), 20):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(data)
    node, key = draw.choice(places)
    form = draw.random()
    if form < 0.15 and isinstance(node, dict):
        del node[key]
    elif form < 0.3 and isinstance(node, dict):
        node[str(draw.choice(STRANGE))] = node.pop(key)
    elif form < 0.35:
        return text[:-1] + ',"deep":' + "[" * 100_000 + "]" * 100_000 + "}"
    else:
        node[key] = draw.choice(STRANGE)
    return json.dumps(data)


def strange_hdf5(path: Path, outside: Path, draw: random.Random) -> str:
    """One dataset or attribute is of another shape, type, value or place; what was done."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = draw.choice(names)
        values = file[name][()]
        what = draw.choice(HDF5)
        if what == "attribute":
            key = draw.choice([key for key in file.attrs if key != "recipe"])
            file.attrs[key] = draw.choice([value for value in (0, -1, 2**40, "x", np.zeros(3), b"\xff", True)
                                           if not np.array_equal(file.attrs[key], value)])  # fmt: skip
            return f"attribute {key}"
        del file[name]
        if what == "gone":
            return f"{name} gone"
        if what == "external link":
            file[name] = h5py.ExternalLink(str(outside), "secret")
        elif what == "soft link":
            file[name] = h5py.SoftLink(f"/{draw.choice(['n_columns', name, 'series', 'columns'])}")
        elif what == "virtual":
            layout = h5py.VirtualLayout(values.shape, "f8")
            layout[...] = h5py.VirtualSource(str(outside), "secret", values.shape)
            file.create_virtual_dataset(name, layout)
        elif what == "external storage":
            file.create_dataset(name, (16,), "u1", external=[(str(outside), 0, 16)])
        elif what == "absurd shape":
            shape = draw.choice([(2**40,), (24, 2**20, 2**20), (0,), (2**31, 2), (1, 1, 1, 1, 1)])
            chunks = tuple(min(edge, 64) for edge in shape) if all(shape) else None
            file.create_dataset(name, shape, "f8", chunks=chunks)
        elif what == "bomb":
            chunk = (1, *values.shape[1:]) if values.ndim > 1 else values.shape
            made = file.create_dataset(name, values.shape, "u1", chunks=chunk, compression=1)
            made.id.write_direct_chunk((0,) * made.ndim, zlib.compress(bytes(2**26)))
        elif what == "other type":
            file.create_dataset(name, data=np.zeros(values.shape, draw.choice(["f4", "i8", "S3", "c16", "?"])))
        elif what == "group":
            file.create_group(name)
        elif values.dtype == object:
            texts = values.copy().ravel()
            texts[draw.randrange(len(texts))] = draw.choice(["", "[" * 5000, "{}", "xy", "é" * 3000])
            file.create_dataset(name, data=texts.reshape(values.shape), dtype=h5py.string_dtype())
        else:
            wrong = values.copy()
            flat = wrong.reshape(-1)
            at = draw.randrange(flat.size)
            with np.errstate(all="ignore"):
                flat[at] = np.array(draw.choice([0, 1, 7, 250])).astype(wrong.dtype) + (flat[at] == 0)
            if np.array_equal(wrong, values, equal_nan=wrong.dtype.kind == "f"):
                flat[at] = flat[at] + 1
            file.create_dataset(name, data=wrong)
        return f"{name}: {what}"


HDF5 = (
    "attribute", "gone", "external link", "soft link", "virtual", "external storage", "absurd shape", "bomb",
    "other type", "group", "value",
)  # fmt: skip


def damage(root: Path, outside: Path, seed: int) -> tuple[str, str, bool]:
    """Damage one file of a library in one way.

    Args:
        root: the library.
        outside: a file outside of it that must not be read.
        seed: decides all of it.

    Returns:
        The file's name, what was done to it, and whether digests were recomputed so that it stays to be read.
    """
    draw = random.Random(seed)
    shards = sorted(path.relative_to(root).as_posix() for path in (root / "shards").glob("*.h5"))
    sidecars = [name.removesuffix("h5") + "json" for name in shards]
    group = draw.choice(["shard"] * 5 + ["sidecar"] * 2 + ["catalogue.parquet"] * 2 + [MANIFEST])
    name = draw.choice({"shard": shards, "sidecar": sidecars}.get(group, [group]))
    path = root / name
    content = path.read_bytes()
    form = draw.random()
    if form < 0.04:
        path.unlink()
        what = "deleted"
    elif form < 0.06:
        path.write_bytes(b"")
        what = "emptied"
    elif form < 0.08:
        path.unlink()
        path.mkdir()
        what = "a folder"
    elif form < 0.12:
        other = draw.choice([each for each in (*shards, *sidecars, "catalogue.parquet", MANIFEST) if each != name])
        shutil.copyfile(root / other, path)
        what = f"swapped for {other}"
    elif form < 0.5 and path.suffix == ".json":
        text = strange_json(content.decode(), draw)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        what = "strange JSON"
    elif form < 0.5 and path.suffix == ".h5":
        what = strange_hdf5(path, outside, draw)
    else:
        what = draw.choice(list(BYTES))
        while (changed := BYTES[what](bytearray(content), draw)) == content:
            pass
        path.write_bytes(changed)
    sealed = name != MANIFEST and draw.random() < 0.7
    if sealed:
        reseal(root, name)
    return name, what, sealed
