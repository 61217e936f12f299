"""The parts of a shard: byte ranges that can be fetched and checked one by one, and a file made of those at hand."""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temimagenet.errors import ShardError, TEMImageNetError

__all__ = ["Part", "PartFile", "ShardParts", "merge", "rest_digest"]

_ALWAYS = ("image", "row_shift_A", "columns")
_DIGEST = 32


@dataclass(frozen=True)
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


def _chunks(sidecar: Mapping[str, Any]) -> list[Part]:
    """Every chunk that a sidecar lists, in the order of the file."""
    found = []
    for group, prefix in (("datasets", ""), ("series", "series/")):
        for name, entry in sidecar[group].items():
            places = zip(entry["offsets"], entry["sizes"], entry["sha256"], strict=True)
            found += [
                Part(int(offset), int(size), str(digest), f"{prefix}{name} {row}")
                for row, (offset, size, digest) in enumerate(places)
            ]
    return sorted(found, key=lambda part: part.offset)


def _gaps(chunks: Sequence[Part], size: int) -> list[Part]:
    """What lies between the chunks: the file's own structure, texts and numbers."""
    gaps, at = [], 0
    for part in [*chunks, Part(size, 0, "", "")]:
        if part.offset < at:
            raise ValueError("chunks overlap or lie outside the file")
        if part.offset > at:
            gaps.append(Part(at, part.offset - at, "", "structure"))
        at = part.end
    return gaps


def rest_digest(content: bytes, sidecar: Mapping[str, Any]) -> str:
    """SHA-256 of a shard's bytes outside the chunks that its sidecar lists."""
    view, digest = memoryview(content), hashlib.sha256()
    for gap in _gaps(_chunks(sidecar), len(content)):
        digest.update(view[gap.offset : gap.end])
    return digest.hexdigest()


class ShardParts:
    """Which bytes of a shard are what, from its sidecar.

    Args:
        name: the shard's path in the library, for messages.
        sidecar: the sidecar's content.

    Raises:
        ShardError: the sidecar is damaged, or was written before shards could be read by parts.
    """

    def __init__(self, name: str, sidecar: Mapping[str, Any]) -> None:
        self.name = name
        try:
            self.size, self.sha256 = int(sidecar["bytes"]), str(sidecar["sha256"])
            self.rest_sha256 = str(sidecar["rest_sha256"])
            self.chunks = _chunks(sidecar)
            self.rest = _gaps(self.chunks, self.size)
            self._datasets = frozenset(sidecar["datasets"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ShardError(
                f"{name}: its sidecar does not tell the shard's parts ({error!r}); the library was made by another "
                "version or is damaged: render or publish it anew, or download it whole"
            ) from error
        self.parts = sorted([*self.chunks, *self.rest], key=lambda part: part.offset)
        self._by_name = {part.what: part for part in self.chunks}
        self._series = [part for part in self.chunks if part.what.startswith("series/")]

    def needed(self, rows: Iterable[int], labels: Sequence[str]) -> list[Part]:
        """Chunks that samples with labels are read from: without the rest, which every reader needs.

        Raises:
            ShardError: there is no such row.
        """
        arrays = [name for name in (*_ALWAYS, *labels) if name in self._datasets]
        try:
            found = {self._by_name[f"{name} {row}"] for row in rows for name in arrays}
        except KeyError as error:
            raise ShardError(f"{self.name}: no {error.args[0]}") from error
        if any("2x" in name and name not in self._datasets for name in labels):
            found.update(self._series)
        return sorted(found, key=lambda part: part.offset)

    def check(self, part: Part, content: bytes) -> None:
        """Compare a chunk's bytes with its digest.

        Raises:
            ShardError: they differ; the message names shard and chunk.
        """
        if len(content) != part.size or hashlib.sha256(content).hexdigest()[:_DIGEST] != part.sha256:
            raise ShardError(f"{self.name}: {part.what} (bytes {part.offset} to {part.end}) differs from its SHA-256")

    def check_rest(self, contents: Mapping[int, bytes]) -> None:
        """Compare the rest's bytes, by offset, with their digest.

        Raises:
            ShardError: they differ.
        """
        digest = hashlib.sha256()
        for gap in self.rest:
            digest.update(contents[gap.offset])
        if digest.hexdigest() != self.rest_sha256:
            raise ShardError(f"{self.name}: the file's structure has another SHA-256 than its sidecar says")


def merge(parts: Sequence[Part], *, gap: int, most: int) -> list[list[Part]]:
    """Group parts, in the order of the file, into ranges to ask for at once.

    Args:
        parts: what is wanted.
        gap: bytes not wanted that may be fetched along between two parts.
        most: length of a range beyond which no further part is added.
    """
    groups: list[list[Part]] = []
    for part in sorted(parts, key=lambda part: part.offset):
        last = groups[-1] if groups else None
        if last and part.offset - last[-1].end <= gap and part.end - last[0].offset <= most:
            last.append(part)
        else:
            groups.append([part])
    return groups


class PartFile(io.RawIOBase):
    """A read-only file of a shard, put together from parts as they are asked for.

    Args:
        layout: the shard's parts.
        give: returns the bytes of a part, checked.
    """

    def __init__(self, layout: ShardParts, give: Callable[[Part], bytes]) -> None:
        super().__init__()
        self.failure: TEMImageNetError | None = None
        """Why the last read failed: HDF5 hides the reason."""
        self._layout, self._give = layout, give
        self._starts = [part.offset for part in layout.parts]
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._layout.size}[whence]
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
        end = min(self._at + len(view), self._layout.size)
        start = at = self._at
        try:
            while at < end:
                part = self._layout.parts[bisect_right(self._starts, at) - 1]
                stop = min(part.end, end)
                content = self._give(part)
                view[at - start : stop - start] = content[at - part.offset : stop - part.offset]
                at = stop
        except TEMImageNetError as error:
            self.failure = error
            raise OSError(str(error)) from error
        self._at = at
        return at - start
