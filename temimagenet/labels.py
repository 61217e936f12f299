"""The ten ground truths of a sample: functions of its columns and its `FourierImage`, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from temimagenet.errors import LabelError
from temimagenet.imaging.background import Background, evaluate_background
from temimagenet.imaging.fourier import FourierImage, evaluate
from temimagenet.imaging.scan import Scan

__all__ = [
    "INTENSITIES",
    "LABELS",
    "MAPS",
    "POINTS",
    "SCALARS",
    "SCALED",
    "Columns",
    "Scaled",
    "check_labels",
    "column_map",
    "intensity_map",
    "point_label",
    "quantise",
]

LABELS: tuple[str, ...] = (
    "circularMask",
    "smallcircularMask",
    "gaussianMask",
    "noNoise",
    "noBackgroundnoNoise",
    "noNoiseNoBackgroundSuperresolution",
    "noNoiseNoBackgroundUpinterpolation2x",
    "noNoiseUpinterpolation2x",
    "position",
    "positionRadius",
)
"""The ten labels, spelled as the folders published with Lin et al. (2021)."""

SCALARS: tuple[str, ...] = ("radius", "smallRadius")
POINTS: tuple[str, ...] = ("position", "positionRadius")
MAPS: tuple[str, ...] = tuple(name for name in LABELS if name not in POINTS)
SCALED: tuple[str, ...] = tuple(name for name in MAPS if "ircularMask" not in name)
"""Maps that are stored in 16-bit steps; the masks are 0 and 1."""
INTENSITIES: tuple[str, ...] = (
    "noNoise",
    "noBackgroundnoNoise",
    "noNoiseNoBackgroundUpinterpolation2x",
    "noNoiseUpinterpolation2x",
)
"""Maps that are evaluated from the Fourier series; the other maps are drawn from the columns."""

SMALL_RADIUS = 0.7
"""Radius of `smallcircularMask` as a fraction of `circularMask`'s."""

SPOT_FWHM_A = 0.2
"""Full width at half maximum of the Gaussians of `gaussianMask` and the superresolution map, in angstrom."""

_SPOT_SIGMA_A = SPOT_FWHM_A / (2.0 * np.sqrt(2.0 * np.log(2.0)))
_SPOT_REACH = 6.0


@dataclass(frozen=True, eq=False)
class Columns:
    """Atomic columns of one image, those just outside it included.

    Attributes:
        xy_px: (K, 2) positions (x, y) in pixels, pixel centres at integers.
        pixel_size_A: pixel size in angstrom.
        weight_A2: (K,) scattering weight in A^2: the integral of the column's spot in the image plane.
        atoms: (K,) atoms stacked along the beam.
        kind: (K,) index into `kinds`.
        kinds: composition of each kind of column, such as "Sr" or "TiO".
        crlb_A: (K, 2) smallest standard deviation of x and y in angstrom that an unbiased estimate can have, nan
            outside the image; None where not computed or where there is no bound (`render.sample_bound`).
    """

    xy_px: Float[NDArray[np.float64], "K 2"]
    pixel_size_A: float
    weight_A2: Float[NDArray[np.float64], "K"]
    atoms: Float[NDArray[np.float64], "K"]
    kind: Int[NDArray[np.int64], "K"]
    kinds: tuple[str, ...]
    crlb_A: Float[NDArray[np.float64], "K 2"] | None = None

    def __len__(self) -> int:
        """Number of columns, those just outside the image included."""
        return len(self.xy_px)

    @property
    def xy_A(self) -> Float[NDArray[np.float64], "K 2"]:
        """(K, 2) positions in angstrom from the centre of pixel (0, 0)."""
        return self.xy_px * self.pixel_size_A

    def inside(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which columns lie on the area of an image's pixels."""
        x, y = self.xy_px.T
        within: NDArray[np.bool_] = (x >= -0.5) & (x < shape[1] - 0.5) & (y >= -0.5) & (y < shape[0] - 0.5)
        return within


@dataclass(frozen=True, eq=False)
class Scaled:
    """A map kept as 16-bit integers: value = offset + step * integer, within step / 2 of the map it was made from.

    Attributes:
        integers: (rows, columns) uint16.
        offset: value of integer 0.
        step: value of one integer step; 1/65535 of the map's range.
    """

    integers: Int[NDArray[np.uint16], "rows columns"]
    offset: float
    step: float

    def restore(self) -> Float[Tensor, "rows columns"]:
        """The map in float32."""
        return torch.from_numpy(self.integers.astype(np.float32)).mul_(self.step).add_(self.offset)


def quantise(values: Float[Tensor, "rows columns"]) -> Scaled:
    """Store a map in 65,536 even steps over its own range: an error of at most 7.7e-6 of the range."""
    low, high = (float(v) for v in torch.aminmax(values))
    step = (high - low) / 65535.0 or 1.0
    integers = ((values - low) * (1.0 / step)).round_().clamp_(0.0, 65535.0)
    return Scaled(integers.cpu().numpy().astype(np.uint16), low, step)


def check_labels(labels: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return label names as a tuple, in the order asked.

    Raises:
        LabelError: a name is not one of the ten labels and two scalars.
    """
    if isinstance(labels, str):
        labels = (labels,)
    known = LABELS + SCALARS
    for name in labels:
        if name not in known:
            raise LabelError(f"unknown label {name!r}: expected one of {', '.join(known)}")
    return tuple(labels)


def intensity_map(
    name: str,
    series: FourierImage,
    background: Background,
    clean_peak: float,
    scan: Scan,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A clean label that is an image: `noNoise`, `noBackgroundnoNoise` or one of their 2x versions.

    The 2x maps are the series at half the pixel size: exact, not interpolated; pixel (2 i, 2 j) is pixel (i, j).

    Args:
        name: which label.
        series: the image.
        background: background in units of `clean_peak`.
        clean_peak: unit of the background, fraction of the beam.
        scan: the image's grid; its row shifts are ignored.
        device: where to compute.

    Returns:
        (rows, columns) or (2 rows, 2 columns) float32, fraction of the beam.
    """
    grid = scan.upsampled(2) if "2x" in name else replace(scan, row_shift_A=None)
    values = evaluate(series, grid, device)
    if name in ("noNoise", "noNoiseUpinterpolation2x"):
        values = values + clean_peak * evaluate_background(background, grid.shape, device)
    return values


def column_map(name: str, columns: Columns, shape: tuple[int, int], radius_A: float) -> Tensor:
    """A label drawn from the columns: a mask, unit-peak Gaussians, or the superresolution map.

    `circularMask` and `smallcircularMask` are 1 within r and 0.7 r of a column. `gaussianMask` sums Gaussians of unit
    peak sampled at pixel centres. `noNoiseNoBackgroundSuperresolution` sums Gaussians of unit volume times the
    column's weight, each pixel the average over its area, so that its sum times the pixel's area is the weight.

    Args:
        name: which label.
        columns: columns in and around the image.
        shape: rows and columns of the image.
        radius_A: mask radius r in angstrom.

    Returns:
        (rows, columns) float32; the superresolution map is in fractions of the beam.
    """
    if name in ("circularMask", "smallcircularMask"):
        radius = radius_A * (SMALL_RADIUS if name == "smallcircularMask" else 1.0) / columns.pixel_size_A
        return _discs(columns.xy_px, radius, shape)
    sigma = _SPOT_SIGMA_A / columns.pixel_size_A
    reach = _SPOT_REACH * sigma + 0.5
    near = (columns.xy_px > -1.0 - reach).all(axis=1) & (columns.xy_px < np.array(shape[::-1]) + reach).all(axis=1)
    xy = columns.xy_px[near]
    along_x, along_y = (
        torch.from_numpy((np.arange(count) - xy[:, axis, None]).astype(np.float32))
        for count, axis in ((shape[1], 0), (shape[0], 1))
    )
    if name == "gaussianMask":
        # Tails below 1e-17 become 0: subnormal numbers would slow the product down tenfold.
        rows, cols = (
            torch.threshold_(torch.exp_(d.square_().mul_(-0.5 / sigma**2).clamp_(min=-40.0)), 1e-17, 0.0)
            for d in (along_y, along_x)
        )
    elif name == "noNoiseNoBackgroundSuperresolution":
        root = float(np.sqrt(2.0) * sigma)
        rows, cols = (torch.erf((d + 0.5) / root).sub_(torch.erf((d - 0.5) / root)) for d in (along_y, along_x))
        rows *= torch.from_numpy((columns.weight_A2[near] / (2.0 * columns.pixel_size_A) ** 2).astype(np.float32))[
            :, None
        ]
    else:
        raise LabelError(f"{name!r} is not drawn from the columns")
    return rows.T @ cols


def point_label(name: str, columns: Columns, shape: tuple[int, int], radius_A: float) -> Tensor:
    """`position` (K, 2), `positionRadius` (K, 3), `radius` or `smallRadius`, all in pixels, float64.

    Points are (x, y) and (x, y, r) of the columns inside the image.
    """
    radius = radius_A / columns.pixel_size_A
    if name in SCALARS:
        return torch.tensor(radius if name == "radius" else SMALL_RADIUS * radius, dtype=torch.float64)
    xy = columns.xy_px[columns.inside(shape)]
    if name == "positionRadius":
        xy = np.concatenate([xy, np.full((len(xy), 1), radius)], axis=1)
    return torch.from_numpy(np.ascontiguousarray(xy))


def _discs(xy_px: NDArray[np.float64], radius: float, shape: tuple[int, int]) -> Tensor:
    """1 at pixel centres within `radius` of a position, else 0."""
    reach = np.arange(-int(np.ceil(radius)) - 1, int(np.ceil(radius)) + 2)
    centre = np.rint(xy_px).astype(np.int64)
    x = centre[:, 0, None] + reach
    y = centre[:, 1, None] + reach
    dx2 = ((x - xy_px[:, :1]) ** 2).astype(np.float32)
    dy2 = ((y - xy_px[:, 1:]) ** 2).astype(np.float32)
    within = dy2[:, :, None] + dx2[:, None, :] <= np.float32(radius**2)
    # A frame around the image takes what falls outside, so that no test is needed pixel by pixel.
    frame = np.zeros((shape[0] + 2, shape[1] + 2), dtype=np.float32)
    flat = (np.clip(y, -1, shape[0])[:, :, None] + 1) * (shape[1] + 2) + np.clip(x, -1, shape[1])[:, None, :] + 1
    frame.reshape(-1)[flat[within]] = 1.0
    return torch.from_numpy(np.ascontiguousarray(frame[1:-1, 1:-1]))
