"""`GaussianFit`: two-dimensional Gaussian fits of all columns at once, batched Levenberg-Marquardt in torch."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from torch import Tensor

from temimagenet.device import single_threaded
from temimagenet.errors import LocalizeError
from temimagenet.localize.detect import detect_columns
from temimagenet.localize.protocol import Flag, FoundColumns, check_image, check_starts, doubts, owners, repeated
from temimagenet.progress import report

__all__ = ["Estimator", "GaussianFit", "fit_gaussians"]

Estimator = Literal["least-squares", "poisson"]
"""`least-squares`: all pixels alike; `poisson`: maximum likelihood of counts up to an unknown gain."""

_TOGETHER = 4.0
"""Columns nearer than this many standard deviations of the spot are fitted together (dumbbells)."""

_MOST_TOGETHER = 6
_REACH = 3.5
"""Spots are taken to end here, in standard deviations: 0.2 % of their height."""

_ROUNDS = 12
_STEPS = 5
"""Steps of a window before its neighbours are looked at anew."""

_BATCH = 600_000
_LEAST_BATCH = 100
_STEP_PX = 1e-4
_GAIN = 1e-3
"""What a last step may still gain in half a chi-square: it moves a column by less than a twentieth of its error, and
leaves the square of that."""

_FAR = 2e-2
"""The same for a fifth of the error: neighbours follow by a fifth of it or less."""

_DARKEST = 1e-3
"""Least expected counts of a background, in means of the image."""

_SMALL = 0.03
"""Pulls below which a series is more exact than the logarithm."""

_ROUNDING = 1e-6
"""Relative rise of a cost in single precision that is none."""

_POWERS = [(p, q) for order in range(5) for p, q in [(order - n, n) for n in range(order + 1)]]
"""Powers of x and y of the monomials up to the fourth order."""

_QUADRATIC = 6
"""Monomials up to the second order."""

_PRODUCT = torch.tensor(
    [[_POWERS.index((p + r, q + s)) for r, s in _POWERS[:_QUADRATIC]] for p, q in _POWERS[:_QUADRATIC]]
)
"""(6, 6) which monomial the product of two quadratic ones is."""


@dataclass(frozen=True)
class GaussianFit:
    """Localizer: `detect_columns`, then `fit_gaussians` from there.

    Attributes:
        estimator: least squares or Poisson maximum likelihood.
        elliptic: three widths (two axes and their direction) instead of one.
        window: half edge of the square window around a column, in standard deviations of the spot.
    """

    estimator: Estimator = "poisson"
    elliptic: bool = False
    window: float = 2.5

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"Gaussian fit ({self.estimator}{', elliptic' if self.elliptic else ''})"

    def __call__(self, image: ArrayLike, pixel_size_A: float) -> FoundColumns:
        """Find and fit the columns of one image.

        Raises:
            LocalizeError: the image cannot be used; negative pixels with "poisson".
        """
        found = detect_columns(image, pixel_size_A)
        # Without columns there is no width either, and none is needed.
        width_px = found.width_px if len(found) else 1.0
        return fit_gaussians(
            image, pixel_size_A, found.xy_px, width_px,
            estimator=self.estimator, elliptic=self.elliptic, window=self.window,
        )  # fmt: skip


def fit_gaussians(
    image: ArrayLike,
    pixel_size_A: float,
    start_px: Float[NDArray[np.float64], "N 2"],
    width_px: float,
    *,
    estimator: Estimator = "poisson",
    elliptic: bool = False,
    window: float = 2.5,
) -> FoundColumns:
    """Fit a Gaussian on a local constant background around each start.

    Every column has a window with a background and a width of its own. Others nearer than four standard deviations of
    the spot are fitted along with it (six at most, one width for all) and then dropped; those farther away that reach
    into the window are taken off as fitted in their own windows, in rounds until no column moves. Standard errors are
    those of the heteroscedasticity-consistent sandwich estimator (White, Econometrica 48 (1980) 817) from the
    residuals, so that no gain needs to be known.

    Args:
        image: counts, or a signal proportional to them for "poisson".
        pixel_size_A: pixel size.
        start_px: (N, 2) starts (x, y) in pixels.
        width_px: expected standard deviation of a spot in pixels.
        estimator: least squares or Poisson maximum likelihood.
        elliptic: fit a general covariance instead of one width.
        window: half edge of a window in expected standard deviations.

    Returns:
        As many columns as starts, in their order; poor ones are flagged. Standard errors are nan where the data tell
        nothing or a bound held the fit. Of starts within half a spot's width of one another the first is fitted; the
        others are that column again, flagged `Flag.TWICE`.

    Raises:
        LocalizeError: the image, a start or a setting cannot be used; negative pixels with "poisson".
    """
    values = check_image(image, pixel_size_A)
    start = check_starts(values, start_px, width_px)
    owner = owners(start, width_px)
    start = start[np.unique(owner)]
    if estimator not in get_args(Estimator):
        raise LocalizeError(f"estimator {estimator!r}: expected one of {', '.join(get_args(Estimator))}")
    if estimator == "poisson" and values.min() < 0.0:
        raise LocalizeError(
            "negative pixels: Poisson likelihood wants counts; subtract no background, or least-squares"
        )
    if not 1.0 <= window <= 10.0:
        raise LocalizeError(f"window {window}: expected a half edge of 1 to 10 standard deviations")
    if not len(start):
        return FoundColumns.none(pixel_size_A)
    windows = _Windows(values, start, width_px, window, estimator, elliptic)
    found, settled = windows.fit()
    fitted = float(np.median(found[settled, 4])) if settled.any() else width_px
    if not 0.8 < fitted / width_px < 1.25:
        # Windows fit the spots that are there, not those that were expected.
        width_px *= float(np.clip(fitted / width_px, 0.6, 1.6))
        windows = _Windows(values, start, width_px, window, estimator, elliptic)
        found, settled = windows.fit()
    return repeated(_columns(found, settled, start, windows.cut, width_px, pixel_size_A), owner)


def _columns(
    found: NDArray[np.float64],
    settled: NDArray[np.bool_],
    start: NDArray[np.float64],
    cut: NDArray[np.bool_],
    width_px: float,
    pixel_size_A: float,
) -> FoundColumns:
    """Results with their flags."""
    xy, sigma, width = found[:, :2], found[:, 2:4], found[:, 4]
    height, height_sigma, relative = found[:, 5], found[:, 6], found[:, 7]
    flags = np.where(settled & np.isfinite(found).all(axis=1), 0, int(Flag.NOT_CONVERGED))
    flags |= np.where(cut, int(Flag.CUT), 0)
    flags |= doubts(xy, start, width_px, height, height_sigma)
    usual = np.median(width[flags == 0]) if (flags == 0).any() else width_px
    flags |= np.where(~((width > 0.5 * usual) & (width < 2.0 * usual)), int(Flag.ODD_WIDTH), 0)
    intensity = 2.0 * np.pi * height * width**2
    return FoundColumns(
        xy.copy(), sigma.copy(), intensity, np.abs(intensity) * relative, width.copy(), flags.astype(np.int64),
        pixel_size_A,
    )  # fmt: skip


class _Windows:
    """All windows of an image; lengths are in half edges of a window, signals in means of the image.

    A window's parameters: background, the precision matrix (a, or a, b, c), then height, x and y of each column, the
    window's own first. Derivatives of the model are combinations of few functions: 1, and each spot times the monomials
    up to the second order. So the normal equations come from moments of the weighted spots, and those from one matrix
    product for all windows of a batch.
    """

    def __init__(
        self, values: NDArray[np.float64], start: NDArray[np.float64], width_px: float, window: float,
        estimator: Estimator, elliptic: bool,
    ) -> None:  # fmt: skip
        rows, columns = values.shape
        # No window is larger than the image.
        half = max(2, min(math.ceil(window * width_px), (min(rows, columns) + 1) // 2))
        self.half, self.estimator = half, estimator
        self.shapes = 3 if elliptic else 1
        self.width = width_px / half
        self.scale = float(np.abs(values).mean())
        # Windows may reach into a frame that counts for nothing.
        frame = ((half, half), (half, half))
        self.picture = torch.from_numpy(np.pad(values / self.scale, frame))
        self.inside = torch.from_numpy(np.pad(np.ones(values.shape, dtype=np.float32), frame))
        self.start = torch.from_numpy(start)
        corner = torch.tensor([columns - 1, rows - 1])
        self.middle = torch.minimum(self.start.round().long().clamp_min(0), corner)
        self.cut = ((self.middle < half) | (self.middle > corner - half)).any(dim=1).numpy()
        self.steps = torch.arange(-half, half + 1, dtype=torch.float64) / half
        y, x = (grid.reshape(-1) for grid in torch.meshgrid(self.steps, self.steps, indexing="ij"))
        self.monomials = torch.stack([x**p * y**q for p, q in _POWERS]).float()
        self.near, self.together, self.reaching = _neighbours(start, half, width_px)
        # Of every column as last fitted: x and y in pixels of the image, the precision matrix a, b, c, height.
        self.spots = torch.zeros((len(start), 6), dtype=torch.float64)
        self.spots[:, :2] = self.start
        self.spots[:, 2] = self.spots[:, 4] = self.width**-2

    def fit(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(N, 8) x, y, their errors, width, height, its error, and the relative error of the intensity; and which have
        settled."""
        threads = torch.get_num_threads()
        plans: list[tuple[NDArray[np.int64], int, bool]] = []
        # Those that reach beyond the image cost more.
        for count, edge in np.unique(np.stack([self.together, self.cut], axis=1), axis=0).tolist():
            group = np.flatnonzero((self.together == count) & (self.cut == bool(edge)))
            size = int(np.clip(_BATCH // (count * self.monomials.shape[1]), 32, 1024))
            # As many batches for each thread, unless they are so small that what is done once a batch takes the time.
            parts = -(-len(group) // size)
            parts = threads * -(-parts // threads) if len(group) > _LEAST_BATCH * threads else parts
            plans += [(part, count, bool(edge)) for part in np.array_split(group, parts)]
        # A thread a batch: several on one operation wait for each other longer than they work.
        with single_threaded(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            batches = list(pool.map(lambda plan: _Batch(self, *plan), plans))
            for batch in batches:
                batch.take_heights()
            for number in range(_ROUNDS):
                report("fit", number, _ROUNDS)
                moved = sum(pool.map(_Batch.improve, batches, repeat(self.spots.clone())))
                # One column in a hundred may wander without keeping the others from their end.
                if moved <= 0.01 * len(self.start):
                    break
            results = list(pool.map(_Batch.result, batches))
        found = np.full((len(self.start), 8), np.nan)
        settled = np.zeros(len(self.start), dtype=bool)
        for batch, result in zip(batches, results, strict=True):
            found[batch.own.numpy()], settled[batch.own.numpy()] = result
        return found, settled

    def cutouts(self, image: Tensor, own: Tensor) -> Tensor:
        """(B, pixels) windows of a framed image."""
        n = 2 * self.half + 1
        x, y = self.middle[own].T
        found: Tensor = image.unfold(0, n, 1).unfold(1, n, 1)[y, x]
        return found.reshape(len(own), -1)

    def spot(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """(..., pixels) Gaussians of height 1 in windows."""
        if self.shapes == 1:
            along, across = self.profiles(x, y, a)
            return (across[..., :, None] * along[..., None, :]).flatten(-2)
        form = torch.stack(
            [
                -0.5 * (a * x * x + c * y * y) - b * x * y, a * x + b * y, b * x + c * y,
                (-0.5 * a).expand_as(x), (-b).expand_as(x), (-0.5 * c).expand_as(x),
            ],
            dim=-1,
        )  # fmt: skip
        spots: Tensor = (form.float() @ self.monomials[:_QUADRATIC]).exp_()
        return spots

    def profiles(self, x: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """(..., n) factors along x and y of round spots."""
        along, across = (
            torch.exp(-0.5 * a[..., None] * (self.steps - middle[..., None]) ** 2).float() for middle in (x, y)
        )
        return along, across

    def total(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor, height: Tensor) -> Tensor:
        """(B, pixels) sums of the spots (B, C) of each window."""
        if self.shapes == 1:
            along, across = self.profiles(x, y, a)
            return torch.bmm((across * height[..., None]).transpose(1, 2), along).flatten(1)
        return torch.bmm(height[:, None], self.spot(x, y, a, b, c))[:, 0]


def _neighbours(
    start: NDArray[np.float64], half: int, width_px: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(N, K) columns that reach into each column's window, nearest first; how many are fitted together, the column
    itself included; and how many reach into the window, the others' places in the first array being its own number."""
    count = len(start)
    one, other = KDTree(start).query_pairs(half + _REACH * width_px, p=np.inf, output_type="ndarray").T
    distance = np.linalg.norm(start[one] - start[other], axis=1)
    one, other, distance = np.append(one, other), np.append(other, one), np.tile(distance, 2)
    order = np.lexsort((other, distance, one))
    reaching = np.bincount(one, minlength=count)
    first = np.cumsum(reaching) - reaching
    near = np.tile(np.arange(count)[:, None], (1, int(reaching.max(initial=0))))
    near[one[order], np.arange(len(order)) - first[one[order]]] = other[order]
    close = np.bincount(one[distance < _TOGETHER * width_px], minlength=count)
    return near, 1 + np.minimum(close, _MOST_TOGETHER), reaching


def _held_step(matrix: Tensor, gradient: Tensor, held: Tensor, change: Tensor) -> Tensor:
    """(B, size) solutions of matrix @ step = gradient where some entries of the steps are given in `change`."""
    right = torch.where(held, change, gradient - torch.bmm(matrix, change[..., None])[..., 0])
    step: Tensor = torch.linalg.solve_ex(_without(matrix, held), right[..., None])[0][..., 0]
    return step


def _without(matrix: Tensor, held: Tensor) -> Tensor:
    """(B, size, size) matrices with those of the identity in the rows and columns that are held."""
    if not held.any():
        return matrix
    return matrix * ~(held[:, :, None] | held[:, None]) + torch.diag_embed(held.double())


class _Batch:
    """Windows that hold equally many columns."""

    def __init__(self, windows: _Windows, own: NDArray[np.int64], count: int, cut: bool) -> None:
        self.windows, self.own, self.count, self.cut = windows, torch.from_numpy(own), count, cut
        near = windows.near[own]
        self.members = torch.from_numpy(np.column_stack([own, near[:, : count - 1]]))
        most = int(windows.reaching[own].max())
        self.others = torch.from_numpy(near[:, count - 1 : most])
        self.present = torch.from_numpy(np.arange(count - 1, most) < windows.reaching[own, None])
        # Single precision is enough for what stands out from the lowest pixel, whatever lies below it.
        whole = windows.cutouts(windows.picture, self.own)
        self.base = whole.amin(dim=1, keepdim=True)
        self.data = (whole - self.base).float()
        self.mask = windows.cutouts(windows.inside, self.own) if cut else torch.ones(1).expand_as(self.data)
        shapes, width = windows.shapes, windows.width
        self.size = 1 + shapes + 3 * self.count
        p = torch.zeros((len(own), self.size), dtype=torch.float64)
        p[:, 1] = width**-2
        if shapes == 3:
            p[:, 3] = width**-2
        p[:, 2 + shapes :: 3] = (windows.start[self.members, 0] - windows.middle[self.own, :1]) / windows.half
        p[:, 3 + shapes :: 3] = (windows.start[self.members, 1] - windows.middle[self.own, 1:]) / windows.half
        # Columns at the edge of a window would run away to infinite height; bounds that a settled fit does not touch.
        reach = torch.full((self.size,), torch.inf, dtype=torch.float64)
        reach[2 + shapes :: 3] = reach[3 + shapes :: 3] = 1.5 * width
        reach[2 + shapes : 4 + shapes] = 3.0 * width
        self.least, self.most = p - reach, p + reach
        # Nor are they holes; counts are expected everywhere.
        self.least[:, 1 + shapes :: 3] = 0.0
        if windows.estimator == "poisson":
            self.least[:, 0] = _DARKEST - self.base[:, 0]
        for axis in (1, 3) if shapes == 3 else (1,):
            self.least[:, axis], self.most[:, axis] = (2.5 * width) ** -2, (0.4 * width) ** -2
        self.damping = torch.full((len(own),), 1e-3, dtype=torch.float64)
        self.settled = torch.zeros(len(own), dtype=torch.bool)
        self.fixed = torch.zeros_like(self.data)
        square = self.data.reshape(len(own), 2 * windows.half + 1, -1)
        sides = (square[:, 0], square[:, -1], square[:, :, 0], square[:, :, -1])
        low = torch.stack([side.mean(dim=1) for side in sides]).amin(dim=0)  # above the base, like `data`
        spot = windows.spot(p[:, 2 + shapes], p[:, 3 + shapes], p[:, 1], torch.zeros_like(p[:, 1]), p[:, 1]) * self.mask
        p[:, 0] = torch.maximum(low.double(), self.least[:, 0])
        self.p = p
        height = ((self.data - low[:, None]) * spot).sum(dim=1) / (spot * spot).sum(dim=1)
        windows.spots[self.own, 5] = torch.maximum(height, 1e-6 * self.data.amax(dim=1).clamp(1e-20, 1.0)).double()
        self.free = (self.mask.sum(dim=1).double() - self.size).clamp_min(1.0)

    def take_heights(self) -> None:
        """First heights of all members, once every batch has told those of its own columns."""
        self.p[:, 1 + self.windows.shapes :: 3] = self.windows.spots[self.members, 5]

    def improve(self, spots: Tensor) -> int:
        """Fit the windows with everything else as in `spots`, tell the windows' own columns, and how many moved."""
        windows, shapes = self.windows, self.windows.shapes
        if self.others.shape[1]:
            other = spots[self.others]
            away = (other[..., :2] - windows.middle[self.own, None]) / windows.half
            height = (other[..., 5] * self.present).float()
            a, b, c = other[..., 2:5].unbind(dim=-1)
            self.fixed = windows.total(away[..., 0], away[..., 1], a, b, c, height)
        moved = self._descend()
        p = self.p
        mine = torch.empty((len(p), 6), dtype=torch.float64)
        mine[:, :2] = p[:, 2 + shapes : 4 + shapes] * windows.half + windows.middle[self.own]
        mine[:, 2:5] = torch.stack(self._shape(p), dim=1)
        mine[:, 5] = p[:, 1 + shapes]
        windows.spots[self.own] = mine
        return moved

    def _shape(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, c of the precision matrices."""
        if self.windows.shapes == 3:
            return p[:, 1], p[:, 2], p[:, 3]
        return p[:, 1], torch.zeros_like(p[:, 1]), p[:, 1]

    def _look(self, p: Tensor, part: Tensor | slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cost; spots (B, C, pixels); weights of the pixels in the normal equations; pulls, whose products with the
        derivatives are the gradient."""
        shapes = self.windows.shapes
        a, b, c = (value[:, None] for value in self._shape(p))
        spots = self.windows.spot(p[:, 2 + shapes :: 3], p[:, 3 + shapes :: 3], a, b, c)
        data, mask = self.data[part], self.mask[part] if self.cut else None
        height = p[:, 1 + shapes :: 3].float()
        model = torch.addcmul(self.fixed[part] + p[:, :1].float(), height[:, :1], spots[:, 0])
        for k in range(1, self.count):
            model.addcmul_(height[:, k : k + 1], spots[:, k])
        if self.windows.estimator == "poisson":
            base = self.base[part].float()
            pull = data - model
            counts = model.add_(base)
            if mask is not None:
                pull *= mask
            gone = pull.sum(dim=1)
            pull /= counts
            if pull.abs().max() < _SMALL:
                cost = (counts * pull * pull * (0.5 - pull / 6.0 + pull * pull / 12.0)).sum(dim=1)
            else:
                # A pixel without counts pulls with -1.
                logarithm = pull.clamp(min=-0.9999999).log1p_()
                cost = (logarithm * (data + base)).sum(dim=1) - gone
            weight = counts.reciprocal_()
            if mask is not None:
                weight *= mask
        else:
            pull = data - model
            weight = self.mask[part]
            if mask is not None:
                pull *= mask
            cost = 0.5 * (pull * pull).sum(dim=1)
        # A precision matrix that is not positive is no spot.
        spot = (p[:, 1] > 0.0) & (a * c > b * b)[:, 0]
        return torch.where(spot, cost.double(), torch.inf), spots, weight, pull

    def _derivatives(self, p: Tensor) -> Tensor:
        """(B, size, 1 + 6 C) parameters' derivatives as combinations of 1 and the spots times monomials."""
        shapes = self.windows.shapes
        a, b, c = self._shape(p)
        found = torch.zeros((len(p), self.size, 1 + _QUADRATIC * self.count), dtype=torch.float64)
        found[:, 0, 0] = 1.0
        for k in range(self.count):
            row = 1 + shapes + 3 * k
            height, x, y = p[:, row : row + 3].unbind(dim=1)
            # Of the monomials 1, x, y, x^2, xy, y^2.
            here = found[:, :, 1 + _QUADRATIC * k : 1 + _QUADRATIC * (k + 1)]
            half = -0.5 * height
            if shapes == 3:
                here[:, 1, 0], here[:, 1, 1], here[:, 1, 3] = half * x * x, height * x, half
                here[:, 2, 0], here[:, 2, 1], here[:, 2, 2], here[:, 2, 4] = (
                    -height * x * y, height * y, height * x, -height
                )  # fmt: skip
                here[:, 3, 0], here[:, 3, 2], here[:, 3, 5] = half * y * y, height * y, half
            else:
                here[:, 1, 0], here[:, 1, 1], here[:, 1, 2] = half * (x * x + y * y), height * x, height * y
                here[:, 1, 3], here[:, 1, 5] = half, half
            here[:, row, 0] = 1.0
            for axis, along, across in ((row + 1, a, b), (row + 2, b, c)):
                here[:, axis, 0] = -height * (along * x + across * y)
                here[:, axis, 1], here[:, axis, 2] = height * along, height * across
        return found

    def _matrix(self, derivatives: Tensor, spots: Tensor, weight: Tensor) -> Tensor:
        """(B, size, size) sums over pixels of products of derivatives."""
        monomials = self.windows.monomials
        moments = torch.empty((len(weight), derivatives.shape[2], derivatives.shape[2]), dtype=torch.float64)
        moments[:, 0, 0] = weight.sum(dim=1)
        for k in range(self.count):
            rows = slice(1 + _QUADRATIC * k, 1 + _QUADRATIC * (k + 1))
            weighed = weight * spots[:, k]
            moments[:, 0, rows] = (weighed @ monomials[:_QUADRATIC].T).double()
            moments[:, rows, 0] = moments[:, 0, rows]
            for m in range(k, self.count):
                columns = slice(1 + _QUADRATIC * m, 1 + _QUADRATIC * (m + 1))
                block = ((weighed * spots[:, m]) @ monomials.T).double()[:, _PRODUCT]
                moments[:, rows, columns] = block
                moments[:, columns, rows] = block.transpose(1, 2)
        return derivatives @ moments @ derivatives.transpose(1, 2)

    def _gradient(self, derivatives: Tensor, spots: Tensor, pull: Tensor) -> Tensor:
        """(B, size) sums over pixels of pulls times derivatives."""
        by_spot = (pull[:, None] * spots) @ self.windows.monomials[:_QUADRATIC].T
        basis = torch.cat([pull.sum(dim=1, keepdim=True), by_spot.flatten(1)], dim=1).double()
        return torch.bmm(derivatives, basis[..., None])[..., 0]

    def _equations(self, p: Tensor, part: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Cost, gradient and curvature."""
        cost, spots, weight, pull = self._look(p, part)
        derivatives = self._derivatives(p)
        return cost, self._gradient(derivatives, spots, pull), self._matrix(derivatives, spots, weight)

    def _descend(self) -> int:
        """Levenberg-Marquardt steps until the windows have settled; how many moved so far that others might follow."""
        xy = slice(2 + self.windows.shapes, 4 + self.windows.shapes)
        active = torch.arange(len(self.p))
        cost, gradient, curvature = self._equations(self.p, slice(None))
        moved = 0
        for number in range(_STEPS):
            p, damping = self.p[active], self.damping[active]
            diagonal = curvature.diagonal(dim1=1, dim2=2)
            scale = diagonal.clamp_min(1e-30 * diagonal.amax(dim=1, keepdim=True) + 1e-300)
            damped = curvature + torch.diag_embed(damping[:, None] * scale)
            least, most = self.least[active], self.most[active]
            # Parameters at a bound stay if the data pull them further out; those that would cross one stop there.
            held = ((p <= least) & (gradient < 0.0)) | ((p >= most) & (gradient > 0.0))
            step = _held_step(damped, gradient, held, torch.zeros_like(p))
            crossing = (p + step < least) | (p + step > most)
            if crossing.any():
                to_bound = torch.where(crossing, torch.where(step > 0.0, most, least) - p, 0.0)
                step = _held_step(damped, gradient, held | crossing, to_bound)
            trial = torch.minimum(torch.maximum(p + step, least), most)
            step = trial - p
            slope = torch.where(held, 0.0, gradient)
            # What the step gains, in noise: parameters that the window hardly tells may stay where they are.
            gain = (slope * step).sum(dim=1) * self.free[active] / (2.0 * cost).clamp_min(1e-300)
            short = step[:, xy].abs().amax(dim=1) * self.windows.half < _STEP_PX
            free = damping < 1e-2
            last = free & (short | (gain.abs() < _GAIN))
            self.settled[active] = last
            self.p[active[last]] = trial[last]
            if number == 0:
                moved = int((~free | (~short & (gain.abs() > _FAR))).sum())
            go = ~last
            active = active[go]
            if len(active) == 0:
                break
            trial, old = trial[go], (cost[go], gradient[go], curvature[go])
            new = self._equations(trial, active if len(active) < len(self.p) else slice(None))
            better = new[0] <= old[0] * (1.0 + _ROUNDING)
            self.p[active[better]] = trial[better]
            self.damping[active] = torch.where(better, damping[go] * 0.1, damping[go] * 10.0).clamp(1e-9, 1e9)
            cost = torch.where(better, new[0], old[0])
            gradient = torch.where(better[:, None], new[1], old[1])
            curvature = torch.where(better[:, None, None], new[2], old[2])
        return moved

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See `_Windows.fit`."""
        windows, shapes, p = self.windows, self.windows.shapes, self.p
        everyone = torch.arange(len(p))
        _, spots, weight, pull = self._look(p, everyone)
        derivatives = self._derivatives(p)
        curvature = self._matrix(derivatives, spots, weight)
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        # Nothing is known of where a spot without height lies.
        held = (p <= self.least) | (p >= self.most) | (diagonal <= 1e-30 * diagonal.amax(dim=1, keepdim=True))
        meat = self._matrix(derivatives, spots, pull * pull) * (self.mask.sum(dim=1) / self.free)[:, None, None]
        # Faint spots' derivatives are small: brought to one scale, the matrix can be inverted.
        root = torch.where(held, 1.0, diagonal).sqrt()
        root = root[:, :, None] * root[:, None]
        bread, failed = torch.linalg.inv_ex(_without(curvature / root, held))
        bread = bread * ~(held[:, :, None] | held[:, None]) / root
        covariance = bread @ meat @ bread
        a, b, c = self._shape(p)
        precision = (a * c - b * b).clamp_min(1e-300).sqrt()
        height = p[:, 1 + shapes]
        # Intensity is 2 pi height / sqrt(det): its relative error by propagation.
        slope = torch.zeros_like(p)
        slope[:, 1 + shapes] = 1.0 / height
        if shapes == 3:
            slope[:, 1], slope[:, 2], slope[:, 3] = (part / precision**2 for part in (-0.5 * c, b, -0.5 * a))
        else:
            slope[:, 1] = -1.0 / a
        relative = torch.einsum("bp,bpq,bq->b", slope, covariance, slope).clamp_min(0.0).sqrt()
        error = torch.where(held, torch.nan, covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt())
        k = 2 + shapes
        place = p[:, k : k + 2] * windows.half + windows.middle[self.own]
        out = torch.stack(
            [
                place[:, 0], place[:, 1], error[:, k] * windows.half, error[:, k + 1] * windows.half,
                precision.rsqrt() * windows.half, height * windows.scale,
                error[:, 1 + shapes] * windows.scale, relative,
            ],
            dim=1,
        )  # fmt: skip
        return out.numpy(), (self.settled & (failed == 0)).numpy()
