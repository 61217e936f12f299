"""Networks: the U-Net of Lin et al. (2021), and `AtomNet`, which draws all maps and finds columns in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from temimagenet.errors import ModelError

__all__ = ["COLUMN_CHANNELS", "FINE_MAPS", "PLAIN_MAPS", "AtomNet", "UNet"]

PLAIN_MAPS: tuple[str, ...] = (
    "circularMask",
    "smallcircularMask",
    "gaussianMask",
    "noNoise",
    "noBackgroundnoNoise",
    "noNoiseNoBackgroundSuperresolution",
)
"""Maps of the image's own size that a network can learn."""

FINE_MAPS: tuple[str, ...] = ("noNoiseNoBackgroundUpinterpolation2x", "noNoiseUpinterpolation2x")
"""Maps of twice the size; their pixel (2 i, 2 j) is the image's (i, j)."""

COLUMN_CHANNELS = 7
"""Of a cell of 2 x 2 pixels: the chance of a column, its x, y and signal, and their standard deviations."""


_POOL = 4
"""Cells along a row that are averaged before the long convolutions."""


def _maps(maps: Sequence[str] | str) -> tuple[str, ...]:
    """Names of maps, after they were checked."""
    names = (maps,) if isinstance(maps, str) else tuple(maps)
    unknown = [name for name in names if name not in PLAIN_MAPS + FINE_MAPS]
    if unknown or not names or len(set(names)) < len(names):
        raise ModelError(f"maps {', '.join(names) or 'none'}: expected different ones of {', '.join(PLAIN_MAPS)}, "
                         f"{', '.join(FINE_MAPS)}")  # fmt: skip
    return names


def _padded(image: Tensor, multiple: int) -> Tensor:
    """An image whose sides are multiples of a number: its last row and column are repeated."""
    right, below = (-image.shape[axis] % multiple for axis in (-1, -2))
    return functional.pad(image, (0, right, 0, below), mode="replicate") if right or below else image


class UNet(nn.Module):
    """The U-Net of the paper: two 3 x 3 convolutions with ReLU a level, 2 x 2 max-pooling, up-convolution, skips.

    Lin et al., Sci. Rep. 11, 5386 (2021), after Ronneberger, Fischer & Brox, MICCAI 2015, with padded convolutions.

    Args:
        maps: which maps it draws, in the order of its outputs. Those of twice the size cost four channels each.
        width: channels of the first level; each level below has twice as many.
        depth: number of poolings.

    Raises:
        ModelError: an unknown map, or a width or depth below 1.
    """

    def __init__(self, maps: Sequence[str] | str = "gaussianMask", width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.maps = _maps(maps)
        if width < 1 or not 1 <= depth <= 7:
            raise ModelError(f"width {width}, depth {depth}: expected a width of 1 or more and a depth of 1 to 7")
        self.settings = {"maps": list(self.maps), "width": width, "depth": depth}
        self.multiple = 2**depth
        wide = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            [_double(1 if level == 0 else wide[level - 1], wide[level]) for level in range(depth)]
        )
        self.bottom = _double(wide[depth - 1], wide[depth])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(wide[level + 1], wide[level], 2, stride=2) for level in reversed(range(depth))]
        )
        self.join = nn.ModuleList([_double(2 * wide[level], wide[level]) for level in reversed(range(depth))])
        self.plain = [name for name in self.maps if name in PLAIN_MAPS]
        self.fine = [name for name in self.maps if name in FINE_MAPS]
        self.last = nn.Conv2d(width, len(self.plain) + 4 * len(self.fine), 1)

    def forward(self, image: Float[Tensor, "B 1 rows columns"]) -> dict[str, Tensor]:
        """Maps of an image of any size that was brought to mean 0 and standard deviation 1 (`inputs.normalise`).

        Returns:
            (B, 1, rows, columns) by name, (B, 1, 2 rows, 2 columns) for maps of twice the size.
        """
        rows, columns = image.shape[-2:]
        x = _padded(image, self.multiple)
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        x = self.last(x)
        found = {name: x[:, i : i + 1, :rows, :columns] for i, name in enumerate(self.plain)}
        for i, name in enumerate(self.fine):
            start = len(self.plain) + 4 * i
            found[name] = functional.pixel_shuffle(x[:, start : start + 4], 2)[..., : 2 * rows, : 2 * columns]
        return {name: found[name] for name in self.maps}


def _double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each followed by ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip


class AtomNet(nn.Module):
    """Our reference: a residual U-Net that works on cells of 2 x 2 pixels, draws every map and finds columns.

    Images that resolve their columns are sampled finer than the columns are wide, so nothing is lost by looking at
    four pixels as one cell of four channels, and half the arithmetic is saved. Scan noise displaces whole rows: long
    convolutions along the rows let the columns that a row crosses tell where it was. A last layer draws each pixel of
    the cell, also at twice the size, and tells of a column in it (`columns.read_columns`).

    Args:
        maps: which maps it draws; all unless given.
        widths: channels at 1/2, 1/4, 1/8, ... of the image's size.
        reach: length of the convolutions along the rows in averages of eight pixels; odd.

    Raises:
        ModelError: an unknown map, fewer than two levels, or an even reach.
    """

    def __init__(
        self,
        maps: Sequence[str] | str = PLAIN_MAPS + FINE_MAPS,
        widths: Sequence[int] = (48, 96, 144, 192),
        reach: int = 21,
    ) -> None:
        super().__init__()
        self.maps = _maps(maps)
        if len(widths) < 2 or min(widths) < 1 or reach < 1 or reach % 2 == 0:
            raise ModelError(f"widths {tuple(widths)}, reach {reach}: expected two or more widths and an odd reach")
        self.settings = {"maps": list(self.maps), "widths": list(widths), "reach": reach}
        self.multiple = max(2 ** len(widths), 2 * _POOL)
        self.enter = nn.Conv2d(4, widths[0], 5, padding=2, bias=False)
        self.down = nn.ModuleList([_Residual(width) for width in widths])
        self.shrink = nn.ModuleList([nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths)])
        self.grow = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in _pairs_up(widths)])
        self.up = nn.ModuleList([_Residual(a) for a, _ in _pairs_up(widths)])
        self.rows = nn.ModuleList([_AlongRows(widths[0], reach) for _ in range(2)])
        self.end = _Residual(widths[0])
        self.plain = [name for name in self.maps if name in PLAIN_MAPS]
        self.fine = [name for name in self.maps if name in FINE_MAPS]
        self.last = nn.Conv2d(widths[0], 4 * len(self.plain) + 16 * len(self.fine), 1)
        self.tell = nn.Sequential(nn.Conv2d(widths[0], widths[0], 3, padding=1), nn.ReLU(inplace=True))
        self.columns = nn.Conv2d(widths[0], COLUMN_CHANNELS, 1)
        # Most cells have no column: begin with a chance of one in a hundred.
        assert self.columns.bias is not None
        nn.init.constant_(self.columns.bias[:1], -4.6)

    def forward(self, image: Float[Tensor, "B 1 rows columns"]) -> dict[str, Tensor]:
        """Maps of an image of any size that was brought to mean 0 and standard deviation 1 (`inputs.normalise`).

        Returns:
            (B, 1, rows, columns) by name, (B, 1, 2 rows, 2 columns) for maps of twice the size; and "columns",
            (B, 7, ceil(rows / 2), ceil(columns / 2)), which `columns.read_columns` reads.
        """
        rows, columns = image.shape[-2:]
        x = self.enter(functional.pixel_unshuffle(_padded(image, self.multiple), 2))
        skips = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for grow, block, skip in zip(self.grow, self.up, reversed(skips), strict=True):
            x = block(skip + grow(x))
        for block in self.rows:
            x = block(x)
        x = functional.relu(self.end(x))
        told = self.tell(x)
        # Half precision would round what is drawn to one part in 256.
        with torch.autocast(x.device.type, enabled=False):
            found = self._drawn(self.last(x.float()), rows, columns)
            found["columns"] = self.columns(told.float())[..., : -(-rows // 2), : -(-columns // 2)]
        return found

    def _drawn(self, x: Tensor, rows: int, columns: int) -> dict[str, Tensor]:
        """The last layer's channels laid out as pixels."""
        split = 4 * len(self.plain)
        parts: Mapping[str, Tensor] = {}
        if self.plain:
            plain = functional.pixel_shuffle(x[:, :split], 2)[..., :rows, :columns]
            parts = {name: plain[:, i : i + 1] for i, name in enumerate(self.plain)}
        if self.fine:
            fine = functional.pixel_shuffle(x[:, split:], 4)[..., : 2 * rows, : 2 * columns]
            parts = {**parts, **{name: fine[:, i : i + 1] for i, name in enumerate(self.fine)}}
        return {name: parts[name] for name in self.maps}


def _pairs_up(widths: Sequence[int]) -> list[tuple[int, int]]:
    """(finer, coarser) widths, from the coarsest level up."""
    return list(reversed(list(pairwise(widths))))


class _Residual(nn.Module):
    """x + two 3 x 3 convolutions of what is normalised before each (He et al., ECCV 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


class _AlongRows(nn.Module):
    """x + what the cells of the same row tell, averaged by fours, over `reach` averages."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, width, 1), nn.ReLU(inplace=True))
        self.along = nn.Conv2d(width, width, (1, reach), padding=(0, reach // 2), groups=width)
        self.after = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; the width is a multiple of four."""
        told: Tensor = self.after(self.along(functional.avg_pool2d(self.before(x), (1, _POOL))))
        return x + told.repeat_interleave(_POOL, dim=-1)
