"""From nothing to a trained step: the wheel in an empty environment, a library served on this machine, every checksum.

    python benchmarks/published_library.py [--library FOLDER] [--reuse-packages]

builds the wheel, makes an environment with nothing but it (extra `hub`), serves a library (a small one rendered for
this unless given), and there, away from the checkout: streams it, trains one step, downloads it, verifies checksums.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

USER = """
import sys, time
from pathlib import Path
import torch
import temimagenet
from torch.utils.data import DataLoader
from temimagenet import TEMImageNet, collate
from temimagenet.models.unet import UNet
from temimagenet.storage import verify_library

address, checkout, folder = sys.argv[1:]
assert not Path(temimagenet.__file__).is_relative_to(checkout), temimagenet.__file__
start = time.perf_counter()
stream = TEMImageNet(address, split="train", labels=["circularMask"], streaming=True)
batch = next(iter(DataLoader(stream, batch_size=4, shuffle=True, collate_fn=collate)))
print(f"streamed    a batch of {len(batch.ids)} out of {len(stream)} samples in {time.perf_counter() - start:.1f} s")

start = time.perf_counter()
network = UNet("circularMask", width=8)
optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
before = [value.detach().clone() for value in network.parameters()]
image = batch.image - batch.image.mean(dim=(2, 3), keepdim=True)
image /= image.std(dim=(2, 3), keepdim=True)
loss = torch.nn.functional.mse_loss(network(image)["circularMask"], batch.labels["circularMask"])
loss.backward()
optimizer.step()
assert bool(loss.isfinite())
assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters()))
print(f"trained     one step, loss {loss.item():.4f}, in {time.perf_counter() - start:.1f} s")

start = time.perf_counter()
data = TEMImageNet(folder, split=None, labels=temimagenet.LABELS, source=address, download=True)
files = verify_library(Path(folder))
local = {sample.id: sample for sample in TEMImageNet(folder, split="train", labels=["circularMask"])}
for place, identity in enumerate(batch.ids):
    assert torch.equal(batch.image[place, 0], local[identity].image), identity
print(f"downloaded  {len(data)} samples, {files} files verified, in {time.perf_counter() - start:.1f} s")
"""


def main() -> None:
    """Do it all in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="a rendered library of one engine")
    parser.add_argument(
        "--reuse-packages",
        action="store_true",
        help="let the environment see the packages of this one instead of fetching them: all but temimagenet",
    )
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        start = time.perf_counter()
        python = environment(place, told.reuse_packages)
        print(f"installed   the wheel in an empty environment in {time.perf_counter() - start:.1f} s", flush=True)
        library = told.library or rendered(place)
        with serving(library) as address:
            away = place / "away"
            away.mkdir()
            clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
            command = [python, "-c", USER, address, CHECKOUT, away / "library"]
            subprocess.run(command, cwd=away, env=clean, check=True)


def environment(place: Path, reuse: bool) -> Path:
    """An environment with only the wheel; its Python."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, CHECKOUT], check=True
    )
    wheel = next(place.glob("temimagenet-*.whl"))
    venv.create(place / "env", with_pip=True)
    python = place / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    options = ["--no-deps", str(wheel)] if reuse else [f"temimagenet[hub] @ {wheel.as_uri()}"]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", CHECKOUT / "constraints.txt", *options], check=True)
    if reuse:
        seek = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = Path(subprocess.run([python, "-c", seek], check=True, capture_output=True, text=True).stdout.strip())
        paths = [path for path in sys.path if path.endswith("site-packages")]
        (own / "reused.pth").write_text("\n".join(paths) + "\n")
    return python


def rendered(place: Path) -> Path:
    """A library of a few dozen samples."""
    from builder.render import render_library
    from temimagenet.recipe import load_recipe

    text = (CHECKOUT / "temimagenet/data/recipes/demo.toml").read_text(encoding="utf-8")
    text = text.replace("samples = 504", "samples = 36").replace('["linear", "multislice"]', '["linear"]')
    recipe = place / "small.toml"
    recipe.write_text(text, encoding="utf-8")
    root = place / "library"
    render_library(load_recipe(recipe), root, workers=1, samples_per_shard=12)
    return root


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The library behind HTTP with byte ranges, as `python -m builder serve` does it: its address."""
    from builder.serve import Handler

    class Quiet(Handler):
        def log_message(self, *told: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))
    main()
