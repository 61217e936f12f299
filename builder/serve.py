"""A static web server with byte ranges, for looking at the portal on this machine."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

__all__ = ["Handler", "make_server", "serve", "served"]

_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".parquet": "application/vnd.apache.parquet",
    ".h5": "application/x-hdf5",
    ".bin": "application/octet-stream",
}


class _Server(http.server.ThreadingHTTPServer):
    """A thread a connection."""

    request_queue_size = 128
    """Connections that wait to be taken: of more, clients ask again a second later, and workers open eight each."""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves one folder; a `Range: bytes=a-b` request gets 206 and just those bytes (RFC 9110, section 14)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    allow_origin: str | None = None
    """Origin of the pages of another server that may read the files, or *."""
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | _TYPES
    _left: int | None = None

    def send_head(self) -> Any:
        """Headers of a reply; the body for GET is returned."""
        self._left = None
        path = Path(self.translate_path(self.path))
        # No file's name has a zero byte; the system's own calls raise at it.
        if "\0" in str(path) or not _leads_inside(path, Path(self.directory)):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        wanted = self.headers.get("Range")
        # Threads wait for each other at every call of the system: few of them make the server fast.
        size = None if wanted is None else _size_of(path)
        if wanted is None or size is None:
            return super().send_head()
        span = _span(wanted, size)
        if span is None:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        first, last = span
        file = path.open("rb")
        file.seek(first)
        self._left = last - first + 1
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(self._left))
        self.end_headers()
        return file

    def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:  # type: ignore[override]
        """Send the file, or the part that was asked for; the system copies it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.sendfile(source, source.tell(), self._left)

    def end_headers(self) -> None:
        """Every reply says that ranges are understood, that pages may change, and who else may read it."""
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        if self.allow_origin is not None:
            self.send_header("Access-Control-Allow-Origin", self.allow_origin)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the console keeps the address in sight."""


def _size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none, as of names that are too long for the system."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _leads_inside(path: Path, folder: Path) -> bool:
    """Whether a path below a folder stays there, whatever links there are on the way."""
    below = len(path.parts) - len(folder.parts)
    # Path.is_symlink raises at names that are too long.
    if any(os.path.islink(part) for part in (path, *path.parents)[:below]):  # noqa: PTH114
        return path.resolve().is_relative_to(folder)
    return True


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range, or None if it cannot be met."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not match or match.groups() == ("", ""):
        return None
    start, stop = match.groups()
    if not start:
        first, last = max(size - int(stop), 0), size - 1
    else:
        first, last = int(start), min(int(stop), size - 1) if stop else size - 1
    return (first, last) if first <= last < size else None


def make_server(
    folder: Path, host: str = "127.0.0.1", port: int = 8000, *, allow_origin: str | None = None
) -> http.server.ThreadingHTTPServer:
    """A server of a folder on the port, or on a free one if that is taken; pages of `allow_origin` may read it, too.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder to serve")

    origin = allow_origin

    class OfFolder(Handler):
        """What the server makes for each request."""

        allow_origin = origin

    def handler(*args: Any, **kwargs: Any) -> Handler:
        return OfFolder(*args, directory=os.fspath(folder.resolve()), **kwargs)

    for candidate in _ports(host, port):
        try:
            return _Server((host, candidate), handler)
        except OSError:
            continue
    raise OSError(f"no free port on {host}")


def _ports(host: str, port: int) -> Iterator[int]:
    """The wanted port, then one that the system finds free."""
    yield port
    with socket.socket() as probe:
        probe.bind((host, 0))
        free = int(probe.getsockname()[1])
    yield free


@contextlib.contextmanager
def served(folder: Path, *, allow_origin: str | None = None) -> Iterator[str]:
    """The address of a folder that is served on a free port of this machine, by a thread."""
    server = make_server(folder, port=0, allow_origin=allow_origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8000, *, allow_origin: str | None = None) -> None:
    """Serve a folder until interrupted; prints the address."""
    with make_server(folder, host, port, allow_origin=allow_origin) as server:
        actual = server.server_address[1]
        if actual != port:
            print(f"port {port} is taken")
        print(f"serving {folder} at http://{host}:{actual}/  (Ctrl-C stops)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
