"""One shard: an HDF5 file of samples, one compressed chunk a sample and array, beside a JSON map of its bytes."""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NoReturn, cast, get_args

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from temimagenet import __version__
from temimagenet.errors import LabelError, RecipeError, ShardError, TEMImageNetError
from temimagenet.hdf5 import own_dataset, read_whole
from temimagenet.imaging.fourier import FourierImage
from temimagenet.imaging.scan import Scan
from temimagenet.labels import INTENSITIES, MAPS, SCALED, Columns, Scaled, check_labels, quantise
from temimagenet.recipe import Engine, SampleSpec, spec_from_json, spec_to_json
from temimagenet.render import Sample, draw_label
from temimagenet.storage.parts import (
    ANEW,
    DIGEST,
    Content,
    LocalParts,
    Source,
    read_sidecar,
    rest_digest,
    sidecar_path,
)

__all__ = [
    "COLUMN_FIELDS",
    "DENSE_MAPS",
    "LICENCE",
    "NO_SERIES",
    "SCHEMA",
    "Shard",
    "index_of",
    "replacing",
    "sha256_of",
    "sidecar_path",
    "write_indexed",
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

NO_SERIES = -1
"""Stands in `series_index` for a sample that has no Fourier series: one that others made."""

_TABLES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "spec": ("O", ()), "kinds": ("O", ()), "sha256": ("O", ()), "n_columns": ("i", ()), "columns_inside": ("i", ()),
    "dose_e_per_A2": ("f", ()), "clean_peak": ("f", ()), "series_index": ("i", ()), "series_scan": ("f", (3,)),
}  # fmt: skip
"""Datasets that are kept once a shard: kind of number and what follows the sample's axis."""

_SERIES = ("series/start", "series/cell_A", "series/hk", "series/coefficients")
_CHUNKED_SERIES = ("hk", "coefficients")
"""Large arrays of the series table, which only intensities that are not stored need."""

_DTYPES: Mapping[str, str] = {"image": "<u2", "row_shift_A": "<f4", "columns": "<f8"}
_MOST_SAMPLE_BYTES = 2**28


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
    # Processes of several machines may write to one folder.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        advice = ", free space and run again" if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else ""
        raise ShardError(f"cannot write {path}: {reason}; nothing was left there{advice}") from error
    finally:
        # Where nothing can be written, nothing can be removed.
        with suppress(OSError):
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
        write_indexed(path, file, rows, task, index)


def write_indexed(path: Path, file: h5py.File, rows: int, task: str, index: dict[str, Any]) -> None:
    """Write a shard that is filled in memory, and its sidecar: the index with offsets and digests.

    Raises:
        ShardError: the disk is full or cannot be written; nothing half-written is left.
    """
    file.flush()
    _add_offsets(file, index)
    content = file.id.get_file_image()
    index["rest"] = rest_digest(content, index)
    with replacing(path) as partial:
        partial.write_bytes(content)
        sidecar_path(path).unlink(missing_ok=True)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    sidecar = {"schema": SCHEMA, "shard": path.name, "rows": rows, "task": task, **facts, **index}
    with replacing(sidecar_path(path)) as partial:
        partial.write_text(json.dumps(sidecar, separators=(",", ":")), encoding="utf-8")


def index_of(file: h5py.File, names: Sequence[str]) -> dict[str, Any]:
    """The sidecar's entries, but for offsets, of a shard in memory whose chunks are not packed."""
    index: dict[str, Any] = {"datasets": {}, "n_columns": file["n_columns"][()].tolist()}
    index["kinds"] = [json.loads(text) for text in file["kinds"].asstr()[()]]
    for name in names:
        dataset = file[name]
        entry = index["datasets"][name] = _entry(dataset.dtype, dataset.shape, ())
        for row in range(len(dataset)):
            _note(entry, dataset.id.read_direct_chunk((row,) + (0,) * (dataset.ndim - 1))[1])
        if f"{name}_scale" in file:
            entry["scale"] = file[f"{name}_scale"][()].tolist()
    index["datasets"]["columns"]["fields"] = list(COLUMN_FIELDS)
    return index


def _entry(dtype: np.dtype[Any], shape: Sequence[int], filters: Sequence[str]) -> dict[str, Any]:
    """A dataset's entry of a sidecar, before it has chunks."""
    told: dict[str, Any] = {"dtype": dtype.str, "shape": list(shape), "filters": list(filters)}
    return told | {"offsets": [], "sizes": [], "sha256": []}


def _fill(
    file: h5py.File, samples: Iterable[Sample], rows: int, maps: Sequence[str], on_sample: Callable[[], None]
) -> dict[str, Any]:
    """Write everything; returns the sidecar's entries but for the byte offsets, known once the file is closed."""
    index: dict[str, Any] = {"datasets": {}, "kinds": [], "n_columns": []}
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
        entry = index["datasets"][name] = _entry(values.dtype, (rows, *values.shape), ("shuffle", "deflate"))
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.dtype.itemsize)
    packed = zlib.compress(np.ascontiguousarray(raw.T).tobytes(), _COMPRESSION)
    chunks[name].append(packed)
    _note(entry, packed)


def _note(entry: dict[str, Any], packed: bytes) -> None:
    """Note a chunk's size and digest."""
    entry["sizes"].append(len(packed))
    entry["sha256"].append(hashlib.sha256(packed).hexdigest()[:DIGEST])


def _write_chunks(file: h5py.File, index: dict[str, Any], chunks: dict[str, list[bytes]]) -> None:
    """Write array after array, each in the order of samples: who needs a few arrays reads a few ranges."""
    for name in sorted(chunks, key=lambda name: name in MAPS):
        dtype, shape = np.dtype(index["datasets"][name]["dtype"]), tuple(index["datasets"][name]["shape"])
        dataset = file.create_dataset(
            name, shape, dtype, chunks=(1, *shape[1:]), shuffle=True, compression=_COMPRESSION
        )
        for row, packed in enumerate(chunks[name]):
            dataset.id.write_direct_chunk((row, *(0 for _ in shape[1:])), packed)


def _add_offsets(file: h5py.File, index: dict[str, Any]) -> None:
    """Look up where each chunk came to lie, and note those of the series, which HDF5 packed itself."""
    for name, array in index["datasets"].items():
        dataset = file[name]
        zeros = (0,) * (dataset.ndim - 1)
        for row in range(dataset.shape[0]):
            array["offsets"].append(dataset.id.get_chunk_info_by_coord((row, *zeros)).byte_offset)
    index["series"] = {}
    for name in _CHUNKED_SERIES:
        dataset = file[f"series/{name}"]
        entry: dict[str, list[Any]] = {"offsets": [], "sizes": [], "sha256": []}
        for number in range(dataset.id.get_num_chunks() if dataset.chunks else 0):
            info = dataset.id.get_chunk_info(number)
            entry["offsets"].append(info.byte_offset)
            _note(entry, dataset.id.read_direct_chunk(info.chunk_offset)[1])
        index["series"][name] = entry


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
        values = torch.cat([series.coefficients for series in self._series])
        arrays = (np.concatenate([series.hk for series in self._series]), torch.view_as_real(values).numpy())
        for name, data in zip(_CHUNKED_SERIES, arrays, strict=True):
            # HDF5 packs chunks when it closes or flushes a dataset, in a process of several threads maybe later: shards
            # of the same samples must be the same bytes.
            group.create_dataset(name, data=data, **options).flush()


_OPEN: weakref.WeakSet[Shard] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is open while Python can: HDF5 closes files at the very end, and that of a stream is a Python object.

    Objects that a process never frees, such as the dataset of a spawned worker, would otherwise end it by a crash.
    """
    for shard in list(_OPEN):
        shard.close()


class Shard:
    """A shard open for reading. Every error names the file.

    Where a sidecar tells of its bytes, all that is not in chunks is compared with its digest before HDF5 opens it, and
    every chunk with its own when it is first read; else each sample is compared with the digest that it has itself.

    Args:
        path: a `.h5` file that `write_shard` made, or a name for messages where there is a `source`.
        sidecar_sha256: SHA-256 that the sidecar must have, which the library's manifest tells; any, or none, unless
            given.
        source: where the shard's parts come from instead of the file and its sidecar.

    Raises:
        ShardError: the file is missing, truncated, not a shard, of a newer schema, or not what its sidecar says.
    """

    def __init__(
        self, path: Path | PurePath, sidecar_sha256: str | None = None, *, source: Source | None = None
    ) -> None:
        self.path = path
        self._source = source or _local_source(Path(path), sidecar_sha256)
        try:
            self._file = h5py.File(path if self._source is None else self._source.file(), "r")
            _OPEN.add(self)
        # HDF5 knows many kinds of damage, and h5py more.
        except Exception as error:
            self._fail("truncated, damaged or not a shard", error)
        try:
            self.schema = int(self._attribute("schema"))
            if self.schema > SCHEMA:
                raise ShardError(
                    f"{path}: schema {self.schema}, this version of temimagenet reads up to {SCHEMA}; upgrade it"
                )
            self.engine, self.dense = str(self._attribute("engine")), bool(self._attribute("dense"))
            if self.engine not in get_args(Engine):
                raise ValueError(f"engine {self.engine!r}")
            self._stored = frozenset(self._file)
            self._tables = self._read_tables()
        except Exception as error:
            self.close()
            self._fail("damaged or not a shard", error)

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
        with suppress(RuntimeError, OSError):
            self._file.close()
        if self._source is not None:
            self._source.close()

    def _fail(self, what: str, error: Exception) -> NoReturn:
        """Raise for a read that failed: an error of ours as it is, another as a `ShardError` that names the file."""
        if isinstance(error, TEMImageNetError):
            raise error
        if self._source is not None and self._source.failure is not None:
            raise self._source.failure from error
        raise ShardError(f"{self.path}: {what} ({error}); {ANEW}") from error

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._tables["n_columns"])

    @property
    def task(self) -> str:
        """Fingerprint of the work that made this shard."""
        return str(self._attribute("task"))

    @cached_property
    def _series(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int16], NDArray[np.float32]]:
        """The series table: start, cell_A, hk, coefficients."""
        if self._source is not None:
            # HDF5 unpacks these: it is given only what has the right digest.
            for part in self._source.layout.series:
                self._source.give(part)
        found = {name: self._whole(name) for name in _SERIES}
        start, cell, hk, coefficients = found.values()
        terms = len(hk)
        shapes = {name: values.shape for name, values in found.items()}
        fit = (len(start) - 1, 2, 2) == cell.shape and (terms, 2) == hk.shape == coefficients.shape
        kinds = [values.dtype.kind for values in found.values()]
        if not fit or kinds != ["i", "f", "i", "f"] or (np.diff(start) < 1).any() or start[0] or start[-1] != terms:
            raise ShardError(f"{self.path}: series of shapes {shapes} do not fit together; {ANEW}")
        return start, cell, hk, coefficients

    def text(self, name: str) -> list[str]:
        """All entries of a text dataset: `spec`, `kinds` or `sha256`."""
        return [str(text) for text in self._tables[name]]

    def numbers(self, name: str) -> NDArray[Any]:
        """A whole dataset of one number (or a few) a sample, or the columns of all samples."""
        if name == "columns":
            return np.stack([self._chunk(name, row) for row in range(len(self))])
        return self._tables[name]

    def image(self, row: int) -> NDArray[np.uint16]:
        """(rows, columns) electron counts of a sample, as stored."""
        self._check_row(row)
        counts: NDArray[np.uint16] = self._chunk("image", row)
        return counts

    def spec(self, row: int) -> SampleSpec:
        """What sample `row` is."""
        self._check_row(row)
        try:
            return spec_from_json(str(self._tables["spec"][row]))
        except RecipeError as error:
            raise ShardError(f"{self.path}, sample {row}: {error}") from error

    def digest(self, row: int) -> str:
        """SHA-256 of sample `row`'s specification, image and columns, as the catalogue has it, too."""
        self._check_row(row)
        return str(self._tables["sha256"][row])

    def series(self, row: int) -> FourierImage:
        """The Fourier series of sample `row`'s clean image.

        Raises:
            LabelError: the sample has none, since others made it.
            ShardError: the shard is damaged.
        """
        which = int(self._tables["series_index"][row])
        if which == NO_SERIES:
            raise LabelError(f"{self.path}, sample {row}: others made it, it has no Fourier series")
        start, cell, hk, coefficients = self._series
        if not 0 <= which < len(cell):
            raise ShardError(f"{self.path}, sample {row}: no series {which}, the shard holds {len(cell)}; {ANEW}")
        part = slice(int(start[which]), int(start[which + 1]))
        return FourierImage(cell[which], hk[part], torch.view_as_complex(torch.from_numpy(coefficients[part].copy())))

    def columns(self, row: int, pixel_size_A: float) -> Columns:
        """Columns in and around sample `row`."""
        table = self._column_table(row)
        kinds = self._kinds(row)
        bound = table[:, 8:10]
        kind = table[:, 6]
        finite = np.isfinite(table[:, :4]).all() and np.isfinite(kind).all()
        if not finite or (len(kind) and not 0 <= kind.min() <= kind.max() < len(kinds)):
            raise ShardError(f"{self.path}, sample {row}: columns that cannot be; {ANEW}")
        return Columns(
            np.ascontiguousarray(table[:, 0:2]),
            pixel_size_A,
            table[:, 4].copy(),
            table[:, 5].copy(),
            kind.astype(np.int64),
            kinds,
            None if np.isnan(bound).all() else bound.copy(),
        )

    def sample(self, row: int, labels: Sequence[str] = ()) -> Sample:
        """Read a sample; labels that are not stored are redrawn by the code that would have stored them.

        Raises:
            LabelError: unknown label, or one that the shard lacks and cannot redraw, since others made its samples.
            ShardError: the shard is damaged, or has no such row.
            HubError: the shard is read from elsewhere and cannot be had.
        """
        wanted = check_labels(tuple(labels))
        spec = self.spec(row)
        columns = self.columns(row, spec.pixel_size_A)
        rotation, offset_x, offset_y = (float(v) for v in self._tables["series_scan"][row])
        size = spec.image_size
        scan = Scan((size, size), spec.pixel_size_A, rotation, (offset_x, offset_y))
        clean_peak = float(self._tables["clean_peak"][row])
        image = self._chunk("image", row, (size, size))
        if self._source is None:
            self._check_sample(row, image)
        series: FourierImage | None = None
        drawn: dict[str, torch.Tensor] = {}
        for name in wanted:
            edge = 2 * size if "2x" in name else size
            if f"{name}_scale" in self._tables:
                drawn[name] = self._stored_scaled(name, row, edge).restore()
            elif name in self._stored and name in MAPS:
                drawn[name] = torch.from_numpy(self._chunk(name, row, (edge, edge)).astype(np.float32))
            else:
                self._check_drawn(name, spec)
                if name in INTENSITIES and series is None:
                    series = self.series(row)
                values = draw_label(name, spec, columns, series, scan, clean_peak)
                drawn[name] = quantise(values).restore() if name in SCALED else values
        return Sample(
            spec,
            torch.from_numpy(image.astype(np.float32)),
            drawn,
            columns,
            series,
            scan,
            clean_peak,
            float(self._tables["dose_e_per_A2"][row]),
            self._chunk("row_shift_A", row, (size, 2)).astype(np.float64),
            engine=cast(Engine, self.engine),
        )

    @property
    def stored_maps(self) -> tuple[str, ...]:
        """Names of the maps that the shard stores."""
        return tuple(name for name in MAPS if name in self._stored)

    def stored(self, name: str, row: int) -> NDArray[Any]:
        """One sample's array as it is stored: `image`, `columns` (all rows), `row_shift_A` or a map."""
        self._check_row(row)
        return self._chunk(name, row)

    def scaled(self, name: str, row: int) -> Scaled:
        """A map of `labels.SCALED` in the steps that it is stored in, or would be."""
        spec = self.spec(row)
        edge = spec.image_size * (2 if "2x" in name else 1)
        if f"{name}_scale" in self._tables:
            return self._stored_scaled(name, row, edge)
        self._check_drawn(name, spec)
        rotation, *offset = (float(v) for v in self._tables["series_scan"][row])
        scan = Scan((spec.image_size,) * 2, spec.pixel_size_A, rotation, (offset[0], offset[1]))
        columns, peak = self.columns(row, spec.pixel_size_A), float(self._tables["clean_peak"][row])
        return quantise(draw_label(name, spec, columns, self.series(row), scan, peak))

    def mask(self, name: str, row: int) -> NDArray[np.uint8]:
        """`circularMask` or `smallcircularMask`."""
        return self.sample(row, (name,)).labels[name].numpy().astype(np.uint8)

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a dataset."""
        return dict(self._file[name].attrs)

    def copy_tables(self, file: h5py.File) -> None:
        """Copy all but chunks and scales of maps into another file: numbers, texts, series and attributes."""
        for name in _TABLES:
            self._file.copy(name, file)
        self._file.copy("series", file)
        file.attrs.update(self._file.attrs)

    def _stored_scaled(self, name: str, row: int, edge: int) -> Scaled:
        """A map as it is stored."""
        offset, step = (float(v) for v in self._tables[f"{name}_scale"][row])
        return Scaled(self._chunk(name, row, (edge, edge)), offset, step)

    def _check_drawn(self, name: str, spec: SampleSpec) -> None:
        """Raise `LabelError` for a map that is not stored and that nothing tells how to draw."""
        if spec.specimen.kind == "unknown" and name in MAPS:
            raise LabelError(
                f"{self.path}: {name} is absent, and nothing tells how to draw it: others made the image. It has the "
                "maps of the files that it was converted from; a repacked copy has those that were asked for"
            )

    def _check_row(self, row: int) -> None:
        """Raise `ShardError` where there is no such sample."""
        if not 0 <= row < len(self):
            raise ShardError(f"{self.path}: no sample {row}, the shard holds 0 to {len(self) - 1}")

    def _attribute(self, name: str) -> Any:
        """An attribute of the file."""
        try:
            return self._file.attrs[name]
        except Exception as error:
            self._fail(f"damaged or not a shard, no {name}", error)

    def _whole(self, name: str) -> NDArray[Any]:
        """A whole dataset; damage becomes a `ShardError` that names file and dataset."""
        try:
            return read_whole(own_dataset(self._file, name))
        except Exception as error:
            self._fail(f"{name} cannot be read", error)

    def _read_tables(self) -> dict[str, NDArray[Any]]:
        """What is kept once a shard, of one length and the kinds of number that were written."""
        scaled = [f"{name}_scale" for name in SCALED if f"{name}_scale" in self._stored]
        found = {name: self._whole(name) for name in (*_TABLES, *scaled)}
        rows = len(found["n_columns"]) if found["n_columns"].ndim == 1 else -1
        for name, values in found.items():
            kind, more = _TABLES.get(name, ("f", (2,)))
            if values.shape != (rows, *more) or values.dtype.kind != kind:
                raise ShardError(
                    f"{self.path}: {name} of shape {values.shape} and type {values.dtype} in a shard of "
                    f"{rows} samples; {ANEW}"
                )
            if more and not np.isfinite(values).all():
                raise ShardError(f"{self.path}: {name} has values that are not finite; {ANEW}")
        return found

    def _chunk(self, name: str, row: int, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """One sample's array of a dataset, of the type that was written and the shape that its specification asks."""
        try:
            if self._source is not None:
                return _read_chunk(self._source, name, row, shape)
            dataset = own_dataset(self._file, name)
            _check_form(name, dataset.dtype, dataset.shape[1:], shape)
            if dataset.nbytes // max(len(dataset), 1) > _MOST_SAMPLE_BYTES:
                raise ValueError(f"of shape {dataset.shape}, more than a sample holds")
            values: NDArray[Any] = dataset[row]
            return values
        except Exception as error:
            self._fail(f"{name} of sample {row} cannot be read", error)

    def _column_table(self, row: int) -> NDArray[np.float64]:
        """(K, fields) rows of `COLUMN_FIELDS`."""
        table: NDArray[np.float64] = self._chunk("columns", row)
        count = int(self._tables["n_columns"][row])
        if not 0 <= count <= len(table):
            raise ShardError(f"{self.path}, sample {row}: {count} columns in a table of {len(table)}; {ANEW}")
        return table[:count]

    def _kinds(self, row: int) -> tuple[str, ...]:
        """Compositions of the kinds of column."""
        try:
            return _kinds_of(str(self._tables["kinds"][row]))
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{self.path}, sample {row}: kinds cannot be read ({error}); {ANEW}") from error

    def _check_sample(self, row: int, image: NDArray[np.uint16]) -> None:
        """Compare a sample with its own digest, where no sidecar has digests of chunks."""
        table = np.ascontiguousarray(self._column_table(row))
        found = hashlib.sha256(str(self._tables["spec"][row]).encode() + image.tobytes() + table.tobytes()).hexdigest()
        if found != self.digest(row):
            raise ShardError(
                f"{self.path}, sample {row}: SHA-256 is {found}, the shard says {self.digest(row)}; {ANEW}"
            )


@lru_cache(maxsize=1024)
def _kinds_of(text: str) -> tuple[str, ...]:
    """Compositions from their JSON.

    Raises:
        ValueError, RecursionError: it is none.
    """
    kinds = json.loads(text)
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError("no list of names")
    return tuple(kinds)


def _local_source(path: Path, sidecar_sha256: str | None) -> LocalParts | None:
    """The parts of a file on this machine; None where no sidecar tells of them and none is asked for."""
    if not path.is_file():
        if path.with_name(f"{path.name}.part").is_file():
            raise ShardError(f"{path}: downloaded in part; ask for all of it, with split=None and all that is stored")
        raise ShardError(f"{path}: no such shard; render the library again or download it anew")
    layout = read_sidecar(path, sidecar_sha256)
    return None if layout is None else LocalParts(path, layout)


def _read_chunk(source: Source, name: str, row: int, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """One sample's array of a dataset, unpacked.

    Raises:
        KeyError, ValueError: there is none, or it is not what was written.
        TEMImageNetError: it cannot be had, or is damaged.
    """
    form, part = source.layout.forms[name], source.layout.chunk(name, row)
    _check_form(name, form.dtype, form.shape, shape)
    whole = prod(form.shape) * form.dtype.itemsize
    if not 0 <= whole <= _MOST_SAMPLE_BYTES or part.size > 1.1 * whole + 1024:
        raise ValueError(f"of shape {form.shape} in {part.size} bytes, more than a sample holds")
    content = source.give(part)
    raw = _inflated(content, whole) if form.packed else content
    if len(raw) != whole:
        raise ValueError(f"{len(raw)} bytes, expected {whole}")
    if not form.packed:
        plain: NDArray[Any] = np.frombuffer(raw, form.dtype).reshape(form.shape)
        return plain
    bytes_apart = np.frombuffer(raw, np.uint8).reshape(form.dtype.itemsize, -1)
    values: NDArray[Any] = np.ascontiguousarray(bytes_apart.T).view(form.dtype).reshape(form.shape)
    return values


def _inflated(packed: Content, whole: int) -> bytes:
    """What was deflated, never more than a byte beyond the size that it must have."""
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(packed, whole + 1)
        if not inflate.eof:
            raw += inflate.decompress(inflate.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"not deflated: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise ValueError("deflated data that do not end where they should")
    return raw


def _check_form(name: str, dtype: np.dtype[Any], found: tuple[int, ...], wanted: tuple[int, ...] | None) -> None:
    """Raise `ValueError` where an array is not of the type and shape that was written."""
    expected = _DTYPES.get(name, "<u2" if name in SCALED else "|u1")
    if dtype != np.dtype(expected):
        raise ValueError(f"of type {dtype}, expected {np.dtype(expected)}")
    if wanted is not None and tuple(found) != wanted:
        raise ValueError(f"of shape {tuple(found)}, expected {wanted}")
    if name == "columns" and (len(found) != 2 or found[1] != len(COLUMN_FIELDS)):
        raise ValueError(f"of shape {tuple(found)}, expected {len(COLUMN_FIELDS)} fields")
