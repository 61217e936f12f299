"""PyTorch datasets: `TEMImageNet` over a library on disk, `OnTheFly` over endless fresh renderings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from platformdirs import user_cache_path
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from temimagenet.atlas import check_tables, has_table
from temimagenet.device import check_device
from temimagenet.errors import DatasetError, ShardError
from temimagenet.labels import POINTS, SCALARS, check_labels
from temimagenet.recipe import Engine, Recipe, load_recipe, recipe_for_structure, sample_spec
from temimagenet.render import Sample, render
from temimagenet.storage import (
    finish_library,
    plan_library,
    read_catalogue,
    read_collection,
    render_shard,
    verify_library,
)
from temimagenet.storage.library import CATALOGUE, open_shard, read_manifest
from temimagenet.storage.remote import RemoteLibrary, download_library, is_address, open_part
from temimagenet.storage.shard import Shard

__all__ = ["Batch", "OnTheFly", "TEMImageNet", "collate", "plot"]

_MOST_OPEN = 256
"""Shards that a dataset has open at a time, of two files each."""

Transform = Callable[[Sample], Sample]

_AHEAD = 16
"""Samples fetched at once in plain iteration over what is streamed."""

_OPEN_STREAMS = 64
"""Streamed shards open at the same time, of half a megabyte to one each."""


class TEMImageNet(Dataset[Sample]):
    """Samples of a library on disk or published, chosen by split, engine and query.

    Shards are opened when first read, in each worker by itself.

    Args:
        root: the library's folder, as `python -m builder render` made it or a download fills it; or the address of a
            published one: `hf://owner/name` on the Hugging Face Hub, `https://...`, `s3://...`.
        split: "train", "test", "heldout", or None for all.
        engine: "linear", or another engine that the library was rendered with.
        labels: which of the ten labels and two scalars to load; what a compact library does not store is redrawn.
        where: a pandas query over the catalogue, such as "psnr_dB > 15 and material == 'Pt'".
        transform: applied to every sample.
        verify: check the SHA-256 of every file of the library first; of a download, of what is there of it.
        download: first fetch what these samples are read from, with a progress bar: of each shard only the arrays of
            the labels and the rows of the selection, unless that is most of it. What is there stays, an interrupted
            download goes on. Into `root`, or into the user's cache where `root` is an address.
        streaming: read from the address, keeping in memory what was read last, at most 256 MB; nothing is written.
            Batches of a `DataLoader` and plain iteration fetch many samples at once, ahead of their use.
        source: address to download from, where `root` is a folder.
        revision: branch, tag or commit on the Hub, such as "v0.1.0"; `main` unless told.

    Raises:
        ShardError: the folder is no finished library, or a file is missing, damaged or of a newer schema.
        HubError: what is to be fetched cannot be had; a download goes on when it is run again.
        DatasetError: unknown split or engine, or a query that fails or leaves nothing.
        LabelError: unknown label.

    If you use this dataset, cite Lin et al., Sci. Rep. 11, 5386 (2021).
    """

    splits = ("train", "test", "heldout")

    def __init__(
        self,
        root: str | Path,
        split: str | None = "train",
        engine: str = "linear",
        labels: Sequence[str] = ("gaussianMask",),
        where: str | None = None,
        transform: Transform | None = None,
        verify: bool = False,
        *,
        download: bool = False,
        streaming: bool = False,
        source: str | None = None,
        revision: str | None = None,
    ) -> None:
        address = source if source is not None else str(root)
        if download and streaming:
            raise DatasetError("download and streaming exclude each other: give one")
        if streaming and source is not None:
            raise DatasetError(f"{root}: what is streamed is not kept in a folder; give the address {source} alone")
        if (download or streaming) and not is_address(address):
            raise DatasetError(
                f"{address}: expected the address of a library, such as hf://owner/name or https://...; give it as "
                "source= where root is a folder"
            )
        if not (download or streaming) and (is_address(root) or source is not None or revision is not None):
            raise DatasetError(f"{root}: to read from {address} give download=True or streaming=True")
        self.split, self.engine, self.where, self.transform = split, engine, where, transform
        self.labels = check_labels(tuple([labels] if isinstance(labels, str) else labels))
        if split is not None and split not in self.splits:
            raise DatasetError(f"unknown split {split!r}: expected one of {', '.join(self.splits)}, or None for all")
        self._remote: RemoteLibrary | None = None
        self.root: Path | str
        if download or streaming:
            remote = RemoteLibrary(address, revision)
            where_to = _cache_of(remote) if is_address(root) else Path(root)

            def choose(catalogue: pd.DataFrame) -> pd.DataFrame:
                return select_rows(catalogue, remote.address, split, engine, where)

        if download:
            download_library(remote, where_to, choose, self.labels, recheck=verify)
        elif verify and not streaming:
            verify_library(Path(root))
        if streaming:
            self._remote, self.root = remote, remote.address
            self.catalogue = choose(remote.catalogue())
            self._files = remote.manifest()["files"]
        else:
            self.root = where_to if download else Path(root)
            self.catalogue = select_rows(read_catalogue(Path(self.root)), self.root, split, engine, where)
            self._files = read_manifest(Path(self.root))["files"]
        self._shards: dict[str, Shard] = {}
        self._fields: tuple[Any, list[Any]] | None = None
        self._process = os.getpid()

    @classmethod
    def demo(
        cls,
        split: str | None = "train",
        labels: Sequence[str] = ("gaussianMask",),
        *,
        engine: Engine = "linear",
        where: str | None = None,
        transform: Transform | None = None,
        cache: str | Path | None = None,
    ) -> Self:
        """A library of 504 specimens, most by both engines, rendered into the user's cache the first time.

        That takes half a minute or more and no network.

        Args:
            split: as for the class.
            labels: as for the class.
            engine: as for the class.
            where: as for the class.
            transform: as for the class.
            cache: folder to keep it in instead of the user's cache.
        """
        from rich.progress import track

        recipe = load_recipe("demo")
        tasks = plan_library(recipe, samples_per_shard=63)
        root = (Path(cache) if cache else user_cache_path("temimagenet")) / f"demo-{tasks[0].fingerprint[:12]}"
        if not (root / "manifest.json").is_file():
            for task in track(tasks, description=f"rendering the demo library into {root}"):
                render_shard(task, root)
            finish_library(root, recipe, tasks)
        return cls(root, split, labels=labels, engine=engine, where=where, transform=transform)

    @classmethod
    def from_manifest(
        cls,
        manifest: str | Path,
        root: str | Path,
        labels: Sequence[str] = ("gaussianMask",),
        transform: Transform | None = None,
        verify: bool = False,
    ) -> Self:
        """The samples of a collection, which the website's collection page or anyone else put together.

        Samples come in the collection's order, whatever their split and engine.

        Args:
            manifest: path or http(s) address of the collection's JSON.
            root: folder of the library that it was made of.
            labels: as for the class.
            transform: as for the class.
            verify: hash the shards that the collection names first; checksums on record are compared anyway.

        Raises:
            DatasetError: the collection cannot be read, is of another library or version, or names unknown samples.
            ShardError: a checksum differs from the collection's, or the library cannot be read.
            LabelError: unknown label.
        """
        chosen = read_collection(manifest, Path(root), verify=verify)
        engines = list(chosen["engine"].unique())
        data = cls(root, None, engines[0], labels, transform=transform)
        data.catalogue, data.engine = chosen, " and ".join(engines)
        return data

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.catalogue)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the selection.

        Raises:
            IndexError: there is no such sample.
            ShardError: its shard is missing or damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a dataset of {len(self)}")
        self._prefetch([index])
        return self._read(index)

    def _read(self, index: int) -> Sample:
        """Sample `index`, which was fetched where it is streamed."""
        name, row, identity, split, digest = self._told(index)
        shard = self._shard(name)
        sample = shard.sample(row, self.labels)
        if (sample.id, sample.spec.split, shard.digest(row)) != (identity, split, digest):
            raise ShardError(
                f"{shard.path}: sample {row} is {sample.id} with SHA-256 {shard.digest(row)}, {CATALOGUE} says "
                f"{identity} with {digest}; render or download the library anew"
            )
        return sample if self.transform is None else self.transform(sample)

    def _told(self, index: int) -> tuple[str, int, str, str, str]:
        """Shard, row, id, split and SHA-256 of a sample."""
        # Of a data frame one value takes as long as reading an image.
        if self._fields is None or self._fields[0] is not self.catalogue:
            fields = ("shard", "row", "id", "split", "sha256")
            self._fields = (self.catalogue, [self.catalogue[field].to_numpy(object) for field in fields])
        name, row, *rest = (values[index] for values in self._fields[1])
        return str(name), int(row), str(rest[0]), str(rest[1]), str(rest[2])

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of a batch; what is streamed is fetched for all of them at once."""
        self._prefetch(indices)
        return [self._read(index) for index in indices]

    def __iter__(self) -> Iterator[Sample]:
        """Samples in order; of what is streamed the next are fetched while these are used."""
        starts = range(0, len(self), _AHEAD)
        if self._remote is None:
            yield from (self[index] for index in range(len(self)))
            return
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(self._prefetch, range(min(_AHEAD, len(self))))
            for start in starts:
                waiting.result()
                stop = min(start + _AHEAD, len(self))
                waiting = thread.submit(self._prefetch, range(stop, min(stop + _AHEAD, len(self))))
                yield from (self._read(index) for index in range(start, stop))

    def _prefetch(self, indices: Sequence[int]) -> None:
        """Fetch what samples are read from, where they are streamed."""
        if self._remote is None or not len(indices):
            return
        wanted: dict[str, list[int]] = {}
        for index in indices:
            name, row, *_ = self._told(index)
            wanted.setdefault(name, []).append(row)
        self._remote.prefetch(wanted, self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay behind when a worker is started."""
        return self.__dict__ | {"_shards": {}, "_fields": None}

    def __repr__(self) -> str:
        """What it holds, in a few lines."""
        counts = self.catalogue["entry"].value_counts()
        entries = ", ".join(f"{name} ({count})" for name, count in counts.items())
        return (
            f"TEMImageNet {self.root}\n  split {self.split or 'all'}, engine {self.engine}, {len(self)} samples\n"
            f"  labels: {', '.join(self.labels)}\n  entries: {entries}"
        )

    def _shard(self, name: str) -> Shard:
        """A shard opened by this very process: an HDF5 file must not be shared across a fork."""
        if self._process != os.getpid():
            self._shards, self._process = {}, os.getpid()
        # The last used is the last to go: a process may have a thousand files open, and a library more shards.
        shard = self._shards.pop(name, None)
        if shard is None:
            shard = self._open(name)
        while len(self._shards) >= (_MOST_OPEN if self._remote is None else _OPEN_STREAMS):
            self._shards.pop(next(iter(self._shards))).close()
        self._shards[name] = shard
        return shard

    def _open(self, name: str) -> Shard:
        """A shard, from where it lies."""
        if self._remote is not None:
            return self._remote.open(name)
        root = Path(self.root)
        if not (root / name).is_file() and (root / f"{name}.part").is_file():
            return open_part(root, name, self._files)
        return open_shard(root, name, self._files)


class OnTheFly(IterableDataset[Sample]):
    """Endless fresh samples of a recipe or of one's own crystal, rendered in the workers.

    Worker w of W on rank r of R renders indices (r W + w), then every (R W)th: no two ever render the same sample, and
    a restart with the same seed repeats the same stream.

    Args:
        source: a recipe, a preset's name, a recipe file, or a structure file (`.cif`).
        zone: zone axis of a structure file, such as "[110]"; (0, 0, 1) unless told.
        labels: which labels to draw.
        seed: seed of the stream; the recipe's own seed is replaced.
        split: keep only samples of this split; None keeps all.
        transform: applied to every sample.
        device: where to render.
        engine: "linear", or "multislice": samples of which the atlas has no table are left out.
        rank: number of this process among `world_size`; torch.distributed's where it runs.
        world_size: number of processes.
        bounds: work out `columns.crlb_A` of every sample, seconds each; linear images only.

    Raises:
        RecipeError, SpecimenError: the source cannot be used.
        AtlasError: no multislice table exists for a crystal of the source.
        DatasetError: unknown split or engine, or bounds of multislice images.
        LabelError: unknown label.
    """

    def __init__(
        self,
        source: Recipe | str | Path,
        zone: str | Sequence[int] = (0, 0, 1),
        labels: Sequence[str] = ("gaussianMask",),
        seed: int = 0,
        split: str | None = None,
        transform: Transform | None = None,
        device: torch.device | str = "cpu",
        engine: Engine = "linear",
        rank: int | None = None,
        world_size: int | None = None,
        bounds: bool = False,
    ) -> None:
        if split is not None and split not in TEMImageNet.splits:
            raise DatasetError(f"unknown split {split!r}: expected one of {', '.join(TEMImageNet.splits)}, or None")
        if isinstance(source, Recipe):
            recipe = source
        elif str(source).lower().endswith(".cif"):
            recipe = recipe_for_structure(source, zone)
        else:
            recipe = load_recipe(source)
        self.recipe = replace(recipe, seed=seed)
        self.labels = check_labels(tuple([labels] if isinstance(labels, str) else labels))
        self.split, self.transform, self.device = split, transform, check_device(device)
        self.engine: Engine = engine
        if engine not in get_args(Engine):
            raise DatasetError(f"unknown engine {engine!r}: expected one of {', '.join(get_args(Engine))}")
        self.bounds = bounds
        if bounds and engine != "linear":
            raise DatasetError(f"{engine} images have no bounds: leave bounds out, or take those of the linear twins")
        if engine == "multislice":
            check_tables(self.recipe)
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if spread else 0)
        self.world_size = world_size or (torch.distributed.get_world_size() if spread else 1)

    def __iter__(self) -> Iterator[Sample]:
        """Samples without end."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        index = self.rank * workers + number
        while True:
            spec = sample_spec(self.recipe, index)
            wanted = self.split in (None, spec.split)
            if wanted and self.engine == "multislice":
                wanted = has_table(spec.specimen, spec.optics, spec.detector)
            if wanted:
                sample = render([spec], self.labels, self.device, engine=self.engine, bounds=self.bounds)[0]
                yield sample if self.transform is None else self.transform(sample)
            index += self.world_size * workers


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples stacked for training.

    Attributes:
        image: (B, 1, rows, columns) float32 counts.
        labels: maps (B, 1, rows, columns), points (B, Kmax, 2 or 3) padded with NaN, scalars (B,), by name.
        n_columns: (B,) columns inside each image.
        pixel_size_A: (B,) pixel sizes in angstrom.
        ids: names of the samples.
    """

    image: Float[Tensor, "B 1 rows columns"]
    labels: dict[str, Tensor]
    n_columns: Int[Tensor, "B"]
    pixel_size_A: Float[Tensor, "B"]
    ids: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with all tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; `DataLoader(pin_memory=True)` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Every tensor changed."""
        labels = {name: change(tensor) for name, tensor in self.labels.items()}
        return Batch(change(self.image), labels, change(self.n_columns), change(self.pixel_size_A), self.ids)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one image size; ragged points are padded with NaN to the longest.

    Raises:
        DatasetError: there are no samples, or the images differ in size.
    """
    return join(samples, torch.stack)


def join(samples: Sequence[Sample], stack: Callable[[list[Tensor]], Tensor]) -> Batch:
    """`collate`, with images and then each map stacked by a function of the caller's.

    Raises:
        DatasetError: as `collate`.
    """
    if not samples:
        raise DatasetError("no samples to collate")
    shapes = {tuple(sample.image.shape) for sample in samples}
    if len(shapes) > 1:
        raise DatasetError(
            f"images of different sizes in one batch: {sorted(shapes)}; choose one image_size with where="
        )
    images = stack([sample.image for sample in samples])[:, None]
    labels: dict[str, Tensor] = {}
    for name in samples[0].labels:
        values = [sample.labels[name] for sample in samples]
        if name in POINTS:
            labels[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=float("nan"))
        elif name in SCALARS:
            labels[name] = torch.stack(values)
        else:
            labels[name] = stack(values)[:, None]
    shape = (samples[0].image.shape[0], samples[0].image.shape[1])
    return Batch(
        images,
        labels,
        torch.tensor([int(sample.columns.inside(shape).sum()) for sample in samples]),
        torch.tensor([sample.pixel_size_A for sample in samples], dtype=torch.float64),
        tuple(sample.id for sample in samples),
    )


def plot(sample: Sample, axes: Axes | None = None) -> Figure:
    """The image with its columns and a scale bar, and beside it each map of the sample; or the image alone on `axes`.

    Returns:
        The figure; nothing is shown.
    """
    maps = (
        []
        if axes is not None
        else [name for name, value in sample.labels.items() if value.ndim == 2 and name not in POINTS]
    )
    if axes is None:
        total = 1 + len(maps)
        wide = min(total, 4)
        figure = Figure(figsize=(3.2 * wide, 3.4 * -(-total // wide)), layout="constrained")
        grid = list(np.atleast_1d(figure.subplots(-(-total // wide), wide)).ravel())
        axes = grid[0]
        for panel, name in zip(grid[1:], maps, strict=False):
            lowest = None if name.startswith("no") else 0.0
            panel.imshow(
                sample.labels[name].cpu().numpy(), cmap="gray" if name.startswith("no") else "magma", vmin=lowest
            )
            panel.set_title(name, fontsize=7)
        for panel in grid:
            panel.set_axis_off()
    else:
        owner = axes.get_figure(root=True)
        assert owner is not None
        figure = owner
    image = sample.image.cpu().numpy()
    axes.imshow(image, cmap="gray")
    axes.set_axis_off()
    xy = sample.columns.xy_px[sample.columns.inside((image.shape[0], image.shape[1]))]
    axes.scatter(xy[:, 0], xy[:, 1], s=6, facecolors="none", edgecolors="tab:red", linewidths=0.6)
    length_A = float(10.0 ** np.floor(np.log10(0.5 * sample.spec.field_of_view_A)))
    length_A *= 5.0 if 5.0 * length_A < 0.5 * sample.spec.field_of_view_A else 1.0
    rows, columns = image.shape
    start = 0.05 * columns
    axes.plot([start, start + length_A / sample.pixel_size_A], [0.95 * rows] * 2, color="white", linewidth=3)
    axes.text(start, 0.93 * rows, f"{length_A:g} Å", color="white", va="bottom", fontsize=8)
    axes.set_title(
        f"{sample.id}: {sample.spec.entry}\n{sample.psnr_dB:.1f} dB, {sample.dose_e_per_A2:.3g} e/Å²", fontsize=7
    )
    return figure


def _cache_of(remote: RemoteLibrary) -> Path:
    """Folder of the user's cache for a published library, another for each commit."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", remote.address.split("://", 1)[1]).strip("-.")
    return user_cache_path("temimagenet") / "libraries" / name


def select_rows(
    catalogue: pd.DataFrame, root: Path | str, split: str | None, engine: str, where: str | None
) -> pd.DataFrame:
    """Rows of the catalogue that are asked for."""
    engines = sorted(catalogue["engine"].unique())
    if engine not in engines:
        raise DatasetError(f"{root} was not rendered by engine {engine!r}: it holds {', '.join(engines)}")
    chosen = catalogue[catalogue["engine"] == engine]
    if split is not None:
        chosen = chosen[chosen["split"] == split]
    if where:
        try:
            chosen = chosen.query(where, local_dict={}, global_dict={})
        except Exception as error:
            fields = ", ".join(catalogue.columns)
            raise DatasetError(
                f"query {where!r} cannot be read ({error}); the catalogue's fields are {fields}"
            ) from error
    if chosen.empty:
        raise DatasetError(f"{root}: no sample of split {split!r} and engine {engine!r} fits {where or 'all'}")
    return chosen.reset_index(drop=True)
