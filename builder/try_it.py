"""What the page that runs the network in the browser needs: the model in ONNX, its constants, an example image."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from builder.ledger import Ledger, digest_of_files
from temimagenet import models
from temimagenet.errors import PortalError
from temimagenet.models import TASKS, Model, agreement, columns, inputs, load_model, predict
from temimagenet.models.export import onnx_bytes
from temimagenet.models.unet import COLUMN_CHANNELS
from temimagenet.storage import Shard

__all__ = ["WEBGPU", "model_facts", "write_model"]

FOLDER = "model"
WEBGPU = "webgpu"

_WEBGPU_FILES = {
    "ort.webgpu.min.mjs": "e131e81c9324807e1e6f9103e8f8e936112827dcc9993cde9407a333b1f07ae0",
    "ort-wasm-simd-threaded.jsep.mjs": "1cbcba8f2c769c1eecbab66a1b1e55ef11704515bf4306373e3db3c37cf6dcd8",
    "ort-wasm-simd-threaded.jsep.wasm": "b45970d0632383a057c27ca5b660b216f8e00c17cf8db9f6207b5e4abc839368",
}
"""The runtime for graphics cards of onnxruntime-web, in the vendored version, with digests; first what is imported.

With 22 MB it is twice as large as all that is vendored, so it is not: builds take it from npm's package on request.
"""

_TILE_PX = 1024
_MOST_PIXELS = 4096**2
_EXAMPLE_DB = 14.0


def write_model(ledger: Ledger, library: Path, catalogue: pd.DataFrame, out: Path, webgpu: Path | None = None) -> None:
    """Write the shipped network, its constants and an example image of the library into `model/` of a site.

    Args:
        ledger: knows which are there already.
        library: the library's folder.
        catalogue: a row a sample and engine.
        out: the site's folder.
        webgpu: folder `dist` of npm's onnxruntime-web, whose runtime for graphics cards goes into `webgpu/`.

    Raises:
        PortalError: the runtime is missing there or of another version.
    """
    folder = out / FOLDER

    def network() -> tuple[Sequence[Path], str]:
        data = _shipped()
        path = folder / f"atomnet-{hashlib.sha256(data).hexdigest()[:12]}.onnx"
        folder.mkdir(exist_ok=True)
        path.write_bytes(data)
        return [path], path.name

    package = Path(models.__file__).parent
    made_of = [digest_of_files([Path(__file__), package, package.parent / "data" / "weights"]), version("onnx")]
    facts = model_facts() | {"file": ledger.piece("model", "network", made_of, network)}
    facts |= {"example": _example(ledger, library, catalogue)}
    if webgpu is not None:
        for name, digest in _WEBGPU_FILES.items():
            ledger.write(WEBGPU, f"{WEBGPU}/{name}", _runtime(webgpu / name, digest))
        facts |= {"webgpu": f"{WEBGPU}/{next(iter(_WEBGPU_FILES))}"}
    ledger.write("model", f"{FOLDER}/network.json", json.dumps(facts, indent=1))


def model_facts() -> dict[str, Any]:
    """The constants of prediction, as `site/assets/try-network.js` reads them."""
    return {
        "maps": list(TASKS.values()),
        "channels": COLUMN_CHANNELS,
        "multiple": load_model("all").network.multiple,
        "range_A": inputs.PIXEL_RANGE_A,
        "comfortable_A": inputs._COMFORTABLE_A,
        "above_zero": inputs.ABOVE_ZERO,
        "agreement": _agreement_facts(),
        "sharper": {inputs._SHARP: inputs._SHARPER},
        "tile_px": _TILE_PX,
        "overlap_px": predict._OVERLAP_PX,
        "most_pixels": _MOST_PIXELS,
        "cell_px": columns.CELL,
        "reach_cells": columns._REACH,
        "least_spread": columns._LEAST_SPREAD,
        "heard_chance": columns._HEARD_CHANCE,
        "apart_A": columns._APART_A,
    }


def _agreement_facts() -> dict[str, Any]:
    """The constants of `site/assets/agreement.js`."""
    names = (
        "pixels", "least_rows", "rounds", "last_rounds", "most_step_px", "at_rest_px", "most_wander_px",
        "gains", "slow_px",
    )  # fmt: skip
    return {"clean": agreement.CLEAN} | {name: getattr(agreement, f"_{name.upper()}") for name in names}


def _runtime(path: Path, digest: str) -> bytes:
    """A file of the runtime for graphics cards."""
    found = path.read_bytes() if path.is_file() else None
    if found is None or hashlib.sha256(found).hexdigest() != digest:
        what = "missing" if found is None else "of another version or damaged"
        raise PortalError(
            f"{path}: {what}; get the right one with `make build/tools/node_modules/onnxruntime-web` and give its "
            "folder dist"
        )
    return found


@lru_cache(maxsize=1)
def _shipped() -> bytes:
    """The shipped network with the maps of the five tasks, in ONNX."""
    model = load_model("all")
    return onnx_bytes(Model(model.network, tuple(TASKS.values()), model.facts))


def _example(ledger: Ledger, library: Path, catalogue: pd.DataFrame) -> dict[str, Any]:
    """An image of the library that is noisy and full of columns, as a PNG of 16 bits, and what it is."""
    full = catalogue[catalogue["columns"] >= catalogue["columns"].median()]
    away = (full["psnr_dB"] - _EXAMPLE_DB).abs().fillna(np.inf)
    row = full.iloc[int(away.argmin())]
    with Shard(library / row["shard"]) as shard:
        counts = shard.image(int(row["row"]))
    buffer = io.BytesIO()
    Image.fromarray(counts).save(buffer, "PNG")
    ledger.write("model", f"{FOLDER}/example.png", buffer.getvalue())
    return {"file": "example.png", "name": f"{row['id']}.png", "pixel_size_A": float(row["pixel_size_A"])}
