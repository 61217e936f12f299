"""`Background`: smooth intensity that does not come from the crystal, known exactly at every point of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temimagenet.errors import OpticsError

__all__ = ["Background", "BackgroundKind", "draw_background", "evaluate_background"]

BackgroundKind = Literal["constant", "ramp", "nonlinear", "film"]


@dataclass(frozen=True)
class Background:
    """A non-negative background in units of the clean image's peak, over field coordinates u, v in 0..1 (x, y).

    b(u, v) = level + slope . (u, v) + sum a/2 (1 + cos(2 pi (fx u + fy v) + phase))
              + sum a exp(-|(u, v) - c|^2 / 2 s^2)

    Attributes:
        kind: what it was drawn as.
        level: value at (0, 0) of the constant and linear part.
        slope: change of the linear part across the field along x and y.
        stripes: (amplitude, fx, fy, phase) of each cosine; frequencies in cycles across the field.
        blobs: (amplitude, centre u, centre v, sigma) of each Gaussian, in fractions of the field.
    """

    kind: BackgroundKind
    level: float = 0.0
    slope: tuple[float, float] = (0.0, 0.0)
    stripes: tuple[tuple[float, float, float, float], ...] = ()
    blobs: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        """Raise `OpticsError` if the background is negative somewhere or of an unknown kind."""
        if self.kind not in get_args(BackgroundKind):
            raise OpticsError(f"background {self.kind!r}: expected one of {', '.join(get_args(BackgroundKind))}")
        lowest = self.level + sum(min(s, 0.0) for s in self.slope)
        amplitudes = [term[0] for term in self.stripes + self.blobs]
        if lowest < -1e-12 or min(amplitudes, default=0.0) < 0.0:
            raise OpticsError("background is negative somewhere in the field: expected 0 or more everywhere")


def draw_background(kind: BackgroundKind, level: float, rng: np.random.Generator) -> Background:
    """Draw a background of a kind whose strongest possible value is about `level` (in clean peaks).

    A ramp runs from 0 to `level` across the field in a random direction; the non-linear kind is a low constant with
    one to three stripes patterns of up to two cycles and one to three blobs. A film is the speckle of an amorphous
    support: 12 to 40 stripes patterns of every direction and up to 4 to 20 cycles, a choice: details of 0.5 to 5 A.
    """
    if kind == "constant":
        return Background("constant", level)
    if kind == "ramp":
        angle = rng.uniform(0.0, 2.0 * np.pi)
        slope = level * np.array([np.cos(angle), np.sin(angle)]) / (abs(np.cos(angle)) + abs(np.sin(angle)))
        return Background("ramp", float(-np.minimum(slope, 0.0).sum()), (float(slope[0]), float(slope[1])))
    if kind == "film":
        # Evenly in the plane of frequencies.
        count, finest = int(rng.integers(12, 41)), rng.uniform(4.0, 20.0)
        cycles, towards = finest * np.sqrt(rng.random(count)), rng.uniform(0.0, 2.0 * np.pi, count)
        share, phase = np.full(count, level / count), rng.uniform(0.0, 2.0 * np.pi, count)
        waves = np.stack([share, cycles * np.cos(towards), cycles * np.sin(towards), phase], axis=1)
        return Background("film", stripes=tuple((w[0], w[1], w[2], w[3]) for w in waves.tolist()))
    terms = rng.integers(1, 4, size=2)
    share = rng.dirichlet(np.ones(1 + terms.sum())) * level
    stripes = tuple(
        (float(a), *(float(f) for f in rng.uniform(-2.0, 2.0, 2)), float(rng.uniform(0.0, 2.0 * np.pi)))
        for a in share[1 : 1 + terms[0]]
    )
    blobs = tuple(
        (float(a), *(float(c) for c in rng.uniform(0.0, 1.0, 2)), float(rng.uniform(0.1, 0.4)))
        for a in share[1 + terms[0] :]
    )
    return Background("nonlinear", float(share[0]), (0.0, 0.0), stripes, blobs)  # type: ignore[arg-type]


def evaluate_background(
    background: Background, shape: tuple[int, int], device: torch.device | str = "cpu"
) -> Float[Tensor, "rows columns"]:
    """Background at the pixels of a grid that spans the field: pixel (i, j) is at u = j / columns, v = i / rows.

    Every term is a product of a function of u and one of v, so the map is one small matrix product; a grid twice as
    fine shares every second pixel with this one.

    Returns:
        (rows, columns) float32 tensor in units of the clean peak.
    """
    rows, columns = shape
    u = np.arange(columns) / columns
    v = np.arange(rows) / rows
    along_v = [np.full(rows, background.level), background.slope[1] * v, np.ones(rows)]
    along_u = [np.ones(columns), np.ones(columns), background.slope[0] * u]
    for amplitude, fx, fy, phase in background.stripes:
        column, row = 2.0 * np.pi * fx * u, 2.0 * np.pi * fy * v + phase
        along_v += [np.full(rows, amplitude / 2), amplitude / 2 * np.cos(row), -amplitude / 2 * np.sin(row)]
        along_u += [np.ones(columns), np.cos(column), np.sin(column)]
    for amplitude, cu, cv, sigma in background.blobs:
        along_v.append(amplitude * np.exp(-((v - cv) ** 2) / (2.0 * sigma**2)))
        along_u.append(np.exp(-((u - cu) ** 2) / (2.0 * sigma**2)))
    left = torch.from_numpy(np.stack(along_v, axis=1)).to(device, torch.float32)
    right = torch.from_numpy(np.stack(along_u)).to(device, torch.float32)
    return (left @ right).clamp_(min=0.0)
