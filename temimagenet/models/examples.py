"""Examples to learn from: rendered or stored samples, cropped, mirrored and worn as micrographs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor
from torch.utils.data import Dataset

from temimagenet.datasets import TEMImageNet
from temimagenet.errors import DatasetError
from temimagenet.imaging.background import evaluate_background
from temimagenet.labels import MAPS
from temimagenet.models.columns import CELL
from temimagenet.models.inputs import Levels, levels, normalise, to_network_unit
from temimagenet.recipe import Recipe, sample_spec
from temimagenet.render import Sample, render

__all__ = ["ExampleBatch", "Examples", "Source", "batched", "from_library", "on_the_fly"]

Source = Callable[[int], Sample]
"""From a number to a sample, always the same one."""

_TRIES = 200
_EMPTY = 0.2
"""Share of worn examples whose columns are taken away: what to say where nothing is must be learnt, too."""

_CARBON = 0.5
"""Share of those that show amorphous carbon instead of the sample's own background."""

_CARBON_PER_A2 = (1.0, 30.0)
"""Its atoms: carbon of 2 g/cm^3 has 0.1 an A^3, so films of 10 to 300 A; too many for one to be a column."""

_SMOOTHED_A = (0.05, 0.35)
"""Standard deviations of Gaussian filters that people put over micrographs: up to that of a column."""

_AS_WIDE = tuple(name for name in MAPS if "noNoise" in name and "Superresolution" not in name)
"""Maps whose spots are those of the image."""

_ENLARGED_A = 0.12
"""Images whose pixels are no larger may have been recorded with pixels twice as large."""

_ASIDE = 2**40
"""Indices so far apart are of different samples of the recipe."""


def on_the_fly(recipe: Recipe, maps: Sequence[str], split: str = "train", device: torch.device | str = "cpu") -> Source:
    """Samples of a recipe, rendered when asked for; each number has its own.

    Args:
        recipe: what to draw.
        maps: labels to draw.
        split: which split; samples of other splits are replaced.
        device: where to render.
    """

    def source(number: int) -> Sample:
        for attempt in range(_TRIES):
            spec = sample_spec(recipe, number + attempt * _ASIDE)
            if spec.split == split:
                return render([spec], maps, device)[0]
        raise DatasetError(f"recipe {recipe.name}: none of {_TRIES} samples drawn was of split {split!r}")

    return source


def from_library(data: TEMImageNet, seed: int = 0) -> Source:
    """Samples of a library: all of them in random order, then all of them in another.

    Raises:
        DatasetError: the selection is empty.
    """
    if not len(data):
        raise DatasetError(f"no samples in {data.root}")

    def source(number: int) -> Sample:
        turn, place = divmod(number, len(data))
        order = np.random.Generator(np.random.Philox(key=[seed, turn])).permutation(len(data))
        return data[int(order[place])]

    return source


@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """Examples stacked.

    Attributes:
        image: (B, 1, rows, columns) images of mean 0 and standard deviation 1.
        maps: (B, 1, rows, columns), or twice that size, by name, in the network's units (`inputs.to_network_unit`).
        columns: (N, 3) x, y in cells and signal of all columns inside the images.
        owner: (N,) which image of the batch each is of.
        pixel_size_A: (B,) pixel sizes.
        radius_px: (B,) mask radii r of their columns, in pixels.
    """

    image: Float[Tensor, "B 1 rows columns"]
    maps: dict[str, Tensor]
    columns: Float[Tensor, "N 3"]
    owner: Int[Tensor, "N"]
    pixel_size_A: Float[Tensor, "B"]
    radius_px: Float[Tensor, "B"]

    def to(self, device: torch.device | str, **how: Any) -> ExampleBatch:
        """The batch with all tensors on a device."""
        return ExampleBatch(
            self.image.to(device, **how), {name: value.to(device, **how) for name, value in self.maps.items()},
            self.columns.to(device, **how), self.owner.to(device, **how), self.pixel_size_A.to(device, **how),
            self.radius_px.to(device, **how),
        )  # fmt: skip


class Examples(Dataset[ExampleBatch]):
    """Examples number `start` to `start + count` of a source: each a batch of one; `batched` joins them.

    Args:
        source: where samples come from.
        maps: which labels.
        crop: rows and columns of an example, cut at random; the sample's own size where that is smaller.
        seed: of crops, mirroring and wear.
        start: number of the first example.
        count: how many.
        worn: whether images are also blurred, clipped and given other noise, as micrographs come, and some emptied.
    """

    def __init__(
        self, source: Source, maps: Sequence[str], crop: int, seed: int, start: int, count: int, worn: bool = True
    ) -> None:
        self.source, self.maps, self.crop, self.seed = source, tuple(maps), crop, seed
        self.start, self.count, self.worn = start, count, worn

    def __len__(self) -> int:
        """Number of examples."""
        return self.count

    def __getitem__(self, index: int) -> ExampleBatch:
        """Example `index`: a function of the source, the seed and `start + index` alone."""
        if not 0 <= index < self.count:
            raise IndexError(f"example {index} of {self.count}")
        number = self.start + index
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        sample = self.source(number)
        if self.worn and rng.random() < _EMPTY:
            sample = _emptied(sample, rng)
        image, smoothed_px = sample.image.numpy(force=True).astype(np.float64), 0.0
        if self.worn:
            image, smoothed_px = _worn(image, sample.pixel_size_A, rng)
        scale = levels(image) if image.min() < image.max() else Levels(float(image.mean()), 1.0)
        return _example(sample, image, smoothed_px, scale, self.maps, self.crop, rng)


def _emptied(sample: Sample, rng: np.random.Generator) -> Sample:
    """A sample without its columns: its background or amorphous carbon on some level, counted anew."""
    peak, level = sample.clean_peak, sample.clean_peak * rng.uniform(0.02, 1.0)
    rows, columns = sample.image.shape
    if rng.random() < _CARBON:
        fine = level * _carbon((2 * rows, 2 * columns), sample, rng) + rng.uniform(0.0, 1.0) * level
        plain = fine[::2, ::2]
    else:
        plain, fine = (
            level + peak * evaluate_background(sample.spec.background, shape)
            for shape in ((rows, columns), (2 * rows, 2 * columns))
        )
    counts = sample.dose_e_per_A2 * sample.pixel_size_A**2
    image = rng.poisson((plain * counts).clamp_min(0.0).double().numpy(force=True))
    shown = {"noNoise": plain, "noNoiseUpinterpolation2x": fine}
    labels = {name: shown.get(name, torch.zeros_like(value)) for name, value in sample.labels.items() if name in MAPS}
    old = sample.columns
    none = replace(
        old, xy_px=old.xy_px[:0], weight_A2=old.weight_A2[:0], atoms=old.atoms[:0], kind=old.kind[:0], crlb_A=None
    )
    return replace(sample, image=torch.from_numpy(image.astype(np.float32)), labels=labels, columns=none)


def _carbon(shape: tuple[int, int], sample: Sample, rng: np.random.Generator) -> Tensor:
    """Atoms anywhere in a film, seen by the sample's probe: mean 1 over the field, on a grid of half its pixel size."""
    low, high = np.log(_CARBON_PER_A2)
    edge_A = sample.pixel_size_A / 2.0
    atoms = rng.poisson(np.exp(rng.uniform(low, high)) * edge_A**2, shape).astype(np.float64)
    y, x = (np.fft.fftfreq(count, edge_A) for count in shape)
    transfer = sample.spec.optics.otf(np.hypot(y[:, None], x[None, : shape[1] // 2 + 1]))
    seen = np.fft.irfft2(np.fft.rfft2(atoms / atoms.mean()) * transfer, s=shape)
    return torch.from_numpy(np.maximum(seen, 0.0).astype(np.float32))


def _worn(
    image: NDArray[np.float64], pixel_size_A: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """An image as it may come: with read-out noise, uneven rows, smoothed, enlarged, in eight bits or clipped.

    And the standard deviation in pixels that it was smoothed by.
    """
    chances, smoothed_px = rng.random(6), 0.0
    if chances[0] < 0.2:
        image = image + rng.normal(0.0, rng.uniform(0.1, 1.0) * np.sqrt(image.mean() + 1e-3), image.shape)
    if chances[1] < 0.1:
        image = image * (1.0 + rng.normal(0.0, rng.uniform(0.002, 0.05), (len(image), 1)))
    if chances[2] < 0.35:
        smoothed_px = rng.uniform(*_SMOOTHED_A) / pixel_size_A
        image = gaussian_filter(image, smoothed_px)
    if chances[3] < 0.1 and pixel_size_A <= _ENLARGED_A and not any(count % 2 for count in image.shape):
        coarse = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean(axis=(1, 3))
        rows, columns = ((np.arange(count) - 0.5) / 2.0 for count in image.shape)
        image = map_coordinates(coarse, np.meshgrid(rows, columns, indexing="ij"), order=3, mode="nearest")
    if chances[4] < 0.2:
        share = rng.choice([0.0, 0.001, 0.005])
        low, high = np.quantile(image, (share, 1.0 - share))
        if high > low:
            image = np.rint(255.0 * np.clip((image - low) / (high - low), 0.0, 1.0)) * ((high - low) / 255.0) + low
    if chances[5] < 0.03:
        hot = rng.integers(0, image.size, size=int(rng.integers(1, 4)))
        image = image.copy()
        image.flat[hot] = image.max() * rng.uniform(1.0, 20.0)
    return image, smoothed_px


def _example(
    sample: Sample,
    image: NDArray[np.float64],
    smoothed_px: float,
    scale: Levels,
    maps: Sequence[str],
    crop: int,
    rng: np.random.Generator,
) -> ExampleBatch:
    """A crop of a sample, mirrored along x and y at random; rows stay rows, they were scanned."""
    rows, columns = (min(crop, count) for count in image.shape)
    top, left = (
        int(rng.integers(0, whole - part + 1)) for whole, part in zip(image.shape, (rows, columns), strict=True)
    )
    turned = [axis for axis in (-2, -1) if rng.random() < 0.5]

    def cut(values: Tensor) -> Tensor:
        """The crop of a map of the image's size or twice that."""
        fold = values.shape[-1] // image.shape[1]
        part = values[fold * top : fold * (top + rows), fold * left : fold * (left + columns)]
        for axis in turned:
            part = part.flip(axis)
            if fold == 2:
                # Pixel (2 i, 2 j) stays on (i, j) only if the map moves by one of its pixels; its last one is repeated.
                length = part.shape[axis]
                part = torch.cat([part.narrow(axis, 1, length - 1), part.narrow(axis, length - 1, 1)], dim=axis)
        return part

    counts = sample.dose_e_per_A2 * sample.pixel_size_A**2
    drawn = {}
    for name in maps:
        values = sample.labels[name].float().cpu()
        if smoothed_px and name in _AS_WIDE:
            # Spots stay as wide as they are seen: how much of that is a filter's nobody could tell.
            fold = values.shape[-1] // image.shape[1]
            values = torch.from_numpy(gaussian_filter(values.numpy(), fold * smoothed_px))
        values = to_network_unit(name, values if "Mask" in name else values * counts, scale)
        drawn[name] = cut(values)[None, None].contiguous()
    xy = sample.columns.xy_px - np.array([left, top])
    for axis, count in ((-1, columns), (-2, rows)):
        if axis in turned:
            xy[:, -1 - axis] = count - 1 - xy[:, -1 - axis]
    signal = sample.columns.weight_A2 * counts / scale.deviation
    inside = replace(sample.columns, xy_px=xy).inside((rows, columns))
    truth = np.concatenate([(xy[inside] - (CELL - 1) / 2.0) / CELL, signal[inside, None]], axis=1).astype(np.float32)
    seen = cut(torch.from_numpy(normalise(image, scale)[0]))[None, None].contiguous()
    return ExampleBatch(
        seen, drawn, torch.from_numpy(truth), torch.zeros(len(truth), dtype=torch.long),
        torch.tensor([sample.pixel_size_A], dtype=torch.float32),
        torch.tensor([sample.radius_A / sample.pixel_size_A], dtype=torch.float32),
    )  # fmt: skip


def batched(examples: Sequence[ExampleBatch]) -> ExampleBatch:
    """Examples of one size, joined."""
    return ExampleBatch(
        torch.cat([example.image for example in examples]),
        {name: torch.cat([example.maps[name] for example in examples]) for name in examples[0].maps},
        torch.cat([example.columns for example in examples]),
        torch.cat([example.owner + number for number, example in enumerate(examples)]),
        torch.cat([example.pixel_size_A for example in examples]),
        torch.cat([example.radius_px for example in examples]),
    )
