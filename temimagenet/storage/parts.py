"""The parts of a shard: byte ranges that are had and checked one by one, from a file here or from elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from temimagenet.errors import ShardError, TEMImageNetError
from temimagenet.labels import INTENSITIES

__all__ = [
    "ALWAYS",
    "ANEW",
    "DIGEST",
    "Content",
    "DatasetForm",
    "LocalParts",
    "Part",
    "PartFile",
    "ShardParts",
    "Source",
    "merge",
    "read_sidecar",
    "rest_digest",
    "sidecar_path",
]

DIGEST = 32
"""Hexadecimal digits of the digests in a sidecar: the first 16 bytes of SHA-256."""

_TIGHT = 0.9
"""A range of which more than this is wanted is cut into views, others are copied."""

Content: TypeAlias = bytes | memoryview

ANEW = "render it anew, or download it with verify=True"

_SMALL = ("row_shift_A", "columns")
ALWAYS = (*_SMALL, "image")
"""Arrays that every sample is read from; the image last, beside the maps that follow: small ones may be held."""

_HEX = re.compile(rf"[0-9a-f]{{{DIGEST}}}")
_DTYPE = re.compile(r"[<>|]?[biuf][0-9]{1,2}")
_FILTERS = (("shuffle", "deflate"), ())


def sidecar_path(shard: Path) -> Path:
    """The JSON beside a shard that says where its chunks lie."""
    return shard.with_suffix(".json")


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a shard with a digest of its own.

    Attributes:
        offset: first byte.
        size: number of bytes.
        sha256: first 16 bytes of its SHA-256 as hexadecimal text; "" for one of the pieces of the rest, which are
            checked together.
        what: what it holds, for messages.
    """

    offset: int
    size: int
    sha256: str
    what: str

    @property
    def end(self) -> int:
        """Byte after the last."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class DatasetForm:
    """How the chunks of a dataset are to be understood, one a sample.

    Attributes:
        dtype: type of its numbers.
        shape: of one sample's array.
        packed: whether chunks are shuffled and deflated, or stored as they are.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    packed: bool


def _chunks(sidecar: Mapping[str, Any]) -> dict[str, list[Part]]:
    """Every chunk that a sidecar lists, by dataset, in the order of samples.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the sidecar is none.
    """
    found: dict[str, list[Part]] = {}
    # Before they had digests of their own, series were part of the rest.
    for entries, prefix in ((sidecar["datasets"], ""), (sidecar.get("series", {}), "series/")):
        for name, entry in entries.items():
            places = zip(entry["offsets"], entry["sizes"], entry["sha256"], strict=True)
            parts = [
                Part(index(offset), index(size), digest, f"{prefix}{name} {row}")
                for row, (offset, size, digest) in enumerate(places)
            ]
            if not all(_HEX.fullmatch(part.sha256) for part in parts):
                raise ValueError(f"digests of {prefix}{name} are none")
            found[prefix + name] = parts
    return found


def _gaps(chunks: Iterable[Part], size: int) -> list[Part]:
    """What lies between the chunks: the file's own structure, texts and numbers.

    Raises:
        ValueError: chunks lie over each other or outside of the file.
    """
    gaps, at = [], 0
    for part in [*sorted(chunks, key=lambda part: (part.offset, part.size)), Part(size, 0, "", "")]:
        if not at <= part.offset <= part.end <= size:
            raise ValueError(f"a chunk of {part.size} bytes at {part.offset}, where {at} to {size} are free")
        if part.offset > at:
            gaps.append(Part(at, part.offset - at, "", "structure"))
        at = part.end
    return gaps


def rest_digest(content: bytes, sidecar: Mapping[str, Any]) -> str:
    """A digest of a shard's bytes outside the chunks that its sidecar lists: numbers, texts, HDF5's own structures."""
    view, digest = memoryview(content), hashlib.sha256()
    chunks = (part for parts in _chunks(sidecar).values() for part in parts)
    for gap in _gaps(chunks, len(content)):
        digest.update(view[gap.offset : gap.end])
    return digest.hexdigest()[:DIGEST]


def read_sidecar(shard: Path, sha256: str | None = None) -> ShardParts | None:
    """The parts of a shard on this machine, as the sidecar beside it tells.

    Args:
        shard: the shard's path.
        sha256: SHA-256 that the sidecar must have; any, or none, unless given.

    Returns:
        The parts; None where there is no sidecar and none is asked for.

    Raises:
        ShardError: the sidecar is missing, damaged or not the one that is asked for.
    """
    path = sidecar_path(shard)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        if sha256 is None:
            return None
        raise ShardError(f"{path}: missing; {ANEW}") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); {ANEW}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ShardError(f"{path}: SHA-256 differs from the manifest's; {ANEW}")
    return ShardParts.read(str(shard), content)


class ShardParts:
    """Which bytes of a shard are what, from its sidecar.

    Args:
        name: where the shard is, for messages.
        sidecar: the sidecar's content.

    Raises:
        ShardError: the sidecar is damaged.
    """

    def __init__(self, name: str, sidecar: Mapping[str, Any]) -> None:
        self.name = name
        try:
            self.size, self.sha256 = index(sidecar["bytes"]), str(sidecar["sha256"])
            # Sidecars of early versions have none.
            self._rest_digest = None if "rest" not in sidecar else str(sidecar["rest"])
            self._by_name = _chunks(sidecar)
            self.chunks = sorted((part for parts in self._by_name.values() for part in parts), key=place)
            self.rest = _gaps(self.chunks, self.size)
            self.forms = {name: _form(name, entry, sidecar["rows"]) for name, entry in sidecar["datasets"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ShardError(f"{name}: its sidecar is damaged ({error!r}); {ANEW}") from error
        self.parts = sorted([*self.chunks, *self.rest], key=place)
        self.series = [part for name, parts in self._by_name.items() if name not in self.forms for part in parts]

    @classmethod
    def read(cls, name: str, content: bytes) -> ShardParts:
        """The parts from a sidecar's text.

        Raises:
            ShardError: the sidecar is damaged.
        """
        try:
            sidecar = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{name}: its sidecar is damaged ({error}); {ANEW}") from error
        return cls(name, sidecar)

    def chunk(self, name: str, row: int) -> Part:
        """One sample's part of a dataset.

        Raises:
            ShardError: there is none.
        """
        parts = self._by_name.get(name, [])
        if not 0 <= row < len(parts):
            raise ShardError(f"{self.name}: no {name} {row}")
        return parts[row]

    def needed(self, rows: Iterable[int], labels: Sequence[str]) -> list[Part]:
        """Chunks that samples with labels are read from: without the rest, which every reader needs.

        Raises:
            ShardError: there is no such row.
        """
        arrays = [name for name in (*ALWAYS, *labels) if name in self.forms]
        found = {self.chunk(name, row) for row in rows for name in arrays}
        if any(name in INTENSITIES and name not in self.forms for name in labels):
            found.update(self.series)
        return sorted(found, key=place)

    def small(self, most: int) -> list[Part]:
        """Chunks of what every sample needs beside its image, of arrays that lie within no more bytes than that."""
        arrays = [self._by_name[name] for name in _SMALL if self._by_name.get(name)]
        return [part for parts in arrays if parts[-1].end - parts[0].offset <= most for part in parts]

    def pieces(self, group: Sequence[Part], content: bytes) -> list[tuple[Part, Content]]:
        """The parts of a range of bytes, each compared with its digest.

        Raises:
            ShardError: one differs.
        """
        start, whole = group[0].offset, memoryview(content)
        # A view keeps all of a range in memory, what was fetched along, too.
        tight = sum(part.size for part in group) > _TIGHT * len(content)
        views = [whole[part.offset - start : part.end - start] for part in group]
        found = [(part, view if tight else bytes(view)) for part, view in zip(group, views, strict=True)]
        for part, piece in found:
            if part.sha256 or len(piece) != part.size:
                self.check(part, piece)
        return found

    def check(self, part: Part, content: Content) -> None:
        """Compare a chunk's bytes with its digest.

        Raises:
            ShardError: they differ; the message names shard and chunk.
        """
        if len(content) != part.size or hashlib.sha256(content).hexdigest()[:DIGEST] != part.sha256:
            raise ShardError(
                f"{self.name}: {part.what} (bytes {part.offset} to {part.end}) differs from its SHA-256; {ANEW}"
            )

    def check_rest(self, contents: Iterable[Content], *, asked: bool = False) -> None:
        """Compare the pieces of the rest, in their order, with their digest.

        Args:
            contents: the pieces.
            asked: whether there must be a digest; early versions wrote none.

        Raises:
            ShardError: they differ.
        """
        if self._rest_digest is None:
            if asked:
                raise ShardError(
                    f"{self.name}: its sidecar has no digest of what is not in chunks: another version made it; render "
                    "or publish it anew"
                )
            return
        digest = hashlib.sha256()
        for content in contents:
            digest.update(content)
        if digest.hexdigest()[:DIGEST] != self._rest_digest:
            raise ShardError(
                f"{self.name}: damaged, what is not in chunks has another digest than in the sidecar; {ANEW}"
            )


def place(part: Part) -> int:
    """Where a part begins."""
    return part.offset


def _form(name: str, entry: Mapping[str, Any], rows: int) -> DatasetForm:
    """A dataset's form from its entry in a sidecar.

    Raises:
        KeyError, TypeError, ValueError: it has none.
    """
    filters = tuple(entry["filters"])
    if filters not in _FILTERS:
        raise ValueError(f"{name} is packed by {entry['filters']}")
    if len(entry["offsets"]) != rows:
        raise ValueError(f"{name} has not {rows} chunks")
    if not _DTYPE.fullmatch(str(entry["dtype"])):
        # NumPy evaluates what looks like a record's.
        raise ValueError(f"{name} of type {entry['dtype']}")
    return DatasetForm(np.dtype(str(entry["dtype"])), tuple(map(index, entry["shape"][1:])), bool(filters))


def merge(parts: Sequence[Part], *, gap: int, most: int) -> list[list[Part]]:
    """Group parts, in the order of the file, into ranges to ask for at once.

    Args:
        parts: what is wanted.
        gap: bytes not wanted that may be fetched along between two parts.
        most: length of a range beyond which no further part is added.
    """
    groups: list[list[Part]] = []
    for part in sorted(parts, key=place):
        last = groups[-1] if groups else None
        if last and part.offset - last[-1].end <= gap and part.end - last[0].offset <= most:
            last.append(part)
        else:
            groups.append([part])
    return groups


class Source(Protocol):
    """Where a shard's parts come from, each compared with its digest."""

    @property
    def layout(self) -> ShardParts:
        """The shard's parts."""
        ...

    @property
    def failure(self) -> TEMImageNetError | None:
        """Why HDF5's last read failed, where that is known: HDF5 hides the reason."""
        ...

    def give(self, part: Part) -> Content:
        """The bytes of a chunk.

        Raises:
            TEMImageNetError: it cannot be had, or is damaged.
        """
        ...

    def file(self) -> Path | io.RawIOBase:
        """What HDF5 opens; all in it that is not in chunks has been compared with its digest."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class LocalParts:
    """Parts of a shard in a file on this machine.

    Positioned reads share nothing between processes, and a file that is cut short under them is an error, where
    mapped memory would end the process. A chunk is compared with its digest when it is first read.

    Args:
        path: the file.
        layout: the shard's parts.
        have: offsets of those that are there, of a shard that was downloaded in part; all unless given.

    Raises:
        ShardError: the file has another size, or what is not in chunks is damaged or not there.
    """

    failure: TEMImageNetError | None = None

    def __init__(self, path: Path, layout: ShardParts, have: Collection[int] | None = None) -> None:
        self.layout = layout
        self._path, self._have, self._descriptor = path, have, -1
        self._checked: set[int] = set()
        try:
            size = path.stat().st_size
            if size != layout.size:
                raise ShardError(
                    f"{layout.name}: truncated or damaged, {size} bytes, its sidecar says {layout.size}; {ANEW}"
                )
            self._descriptor = os.open(path, os.O_RDONLY)
            # HDF5 may run in circles on damaged files: it is given only what has the right digest.
            layout.check_rest(self._rest(), asked=have is not None)
        except (OSError, OverflowError) as error:
            raise ShardError(f"{layout.name}: cannot be read ({error}); {ANEW}") from error

    def _rest(self) -> Iterator[bytes]:
        """The pieces that are not in chunks, in order."""
        for gap in self.layout.rest:
            self._check_there(gap)
            yield os.pread(self._descriptor, gap.size, gap.offset)

    def _check_there(self, part: Part) -> None:
        """Raise `ShardError` for a part that was not downloaded."""
        if self._have is not None and part.offset not in self._have:
            raise ShardError(f"{self.layout.name}: {part.what} was not downloaded; ask for it with download=True")

    def give(self, part: Part) -> bytes:
        """The bytes of a chunk.

        Raises:
            ShardError: it was not downloaded, cannot be read, or is damaged.
        """
        self._check_there(part)
        try:
            content = os.pread(self._descriptor, part.size, part.offset)
        except (OSError, OverflowError) as error:
            raise ShardError(f"{self.layout.name}: {part.what} cannot be read ({error}); {ANEW}") from error
        if part.offset not in self._checked:
            self.layout.check(part, content)
            self._checked.add(part.offset)
        return content

    def file(self) -> Path:
        """The file itself."""
        return self._path

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """Close the file where nobody did."""
        self.close()


class PartFile(io.RawIOBase):
    """A read-only file of a shard, put together from parts as they are asked for.

    Args:
        layout: the shard's parts.
        rest: bytes of the pieces that are not in chunks, in order.
        give: returns the bytes of a chunk, checked.

    Raises:
        ShardError: what is not in chunks is damaged.
    """

    def __init__(self, layout: ShardParts, rest: Sequence[Content], give: Callable[[Part], Content]) -> None:
        super().__init__()
        layout.check_rest(rest, asked=True)
        self.layout, self.give = layout, give
        self.failure: TEMImageNetError | None = None
        self._rest = {gap.offset: content for gap, content in zip(layout.rest, rest, strict=True)}
        self._starts = [part.offset for part in layout.parts]
        self._at = 0

    def file(self) -> io.RawIOBase:
        """This very file."""
        return self

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.layout.size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """The current byte."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what follows.

        Raises:
            OSError: a part cannot be had; `failure` says why.
        """
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self.layout.size)
        start = at = self._at
        try:
            while at < end:
                part = self.layout.parts[bisect_right(self._starts, at) - 1]
                stop = min(part.end, end)
                content = self.give(part) if part.sha256 else self._rest[part.offset]
                view[at - start : stop - start] = content[at - part.offset : stop - part.offset]
                at = stop
        except TEMImageNetError as error:
            self.failure = error
            raise OSError(str(error)) from error
        self._at = at
        return at - start
