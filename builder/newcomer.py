"""What a newcomer does with a published library, where only the wheel is: stream, train a step, download, verify."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from builder.render import render_library
from builder.serve import served
from temimagenet.errors import TEMImageNetError
from temimagenet.recipe import load_recipe

__all__ = ["NewcomerError", "small_library", "try_library"]

SAMPLES = 36

SCRIPT = """
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
print(f"streamed a batch of {len(batch.ids)} out of {len(stream)} samples in {time.perf_counter() - start:.1f} s")

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
print(f"trained one step, loss {loss.item():.4f}, in {time.perf_counter() - start:.1f} s")

start = time.perf_counter()
data = TEMImageNet(folder, split=None, labels=temimagenet.LABELS, source=address, download=True)
files = verify_library(Path(folder))
local = {sample.id: sample for sample in TEMImageNet(folder, split="train", labels=["circularMask"])}
for place, identity in enumerate(batch.ids):
    assert torch.equal(batch.image[place, 0], local[identity].image), identity
print(f"downloaded {len(data)} samples, checksums of {files} files verified, in {time.perf_counter() - start:.1f} s")
"""


class NewcomerError(TEMImageNetError):
    """What a newcomer does with a published library fails."""


def small_library(folder: Path) -> Path:
    """Render a library of a few dozen linear samples of the recipe `demo`; its folder."""
    recipe = replace(load_recipe("demo"), samples=SAMPLES, engines=("linear",))
    render_library(recipe, folder / "library", workers=1, samples_per_shard=12)
    return folder / "library"


def try_library(python: Path, library: Path, folder: Path, checkout: Path, environment: Mapping[str, str]) -> list[str]:
    """Serve a library and use it with an interpreter that has the package and its extra `hub` alone.

    Args:
        python: the interpreter.
        library: a finished library with linear samples.
        folder: an empty folder, where it works.
        checkout: where the package must not come from.
        environment: variables of its process.

    Returns:
        What it printed: a line each for streaming, training and downloading, with times.

    Raises:
        NewcomerError: something failed; the message ends with what was told.
    """
    with served(library) as address:
        command = [str(python), "-c", SCRIPT, address.removesuffix("/"), str(checkout), str(folder / "library")]
        done = subprocess.run(
            command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False, timeout=900
        )
    if done.returncode:
        raise NewcomerError(f"{library}, used with {python}: {(done.stdout + done.stderr)[-3000:]}")
    # The download's bar comes on the same stream.
    return [line for line in done.stdout.splitlines() if line.startswith(("streamed", "trained", "downloaded"))]
