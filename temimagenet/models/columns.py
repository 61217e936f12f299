"""From what `AtomNet` tells of each cell of 2 x 2 pixels to columns with standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional

__all__ = ["CELL", "LEAST_CHANCE", "Offered", "offered_columns", "read_columns"]

CELL = 2
"""Pixels along an edge of a cell."""

_REACH = 2.0
"""How far from its cell's centre a column may be told, in cells."""

_LEAST_SPREAD = 0.01

_HEARD_CHANCE = 0.03
"""Cells below this have no say."""

LEAST_CHANCE = 0.55
"""Columns of a smaller chance are left out unless asked for: in micrographs faint ones are real less often."""

_APART_A = 0.35
"""Cells that tell of columns closer than this mean the same one; no two of the training data are closer than 0.6 A."""


@dataclass(frozen=True, eq=False)
class Offered:
    """What the cells of a batch offer.

    Attributes:
        chance: (B, H, W) chance that the cell tells of a column.
        place: (B, 3, H, W) its x and y in cells, cell centres at integers, and its signal: what it adds to the image,
            summed, in standard deviations of the image times square angstrom.
        spread: (B, 3, H, W) their standard deviations.
    """

    chance: Float[Tensor, "B H W"]
    place: Float[Tensor, "B 3 H W"]
    spread: Float[Tensor, "B 3 H W"]


def offered_columns(raw: Float[Tensor, "B 7 H W"]) -> Offered:
    """The network's numbers as chances, places and spreads, in single precision."""
    raw = raw.float()
    rows, columns = raw.shape[-2:]
    x = torch.arange(columns, device=raw.device, dtype=raw.dtype)[None, None, :]
    y = torch.arange(rows, device=raw.device, dtype=raw.dtype)[None, :, None]
    place = torch.stack(
        [x + _REACH * torch.tanh(raw[:, 1] / _REACH), y + _REACH * torch.tanh(raw[:, 2] / _REACH),
         functional.softplus(raw[:, 3])], dim=1,
    )  # fmt: skip
    return Offered(torch.sigmoid(raw[:, 0]), place, functional.softplus(raw[:, 4:7]) + _LEAST_SPREAD)


def read_columns(
    offered: Offered, pixel_size_A: float, least_chance: float = LEAST_CHANCE
) -> tuple[Float[NDArray[np.float64], "N 6"], Float[NDArray[np.float64], "N"]]:
    """The columns of one image.

    The cell with the greatest chance takes those that tell of the same place; their chances add up, their places are
    averaged by chance, and what they disagree by adds to the standard errors. Then the next cell.

    Args:
        offered: of one image (B = 1).
        pixel_size_A: pixel size of the image.
        least_chance: columns of a smaller chance are left out.

    Returns:
        x and y in pixels and the signal, then their standard deviations; and the chance of each column.
    """
    # A cell's first pixel is CELL times its number, so its centre is that plus (CELL - 1) / 2.
    chance = offered.chance[0].double().numpy(force=True)
    heard = chance > _HEARD_CHANCE
    weight = chance[heard]
    order = np.argsort(-weight)
    weight = weight[order]
    place = offered.place[0].double().numpy(force=True)[:, heard].T[order]
    spread = offered.spread[0].double().numpy(force=True)[:, heard].T[order]
    place[:, :2] = place[:, :2] * CELL + (CELL - 1) / 2.0
    spread[:, :2] *= CELL
    owner = _owners(place[:, :2], _APART_A / pixel_size_A)
    count = int(owner.max(initial=-1)) + 1
    total = np.bincount(owner, weight, minlength=count)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average over the cells of each column, by chance."""
        sums = [np.bincount(owner, weight * part, minlength=count) for part in values.T]
        return np.stack(sums, axis=1) / total[:, None]

    middle = mean(place)
    deviation = np.sqrt(mean(spread**2 + (place - middle[owner]) ** 2)) if count else np.zeros((0, 3))
    kept = total >= least_chance
    return np.concatenate([middle, deviation], axis=1)[kept], np.minimum(total[kept], 1.0)


def _owners(xy: NDArray[np.float64], apart: float) -> NDArray[np.int64]:
    """Which column each cell tells of; cells come in the order of their chance."""
    owner = np.full(len(xy), -1, dtype=np.int64)
    if not len(xy):
        return owner
    near = [np.asarray(cells) for cells in KDTree(xy).query_ball_point(xy, apart)]
    count = 0
    for cell, others in enumerate(near):
        if owner[cell] < 0:
            owner[others[owner[others] < 0]] = count
            count += 1
    return owner
