"""`load_model`: a shipped or trained network; `Model.predict`: maps and columns of an image of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from temimagenet.device import check_device, halves_well
from temimagenet.errors import ModelError
from temimagenet.imaging.detector import check_image
from temimagenet.models.agreement import CLEAN, CORRECTED, in_agreement
from temimagenet.models.columns import CELL, LEAST_CHANCE, offered_columns, read_columns
from temimagenet.models.faster_rcnn import ColumnRCNN
from temimagenet.models.inputs import Grid, Levels, choose_grid, normalise, scaled_grid, to_image_unit
from temimagenet.models.unet import FINE_MAPS, AtomNet, UNet
from temimagenet.models.zoo import TASKS, load_network, written
from temimagenet.progress import report

__all__ = ["Model", "Prediction", "ToldColumns", "load_model", "recall_model"]

_OVERLAP_PX = 128
"""Neighbouring tiles share so many pixels and are blended over them."""

_LEAST_TILE_PX = 2 * _OVERLAP_PX


@dataclass(frozen=True, eq=False)
class ToldColumns:
    """What a network tells of the columns of an image.

    Attributes:
        xy_px: (N, 2) positions (x, y) in pixels, pixel centres at integers.
        sigma_px: (N, 2) their standard deviations.
        intensity: (N,) signal above background, summed over pixels, in the image's unit.
        intensity_sigma: (N,) its standard deviation.
        chance: (N,) chance that there is such a column.
    """

    xy_px: Float[NDArray[np.float64], "N 2"]
    sigma_px: Float[NDArray[np.float64], "N 2"]
    intensity: Float[NDArray[np.float64], "N"]
    intensity_sigma: Float[NDArray[np.float64], "N"]
    chance: Float[NDArray[np.float64], "N"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network drew of an image.

    Attributes:
        maps: (rows, columns) float32, or twice that size, by label: masks from 0 to 1, all else in the image's unit
            (superresolution: per pixel of the image).
        columns: columns that it tells of; None of a network that does not.
        grid: the grid that it worked on.
    """

    maps: Mapping[str, Float[NDArray[np.float32], "rows columns"]]
    columns: ToldColumns | None
    grid: Grid


@dataclass(frozen=True, eq=False)
class Model:
    """A network and what it draws unless told otherwise.

    Attributes:
        network: the network, ready to be used.
        maps: labels that `predict` draws.
        facts: what was recorded at its training.
    """

    network: AtomNet | UNet
    maps: tuple[str, ...]
    facts: Mapping[str, Any]

    def predict(
        self,
        image: ArrayLike,
        pixel_size_A: float,
        maps: Sequence[str] | str | None = None,
        *,
        scale: float | None = None,
        tile_px: int = 1024,
        device: torch.device | str = "cpu",
        least_chance: float = LEAST_CHANCE,
    ) -> Prediction:
        """Draw maps of one image and find its columns.

        What a network that draws `noNoise` says of contrast and of slow parts is corrected by the image (`agreement`).
        Pixels outside the range of the training are binned or interpolated first; maps and positions are on the
        image's own grid. A large image is worked on in tiles that overlap and are blended: memory is bounded by the
        tile and the maps asked for.

        Args:
            image: (rows, columns) intensities in any unit.
            pixel_size_A: pixel size.
            maps: labels, or tasks, to draw; the model's own unless given; () for the columns alone.
            scale: pixels that the network sees along one of the image (`inputs.scaled_grid`), where the choice by pixel
                size is not wanted.
            tile_px: rows and columns of a tile.
            device: where to work.
            least_chance: columns of a smaller chance are left out.

        Raises:
            LocalizeError: not an image that can be used (`check_image`).
            ModelError: a map that the network does not draw, or a pixel size, scale or tile out of range.
        """
        values = check_image(image, pixel_size_A)
        wanted = self.maps if maps is None else (maps,) if isinstance(maps, str) else tuple(maps)
        wanted = tuple(TASKS.get(name, name) for name in wanted)
        missing = [name for name in wanted if name not in self.network.maps]
        if missing:
            raise ModelError(f"maps {', '.join(missing)}: this network draws {', '.join(self.network.maps)}")
        if tile_px < _LEAST_TILE_PX:
            raise ModelError(f"tiles of {tile_px} pixels: expected {_LEAST_TILE_PX} or more")
        if not isinstance(least_chance, int | float) or not 0.0 < least_chance <= 1.0:
            raise ModelError(f"least chance {least_chance}: expected above 0, at most 1")
        shape = (values.shape[0], values.shape[1])
        grid = choose_grid(shape, pixel_size_A) if scale is None else scaled_grid(shape, pixel_size_A, scale)
        seen, unit = normalise(grid.resample(values))
        drawn, raw = _run(self.network, seen, _with_clean(wanted, self.network.maps), tile_px, check_device(device))
        restored = {
            name: grid.restore(to_image_unit(name, torch.from_numpy(part), unit).numpy(), shape)
            for name, part in drawn.items()
        }
        found = None if raw is None else _columns(raw, grid, unit, pixel_size_A, least_chance)
        return Prediction(in_agreement(values, restored, wanted), found, grid)


def load_model(name: str | Path = "all") -> Model:
    """A shipped model by its task, or one from a file that training wrote. Needs no network connection.

    Args:
        name: one of `zoo.TASKS` or "all", by the shipped `AtomNet`; or a file.

    Raises:
        ModelError: there is none of that name, or the file is damaged.
    """
    network, facts = load_network(name)
    if isinstance(network, ColumnRCNN):
        raise ModelError(f"{name}: a Faster R-CNN draws no maps; temimagenet.localize.FasterRCNN finds columns by it")
    return Model(network, (TASKS[name],) if isinstance(name, str) and name in TASKS else network.maps, facts)


@lru_cache(maxsize=4)
def _loaded(name: str, written: int) -> Model:
    """A model as its file was at a time."""
    return load_model(name)


def recall_model(name: str) -> Model:
    """`load_model`, but loaded once, and again when its file was written anew.

    Raises:
        ModelError: there is none of that name, or the file is damaged.
    """
    return _loaded(name, written(name))


def _with_clean(wanted: Sequence[str], able: Sequence[str]) -> tuple[str, ...]:
    """The maps wanted, and the clean image, by which they are held against the noisy one."""
    needed = CLEAN in able and CLEAN not in wanted and any(name in CORRECTED for name in wanted)
    return (*wanted, CLEAN) if needed else tuple(wanted)


def _columns(raw: NDArray[np.float32], grid: Grid, scale: Levels, pixel_size_A: float, least: float) -> ToldColumns:
    """Columns on the image's grid, in its unit."""
    found, chance = read_columns(offered_columns(torch.from_numpy(raw)[None]), grid.pixel_size_A, least)
    xy = grid.to_image_px(found[:, :2])
    rows, columns = (round(count * grid.step_px) for count in grid.shape)
    inside = ((xy >= -0.5) & (xy < np.array([columns, rows]) - 0.5)).all(axis=1)
    summed = scale.deviation / pixel_size_A**2
    return ToldColumns(
        xy[inside], found[inside, 3:5] * grid.step_px, found[inside, 2] * summed, found[inside, 5] * summed,
        chance[inside],
    )  # fmt: skip


def _run(
    network: AtomNet | UNet, seen: NDArray[np.float32], wanted: Sequence[str], tile_px: int, device: torch.device
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None]:
    """The maps wanted and the raw columns of a normalised image, tile by tile."""
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows, columns = seen.shape
    fold = {name: 2 if name in FINE_MAPS else 1 for name in wanted}
    drawn = {name: np.zeros((rows * n, columns * n), dtype=np.float32) for name, n in fold.items()}
    total = {n: np.zeros((rows * n, columns * n), dtype=np.float32) for n in set(fold.values())}
    best = np.full((-(-rows // CELL), -(-columns // CELL)), -1.0, dtype=np.float32)
    raw: NDArray[np.float32] | None = None
    step = max(CELL, network.multiple)
    tops, lefts = _starts(rows, tile_px, step), _starts(columns, tile_px, step)
    for down, top in enumerate(tops):
        for across, left in enumerate(lefts):
            report("network", down * len(lefts) + across, len(tops) * len(lefts))
            below, right = min(top + tile_px, rows), min(left + tile_px, columns)
            answer = _answer(network, seen[top:below, left:right], device)
            for name, n in fold.items():
                weight = np.multiply.outer(_ramp(top, below, rows, n), _ramp(left, right, columns, n))
                place = np.s_[n * top : n * below, n * left : n * right]
                drawn[name][place] += weight * answer[name][0, 0].float().cpu().numpy()
            for n, sums in total.items():
                weight = np.multiply.outer(_ramp(top, below, rows, n), _ramp(left, right, columns, n))
                sums[n * top : n * below, n * left : n * right] += weight
            if "columns" in answer:
                part = answer["columns"][0].float().cpu().numpy()
                raw = np.zeros((len(part), *best.shape), dtype=np.float32) if raw is None else raw
                # Numbers of two tiles have no mean: each cell is told by the tile it lies deepest in.
                weight = np.multiply.outer(_ramp(top, below, rows, 1)[::CELL], _ramp(left, right, columns, 1)[::CELL])
                place = np.s_[top // CELL : -(-below // CELL), left // CELL : -(-right // CELL)]
                deeper = weight > best[place]
                best[place][deeper] = weight[deeper]
                raw[:, *place][:, deeper] = part[:, deeper]
    for name, n in fold.items():
        drawn[name] /= total[n]
    return drawn, raw


def _answer(network: AtomNet | UNet, tile: NDArray[np.float32], device: torch.device) -> dict[str, Tensor]:
    """What the network says of one tile."""
    image = torch.from_numpy(np.ascontiguousarray(tile))[None, None].to(device, memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=halves_well(device)):
        answer: dict[str, Tensor] = network(image)
    return answer


def _starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along one axis: on multiples of a step, at least `_OVERLAP_PX` in common."""
    if length <= tile:
        return [0]
    stride = (tile - _OVERLAP_PX) // step * step
    count = 1 + -(-(length - tile) // stride)
    return [step * round(number * (length - tile) / (count - 1) / step) for number in range(count - 1)] + [
        step * -(-(length - tile) // step)
    ]


def _ramp(start: int, stop: int, length: int, fold: int) -> NDArray[np.float32]:
    """A tile's weight along one axis: 1 inside, falling towards borders that it shares with other tiles."""
    place = np.arange(fold * (stop - start)) / fold + 0.5
    weight = np.ones(len(place))
    if start > 0:
        weight = np.minimum(weight, place / _OVERLAP_PX)
    if stop < length:
        weight = np.minimum(weight, (stop - start - place + 0.5) / _OVERLAP_PX)
    return weight.astype(np.float32)
