"""Libraries elsewhere: on the Hugging Face Hub, behind HTTP or in S3, read by byte ranges with every byte checked."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from temimagenet.errors import HubError, ShardError
from temimagenet.storage.library import (
    CATALOGUE,
    MANIFEST,
    RECIPE,
    check_catalogue,
    check_manifest,
    check_place,
    sidecar_sha256,
)
from temimagenet.storage.parts import Content, LocalParts, Part, PartFile, ShardParts, merge, place, read_sidecar
from temimagenet.storage.shard import Shard, replacing, sha256_of

__all__ = ["RemoteLibrary", "download_library", "is_address", "open_part"]

THREADS = 8
"""Ranges fetched at the same time."""

RANGE_BYTES = 4 * 2**20
"""Length of a range: what a lost connection costs at most."""

GAP_BYTES = 64 * 2**10
"""Bytes not needed that are fetched along rather than asking twice."""

WHOLE_SHARE = 0.8
"""A shard of which more than this is needed is fetched whole."""

ATTEMPTS = 6
FIRST_PAUSE_S = 0.25
TIMEOUT_S = 30.0

_SMALL_BYTES = 2 * 2**20
"""Arrays of a shard that take no more in all are fetched whole, once: half of what samples ask for are their crumbs."""

_BUFFER_BYTES = 2**20
"""Of a reply, come before it is read: with aiohttp's own 64 kB a connection halts several times an image."""

_HELD_BYTES = 256 * 2**20
_HELD_SHARDS = 64

_opened: list[weakref.ref[Any]] = []
_inherited: list[Any] = []


def _keep_inherited() -> None:
    """In a forked process: keep the file systems of the process before.

    Collected here, each would close its connections by an event loop that runs there only: it waits for that a second,
    then closes what may be in use there.
    """
    _inherited.extend(files for files in (ref() for ref in _opened) if files is not None)
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


def is_address(place: str | Path) -> bool:
    """Whether a place is an address such as hf://, https:// or s3://, not a folder."""
    return "://" in str(place)


class RemoteLibrary:
    """A published library, read where it is.

    Args:
        address: `hf://datasets/owner/name`, `hf://owner/name`, `https://...`, `s3://...` or another address that
            fsspec opens; the folder that holds `manifest.json`.
        revision: branch, tag or commit on the Hub; `main` unless told. It is resolved once, so that all files are of
            the same commit.

    Raises:
        HubError: the address cannot be opened, what it needs is not installed, or there is no such revision.
    """

    def __init__(self, address: str, revision: str | None = None) -> None:
        self.address = address.rstrip("/")
        if self.address.startswith("hf://"):
            self.address = _resolve(self.address, revision)
        elif revision is not None:
            raise HubError(f"{address}: revision {revision!r}; only libraries on the Hub have revisions")
        self._process = -1
        self._lock = threading.Lock()
        self._manifest: dict[str, Any] | None = None
        self._layouts: OrderedDict[str, ShardParts] = OrderedDict()
        self._held: OrderedDict[tuple[str, int], Content] = OrderedDict()
        self._held_bytes = 0
        self._connect()

    def __getstate__(self) -> dict[str, Any]:
        """Connections and what is held stay behind when a worker is started."""
        kept = {"address": self.address, "_manifest": self._manifest, "_process": -1}
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As in a new process."""
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._layouts, self._held, self._held_bytes = OrderedDict(), OrderedDict(), 0

    def _connect(self) -> tuple[Any, str, ThreadPoolExecutor]:
        """The file system, the path on it and threads, of this very process."""
        if self._process != os.getpid():
            try:
                fsspec = importlib.import_module("fsspec")
                options: dict[str, Any] = {"skip_instance_cache": True}
                if self.address.startswith(("http://", "https://")):
                    limit = importlib.import_module("aiohttp").ClientTimeout(total=None, sock_read=TIMEOUT_S)
                    options["client_kwargs"] = {"timeout": limit, "read_bufsize": _BUFFER_BYTES}
                elif self.address.startswith("s3://"):
                    # botocore's own attempts would multiply ours.
                    options["config_kwargs"] = {
                        "connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S, "retries": {"total_max_attempts": 1},
                    }  # fmt: skip
                self._files, self._path = fsspec.core.url_to_fs(self.address, **options)
            except (ImportError, ValueError) as error:
                needed = f"temimagenet[{'s3' if self.address.startswith('s3://') else 'hub'}]"
                raise HubError(f"{self.address}: cannot be opened ({error}); pip install '{needed}'") from error
            _opened[:] = [ref for ref in _opened if ref() is not None]
            _opened.append(weakref.ref(self._files))
            self._lock = threading.Lock()
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="temimagenet")
            self._process = os.getpid()
        return self._files, self._path, self._pool

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes of a file, tried again when the connection fails.

        Args:
            name: the file's path in the library.
            start: first byte.
            end: byte after the last; all that follows where None.

        Raises:
            HubError: there is no such file, or it could not be had in several attempts.
        """
        files, path, _ = self._connect()
        where = f"{path}/{name}"
        for attempt in range(ATTEMPTS):
            try:
                content = _range(files, where, start, end)
                if end is not None and len(content) != end - start:
                    if len(content) > end - start:
                        raise HubError(
                            f"{self.address}/{name}: the server does not answer byte ranges, which are needed"
                        )
                    raise OSError(f"{len(content)} of {end - start} bytes came")
                return content
            except FileNotFoundError as error:
                raise HubError(f"{self.address}/{name}: no such file") from error
            except PermissionError as error:
                raise HubError(f"{self.address}/{name}: not permitted ({error}); are there credentials?") from error
            except HubError:
                raise
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    raise HubError(
                        f"{self.address}/{name}: cannot be read after {ATTEMPTS} attempts ({error!r}); what "
                        "came before is kept, run again to go on"
                    ) from error
                time.sleep(FIRST_PAUSE_S * 2.0**attempt)
        raise AssertionError

    def manifest(self) -> dict[str, Any]:
        """The library's manifest.

        Raises:
            ShardError: it is damaged, names files outside the library, or is of a newer schema.
        """
        if self._manifest is None:
            self._manifest = check_manifest(self.read(MANIFEST), f"{self.address}/{MANIFEST}")
        return self._manifest

    def whole(self, name: str) -> bytes:
        """A whole file, compared with the manifest.

        Raises:
            ShardError: the manifest has no such file, or its SHA-256 differs each time.
        """
        facts = self.manifest()["files"].get(name)
        if facts is None:
            raise ShardError(f"{self.address}: no {name} in the manifest")
        for _ in range(2):
            content = self.read(name)
            found = hashlib.sha256(content).hexdigest()
            if found == facts["sha256"]:
                return content
        raise ShardError(f"{self.address}/{name}: SHA-256 is {found}, the manifest says {facts['sha256']}")

    def catalogue(self) -> pd.DataFrame:
        """The library's catalogue.

        Raises:
            ShardError: it is damaged.
        """
        return check_catalogue(self.whole(CATALOGUE), self.manifest()["files"], f"{self.address}/{CATALOGUE}")

    def layout(self, shard: str) -> ShardParts:
        """The parts of a shard.

        Raises:
            ShardError: its sidecar is damaged, or the manifest tells another shard.
        """
        layout = self._layouts.get(shard)
        if layout is None:
            layout = ShardParts.read(f"{self.address}/{shard}", self.whole(_sidecar(shard)))
            if layout.sha256 != self.manifest()["files"].get(shard, {}).get("sha256"):
                raise ShardError(f"{self.address}/{shard}: sidecar and manifest tell different SHA-256")
            self._layouts[shard] = layout
            if len(self._layouts) > _HELD_SHARDS:
                self._layouts.popitem(last=False)
        return layout

    def open(self, shard: str) -> Shard:
        """A shard whose parts are fetched when they are read.

        Raises:
            HubError, ShardError: it cannot be had, or is damaged.
        """
        layout = self.layout(shard)
        _, _, pool = self._connect()
        groups = merge(layout.rest, gap=GAP_BYTES, most=RANGE_BYTES)
        for attempt in (0, 1):
            waiting = [pool.submit(_checked, self, shard, layout, group) for group in groups]
            rest = [content for future in waiting for _, content in future.result()]
            try:
                parts = PartFile(layout, rest, lambda part: self._part(shard, layout, part))
                break
            except ShardError:
                # Its pieces have one digest together.
                if attempt:
                    raise
        return Shard(PurePosixPath(f"{self.address}/{shard}"), source=parts)

    def prefetch(self, wanted: Mapping[str, Iterable[int]], labels: Sequence[str]) -> None:
        """Fetch at once what samples are read from: rows of each shard.

        Raises:
            HubError, ShardError: a part cannot be had, or is damaged.
        """
        files, path, pool = self._connect()
        groups: list[tuple[str, list[Part]]] = []
        for shard, rows in wanted.items():
            layout = self.layout(shard)
            parts = (*layout.needed(rows, labels), *layout.small(_SMALL_BYTES))
            missing = sorted({part for part in parts if (shard, part.offset) not in self._held}, key=place)
            groups += [(shard, group) for group in merge(missing, gap=GAP_BYTES, most=RANGE_BYTES)]
        told = _ranges(files, [(f"{path}/{shard}", group[0].offset, group[-1].end) for shard, group in groups])
        waiting = []
        for (shard, group), content in zip(groups, told, strict=True):
            layout = self.layout(shard)
            try:
                found = layout.pieces(group, content)
            except ShardError:
                # Asked again, and as often as a lost connection deserves.
                waiting.append((shard, pool.submit(_checked, self, shard, layout, group)))
                continue
            for part, piece in found:
                self._hold(shard, part, piece)
        for shard, future in waiting:
            for part, piece in future.result():
                self._hold(shard, part, piece)

    def _part(self, shard: str, layout: ShardParts, part: Part) -> Content:
        """A part that is held, or fetched now."""
        with self._lock:
            if (shard, part.offset) in self._held:
                self._held.move_to_end((shard, part.offset))
                return self._held[shard, part.offset]
        content = _checked(self, shard, layout, [part])[0][1]
        self._hold(shard, part, content)
        return content

    def _hold(self, shard: str, part: Part, content: Content) -> None:
        """Keep a part; the ones not used for longest make room."""
        with self._lock:
            if (shard, part.offset) not in self._held:
                self._held[shard, part.offset] = content
                self._held_bytes += part.size
            while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
                self._held_bytes -= len(self._held.popitem(last=False)[1])


def _checked(
    library: RemoteLibrary, shard: str, layout: ShardParts, group: Sequence[Part]
) -> list[tuple[Part, Content]]:
    """A range's parts, each compared with its digest; asked for a second time where one differs."""
    for attempt in (0, 1):
        try:
            return layout.pieces(group, library.read(shard, group[0].offset, group[-1].end))
        except ShardError:
            if attempt:
                raise
    raise AssertionError


def _ranges(files: Any, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Bytes of several ranges at once, where the file system can; nothing in place of what did not come."""
    if not wanted or not getattr(files, "async_impl", False):
        return [b""] * len(wanted)
    came = files.cat_ranges(*map(list, zip(*wanted, strict=True)), batch_size=THREADS, on_error="return")
    return [content if isinstance(content, bytes) else b"" for content in came]


def _range(files: Any, where: str, start: int, end: int | None) -> bytes:
    """Bytes of a file of an fsspec file system, without reading ahead."""
    if getattr(files, "async_impl", False):
        # By name: other file systems have other arguments in between (s3fs a version).
        whole = start == 0 and end is None
        content: bytes = files.cat_file(where) if whole else files.cat_file(where, start=start, end=end)
        return content
    options = {} if end is None else {"cache_type": "none"}
    with files.open(where, "rb", **options) as file:
        file.seek(start)
        part: bytes = file.read() if end is None else file.read(end - start)
        return part


def _resolve(address: str, revision: str | None) -> str:
    """The address of a commit on the Hub."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(f"{address}: pip install 'temimagenet[hub]' to read from the Hub") from error
    name, _, told = address.removeprefix("hf://").removeprefix("datasets/").partition("@")
    if told and revision is not None:
        raise HubError(f"{address}: names revision {told!r}, and {revision!r} is asked for; give one")
    wanted = revision or told or "main"
    try:
        commit = hub.HfApi().repo_info(name, repo_type="dataset", revision=wanted, timeout=TIMEOUT_S).sha
    except Exception as error:
        raise HubError(f"{address}: no revision {wanted!r} can be had ({error})") from error
    return f"hf://datasets/{name}@{commit}"


def _sidecar(shard: str) -> str:
    """Name of a shard's sidecar."""
    return PurePosixPath(shard).with_suffix(".json").as_posix()


class _Partial:
    """A shard on disk of which some parts are there: `NAME.h5.part`, and `NAME.h5.have`, which lists them.

    A part is on disk before it is listed, so that an interruption loses at most what was just being written.
    """

    def __init__(self, root: Path, name: str, layout: ShardParts) -> None:
        path = root / name
        self.path, self.name, self.layout = path, name, layout
        self.content = path.with_name(path.name + ".part")
        self.list = path.with_name(path.name + ".have")
        self._lock = threading.Lock()
        lines = self.list.read_text(encoding="ascii", errors="replace").split("\n") if self.list.is_file() else []
        if lines and lines[0] == layout.sha256 and self.content.is_file():
            # The last line is whole only if a line end follows it.
            self.have = {int(line) for line in lines[1:-1] if line.isdigit()}
        else:
            self.have = set()

    def begin(self) -> None:
        """Make both files, or drop from the list what an interruption left of a line: the next would continue it.

        Raises:
            ShardError: the disk is full or cannot be written.
        """
        with replacing(self.list) as target:
            lines = [self.layout.sha256, *map(str, sorted(self.have))]
            target.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        if not self.have:
            with replacing(self.content) as target, target.open("wb") as file:
                file.truncate(self.layout.size)

    def write(self, found: Sequence[tuple[Part, Content]]) -> None:
        """Keep parts.

        Raises:
            ShardError: the disk is full or cannot be written.
        """
        try:
            with self._lock, self.content.open("rb+") as file:
                for part, content in found:
                    file.seek(part.offset)
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
                with self.list.open("a", encoding="ascii") as listing:
                    listing.writelines(f"{part.offset}\n" for part, _ in found)
                self.have.update(part.offset for part, _ in found)
        except OSError as error:
            raise ShardError(f"cannot write {self.content}: {error}; free space and run again to go on") from error

    def recheck(self) -> None:
        """Compare what is there with its digests; parts that differ count as missing."""
        if not self.have:
            return
        with self.content.open("rb") as file:
            for part in self.layout.chunks:
                if part.offset in self.have:
                    file.seek(part.offset)
                    try:
                        self.layout.check(part, file.read(part.size))
                    except ShardError:
                        self.have.discard(part.offset)

    def forget_wrong_rest(self) -> bool:
        """Compare the pieces that are not in chunks with their digest; where it differs they count as missing."""
        try:
            self.layout.check_rest(self._rest())
        except ShardError:
            self.have -= {gap.offset for gap in self.layout.rest}
            return True
        return False

    def _rest(self) -> list[bytes]:
        """The pieces that are not in chunks."""
        with self.content.open("rb") as file:
            return [os.pread(file.fileno(), gap.size, gap.offset) for gap in self.layout.rest]

    def finish(self) -> None:
        """Check what cannot be checked part by part; a shard that is all there takes its own name.

        Raises:
            ShardError: a checksum differs; nothing of the shard is kept.
        """
        try:
            if all(part.offset in self.have for part in self.layout.parts):
                found = sha256_of(self.content)
                if found != self.layout.sha256:
                    raise ShardError(f"{self.content}: SHA-256 is {found}, its sidecar says {self.layout.sha256}")
                self.content.replace(self.path)
                self.list.unlink()
                return
            self.layout.check_rest(self._rest(), asked=True)
        except ShardError:
            self.list.unlink(missing_ok=True)
            self.content.unlink(missing_ok=True)
            raise


def open_part(root: Path, shard: str, files: Mapping[str, Mapping[str, Any]]) -> Shard:
    """A shard of a library of which only parts were downloaded.

    Args:
        root: the library's folder.
        shard: path of the shard inside it.
        files: `files` of the library's manifest.

    Raises:
        ShardError: the shard is not there or damaged; reading what was not downloaded is such an error, too.
    """
    layout = read_sidecar(root / shard, sidecar_sha256(root / MANIFEST, shard, files))
    assert layout is not None
    partial = _Partial(root, shard, layout)
    return Shard(root / shard, source=LocalParts(partial.content, layout, frozenset(partial.have)))


def download_library(
    library: RemoteLibrary,
    root: Path,
    choose: Callable[[pd.DataFrame], pd.DataFrame],
    labels: Sequence[str],
    *,
    recheck: bool = False,
) -> None:
    """Fetch what samples are read from into a folder; what is there already stays, and a rerun goes on.

    Args:
        library: where from.
        root: the folder.
        choose: the rows of the catalogue that are wanted.
        labels: which labels.
        recheck: also compare what is there already with its checksums.

    Raises:
        HubError: something cannot be had; what came before stays.
        ShardError: the folder holds another library, a checksum differs, or the disk is full.
    """
    manifest = library.manifest()
    known = _trusted(root, manifest, recheck)
    for name in (CATALOGUE, RECIPE):
        _fetch_whole(library, root, name, known)
    wanted = choose(library.catalogue())
    waiting: list[tuple[_Partial, list[Part]]] = []
    partials: list[_Partial] = []
    _, _, pool = library._connect()
    shards = [(str(name), group["row"].tolist()) for name, group in wanted.groupby("shard", sort=False)]
    shards = [(name, rows) for name, rows in shards if name not in known]
    list(pool.map(lambda shard: _fetch_whole(library, root, _sidecar(shard[0]), known), shards))
    for name, rows in shards:
        layout = library.layout(name)
        partial = _Partial(root, name, layout)
        if recheck:
            partial.recheck()
        parts = [*layout.rest, *layout.needed(rows, labels)]
        if sum(part.size for part in parts) > WHOLE_SHARE * layout.size:
            parts = layout.parts
        missing = [part for part in parts if part.offset not in partial.have]
        if missing:
            partial.begin()
        # What an interruption left is finished, too.
        partials.append(partial)
        waiting += [(partial, group) for group in merge(missing, gap=GAP_BYTES, most=RANGE_BYTES)]
    text = json.dumps(manifest, indent=1).encode()
    # What is complete may lie where nothing can be written.
    if not (root / MANIFEST).is_file() or (root / MANIFEST).read_bytes() != text:
        with replacing(root / MANIFEST) as target:
            target.write_bytes(text)
    _fetch_all(library, pool, waiting)
    again = [partial for partial in partials if partial.forget_wrong_rest()]
    for partial in again:
        partial.begin()
    rests = [(partial, merge(partial.layout.rest, gap=GAP_BYTES, most=RANGE_BYTES)) for partial in again]
    _fetch_all(library, pool, [(partial, group) for partial, groups in rests for group in groups])
    for partial in partials:
        partial.finish()


def _fetch_all(library: RemoteLibrary, pool: ThreadPoolExecutor, waiting: list[tuple[_Partial, list[Part]]]) -> None:
    """Fetch ranges in parallel, with a progress bar."""
    from temimagenet.bar import progress_bar

    if not waiting:
        return

    def fetch(partial: _Partial, group: list[Part]) -> int:
        partial.write(_checked(library, partial.name, partial.layout, group))
        return sum(part.size for part in group)

    with progress_bar(of_bytes=True) as progress:
        total = sum(part.size for _, group in waiting for part in group)
        bar = progress.add_task(f"downloading {library.manifest()['name']}", total=total)
        futures: list[Future[int]] = [pool.submit(fetch, partial, group) for partial, group in waiting]
        try:
            for future in as_completed(futures):
                progress.advance(bar, future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception()
            raise


def _trusted(root: Path, manifest: dict[str, Any], recheck: bool) -> set[str]:
    """Files that are there, whole and of this manifest; other versions of them are removed.

    Raises:
        ShardError: the folder holds a library of another name, which a download would damage.
    """
    check_place(root, manifest["name"])
    old = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        old = json.loads((root / MANIFEST).read_text(encoding="utf-8"))["files"]
    known = set()
    for file, facts in manifest["files"].items():
        path = root / file
        if not path.is_file():
            continue
        same = not recheck and old.get(file) == facts and path.stat().st_size == facts["bytes"]
        if same or sha256_of(path) == facts["sha256"]:
            known.add(file)
        else:
            path.unlink()
    return known


def _fetch_whole(library: RemoteLibrary, root: Path, name: str, known: set[str]) -> None:
    """Fetch a small file, unless it is there."""
    if name not in known:
        content = library.whole(name)
        with replacing(root / name) as target:
            target.write_bytes(content)
