"""Draws the website of a library: static pages, packed thumbnails, a copy of the data, and the documentation."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import markdown
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from builder.browse_index import INDEX, write_index
from builder.leaderboard import leaderboard_facts
from builder.notebooks import stage_docs
from builder.samples import FOLDER as SAMPLES
from builder.samples import write_samples
from builder.statistics import SPLITS, library_plots
from builder.try_it import write_model
from builder.validation.page import validation_facts
from temimagenet.errors import PrecisionError, ShardError
from temimagenet.storage import Shard, read_catalogue
from temimagenet.storage.library import CATALOGUE, MANIFEST, RECIPE, read_manifest
from temimagenet.storage.shard import CITATION

__all__ = ["PortalReport", "build_leaderboard", "build_portal", "thumbnail"]

CHECKOUT = Path(__file__).resolve().parent.parent
THUMBNAIL_PX = 96
_MOSAIC = 24


@dataclass(frozen=True)
class PortalReport:
    """What a build made.

    Attributes:
        samples: samples in the library.
        files: files of the site, the library's own left out.
        bytes: their size.
        seconds: time taken.
    """

    samples: int
    files: int
    bytes: int
    seconds: float


def build_portal(
    library: Path,
    out: Path,
    *,
    data_url: str | None = None,
    docs: bool = True,
    records: Path | None = None,
    on_left_out: Callable[[str], object] | None = None,
    validation: Path | None = None,
) -> PortalReport:
    """Build the site.

    Args:
        library: a finished library.
        out: folder of the site; pages there are replaced.
        data_url: address under which the library is served; without it the library is linked or copied into the site.
        docs: build the documentation with mkdocs into `docs/`.
        records: folder of the precision benchmark's records, for the leaderboard.
        on_left_out: called with each record that the leaderboard leaves out, and why.
        validation: folder of the networks' validation, for its page.

    Raises:
        ShardError: the library is not finished or damaged.
        PrecisionError: there is no such folder of a validation.
    """
    start = time.perf_counter()
    manifest = read_manifest(library)
    catalogue = read_catalogue(library)
    out.mkdir(parents=True, exist_ok=True)
    _assets(out)
    thumbnails = _thumbnails(library, catalogue, out / "thumbs")
    write_index(catalogue, thumbnails, manifest["name"], out / INDEX)
    write_model(library, catalogue, out / "model")
    write_samples(library, manifest, catalogue, out / SAMPLES)
    shutil.rmtree(out / "data", ignore_errors=True)
    if data_url is None:
        _link_library(library, out / "data", [*manifest["files"], MANIFEST])
    leaderboard = leaderboard_facts(records)
    served = "data/" if data_url is None else data_url.rstrip("/") + "/"
    _pages(out, manifest, catalogue, served, docs, leaderboard | _validation(validation, out))
    _tell(leaderboard["left_out"], on_left_out)
    if docs:
        _docs(out / "docs")
    own = [path for path in out.rglob("*") if path.is_file() and (out / "data") not in path.parents]
    size = sum(path.stat().st_size for path in own)
    return PortalReport(len(catalogue), len(own), size, time.perf_counter() - start)


def _tell(left_out: list[str], on_left_out: Callable[[str], object] | None) -> None:
    """Hand on what the leaderboard left out."""
    if on_left_out is not None:
        for text in left_out:
            on_left_out(text)


def build_leaderboard(
    records: Path | None, out: Path, *, check: bool = False, on_left_out: Callable[[str], object] | None = None
) -> Path:
    """Draw the leaderboard alone, into a site that stands already or into a new folder.

    Args:
        records: folder of records.
        out: folder of the site; other pages there are left as they are.
        check: leave out records whose scores do not follow from their positions.
        on_left_out: called with each record that is left out, and why.

    Returns:
        The page.

    Raises:
        PrecisionError: there is no such folder.
    """
    if records is not None and not records.is_dir():
        raise PrecisionError(f"no folder {records}: expected records written by the precision benchmark")
    out.mkdir(parents=True, exist_ok=True)
    _assets(out)
    facts = leaderboard_facts(records, check=check) | {
        "library": (out / "index.html").is_file(),
        "validated": (out / "validation.html").is_file(),
        "docs": (out / "docs" / "index.html").is_file(),
        "manifest": None,
        "data_url": "data/",
        "citation": CITATION,
    }
    page = out / "leaderboard.html"
    text = _environment().get_template("leaderboard.html.j2").render(page=page.name, **facts)
    page.write_text(text, encoding="utf-8")
    _tell(facts["left_out"], on_left_out)
    return page


def _validation(folder: Path | None, out: Path) -> dict[str, Any]:
    """Facts of the validation page."""
    return {"validation": validation_facts(folder, out), "validated": True}


def thumbnail(counts: NDArray[np.uint16], pixels: int = THUMBNAIL_PX) -> bytes:
    """A small grey WebP of an image, averaged down, its darkest and brightest 0.5 % clipped."""
    low, high = np.percentile(counts, (0.5, 99.5))
    grey = np.clip((counts.astype(np.float32) - low) / max(high - low, 1.0), 0.0, 1.0)
    small = Image.fromarray((255.0 * grey).astype(np.uint8)).resize((pixels, pixels), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70, method=2)
    return buffer.getvalue()


def _thumbnails(library: Path, catalogue: pd.DataFrame, out: Path) -> dict[str, Any]:
    """One pack of thumbnails a shard, and an index of offsets, returned too; packs of unchanged shards are kept."""
    out.mkdir(exist_ok=True)
    index_path = out / "index.json"
    old: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        old = json.loads(index_path.read_text(encoding="utf-8"))
    files = read_manifest(library)["files"]
    index: dict[str, Any] = {}
    for name in track(sorted(catalogue["shard"].unique()), description="thumbnails"):
        digest = files[name]["sha256"]
        pack = f"{Path(name).stem}-{digest[:12]}.bin"
        if name in old and old[name]["pack"] == pack and (out / pack).is_file():
            index[name] = old[name]
            continue
        with Shard(library / name) as shard:
            images = [thumbnail(shard.image(row)) for row in range(len(shard))]
        (out / pack).write_bytes(b"".join(images))
        index[name] = {"pack": pack, "offsets": [0, *np.cumsum([len(image) for image in images]).tolist()]}
    for path in out.glob("*.bin"):
        if path.name not in {entry["pack"] for entry in index.values()}:
            path.unlink()
    index_path.write_text(json.dumps(index, separators=(",", ":")), encoding="utf-8")
    return index


def _link_library(library: Path, out: Path, names: list[str]) -> None:
    """The library's files inside the site, by hard link where the file system has them."""
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(library / name, target)
        except OSError:
            shutil.copy2(library / name, target)


def _assets(out: Path) -> None:
    """Style, scripts and vendored code."""
    for name in ("assets", "vendor"):
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(CHECKOUT / "site" / name, out / name)


def _environment() -> Environment:
    """The templates."""
    return Environment(
        loader=FileSystemLoader(CHECKOUT / "site" / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def _pages(
    out: Path, manifest: dict[str, Any], catalogue: pd.DataFrame, data_url: str, docs: bool, results: dict[str, Any]
) -> None:
    """Render every page from its template; `results` are the facts of leaderboard and validation."""
    environment = _environment()
    entries = [
        {
            "name": name,
            "morphology": group["morphology"].iloc[0],
            **{split: int((group["split"] == split).sum()) for split in SPLITS},
        }
        for name, group in catalogue.groupby("entry", sort=False)
    ]
    facts = results | {
        "library": True,
        "citation": manifest["citation"],
        "manifest": manifest,
        "entries": entries,
        "conditions": catalogue["condition"].nunique(),
        "library_bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "data_url": data_url,
        "docs": docs,
        "mosaic": _mosaic(out, catalogue),
        "json_ld": _json_ld(manifest, data_url),
        "sections": library_plots(catalogue),
        "splits": SPLITS,
        "changelog": _changelog(),
    }
    sums = "".join(f"{file['sha256']}  {name}\n" for name, file in manifest["files"].items())
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    for template in sorted((CHECKOUT / "site" / "templates").glob("*.html.j2")):
        page = template.name.removesuffix(".j2")
        if page != "base.html":
            (out / page).write_text(
                environment.get_template(template.name).render(page=page, **facts), encoding="utf-8"
            )


def _mosaic(out: Path, catalogue: pd.DataFrame) -> list[dict[str, str]]:
    """Thumbnails for the home page, one of each entry in turn, as files of their own."""
    index = json.loads((out / "thumbs" / "index.json").read_text(encoding="utf-8"))
    folder = out / "mosaic"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    good = catalogue[
        (catalogue["field_of_view_A"] >= catalogue["field_of_view_A"].median()) & (catalogue["psnr_dB"] > 14)
    ]
    turn = (good if len(good) else catalogue).copy()
    turn["turn"] = turn.groupby("entry").cumcount()
    chosen = turn.sort_values(["turn", "index"]).head(_MOSAIC)
    tiles = []
    for _, row in chosen.iterrows():
        entry = index[row["shard"]]
        start, stop = entry["offsets"][row["row"]], entry["offsets"][row["row"] + 1]
        with (out / "thumbs" / entry["pack"]).open("rb") as file:
            file.seek(start)
            (folder / f"{row['id']}-{row['engine']}.webp").write_bytes(file.read(stop - start))
        alt = f"{row['entry']}, {row['field_of_view_A']:g} Å"
        name = f"mosaic/{row['id']}-{row['engine']}.webp"
        tiles.append({"id": row["id"], "engine": row["engine"], "src": name, "alt": alt})
    return tiles


def _changelog() -> str:
    """The list of versions as HTML, one level of headings down and without its title."""
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    lower = "\n".join(f"#{line}" if line.startswith("#") else line for line in text.splitlines()[1:])
    return str(markdown.markdown(lower))


def _json_ld(manifest: dict[str, Any], data_url: str) -> str:
    """schema.org description of the data set, safe inside a script element."""
    data = {
        "@context": "https://schema.org",
        "@type": "Dataset",
        "name": f"TEMImageNet library {manifest['name']}",
        "description": "Simulated atomic-resolution ADF-STEM images with ten ground-truth labels each.",
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "citation": manifest["citation"],
        "version": manifest["version"],
        "isAccessibleForFree": True,
        "distribution": [
            {"@type": "DataDownload", "contentUrl": data_url + name, "encodingFormat": kind}
            for name, kind in ((CATALOGUE, "application/vnd.apache.parquet"), (RECIPE, "application/json"))
        ],
    }
    return json.dumps(data, indent=1).replace("</", "<\\/")


def _docs(out: Path) -> None:
    """The documentation, by mkdocs.

    Raises:
        ShardError: mkdocs failed; the message ends with its output.
    """
    with TemporaryDirectory() as name:
        # Notebooks become pages in a copy: a build writes nothing among the sources.
        staged = stage_docs(CHECKOUT / "site" / "docs", Path(name) / "docs")
        config = Path(name) / "mkdocs.yml"
        config.write_text(f"INHERIT: {CHECKOUT / 'mkdocs.yml'}\ndocs_dir: {staged}\n", encoding="utf-8")
        _mkdocs(config, out)


def _mkdocs(config: Path, out: Path) -> None:
    """Run mkdocs with a configuration."""
    command = [
        sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir",
        str(out.resolve()),
    ]  # fmt: skip
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ShardError(f"the documentation does not build:\n{done.stdout}{done.stderr}")
