"""Coverage-guided fuzzing of the readers, by atheris: `pip install atheris`, then

    python tests/faults/fuzz.py recipe -max_total_time=3600

Targets: recipe, specification, manifest, sidecar, shard, catalogue, micrograph. What follows goes to libFuzzer. An
error of ours is what should come; anything else ends the run and leaves the input that did it in a file `crash-...`.
`shard` reads one without its sidecar: sooner or later HDF5 itself hangs on it, which ends the run (`timeout-...`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "micrographs")]

with atheris.instrument_imports(include=["temimagenet", "rsciio", "tomllib", "tifffile"], enable_loader_override=False):
    import rsciio.digitalmicrograph
    import rsciio.mrc
    import rsciio.tia  # noqa: F401
    import tifffile  # noqa: F401

    from temimagenet.errors import MicrographError, RecipeError, ShardError
    from temimagenet.micrographs import read_micrograph
    from temimagenet.recipe import load_recipe, sample_spec, spec_from_json
    from temimagenet.storage import Shard, read_catalogue
    from temimagenet.storage.library import read_manifest

from campaign import small_library  # noqa: E402

WORK = Path(tempfile.mkdtemp())
# Micrographs in HDF5 are read in another process, of which the fuzzer learns nothing: `campaign.py` damages them.
SUFFIXES = (".dm3", ".dm4", ".ser", ".mrc", ".tif", ".png", ".npy", ".blo")


def recipe(data: bytes) -> None:
    """Text of a recipe."""
    path = WORK / "fuzzed.toml"
    path.write_bytes(data)
    try:
        sample_spec(load_recipe(path), 0)
    except RecipeError:
        return


def specification(data: bytes) -> None:
    """A sample's specification."""
    try:
        assert spec_from_json(data.decode("utf-8", "replace")).pixel_size_A > 0.0
    except RecipeError:
        return


def manifest(data: bytes) -> None:
    """A library's manifest."""
    (LIBRARY / "manifest.json").write_bytes(data)
    try:
        read_manifest(LIBRARY)
    except ShardError:
        return


def catalogue(data: bytes) -> None:
    """A catalogue whose digest the manifest has."""
    (LIBRARY / "catalogue.parquet").write_bytes(data)
    told = json.loads(MANIFEST)
    told["files"]["catalogue.parquet"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (LIBRARY / "manifest.json").write_text(json.dumps(told))
    try:
        read_catalogue(LIBRARY)
    except ShardError:
        return


def sidecar(data: bytes) -> None:
    """What lies beside a shard."""
    SHARD.with_suffix(".json").write_bytes(data)
    _read_shard()


def shard(data: bytes) -> None:
    """A shard alone, so that HDF5 and the samples' digests are all there is."""
    SHARD.with_suffix(".json").unlink(missing_ok=True)
    SHARD.write_bytes(data)
    _read_shard()


def _read_shard() -> None:
    try:
        with Shard(SHARD) as opened:
            for row in range(min(len(opened), 4)):
                opened.sample(row, ("noNoise", "gaussianMask"))
                opened.series(row)
    except ShardError:
        return


def micrograph(data: bytes) -> None:
    """The first byte chooses the kind of file."""
    if not data:
        return
    path = WORK / f"fuzzed{SUFFIXES[data[0] % len(SUFFIXES)]}"
    path.write_bytes(data[1:])
    try:
        read_micrograph(path)
    except MicrographError:
        return


TARGETS = {f.__name__: f for f in (recipe, specification, manifest, catalogue, sidecar, shard, micrograph)}

LIBRARY = small_library(WORK)
MANIFEST = (LIBRARY / "manifest.json").read_text()
SHARD = LIBRARY / "shards" / "linear-00000.h5"


def _micrographs() -> list[Path]:
    """A file of each kind that this machine can write, as the tests of their readers do."""
    from test_read import IMAGE, KINDS, write_file

    folder = WORK / "micrographs"
    folder.mkdir()
    paths = []
    for kind in KINDS:
        if f".{kind.split('-')[-1]}" in SUFFIXES:
            (folder / kind).mkdir()
            paths.append(write_file(folder / kind, kind))
    np.save(folder / "image.npy", IMAGE)
    Image.fromarray(IMAGE.astype(np.uint8)).save(folder / "image.png")
    return [*paths, folder / "image.npy", folder / "image.png"]


def _seeds(name: str) -> Path:
    """A folder of inputs to begin with: whole files of the kind."""
    folder = WORK / f"seeds-{name}"
    folder.mkdir()
    own = {
        "recipe": [(WORK / "faults.toml").read_bytes()],
        "manifest": [MANIFEST.encode()], "catalogue": [(LIBRARY / "catalogue.parquet").read_bytes()],
        "sidecar": [SHARD.with_suffix(".json").read_bytes()], "shard": [SHARD.read_bytes()],
    }  # fmt: skip
    with Shard(SHARD) as opened:
        own["specification"] = [text.encode() for text in opened.text("spec")]
    if name == "micrograph":
        own[name] = [bytes([SUFFIXES.index(path.suffix)]) + path.read_bytes() for path in _micrographs()]
    for number, content in enumerate(own.get(name, [])):
        (folder / str(number)).write_bytes(content)
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(__doc__)
    chosen = sys.argv.pop(1)
    options = [f"-max_len={2**18}", "-timeout=60", "-rss_limit_mb=6000", str(_seeds(chosen))]
    atheris.Setup([*sys.argv, *options], TARGETS[chosen])
    try:
        atheris.Fuzz()
    finally:
        os.chdir("/")
