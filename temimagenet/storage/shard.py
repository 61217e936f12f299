"""One shard: an HDF5 file of samples, one compressed chunk a sample and array, beside a JSON map of its bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, cast

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from temimagenet import __version__
from temimagenet.errors import LabelError, RecipeError, ShardError
from temimagenet.imaging.fourier import FourierImage
from temimagenet.imaging.scan import Scan
from temimagenet.labels import MAPS, SCALED, Columns, Scaled, check_labels, quantise
from temimagenet.recipe import Engine, SampleSpec, spec_from_json, spec_to_json
from temimagenet.render import Sample, draw_label
from temimagenet.storage.parts import PartFile, rest_digest

__all__ = [
    "COLUMN_FIELDS",
    "DENSE_MAPS",
    "LICENCE",
    "NO_SERIES",
    "SCHEMA",
    "SERIES_ARRAYS",
    "Shard",
    "sha256_of",
    "sidecar_path",
    "write_shard",
]

SCHEMA = 1
LICENCE = "CC-BY-4.0"
CITATION = "Lin, R., Zhang, R., Wang, C., Yang, X.-Q., Xin, H. L. Sci. Rep. 11, 5386 (2021)."

COLUMN_FIELDS = (
    "x_px",
    "y_px",
    "x_A",
    "y_A",
    "weight_A2",
    "atoms",
    "kind",
    "inside",
    "crlb_x_A",
    "crlb_y_A",
)

_COMPACT_MAPS = ("noNoise", "noBackgroundnoNoise")
DENSE_MAPS = MAPS
_COMPRESSION = 1

SERIES_ARRAYS = ("hk", "coefficients")
"""Large arrays of the series table, which only the 2x maps need."""

NO_SERIES = -1
"""Stands in `series_index` for a sample that has no Fourier series: one that others made."""


def sidecar_path(shard: Path) -> Path:
    """The JSON beside a shard that says where its chunks lie."""
    return shard.with_suffix(".json")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when it does not.

    The file is on disk before it is renamed, so that `path` is whole or absent whatever happens.

    Raises:
        ShardError: the disk is full or cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise ShardError(f"cannot write {path}: {reason}; nothing was left there, free space and run again") from error
    finally:
        partial.unlink(missing_ok=True)


def write_shard(
    path: Path,
    samples: Iterable[Sample],
    rows: int,
    *,
    engine: str,
    recipe_json: str,
    task: str = "",
    dense: bool = False,
    maps: Sequence[str] | None = None,
    on_sample: Callable[[], None] = lambda: None,
) -> None:
    """Write samples to a shard and its sidecar, whole or not at all.

    Args:
        path: the shard's path, ending in `.h5`.
        samples: exactly `rows` samples rendered with `quantised=True` and the maps that are stored.
        rows: number of samples.
        engine: name of the engine that rendered them.
        recipe_json: the resolved recipe.
        task: fingerprint of the work, by which a later run knows that it is done.
        dense: store every map rather than those that cannot be redrawn.
        maps: store these maps instead.
        on_sample: called after each sample, for a progress bar.

    Raises:
        ShardError: the disk is full or cannot be written, or the number of samples is not `rows`.
    """
    if maps is None:
        maps = DENSE_MAPS if dense else _COMPACT_MAPS
    # The file is made in memory, so that a full disk meets one plain write and HDF5 never a file it cannot close.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        index = _fill(file, samples, rows, maps, on_sample)
        file.attrs.update(
            schema=SCHEMA,
            engine=engine,
            recipe=recipe_json,
            code_version=__version__,
            licence=LICENCE,
            citation=CITATION,
            dense=dense,
            task=task,
        )
        file.flush()
        _add_offsets(file, index)
        content = file.id.get_file_image()
    with replacing(path) as partial:
        partial.write_bytes(content)
        sidecar_path(path).unlink(missing_ok=True)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    index["rest_sha256"] = rest_digest(content, index)
    sidecar = {"schema": SCHEMA, "shard": path.name, "rows": rows, "task": task, **facts, **index}
    with replacing(sidecar_path(path)) as partial:
        partial.write_text(json.dumps(sidecar, separators=(",", ":")), encoding="utf-8")


def _fill(
    file: h5py.File, samples: Iterable[Sample], rows: int, maps: Sequence[str], on_sample: Callable[[], None]
) -> dict[str, Any]:
    """Write everything; returns the sidecar's entries but for the byte offsets, known once the file is closed."""
    index: dict[str, Any] = {"datasets": {}, "series": {}, "kinds": [], "n_columns": []}
    series = _SeriesTable()
    chunks: dict[str, list[bytes]] = {}
    tables: list[NDArray[np.float64]] = []
    texts: dict[str, list[str]] = {"spec": [], "kinds": [], "sha256": []}
    scalars: list[tuple[float, ...]] = []
    series_index: list[int] = []
    scales: dict[str, list[tuple[float, float]]] = {name: [] for name in maps if name in SCALED}
    count = 0
    for row, sample in enumerate(samples):
        count = row + 1
        if count > rows:
            break
        image = sample.image.cpu().numpy().astype(np.uint16)
        _put(chunks, index, "image", rows, image)
        for name in maps:
            if name in scales:
                scaled = sample.scaled[name]
                _put(chunks, index, name, rows, scaled.integers)
                scales[name].append((scaled.offset, scaled.step))
            else:
                _put(chunks, index, name, rows, sample.labels[name].cpu().numpy().astype(np.uint8))
        _put(chunks, index, "row_shift_A", rows, sample.row_shift_A.astype(np.float32))
        table = _column_table(sample.columns, image.shape)
        tables.append(table)
        spec = spec_to_json(sample.spec)
        texts["spec"].append(spec)
        texts["kinds"].append(json.dumps(sample.columns.kinds))
        texts["sha256"].append(hashlib.sha256(spec.encode() + image.tobytes() + table.tobytes()).hexdigest())
        scalars.append((sample.dose_e_per_A2, sample.clean_peak, float(np.sum(table[:, 7]))))
        series_index.append(NO_SERIES if sample.series is None else series.add(sample.series))
        scan = sample.series_scan
        scalars[-1] += (scan.rotation_deg, *scan.offset_A)
        on_sample()
    if count != rows:
        raise ShardError(f"{file.filename}: got {'more' if count > rows else count} samples, expected {rows}")

    most = max(1, *(len(table) for table in tables))
    for table in tables:
        padded = np.full((most, len(COLUMN_FIELDS)), np.nan)
        padded[: len(table)] = table
        _put(chunks, index, "columns", rows, padded)
    _write_chunks(file, index, chunks)
    file["columns"].attrs["fields"] = list(COLUMN_FIELDS)
    index["datasets"]["columns"]["fields"] = list(COLUMN_FIELDS)
    for name, pairs in scales.items():
        file[f"{name}_scale"] = np.array(pairs)
        index["datasets"][name]["scale"] = pairs
    for name, values in texts.items():
        file.create_dataset(name, data=values, dtype=h5py.string_dtype())
    numbers = np.array(scalars)
    file["n_columns"] = np.array([len(table) for table in tables], dtype=np.int32)
    file["dose_e_per_A2"], file["clean_peak"] = numbers[:, 0], numbers[:, 1]
    file["columns_inside"] = numbers[:, 2].astype(np.int32)
    file["series_index"] = np.array(series_index, dtype=np.int32)
    file["series_scan"] = numbers[:, 3:]
    file["series_scan"].attrs["fields"] = ["rotation_deg", "offset_x_A", "offset_y_A"]
    series.write(file.create_group("series"))
    index["kinds"] = [json.loads(text) for text in texts["kinds"]]
    index["n_columns"] = [len(table) for table in tables]
    return index


def _put(chunks: dict[str, list[bytes]], index: dict[str, Any], name: str, rows: int, values: NDArray[Any]) -> None:
    """Keep one sample's array as one shuffled, deflated chunk, and note its digest."""
    entry = index["datasets"].get(name)
    if entry is None:
        chunks[name] = []
        entry = index["datasets"][name] = {
            "dtype": values.dtype.str,
            "shape": [rows, *values.shape],
            "filters": ["shuffle", "deflate"],
            "offsets": [],
            "sizes": [],
            "sha256": [],
        }
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.dtype.itemsize)
    packed = zlib.compress(np.ascontiguousarray(raw.T).tobytes(), _COMPRESSION)
    chunks[name].append(packed)
    entry["sizes"].append(len(packed))
    entry["sha256"].append(hashlib.sha256(packed).hexdigest()[:32])


def _write_chunks(file: h5py.File, index: dict[str, Any], chunks: dict[str, list[bytes]]) -> None:
    """Write array after array, each in the order of samples: who needs a few arrays reads a few ranges."""
    for name in sorted(chunks, key=lambda name: name in MAPS):
        shape = tuple(index["datasets"][name]["shape"])
        dataset = file.create_dataset(
            name,
            shape,
            np.dtype(index["datasets"][name]["dtype"]),
            chunks=(1, *shape[1:]),
            shuffle=True,
            compression=_COMPRESSION,
        )
        for row, packed in enumerate(chunks[name]):
            dataset.id.write_direct_chunk((row, *(0 for _ in shape[1:])), packed)


def _add_offsets(file: h5py.File, index: dict[str, Any]) -> None:
    """Look up where each chunk came to lie."""
    for name in SERIES_ARRAYS:
        dataset = file[f"series/{name}"]
        entry: dict[str, list[Any]] = {"offsets": [], "sizes": [], "sha256": []}
        for number in range(dataset.id.get_num_chunks() if dataset.chunks else 0):
            info = dataset.id.get_chunk_info(number)
            packed = dataset.id.read_direct_chunk(info.chunk_offset)[1]
            entry["offsets"].append(info.byte_offset)
            entry["sizes"].append(info.size)
            entry["sha256"].append(hashlib.sha256(packed).hexdigest()[:32])
        index["series"][name] = entry
    for name, array in index["datasets"].items():
        dataset = file[name]
        zeros = (0,) * (dataset.ndim - 1)
        for row in range(dataset.shape[0]):
            array["offsets"].append(dataset.id.get_chunk_info_by_coord((row, *zeros)).byte_offset)


def _column_table(columns: Columns, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(K, fields) rows of `COLUMN_FIELDS`."""
    bound = np.full((len(columns), 2), np.nan) if columns.crlb_A is None else columns.crlb_A
    inside = columns.inside((shape[0], shape[1]))
    parts = (columns.xy_px, columns.xy_A, columns.weight_A2, columns.atoms, columns.kind, inside, bound)
    return np.column_stack([np.asarray(part, dtype=np.float64) for part in parts])


class _SeriesTable:
    """Distinct `FourierImage`s, each kept once."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._series: list[FourierImage] = []

    def add(self, series: FourierImage) -> int:
        """Index of a series, added if it is new."""
        digest = hashlib.sha256(series.cell_A.tobytes() + series.hk.tobytes() + series.coefficients.numpy().tobytes())
        row = self._rows.setdefault(digest.digest(), len(self._series))
        if row == len(self._series):
            self._series.append(series)
        return row

    def write(self, group: h5py.Group) -> None:
        """Write as ragged arrays."""
        if not self._series:
            group["start"], group["cell_A"] = np.zeros(1, np.int64), np.zeros((0, 2, 2))
            group["hk"], group["coefficients"] = np.zeros((0, 2), np.int16), np.zeros((0, 2), np.float32)
            return
        lengths = [len(series.hk) for series in self._series]
        group["start"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        group["cell_A"] = np.stack([series.cell_A for series in self._series])
        options = {"shuffle": True, "compression": _COMPRESSION}
        group.create_dataset("hk", data=np.concatenate([series.hk for series in self._series]), **options)
        values = torch.cat([series.coefficients for series in self._series])
        group.create_dataset("coefficients", data=torch.view_as_real(values).numpy(), **options)


class Shard:
    """A shard open for reading. Every error names the file.

    Args:
        path: a `.h5` file that `write_shard` made, or a name for messages where `parts` is given.
        parts: where the bytes come from instead: a file of which parts are fetched when they are needed.

    Raises:
        ShardError: the file is missing, truncated, not a shard, or of a newer schema.
    """

    def __init__(self, path: Path | PurePosixPath, parts: PartFile | None = None) -> None:
        self.path = path
        self._parts = parts
        if parts is None and not Path(path).is_file():
            raise ShardError(f"{path}: no such shard; render the library again or download it anew")
        try:
            self._file = h5py.File(path if parts is None else parts, "r")
            self.schema = int(self._file.attrs["schema"])
            self.engine = str(self._file.attrs["engine"])
            self.dense = bool(self._file.attrs["dense"])
        except (OSError, KeyError, ValueError) as error:
            if parts is not None and parts.failure is not None:
                raise parts.failure from error
            raise ShardError(
                f"{path}: truncated, damaged or not a shard ({error}); render or download it anew"
            ) from error
        if self.schema > SCHEMA:
            self._file.close()
            raise ShardError(
                f"{path}: schema {self.schema}, this version of temimagenet reads up to {SCHEMA}; upgrade temimagenet"
            )

    def __enter__(self) -> Shard:
        """The shard itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._file["n_columns"].shape[0])

    @property
    def task(self) -> str:
        """Fingerprint of the work that made this shard."""
        return str(self._file.attrs["task"])

    @cached_property
    def _series(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int16], NDArray[np.float32]]:
        """The series table: start, cell_A, hk, coefficients."""
        group = self._file["series"]
        return group["start"][:], group["cell_A"][:], group["hk"][:], group["coefficients"][:]

    def text(self, name: str) -> list[str]:
        """All entries of a text dataset: `spec`, `kinds` or `sha256`."""
        return [str(text) for text in self._read(name, slice(None), text=True)]

    def numbers(self, name: str) -> NDArray[Any]:
        """A whole dataset of one number (or a few) a sample."""
        values: NDArray[Any] = self._read(name, slice(None))
        return values

    def image(self, row: int) -> NDArray[np.uint16]:
        """(rows, columns) electron counts of a sample, as stored."""
        counts: NDArray[np.uint16] = self._read("image", row)
        return counts

    def spec(self, row: int) -> SampleSpec:
        """What sample `row` is."""
        text = str(self._read("spec", row, text=True))
        try:
            return spec_from_json(text)
        except RecipeError as error:
            raise ShardError(f"{self.path}, sample {row}: {error}") from error

    def series(self, row: int) -> FourierImage:
        """The Fourier series of sample `row`'s clean image.

        Raises:
            LabelError: the sample has none, since others made it.
        """
        which = int(self._read("series_index", row))
        if which == NO_SERIES:
            raise LabelError(f"{self.path}, sample {row}: others made it, it has no Fourier series")
        start, cell, hk, coefficients = self._series
        part = slice(int(start[which]), int(start[which + 1]))
        return FourierImage(cell[which], hk[part], torch.view_as_complex(torch.from_numpy(coefficients[part].copy())))

    def columns(self, row: int, pixel_size_A: float) -> Columns:
        """Columns in and around sample `row`."""
        table = self._read("columns", row)[: int(self._read("n_columns", row))]
        kinds = tuple(json.loads(str(self._read("kinds", row, text=True))))
        bound = table[:, 8:10]
        return Columns(
            np.ascontiguousarray(table[:, 0:2]),
            pixel_size_A,
            table[:, 4].copy(),
            table[:, 5].copy(),
            table[:, 6].astype(np.int64),
            kinds,
            None if np.isnan(bound).all() else bound.copy(),
        )

    def sample(self, row: int, labels: Sequence[str] = ()) -> Sample:
        """Read a sample; labels that are not stored are redrawn by the code that would have stored them.

        Raises:
            LabelError: unknown label, or one that the shard lacks and cannot redraw, since others made its samples.
            ShardError: the shard is damaged, or has no such row.
        """
        wanted = check_labels(tuple(labels))
        if not 0 <= row < len(self):
            raise ShardError(f"{self.path}: no sample {row}, the shard holds 0 to {len(self) - 1}")
        spec = self.spec(row)
        columns = self.columns(row, spec.pixel_size_A)
        rotation, offset_x, offset_y = (float(v) for v in self._read("series_scan", row))
        scan = Scan((spec.image_size,) * 2, spec.pixel_size_A, rotation, (offset_x, offset_y))
        clean_peak = float(self._read("clean_peak", row))
        series: FourierImage | None = None
        drawn: dict[str, torch.Tensor] = {}
        for name in wanted:
            if f"{name}_scale" in self._file:
                offset, step = (float(v) for v in self._read(f"{name}_scale", row))
                drawn[name] = Scaled(self._read(name, row), offset, step).restore()
            elif name in self._file and name in MAPS:
                drawn[name] = torch.from_numpy(self._read(name, row).astype(np.float32))
            elif spec.specimen.kind == "unknown" and name in MAPS:
                raise LabelError(f"{self.path}: {name} is absent: the files that it was converted from had none")
            else:
                if "2x" in name and series is None:
                    series = self.series(row)
                values = draw_label(name, spec, columns, series, scan, clean_peak)
                drawn[name] = quantise(values).restore() if name in SCALED else values
        return Sample(
            spec,
            torch.from_numpy(self.image(row).astype(np.float32)),
            drawn,
            columns,
            series,
            scan,
            clean_peak,
            float(self._read("dose_e_per_A2", row)),
            self._read("row_shift_A", row).astype(np.float64),
            engine=cast(Engine, self.engine),
        )

    def _read(self, name: str, where: Any, *, text: bool = False) -> Any:
        """One entry of a dataset; damage becomes a `ShardError` that names file and dataset."""
        try:
            dataset = self._file[name]
            return dataset.asstr()[where] if text else dataset[where]
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            if self._parts is not None and self._parts.failure is not None:
                raise self._parts.failure from error
            raise ShardError(
                f"{self.path}: {name} cannot be read ({error}); render or download the shard anew"
            ) from error
