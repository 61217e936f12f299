"""Small pictures of a library's samples: a pack a shard, addressed by range, and a few files for the home page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from builder.ledger import Ledger, digest_of_files
from temimagenet.storage import Shard

__all__ = ["thumbnail", "write_mosaic", "write_thumbnails"]

FOLDER = "thumbs"
THUMBNAIL_PX = 96
_MOSAIC = 24
_LEAST_MOSAIC_DB = 14.0


def thumbnail(counts: NDArray[np.uint16], pixels: int = THUMBNAIL_PX) -> bytes:
    """A small grey WebP of an image, averaged down, its darkest and brightest 0.5 % clipped."""
    low, high = np.percentile(counts, (0.5, 99.5))
    grey = np.clip((counts.astype(np.float32) - low) / max(high - low, 1.0), 0.0, 1.0)
    small = Image.fromarray((255.0 * grey).astype(np.uint8)).resize((pixels, pixels), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70, method=2)
    return buffer.getvalue()


def write_thumbnails(
    ledger: Ledger, library: Path, manifest: dict[str, Any], catalogue: pd.DataFrame, out: Path
) -> dict[str, Any]:
    """One pack of thumbnails a shard, and an index of offsets, returned too.

    Args:
        ledger: knows which packs are there already.
        library: the library's folder.
        manifest: its manifest.
        catalogue: a row a sample and engine.
        out: the site's folder.
    """
    folder, code = out / FOLDER, digest_of_files([Path(__file__)])
    index: dict[str, Any] = {}
    for name in track(sorted(catalogue["shard"].unique()), description="thumbnails"):
        digest = manifest["files"][name]["sha256"]

        def make(name: str = name, digest: str = digest) -> tuple[Sequence[Path], dict[str, Any]]:
            with Shard(library / name) as shard:
                images = [thumbnail(shard.image(row)) for row in range(len(shard))]
            pack = folder / f"{Path(name).stem}-{digest[:12]}.bin"
            folder.mkdir(parents=True, exist_ok=True)
            pack.write_bytes(b"".join(images))
            return [pack], {"pack": pack.name, "offsets": [0, *np.cumsum([len(image) for image in images]).tolist()]}

        index[name] = ledger.piece("thumbnails", name, [digest, code], make)
    ledger.write("thumbnails", f"{FOLDER}/index.json", json.dumps(index, separators=(",", ":")))
    return index


def write_mosaic(ledger: Ledger, catalogue: pd.DataFrame, index: dict[str, Any], out: Path) -> list[dict[str, str]]:
    """Thumbnails for the home page, one of each entry in turn, as files of their own: `src`, `alt` and sample."""
    good = catalogue[
        (catalogue["field_of_view_A"] >= catalogue["field_of_view_A"].median())
        & (catalogue["psnr_dB"] > _LEAST_MOSAIC_DB)
    ]
    turn = (good if len(good) else catalogue).copy()
    turn["turn"] = turn.groupby("entry").cumcount()
    chosen = turn.sort_values(["turn", "index"]).head(_MOSAIC)
    tiles = []
    for _, row in chosen.iterrows():
        entry = index[row["shard"]]
        start, stop = entry["offsets"][row["row"]], entry["offsets"][row["row"] + 1]
        with (out / FOLDER / entry["pack"]).open("rb") as file:
            file.seek(start)
            picture = file.read(stop - start)
        name = f"mosaic/{row['id']}-{row['engine']}.webp"
        ledger.write("mosaic", name, picture)
        alt = f"{row['entry']}, {row['field_of_view_A']:g} Å"
        tiles.append({"id": row["id"], "engine": row["engine"], "src": quote(name), "alt": alt})
    return tiles
