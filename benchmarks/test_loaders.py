"""Samples a second of this package's loader, WebDataset and Hugging Face `datasets` on the same samples, in one run.

Image and one label, shuffled, two workers, batches of 16; the measure is raw reads of memory-mapped arrays of the same
bytes in the same loader. Needs `pip install webdataset datasets`; prints numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from builder.render import render_library
from temimagenet import TEMImageNet, collate, loader
from temimagenet.recipe import load_recipe
from temimagenet.storage import repack_library

SAMPLES = int(os.environ.get("TEMIMAGENET_BENCHMARK_SAMPLES", "1200"))
LABEL = "gaussianMask"
_BATCH, _WORKERS, _EPOCHS = 16, 2, 5


class _Raw(Dataset[dict[str, torch.Tensor]]):
    """The same arrays in one memory-mapped file each: as fast as a loader can be."""

    def __init__(self, folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)
        self.folder, self.count, self.open = folder, len(images), None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.open is None:
            self.open = [np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels")]
        image, label = (part[index] for part in self.open)
        return {
            "image": torch.from_numpy(image.astype(np.float32)),
            "label": torch.from_numpy(label.astype(np.float32)),
        }


def _stacked(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Images and labels of a batch in float32."""
    return {
        key: torch.stack([torch.as_tensor(sample[key]) for sample in samples])[:, None].float()
        for key in ("image", "label")
    }


def _webdataset(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:
    """Tar shards of 100 samples, arrays as npy; shuffled by shards and by a buffer, as its documentation does."""
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(folder / "part-%04d.tar"), maxcount=100, verbose=0) as sink:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            sink.write({"__key__": f"{number:06d}", "image.npy": image, "label.npy": label})
    shards = sorted(map(str, folder.glob("*.tar")))
    return (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=1, empty_check=False)
        .shuffle(500)
        .decode()
        .rename(image="image.npy", label="label.npy")
    )


def _datasets(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:
    """An Arrow table of two-dimensional arrays on disk."""
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    size = images.shape[1:]
    features = hf.Features(image=hf.Array2D(size, str(images.dtype)), label=hf.Array2D(size, str(labels.dtype)))

    def rows() -> Iterator[dict[str, Any]]:
        for image, label in zip(images, labels, strict=True):
            yield {"image": image, "label": label}

    made = hf.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
    made.save_to_disk(folder / "saved")
    return hf.load_from_disk(str(folder / "saved")).with_format("torch")


def _rate(make: Callable[[], DataLoader[Any]], count: Callable[[Any], int]) -> list[float]:
    """Samples a second of each epoch but the first, with the workers kept."""
    loader, rates = make(), []
    for epoch in range(_EPOCHS + 1):
        begin, seen = time.perf_counter(), 0
        for batch in loader:
            seen += count(batch)
        if epoch:
            rates.append(seen / (time.perf_counter() - begin))
    return rates


def test_loaders(tmp_path: Path) -> None:
    """All loaders in turn, twice."""
    recipe = replace(load_recipe("v1"), samples=SAMPLES)
    render_library(recipe, tmp_path / "compact", workers=_WORKERS, samples_per_shard=100)
    repack_library(tmp_path / "compact", tmp_path / "fast", [LABEL])
    compact, fast = (TEMImageNet(tmp_path / name, split=None, labels=[LABEL]) for name in ("compact", "fast"))
    images = np.stack([sample.image.numpy().astype(np.uint16) for sample in fast])
    labels = np.stack([sample.labels[LABEL].numpy() for sample in fast])
    for name in ("raw", "tar", "arrow"):
        (tmp_path / name).mkdir()
    raw = _Raw(tmp_path / "raw", images, labels)
    tar, arrow = _webdataset(tmp_path / "tar", images, labels), _datasets(tmp_path / "arrow", images, labels)
    options: dict[str, Any] = {"batch_size": _BATCH, "num_workers": _WORKERS, "persistent_workers": True}
    loaders: dict[str, tuple[Callable[[], DataLoader[Any]], Callable[[Any], int]]] = {
        "raw memory-mapped reads": (
            lambda: DataLoader(raw, shuffle=True, collate_fn=_stacked, **options), lambda b: len(b["image"])
        ),
        "TEMImageNet, repacked": (
            lambda: loader(fast, _BATCH, shuffle=True, workers=_WORKERS), lambda b: len(b.ids)
        ),
        "TEMImageNet, compact": (
            lambda: loader(compact, _BATCH, shuffle=True, workers=_WORKERS), lambda b: len(b.ids)
        ),
        "repacked, torch's DataLoader": (
            lambda: DataLoader(fast, shuffle=True, collate_fn=collate, **options), lambda b: len(b.ids)
        ),
        "WebDataset, tar": (lambda: DataLoader(tar, collate_fn=_stacked, **options), lambda b: len(b["image"])),
        "datasets, Arrow": (
            lambda: DataLoader(arrow, shuffle=True, collate_fn=_stacked, **options), lambda b: len(b["image"])
        ),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(2):
        for name, (make, count) in loaders.items():
            rates[name] += _rate(make, count)
    median = {name: float(np.median(values)) for name, values in rates.items()}
    first = median["raw memory-mapped reads"]
    print(f"\n{SAMPLES} samples of {images.shape[1]} x {images.shape[2]}, image + {LABEL}, {_WORKERS} workers:")
    for name, values in rates.items():
        print(f"  {name}: {median[name]:.0f} samples/s ({min(values):.0f} to {max(values):.0f}), "
              f"{median[name] / first:.2f} of raw reads")  # fmt: skip
    best = max(median["WebDataset, tar"], median["datasets, Arrow"])
    print(f"  repacked against the better of the two: {median['TEMImageNet, repacked'] / best:.2f} times")
    assert torch.equal(fast[3].image, compact[3].image)
    assert torch.equal(fast[3].labels[LABEL], compact[3].labels[LABEL])
