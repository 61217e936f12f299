"""What ten million samples would take: costs of one sample; a million rows as a catalogue, as ten, as browse index."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from builder.render import render_library
from temimagenet.recipe import load_recipe
from temimagenet.storage import finish_library, render_shard, verify_library
from temimagenet.storage.library import plan_library

ROWS = int(os.environ.get("TEMIMAGENET_BENCHMARK_ROWS", "1000000"))
CHECKOUT = Path(__file__).resolve().parents[1]


def test_a_sample(tmp_path: Path) -> None:
    """Seconds of a core and bytes of one sample of `v1`: rendered, written, hashed."""
    recipe = replace(load_recipe("v1"), samples=200, engines=("linear",))
    task = plan_library(recipe, samples_per_shard=200)[0]
    begin = time.process_time()
    path = render_shard(task, tmp_path / "one")
    seconds = (time.process_time() - begin) / 200
    size = (path.stat().st_size + path.with_suffix(".json").stat().st_size) / 200
    begin = time.process_time()
    finish_library(tmp_path / "one", recipe, [task])
    closed = (time.process_time() - begin) / 200
    begin = time.process_time()
    verify_library(tmp_path / "one")
    hashed = path.stat().st_size / 1e6 / (time.process_time() - begin)
    print(f"\none linear sample: {1e3 * seconds:.1f} ms of a core, {size / 1e3:.0f} kB with its sidecar; "
          f"{1e3 * closed:.2f} ms to close its library; SHA-256 of {hashed:.0f} MB/s")  # fmt: skip


def test_a_million_rows(tmp_path: Path) -> None:
    """Catalogue and browse index, each part in a process of its own so that memory is its own."""
    recipe = replace(load_recipe("v1"), samples=240, engines=("linear",))
    render_library(recipe, tmp_path / "few", workers=1, samples_per_shard=40)
    print(f"\n{ROWS:,} rows:")
    for part in ("write", "read", "read-ten", "index"):
        script = CHECKOUT / "benchmarks/scale_parts.py"
        command = [sys.executable, str(script), str(tmp_path / "few"), str(tmp_path), str(ROWS), part]
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip())
