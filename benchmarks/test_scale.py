"""What ten million samples would take: costs of one sample, and catalogue and browse index of a million rows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from builder.render import render_library
from temimagenet.recipe import load_recipe
from temimagenet.storage import render_shard, verify_library
from temimagenet.storage.library import plan_library

ROWS = int(os.environ.get("TEMIMAGENET_BENCHMARK_ROWS", "1000000"))
CHECKOUT = Path(__file__).resolve().parents[1]

_SCRIPT = """
import resource, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
from builder.browse_index import write_index
from builder.synthetic import many_samples
from temimagenet.storage import read_catalogue

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

library, out, rows, part = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
few = read_catalogue(library)
many = many_samples(few, rows)
path = out / "catalogue.parquet"
before, begin = peak(), time.perf_counter()
if part == "write":
    table = pa.Table.from_pandas(many, preserve_index=False)
    pq.write_table(table, path, compression="snappy", write_page_checksum=True)
    size = path.stat().st_size
elif part == "read":
    del many
    before, begin = peak(), time.perf_counter()
    frame = pq.read_table(path, page_checksum_verification=True).to_pandas()
    size = path.stat().st_size
else:
    packs = {name: {"pack": f"{number}.bin", "offsets": list(range(0, 200 * 2001, 2000))}
             for number, name in enumerate(sorted(many["shard"].unique()))}
    write_index(many, packs, "many", out / "browse.bin")
    size = (out / "browse.bin").stat().st_size
print(f"  {part}: {time.perf_counter() - begin:.1f} s, {size / 1e6:.1f} MB, peak memory {peak():.0f} MB "
      f"({before:.0f} MB before)")
"""


def test_a_sample(tmp_path: Path) -> None:
    """Seconds of a core and bytes of one sample of `v1`: rendered, written, hashed."""
    recipe = replace(load_recipe("v1"), samples=200, engines=("linear",))
    task = plan_library(recipe, samples_per_shard=200)[0]
    begin = time.process_time()
    path = render_shard(task, tmp_path / "one")
    seconds = (time.process_time() - begin) / 200
    size = (path.stat().st_size + path.with_suffix(".json").stat().st_size) / 200
    render_library(recipe, tmp_path / "one", workers=1, samples_per_shard=200)
    begin = time.process_time()
    verify_library(tmp_path / "one")
    hashed = path.stat().st_size / 1e6 / (time.process_time() - begin)
    print(f"\none linear sample: {1e3 * seconds:.1f} ms of a core, {size / 1e3:.0f} kB with its sidecar; SHA-256 of "
          f"{hashed:.0f} MB/s")  # fmt: skip


def test_a_million_rows(tmp_path: Path) -> None:
    """Catalogue and browse index, each part in a process of its own so that memory is its own."""
    recipe = replace(load_recipe("v1"), samples=240, engines=("linear",))
    render_library(recipe, tmp_path / "few", workers=1, samples_per_shard=40)
    print(f"\n{ROWS:,} rows:")
    for part in ("write", "read", "index"):
        command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "few"), str(tmp_path), str(ROWS), part]
        print(subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.rstrip())
