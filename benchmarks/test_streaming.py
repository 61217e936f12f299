"""Samples a second of a library that is streamed from a server of this machine, and of the same library in its folder.

Image and one label, drawn as it is read or stored in a repacked copy, in order and shuffled, in one process and by two
workers; the first ten batches, in which workers start and shards are opened, are told apart. The server is a process of
its own. Prints numbers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from builder.render import render_library
from temimagenet import TEMImageNet, collate
from temimagenet.recipe import load_recipe
from temimagenet.storage import repack_library

SAMPLES = int(os.environ.get("TEMIMAGENET_BENCHMARK_SAMPLES", "1200"))
LABEL = "gaussianMask"
_BATCH, _FIRST, _EPOCHS = 16, 10, 3


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """`python -m builder serve` on a free port."""
    command = [sys.executable, "-m", "builder", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.split(" at ")[1].split()[0] for line in process.stdout if " at " in line)
        finally:
            process.kill()


def _rates(place: str | Path, workers: int, shuffle: bool) -> list[tuple[float, float]]:
    """Seconds of the first batches, and samples a second after them, of datasets that were just opened."""
    rates = []
    for _ in range(_EPOCHS):
        data = TEMImageNet(place, split=None, labels=[LABEL], streaming=not isinstance(place, Path))
        loader = DataLoader(data, _BATCH, shuffle=shuffle, num_workers=workers, collate_fn=collate)
        begin, seen, first, known = time.perf_counter(), 0, 0.0, 0
        for number, batch in enumerate(loader, start=1):
            seen += len(batch.ids)
            if number == _FIRST:
                first, known = time.perf_counter() - begin, seen
        assert seen == len(data)
        rates.append((first, (seen - known) / (time.perf_counter() - begin - first)))
    return rates


def test_streaming(tmp_path: Path) -> None:
    """The folder and the server in turn, of the library and of a repacked copy."""
    recipe = replace(load_recipe("v1"), samples=SAMPLES, engines=("linear",))
    render_library(recipe, tmp_path / "compact", workers=2, samples_per_shard=200)
    repack_library(tmp_path / "compact", tmp_path / "repacked", [LABEL])
    print(f"\n{SAMPLES} samples of {recipe.image_size} x {recipe.image_size}, image + {LABEL}, batches of {_BATCH}:")
    for kind in ("compact", "repacked"):
        with _server(tmp_path / kind) as address:
            for workers, shuffle in ((0, False), (0, True), (2, False), (2, True)):
                middle, parts = [], []
                for name, place in (("folder", tmp_path / kind), ("streamed", address)):
                    first, rates = zip(*_rates(place, workers, shuffle), strict=True)
                    middle.append(np.median(rates))
                    spread = f"{min(rates):.0f} to {max(rates):.0f}"
                    parts.append(f"{name} {middle[-1]:.0f} samples/s ({spread}) after {np.median(first):.2f} s")
                how = f"{workers or 'no'} workers, {'shuffled' if shuffle else 'in order'}"
                print(f"  {kind}, {how}: {', '.join(parts)}; {middle[0] / middle[1]:.2f} times as long")
