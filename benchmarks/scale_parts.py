"""One part of `test_scale.py`, in a process of its own so that its memory is its own.

    python benchmarks/scale_parts.py LIBRARY FOLDER ROWS write|read|read-ten|index

`write` makes a catalogue of so many rows after that of a small library, and the same rows as ten; `read` reads the one,
`read-ten` the ten one after another, with six columns and a query; `index` makes the portal's browse index.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builder.browse_index import index_bytes
from builder.synthetic import many_samples
from temimagenet.storage import read_catalogue

NEEDED = ["id", "split", "shard", "row", "psnr_dB", "material"]
QUERY = "split == 'train' and psnr_dB > 20"


def peak_MB() -> float:
    """Most memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(many: pd.DataFrame, out: Path) -> int:
    """One catalogue and ten of a tenth; bytes of the one."""
    table = pa.Table.from_pandas(many, preserve_index=False)
    tenth = -(-len(many) // 10)
    pieces = {f"tenth-{number}": table.slice(number * tenth, tenth) for number in range(10)}
    for name, rows in {"catalogue": table, **pieces}.items():
        pq.write_table(rows, out / f"{name}.parquet", compression="snappy", write_page_checksum=True)
    return (out / "catalogue.parquet").stat().st_size


def read(out: Path) -> int:
    """The one catalogue, whole; its bytes."""
    pq.read_table(out / "catalogue.parquet", page_checksum_verification=True).to_pandas()
    return (out / "catalogue.parquet").stat().st_size


def read_ten(out: Path) -> int:
    """What a query leaves of each of the ten; their bytes."""
    size = left = 0
    for path in sorted(out.glob("tenth-*.parquet")):
        frame = pq.read_table(path, columns=NEEDED, page_checksum_verification=True).to_pandas()
        left += len(frame.query(QUERY))
        size += path.stat().st_size
    print(f"  {left:,} rows are left by {QUERY}")
    return size


def index(many: pd.DataFrame) -> int:
    """The browse index; its bytes."""
    packs = {
        name: {"pack": f"{number}.bin", "offsets": list(range(0, 200 * 2001, 2000))}
        for number, name in enumerate(sorted(many["shard"].unique()))
    }
    return len(index_bytes(many, packs, "many"))


def main() -> None:
    """One part; prints what it took."""
    library, out, rows, part = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    many = many_samples(read_catalogue(library), rows) if part in ("write", "index") else pd.DataFrame()
    before, begin, busy = peak_MB(), time.perf_counter(), time.process_time()
    size = {
        "write": lambda: write(many, out), "read": lambda: read(out), "read-ten": lambda: read_ten(out),
        "index": lambda: index(many),
    }[part]()  # fmt: skip
    print(
        f"  {part}: {time.perf_counter() - begin:.1f} s, {time.process_time() - busy:.1f} s of cores, "
        f"{size / 1e6:.1f} MB, peak memory {peak_MB():.0f} MB ({before:.0f} MB before)"
    )


if __name__ == "__main__":
    main()
