"""What a network drew, brought into agreement with the image that it was drawn from.

A network that has seen many kinds of images errs in the contrast and the slow parts of the one at hand, and the image
itself tells: it is the clean image, rows displaced, plus noise. The gain is that of least squares, while the rows'
displacements, which would make it too small, are found along the way; what is left over then is taken over where it
varies slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage

from temimagenet.models.inputs import ABOVE_ZERO, normalise

__all__ = ["CLEAN", "CORRECTED", "Agreement", "agree", "in_agreement"]

CLEAN = "noNoise"
"""The map that is held against the image."""

_WITH_BACKGROUND = (CLEAN, "noNoiseUpinterpolation2x")

CORRECTED = (*_WITH_BACKGROUND, *ABOVE_ZERO)
"""Maps that are corrected: clean images; of those without a background, where nothing is 0, the contrast alone."""

_PIXELS = 2**16
"""The gain is found from so many pixels; rows evenly over the image, at least `_LEAST_ROWS`."""

_LEAST_ROWS = 64
_ROUNDS = 8
"""Of the gain; then each row is displaced in at most `_LAST_ROUNDS`, fewer if it comes to rest."""

_LAST_ROUNDS = 5
_BLOCK_ROWS = 64
_MOST_STEP_PX = 2.0
"""Longest step of a round: about the width of a narrow spot's slope."""

_AT_REST_PX = 0.02
_MOST_WANDER_PX = 8.0
"""Standard deviation of displacements at most: where nothing was drawn, rows would go anywhere."""

_GAINS = (0.8, 1.3)
"""Gains that are believed: where a network drew nothing but what noise left in it, the image tells none."""

_SLOW_PX = 7.0
"""Standard deviation of the Gaussian that what is left over is smoothed by: a six-hundredth of the noise's variance
remains of it."""

_PLACE, _SLOPES, _CURVES = ((0, 0),), ((1, 0), (0, 1)), ((2, 0), (1, 1), (0, 2))
"""Orders of derivatives along x and y."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """How a clean image as it was drawn becomes one that agrees with the noisy image: gain * it + slow.

    Attributes:
        gain: factor of contrast, 0.8 to 1.3.
        slow: (rows, columns) what is added, a slow image in the unit of the image.
        wander_px: standard deviation of the rows' displacements, rms per axis, in pixels.
    """

    gain: float
    slow: Float[NDArray[np.float32], "rows columns"]
    wander_px: float

    def corrected(self, drawn: Float[NDArray[np.float32], "..."]) -> Float[NDArray[np.float32], "..."]:
        """A clean image with its background, of the image's size or twice that; its pixel (2 i, 2 j) is (i, j)."""
        slow = self.slow if drawn.shape == self.slow.shape else _twice(self.slow)
        return np.asarray(np.float32(self.gain) * drawn + slow, np.float32)


def agree(
    image: Float[NDArray[np.float64], "rows columns"], drawn: Float[NDArray[np.float32], "rows columns"]
) -> Agreement:
    """Hold a clean image, as a network drew it, against the noisy image.

    With y_i the pixels of row i and D what was drawn, less a plane each, y_i = gain D(x + dx_i, y + dy_i) + noise.
    Displacements are normal, of one standard deviation, which follows from how much more the rows' gradients vary than
    noise makes them. Rounds of least squares alternate between them and the gain, for which D is replaced by its mean
    over what is not known of them, to second order.

    Args:
        image: the noisy image.
        drawn: its `noNoise`, whose rows are straight, in the same unit.

    Raises:
        ModelError: every pixel of the image is the same.
    """
    seen, scale = normalise(image)
    clean = ((drawn - np.float32(scale.mean)) / np.float32(scale.deviation)).astype(np.float32)
    seen_plane, clean_plane = _plane(seen), _plane(clean)
    seen, clean = seen - seen_plane, clean - clean_plane
    rows, columns = seen.shape
    count = min(rows, max(_LEAST_ROWS, _PIXELS // columns))
    match = _matched(seen, clean, ((np.arange(count) + 0.5) * (rows / count)).astype(np.intp))
    left = np.empty_like(seen)
    for first in range(0, rows, _BLOCK_ROWS):
        moving = np.arange(first, min(first + _BLOCK_ROWS, rows))
        moved = np.zeros((len(moving), 2))
        for _ in range(_LAST_ROUNDS):
            value, *slopes = _displaced(clean, moving, moved, _PLACE + _SLOPES)
            left[moving] = seen[moving] - np.float32(match.gain) * value
            after = _moved(moved, *_told(slopes, left[moving], moved, match), match.variance)[0]
            far = np.abs(after - moved).max(axis=1) >= _AT_REST_PX
            moving, moved = moving[far], after[far]
            if not len(moving):
                break
    left += seen_plane - np.float32(match.gain) * clean_plane
    slow = np.asarray(ndimage.gaussian_filter(left, _SLOW_PX, mode="nearest"), np.float32)
    level = (1.0 - match.gain) * scale.mean
    return Agreement(match.gain, np.float32(scale.deviation) * slow + np.float32(level), float(np.sqrt(match.variance)))


def in_agreement(
    image: Float[NDArray[np.float64], "rows columns"],
    drawn: Mapping[str, Float[NDArray[np.float32], "..."]],
    wanted: Sequence[str],
) -> dict[str, Float[NDArray[np.float32], "..."]]:
    """The maps wanted, corrected if `noNoise` was drawn with them.

    Args:
        image: the noisy image.
        drawn: maps in its unit, by name.
        wanted: names.
    """
    if CLEAN not in drawn or not any(name in CORRECTED for name in wanted):
        return {name: drawn[name] for name in wanted}
    agreement = agree(image, drawn[CLEAN])
    made = {}
    for name in wanted:
        if name in _WITH_BACKGROUND:
            made[name] = agreement.corrected(drawn[name])
        else:
            made[name] = np.float32(agreement.gain) * drawn[name] if name in ABOVE_ZERO else drawn[name]
    return made


@dataclass(frozen=True)
class _Match:
    """The gain, the variance of what is left over, and that of the rows' displacements per axis in px^2."""

    gain: float
    noise: float
    variance: float


def _matched(
    seen: Float[NDArray[np.float32], "rows columns"],
    clean: Float[NDArray[np.float32], "rows columns"],
    chosen: NDArray[np.intp],
) -> _Match:
    """The gain and so on of some rows."""
    given = seen[chosen]
    moved, unsure, match = np.zeros((len(chosen), 2)), np.zeros((len(chosen), 2, 2)), _Match(1.0, 0.0, 0.0)
    for _ in range(_ROUNDS):
        value, *derived = _displaced(clean, chosen, moved, _PLACE + _SLOPES + _CURVES)
        slopes, curves = derived[:2], derived[2:]
        for curve, part in zip(curves, (0.5 * unsure[:, 0, 0], unsure[:, 0, 1], 0.5 * unsure[:, 1, 1]), strict=True):
            value += curve * part[:, None].astype(np.float32)
        square = float(np.square(value).sum(dtype=np.float64)) + float((_products(slopes) * unsure).sum())
        gain = float((value * given).sum(dtype=np.float64)) / square if square else 1.0
        gain = min(max(gain, _GAINS[0]), _GAINS[1])
        rest = given - np.float32(gain) * value
        match = _Match(gain, float(np.square(rest, dtype=np.float64).mean()), 0.0)
        if match.noise == 0.0:
            break
        known, pull = _told(slopes, rest, moved, match)
        square = float(np.square(known).sum())
        spare = float(np.square(pull).sum()) - float(np.einsum("iaa->", known))
        match = replace(match, variance=min(max(0.0, spare / square), _MOST_WANDER_PX**2) if square else 0.0)
        moved, unsure = _moved(moved, known, pull, match.variance)
    return match


def _products(slopes: Sequence[Float[NDArray[np.float32], "n columns"]]) -> Float[NDArray[np.float64], "n 2 2"]:
    """Sums over each row of products of its slopes."""
    x, y = slopes
    xx, xy, yy = (np.einsum("ij,ij->i", *pair).astype(np.float64) for pair in ((x, x), (x, y), (y, y)))
    return np.stack([xx, xy, xy, yy], axis=1).reshape(-1, 2, 2)


def _told(
    slopes: Sequence[Float[NDArray[np.float32], "n columns"]],
    rest: Float[NDArray[np.float32], "n columns"],
    moved: Float[NDArray[np.float64], "n 2"],
    match: _Match,
) -> tuple[Float[NDArray[np.float64], "n 2 2"], Float[NDArray[np.float64], "n 2"]]:
    """What rows tell of their displacements: information in 1 / px^2, and it times the displacements likeliest."""
    if match.noise == 0.0:
        return np.zeros((len(moved), 2, 2)), np.zeros_like(moved)
    known: NDArray[np.float64] = match.gain**2 / match.noise * _products(slopes)
    pull = np.stack([np.einsum("ij,ij->i", slope, rest) for slope in slopes], axis=1).astype(np.float64)
    likeliest: NDArray[np.float64] = match.gain / match.noise * pull + np.einsum("iab,ib->ia", known, moved)
    return known, likeliest


def _moved(
    moved: Float[NDArray[np.float64], "n 2"],
    known: Float[NDArray[np.float64], "n 2 2"],
    pull: Float[NDArray[np.float64], "n 2"],
    variance: float,
) -> tuple[Float[NDArray[np.float64], "n 2"], Float[NDArray[np.float64], "n 2 2"]]:
    """Displacements after a step towards the likeliest, and their covariances."""
    if variance == 0.0:
        return np.zeros_like(moved), np.zeros_like(known)
    unsure = np.asarray(np.linalg.inv(known + np.eye(2) / variance), np.float64)
    step = np.einsum("iab,ib->ia", unsure, pull) - moved
    after: NDArray[np.float64] = moved + np.clip(step, -_MOST_STEP_PX, _MOST_STEP_PX)
    return after, unsure


def _displaced(
    clean: Float[NDArray[np.float32], "rows columns"],
    chosen: NDArray[np.intp],
    moved: Float[NDArray[np.float64], "n 2"],
    orders: Sequence[tuple[int, int]],
) -> list[Float[NDArray[np.float32], "n columns"]]:
    """Rows of a map at displaced places, or their derivatives, by cubic convolution (Keys 1981)."""
    rows, columns = clean.shape
    whole = np.floor(moved).astype(np.intp)
    across, down = (_weights(moved[:, axis] - whole[:, axis]) for axis in (0, 1))
    lines = [clean[np.clip(chosen + whole[:, 1] + tap, 0, rows - 1)] for tap in range(-1, 3)]
    place = np.clip(np.arange(-1, columns + 2) + whole[:, :1], 0, columns - 1)
    taps = {}
    for order in {order for _, order in orders}:
        line = np.take_along_axis(_weighted(down[order], lines), place, axis=1)
        taps[order] = [line[:, tap : tap + columns] for tap in range(4)]
    return [_weighted(across[along], taps[below]) for along, below in orders]


def _weighted(
    weights: Float[NDArray[np.float32], "4 n 1"], parts: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Sum of four parts, each times its weights."""
    total: NDArray[np.float32] = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total += weight * part
    return total


_CUBICS = np.array([[-0.5, 1.0, -0.5, 0.0], [1.5, -2.5, 0.0, 1.0], [-1.5, 2.0, 0.5, 0.0], [0.5, -0.5, 0.0, 0.0]])
"""Of the pixels -1, 0, 1 and 2, the coefficients of t^3, t^2, t and 1 (a = -1/2)."""


def _weights(t: Float[NDArray[np.float64], "n"]) -> list[Float[NDArray[np.float32], "4 n 1"]]:
    """Weights of four pixels at a place 0 <= t < 1, and their first two derivatives."""
    powers = (
        np.stack([t**3, t**2, t, np.ones_like(t)]),
        np.stack([3.0 * t**2, 2.0 * t, np.ones_like(t), np.zeros_like(t)]),
        np.stack([6.0 * t, np.full_like(t, 2.0), np.zeros_like(t), np.zeros_like(t)]),
    )
    return [(_CUBICS @ power).astype(np.float32)[..., None] for power in powers]


def _plane(values: Float[NDArray[np.float32], "rows columns"]) -> Float[NDArray[np.float32], "rows columns"]:
    """The plane through an image, by least squares."""
    y, x = (np.arange(count) - 0.5 * (count - 1) for count in values.shape)
    down = float((y @ values).sum()) / float(np.square(y).sum() * len(x))
    along = float((values @ x).sum()) / float(np.square(x).sum() * len(y))
    plane = values.mean(dtype=np.float64) + down * y[:, None] + along * x
    return np.asarray(plane, np.float32)


def _twice(slow: Float[NDArray[np.float32], "rows columns"]) -> Float[NDArray[np.float32], "rows columns"]:
    """A slow image on a grid twice as fine, linear between pixels; the last ones are repeated."""
    for axis in (0, 1):
        after = np.concatenate([slow.take(range(1, slow.shape[axis]), axis), slow.take([-1], axis)], axis)
        slow = np.stack([slow, (slow + after) / 2.0], axis=axis + 1).reshape(
            [count * (2 if side == axis else 1) for side, count in enumerate(slow.shape)]
        )
    return slow
