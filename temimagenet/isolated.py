"""`read_apart`: files that could end or hang whoever reads them are read in a process of its own, within limits.

Libraries of C, HDF5 first of all, crash or run in circles on some damaged files, and no `except` helps. So a second
interpreter calls the reader and hands back JSON and arrays, nothing that would be executed. It loads no more than the
reader's module does: what is read like this should not import PyTorch.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from temimagenet.progress import report

__all__ = ["Answer", "Reader", "read_apart", "serve"]

Answer = tuple[Any, list[NDArray[Any]]]
"""What JSON can say, and arrays of numbers."""

Reader = Callable[..., Answer]
"""A function of a module, called with the file and options that JSON can say."""

_LEAST_S = 60.0
"""Time for any file."""

_SLOWEST_BYTES_PER_S = 5e6
"""A slow network drive; larger files get more time."""

_MOST_MEMORY = 8 * 2**30
"""Bytes that a reader may use, half of the machine's memory where that is less."""

_LOOK_S = 0.2
"""How often the watcher of long work is asked whether to go on."""

_START = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request['path']; "
    "from temimagenet.isolated import serve; serve(request)"
)


def read_apart(reader: Reader, file: Path, error: type[Exception], **options: Any) -> Answer:
    """Call `reader(file, **options)` in a process of its own.

    A process that hangs is ended after 60 s, and one second more for each 5 MB of the file. On Linux it may use 8 GiB
    of memory, or half of the machine's. Programs that bring their own interpreter along (PyInstaller) cannot start a
    second one: they read in their own process.

    Args:
        reader: found again by its name, so a function of a module, not of a script.
        file: what to read.
        error: what to raise whatever goes wrong.
        options: passed as JSON; what that cannot say, as text.

    Returns:
        What the reader returned; tuples have become lists.

    Raises:
        error: the reader's own message, or that it crashed, hung or used too much memory, with the file's name.
        OSError: the file is not there, or no process can be started.
    """
    limit_s = _LEAST_S + file.stat().st_size / _SLOWEST_BYTES_PER_S
    if getattr(sys, "frozen", False) or not sys.executable:
        try:
            return reader(file, **options)
        except Exception as problem:
            raise error(_told(problem)) from problem
    request = {
        "path": [place for place in sys.path if isinstance(place, str)], "file": str(file), "options": options,
        "module": reader.__module__, "name": reader.__qualname__, "limit_s": limit_s,
    }  # fmt: skip
    # The file of the answer has no name: nothing is left over, however this ends.
    with tempfile.TemporaryFile() as answer:
        status = _run([sys.executable, "-P", "-c", _START, json.dumps(request, default=str)], answer, file, limit_s)
        if status is None:
            raise error(f"reading {file.name} did not end within {limit_s:.0f} s: the file is damaged, or too large")
        if status in (1, 2):
            # Python's own: no crash ends so.
            raise error(f"the process that should read {file.name} failed before it began (status {status})")
        if status != 0:
            raise error(f"reading {file.name} ended the process that did it ({_ending(status)}): the file is damaged")
        answer.seek(0)
        told = json.loads(answer.readline())
        if "error" in told:
            raise error(told["error"])
        return told["value"], [np.load(answer, allow_pickle=False) for _ in range(told["arrays"])]


def _run(command: list[str], answer: IO[bytes], file: Path, limit_s: float) -> int | None:
    """Exit status of a command; None where it had to be ended. Whoever watches may end it by an exception."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )  # fmt: skip
    end = time.monotonic() + limit_s
    try:
        while time.monotonic() < end:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(_LOOK_S, limit_s))
            report(f"reading {file.name}", 0, 1)
        return None
    finally:
        process.kill()
        process.wait()


def _ending(status: int) -> str:
    """How a process ended, in a word."""
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return f"status {status}"


def _told(problem: Exception) -> str:
    """What an exception says, on one line."""
    if isinstance(problem, MemoryError):
        return "not enough memory to read it"
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__


def serve(request: Mapping[str, Any]) -> None:
    """The other side of `read_apart`: call the reader, write the answer to standard output, end the process."""
    # Whatever libraries print goes elsewhere.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ends this process even where nobody waits for it any more, and HDF5 lets no other thread run.
    faulthandler.dump_traceback_later(request["limit_s"] + 5.0, exit=True)
    _limit()
    arrays: list[NDArray[Any]] = []
    try:
        reader: Reader = getattr(import_module(request["module"]), request["name"])
        value, arrays = reader(Path(request["file"]), **request["options"])
        head = {"value": value, "arrays": len(arrays)}
    except Exception as problem:
        head = {"error": _told(problem)}
    try:
        _hand_over(answer, head, arrays)
    except Exception as problem:
        answer.seek(0)
        answer.truncate()
        why = "no room for temporary files: " if isinstance(problem, OSError) else ""
        _hand_over(answer, {"error": why + _told(problem)}, [])
    # Without the libraries' own endings, which may fail on what they have open.
    os._exit(0)


def _hand_over(answer: IO[bytes], head: Mapping[str, Any], arrays: list[NDArray[Any]]) -> None:
    """Write a line of JSON, and arrays as `numpy.save` does."""
    answer.write(json.dumps(head, default=str).encode() + b"\n")
    for array in arrays:
        np.save(answer, array, allow_pickle=False)
    answer.flush()


def _limit() -> None:
    """Bound this process's memory, and let it leave no core file, where the system can."""
    try:
        import resource
    except ImportError:
        return
    with suppress(OSError, ValueError):
        most = min(_MOST_MEMORY, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
        for what, limit in ((resource.RLIMIT_DATA, most), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
