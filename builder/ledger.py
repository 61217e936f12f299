"""What an earlier build of a site made, and out of what, so that the next one makes anew only what would differ."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["LEDGER", "Ledger", "PartReport", "digest_of_files"]

LEDGER = ".portal-build.json"
"""The ledger's file inside the site."""

_SCHEMA = 1


@dataclass(frozen=True)
class PartReport:
    """One part of a site after a build.

    Attributes:
        files: how many it has.
        bytes: their size.
        made: pieces of it that were made in this build.
        reused: pieces that were left as they were.
    """

    files: int
    bytes: int
    made: int
    reused: int


class Ledger:
    """Remembers, for every piece of a site, a digest of what it was made of and the files that it is.

    A piece is left alone while its digest is the same and its files have the size and time of their making; otherwise
    it is made. When the block ends well, files that an earlier build wrote and this one did not are removed; others
    never. When it ends with an error, what was made is remembered all the same.
    """

    def __init__(self, out: Path) -> None:
        """Read what the last build of a site left; nothing if there was none or its ledger cannot be read."""
        self._out = out
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._made: dict[str, bool] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            stored = json.loads((out / LEDGER).read_text(encoding="utf-8"))
            if stored["schema"] == _SCHEMA:
                self._old = {
                    str(name): {"digest": str(entry["digest"]), "files": dict(entry["files"]), "value": entry["value"]}
                    for name, entry in stored["pieces"].items()
                }

    def __enter__(self) -> Ledger:
        """Begin a build."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is left over, unless the build failed; then write the ledger."""
        pieces = self._new
        if kind is None:
            self._sweep()
        else:
            pieces = self._old | self._new
        text = json.dumps({"schema": _SCHEMA, "pieces": pieces}, ensure_ascii=False, separators=(",", ":"))
        partial = self._out / f"{LEDGER}.{os.getpid()}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._out / LEDGER)

    def piece(self, part: str, name: str, made_of: Any, make: Callable[[], tuple[Iterable[Path], Any]]) -> Any:
        """Make a piece of the site unless it is there already.

        Args:
            part: which part of the site it counts for.
            name: what tells it from the part's other pieces.
            made_of: all that decides its content, as JSON has it.
            make: writes its files; returns their paths and a value of JSON to remember.

        Returns:
            The value, of this build or of the one that made the piece.
        """
        key = f"{part}/{name}"
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        entry = self._old.get(key)
        reused = entry is not None and entry["digest"] == digest and self._whole(entry["files"])
        if entry is None or not reused:
            paths, value = make()
            stamps = {path.relative_to(self._out).as_posix(): _stamp(path) for path in paths}
            entry = {"digest": digest, "files": stamps, "value": value}
        self._new[key], self._made[key] = entry, not reused
        return entry["value"]

    def write(self, part: str, name: str, content: str | bytes) -> Path:
        """Write one file of known content, unless it has it already.

        Args:
            part: which part of the site it counts for.
            name: its path inside the site.
            content: bytes, or text to write as UTF-8.
        """
        data = content.encode() if isinstance(content, str) else content
        path = self._out / name

        def make() -> tuple[Sequence[Path], None]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return [path], None

        self.piece(part, name, hashlib.sha256(data).hexdigest(), make)
        return path

    def report(self) -> dict[str, PartReport]:
        """What the build did, part by part."""
        parts: dict[str, list[tuple[bool, list[int]]]] = {}
        for key, entry in self._new.items():
            sizes = [stamp[0] for stamp in entry["files"].values()]
            parts.setdefault(key.split("/")[0], []).append((self._made[key], sizes))
        return {
            part: PartReport(
                sum(len(sizes) for _, sizes in pieces),
                sum(sum(sizes) for _, sizes in pieces),
                sum(made for made, _ in pieces),
                sum(not made for made, _ in pieces),
            )
            for part, pieces in parts.items()
        }

    def _whole(self, files: dict[str, list[int]]) -> bool:
        """Whether files are there as they were made."""
        try:
            return all(_stamp(self._out / name) == stamp for name, stamp in files.items())
        except OSError:
            return False

    def _sweep(self) -> None:
        """Remove files of earlier builds that are no longer part of the site, and folders that are empty then."""
        kept = {name for entry in self._new.values() for name in entry["files"]}
        left = {name for entry in self._old.values() for name in entry["files"]} - kept
        for name in left:
            (self._out / name).unlink(missing_ok=True)
        folders = {parent for name in left for parent in (self._out / name).parents if self._out in parent.parents}
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def digest_of_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files, or of all files in folders; caches of bytecode are left out."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                name = file.relative_to(path).as_posix() if path.is_dir() else file.name
                digest.update(f"{name}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    """Size and time of a file."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
