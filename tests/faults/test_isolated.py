"""A process of its own for files that could end or hang their reader: whatever becomes of it is one error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import bad_readers
import numpy as np
import pytest

from temimagenet import isolated
from temimagenet.errors import MicrographError
from temimagenet.isolated import read_apart
from temimagenet.micrographs import list_signals
from temimagenet.progress import watched


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.emd"
    path.write_bytes(b"some bytes")
    return path


def gone(file, within_s=5.0):
    """Whether the process that hung over a file ends."""
    number = int(Path(f"{file}.pid").read_text())
    for _ in range(int(20 * within_s)):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_what_a_reader_returns_comes_back_whole(file):
    told, arrays = read_apart(bad_readers.whole, file, MicrographError, frame=np.int64(3), signal=None, text="é\udc80")
    asked = {"frame": "3", "signal": None, "text": "é\udc80"}
    assert told == {"file": "some.emd", "options": asked, "size": float("inf"), "text": "\udc80 \0 \n"}
    for found, expected in zip(arrays, bad_readers.whole(file)[1], strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
        assert found.flags.writeable


def test_the_other_process_does_without_torch(file):
    assert read_apart(bad_readers.loaded, file, MicrographError)[0] == {"torch": False, "h5py": True}


def test_a_readers_error_is_told_on_one_line(file):
    with pytest.raises(MicrographError, match=r"^a heap is damaged$"):
        read_apart(bad_readers.refuses, file, MicrographError)
    with pytest.raises(ValueError, match=r"^a heap is damaged$"):
        read_apart(bad_readers.refuses, file, ValueError)


def test_a_crash_is_an_error_that_names_the_file(file):
    with pytest.raises(MicrographError, match=r"reading some.emd ended the process that did it .*damaged"):
        read_apart(bad_readers.crashes, file, MicrographError)


def test_a_process_that_does_not_begin_is_no_damage(file, monkeypatch):
    monkeypatch.setattr(isolated, "_START", "import temimagenet.nothing")
    with pytest.raises(MicrographError, match=r"should read some.emd failed before it began"):
        read_apart(bad_readers.whole, file, MicrographError)


def test_a_hang_is_ended_and_told(file, monkeypatch):
    monkeypatch.setattr(isolated, "_LEAST_S", 1.5)
    with pytest.raises(MicrographError, match=r"reading some.emd did not end within 2 s: the file is damaged"):
        read_apart(bad_readers.hangs, file, MicrographError)
    assert gone(file, 0.1)


def test_a_larger_file_has_more_time(file, monkeypatch):
    monkeypatch.setattr(isolated, "_LEAST_S", 0.0)
    monkeypatch.setattr(isolated, "_SLOWEST_BYTES_PER_S", 2e6)
    with file.open("r+b") as opened:
        opened.truncate(60_000_000)
    assert read_apart(bad_readers.whole, file, MicrographError)[0]["file"] == "some.emd"
    with file.open("r+b") as opened:
        opened.truncate(100)
    with pytest.raises(MicrographError, match="did not end"):
        read_apart(bad_readers.whole, file, MicrographError)


def test_who_watches_may_end_it(file):
    def watcher(what, done, total):
        assert what == "reading some.emd"
        if Path(f"{file}.pid").exists():
            raise KeyboardInterrupt

    with watched(watcher), pytest.raises(KeyboardInterrupt):
        read_apart(bad_readers.hangs, file, MicrographError)
    assert gone(file, 0.1)


def test_a_process_that_nobody_waits_for_ends_itself(file):
    """Its watchdog needs no other thread of Python's: limits are five seconds after those of who waits."""
    request = {
        "path": sys.path, "file": str(file), "options": {}, "module": "bad_readers", "name": "hangs", "limit_s": -3.0,
    }  # fmt: skip
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-c", isolated._START, json.dumps(request)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert time.monotonic() - begin > 2.0
    assert gone(file)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound a process's memory")
def test_memory_ends_with_an_error(file):
    with pytest.raises(MicrographError, match="not enough memory"):
        read_apart(bad_readers.fills, file, MicrographError)


def test_a_full_disk_is_no_damage(file):
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        with pytest.raises(MicrographError, match="no room for temporary files"):
            read_apart(bad_readers.large, file, MicrographError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert read_apart(bad_readers.large, file, MicrographError)[1][0].sum() == 2**17


def test_a_program_with_its_own_interpreter_reads_itself(file, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(isolated, "_run", None)
    assert read_apart(bad_readers.whole, file, MicrographError)[0]["file"] == "some.emd"
    with pytest.raises(MicrographError, match=r"^a heap is damaged$"):
        read_apart(bad_readers.refuses, file, MicrographError)


def test_scripts_and_commands_read_without_being_run_again(opened_files, tmp_path):
    """No guard of `__name__`, a module in the way of Python's own, another folder."""
    path = next(path for path in opened_files if path.name == "velox.emd")
    code = f"print('begun'); from temimagenet.micrographs import *; print(read_micrograph({str(path)!r}).image.shape)"
    (tmp_path / "script.py").write_text(code)
    (tmp_path / "rsciio.py").write_text("raise SystemExit('the wrong one')")
    checkout = str(Path(isolated.__file__).parents[1])
    for arguments in (["-P", "-c", code], ["-P", "script.py"]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": checkout}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.stdout.split("\n")[:2] == ["begun", "(24, 20)"], done.stderr


def test_values_of_a_listed_signal_are_read_when_asked_for(opened_files):
    for path in opened_files:
        if path.suffix == ".h5":
            continue
        (signal,) = list_signals(path)
        image = np.arange(480).reshape(24, 20)
        assert signal.data.shape == (24, 20)
        assert str(signal) == f"{signal.title} (24 x 20, uint16)"
        np.testing.assert_array_equal(np.asarray(signal.data), image)
        if path.suffix == ".hspy":
            np.testing.assert_array_equal(signal.data[3], image[3])


def test_a_file_that_goes_is_an_error(opened_files, tmp_path):
    path = tmp_path / "a.hspy"
    path.write_bytes(next(path for path in opened_files if path.suffix == ".hspy").read_bytes())
    (signal,) = list_signals(path)
    path.unlink()
    with pytest.raises(MicrographError, match="a process of its own"):
        np.asarray(signal.data)
