"""`GaussianFit`: two-dimensional Gaussian fits of all columns at once, batched Levenberg-Marquardt in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from torch import Tensor

from temimagenet.errors import LocalizeError
from temimagenet.localize.detect import detect_columns
from temimagenet.localize.protocol import Flag, FoundColumns, check_image, check_starts, doubts

__all__ = ["Estimator", "GaussianFit", "fit_gaussians"]

Estimator = Literal["least-squares", "poisson"]
"""`least-squares`: all pixels alike; `poisson`: maximum likelihood of counts up to an unknown gain."""

_BATCH = 300_000
_ITERATIONS = 40
_STEP_PX = 1e-4
_GAIN = 1e-5
_MOST_NEIGHBOURS = 6


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
    """Fit a Gaussian on a local constant background around each start, neighbours that overlap along with it.

    Every window holds the column, the nearest others whose spots reach into it (six at most) and one background; all of
    a window share their widths, and only the column in its middle is kept. Standard errors are those of
    the heteroscedasticity-consistent sandwich estimator (White, Econometrica 48 (1980) 817) from the residuals, so
    that no gain needs to be known.

    Args:
        image: counts, or a signal proportional to them for "poisson".
        pixel_size_A: pixel size.
        start_px: (N, 2) starts (x, y) in pixels.
        width_px: expected standard deviation of a spot in pixels.
        estimator: least squares or Poisson maximum likelihood.
        elliptic: fit a general covariance instead of one width.
        window: half edge of a window in expected standard deviations.

    Returns:
        As many columns as starts, in their order; poor ones are flagged.

    Raises:
        LocalizeError: the image, a start or a setting cannot be used; negative pixels with "poisson".
    """
    values = check_image(image, pixel_size_A)
    start = check_starts(values, start_px, width_px)
    if estimator not in get_args(Estimator):
        raise LocalizeError(f"estimator {estimator!r}: expected one of {', '.join(get_args(Estimator))}")
    if estimator == "poisson" and values.min() < 0.0:
        raise LocalizeError(
            "negative pixels: Poisson likelihood wants counts; subtract no background, or least-squares"
        )
    half = max(2, int(np.ceil(window * width_px)))
    found = np.full((len(start), 8), np.nan)
    settled = np.zeros(len(start), dtype=bool)
    if len(start):
        _, index = KDTree(start).query(start, k=min(len(start), _MOST_NEIGHBOURS + 1))
        index = np.asarray(index).reshape(len(start), -1)
        inside = np.abs(start[index] - start[:, None]).max(axis=-1) <= half + 1.5 * width_px
        members = inside.sum(axis=1)
        # Nearest first is not inside first, since windows are square.
        index = np.take_along_axis(index, np.argsort(~inside, axis=1, kind="stable"), axis=1)
        own = np.argmax(index == np.arange(len(start))[:, None], axis=1)
        index[np.arange(len(start)), own], index[:, 0] = index[:, 0].copy(), np.arange(len(start))
        picture = torch.from_numpy(values)
        for count in np.unique(members).tolist():
            group = np.flatnonzero(members == count)
            # Derivatives of a batch should stay in the processor's caches.
            batch = int(np.clip(_BATCH // (count * (2 * half + 1) ** 2), 64, 2048))
            for first in range(0, len(group), batch):
                part = group[first : first + batch]
                found[part], settled[part] = _fit(
                    picture, torch.from_numpy(start[index[part, :count]]), width_px, half, estimator, elliptic
                )
    return _columns(found, settled, start, values.shape, half, width_px, pixel_size_A)


def _columns(
    found: NDArray[np.float64],
    settled: NDArray[np.bool_],
    start: NDArray[np.float64],
    shape: tuple[int, ...],
    half: int,
    width_px: float,
    pixel_size_A: float,
) -> FoundColumns:
    """Results with their flags."""
    xy, sigma, width = found[:, :2], found[:, 2:4], found[:, 4]
    height, height_sigma, relative = found[:, 5], found[:, 6], found[:, 7]
    flags = np.where(settled & np.isfinite(found).all(axis=1), 0, int(Flag.NOT_CONVERGED))
    middle = np.rint(start)
    cut = ((middle < half) | (middle > np.array(shape[::-1]) - 1 - half)).any(axis=1)
    flags |= np.where(cut, int(Flag.CUT), 0)
    flags |= doubts(xy, start, width_px, height, height_sigma)
    usual = np.median(width[flags == 0]) if (flags == 0).any() else width_px
    flags |= np.where(~((width > 0.5 * usual) & (width < 2.0 * usual)), int(Flag.ODD_WIDTH), 0)
    intensity = 2.0 * np.pi * height * width**2
    return FoundColumns(
        xy.copy(), sigma.copy(), intensity, np.abs(intensity) * relative, width.copy(), flags.astype(np.int64),
        pixel_size_A,
    )  # fmt: skip


def _pinned(p: Tensor, gradient: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Parameters at a bound that the data pull further out."""
    return ((p <= least) & (gradient < 0.0)) | ((p >= most) & (gradient > 0.0))


def _fit(
    picture: Tensor, places: Tensor, width_px: float, half: int, estimator: Estimator, elliptic: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Windows that hold equally many columns: (B, 8) x, y, their errors, width, height, its error, and the relative
    error of the intensity; and which have settled.

    Parameters of a window: background, the precision matrix (a, or a, b, c), then height, x and y of each column.
    """
    batch, count = places.shape[:2]
    rows, columns = picture.shape
    middle = places[:, 0].round().long()
    steps = torch.arange(-half, half + 1)
    i, j = middle[:, 1, None] + steps, middle[:, 0, None] + steps
    mask = (((i >= 0) & (i < rows))[:, :, None] & ((j >= 0) & (j < columns))[:, None, :]).reshape(batch, -1)
    data = picture[i.clamp(0, rows - 1)[:, :, None], j.clamp(0, columns - 1)[:, None, :]].reshape(batch, -1)
    y, x = (g.reshape(-1).double() for g in torch.meshgrid(steps, steps, indexing="ij"))
    widths = 3 if elliptic else 1
    size = 1 + widths + 3 * count
    p = torch.zeros((batch, size), dtype=torch.float64)
    low = torch.where(mask, data, torch.inf).quantile(0.1, dim=1)
    high = torch.where(mask, data, -torch.inf).amax(dim=1)
    p[:, 0] = low
    p[:, 1] = width_px**-2
    if elliptic:
        p[:, 3] = width_px**-2
    p[:, 1 + widths :: 3] = (high - low).clamp_min(1e-9 * high.abs().clamp_min(1e-300))[:, None]
    p[:, 2 + widths :: 3] = places[..., 0] - middle[:, :1]
    p[:, 3 + widths :: 3] = places[..., 1] - middle[:, 1:]
    # Neighbours at the edge of a window would run away to infinite height; bounds that a settled fit does not touch.
    reach = torch.full((size,), torch.inf, dtype=torch.float64)
    reach[2 + widths :: 3] = reach[3 + widths :: 3] = 1.5 * width_px
    reach[2 + widths : 4 + widths] = 3.0 * width_px
    least, most = p - reach, p + reach
    for axis in (1, 3) if elliptic else (1,):
        least[:, axis], most[:, axis] = (4.0 * width_px) ** -2, (0.25 * width_px) ** -2
    floor = 1e-3 * picture.abs().mean() + 1e-300

    def look(p: Tensor, data: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Cost, gradient, curvature, and what the covariance needs: residuals and derivatives,
        both over the standard deviation."""
        dx = x - p[:, 2 + widths :: 3, None]
        dy = y - p[:, 3 + widths :: 3, None]
        a = p[:, 1, None, None]
        b, c = (p[:, 2, None, None], p[:, 3, None, None]) if elliptic else (torch.zeros_like(a), a)
        shape = torch.exp(-0.5 * (a * dx**2 + 2.0 * b * dx * dy + c * dy**2))
        spot = p[:, 1 + widths :: 3, None] * shape
        model = p[:, 0, None] + spot.sum(dim=1)
        jacobian = torch.empty((len(p), size, x.numel()), dtype=torch.float64)
        jacobian[:, 0] = 1.0
        if elliptic:
            jacobian[:, 1] = (-0.5 * dx**2 * spot).sum(dim=1)
            jacobian[:, 2] = (-dx * dy * spot).sum(dim=1)
            jacobian[:, 3] = (-0.5 * dy**2 * spot).sum(dim=1)
        else:
            jacobian[:, 1] = (-0.5 * (dx**2 + dy**2) * spot).sum(dim=1)
        jacobian[:, 1 + widths :: 3] = shape
        jacobian[:, 2 + widths :: 3] = (a * dx + b * dy) * spot
        jacobian[:, 3 + widths :: 3] = (b * dx + c * dy) * spot
        residual = data - model
        if estimator == "poisson":
            safe = model.clamp_min(floor)
            deviance = safe - data + torch.xlogy(data, data.clamp_min(1e-300) / safe)
            cost = torch.where(mask, deviance, 0.0).sum(dim=1)
            root = torch.where(mask, safe.rsqrt(), 0.0)
        else:
            cost = 0.5 * torch.where(mask, residual**2, 0.0).sum(dim=1)
            root = mask.double()
        pull = root * residual
        jacobian *= root[:, None]
        gradient = torch.bmm(jacobian, pull[..., None])[..., 0]
        curvature = torch.bmm(jacobian, jacobian.transpose(1, 2))
        # A precision matrix that is not positive is no spot.
        cost = torch.where((p[:, 1] > 0.0) & (~elliptic_bad(p)), cost, torch.inf)
        return cost, gradient, curvature, pull, jacobian

    def elliptic_bad(p: Tensor) -> Tensor:
        if not elliptic:
            return torch.zeros(len(p), dtype=torch.bool)
        return (p[:, 3] <= 0.0) | (p[:, 1] * p[:, 3] <= p[:, 2] ** 2)

    settled = torch.zeros(batch, dtype=torch.bool)
    free = (mask.sum(dim=1) - size).clamp_min(1)
    damping = torch.full((batch,), 1e-2, dtype=torch.float64)
    cost, gradient, curvature, _, _ = look(p, data, mask)
    active = torch.arange(batch)
    for _ in range(_ITERATIONS):
        diagonal = curvature[active].diagonal(dim1=1, dim2=2)
        scale = diagonal.clamp_min(1e-12 * diagonal.amax(dim=1, keepdim=True) + 1e-300)
        stuck = _pinned(p[active], gradient[active], least[active], most[active])
        damped = curvature[active] + torch.diag_embed(torch.where(stuck, 1e9, damping[active, None]) * scale)
        slope = torch.where(stuck, 0.0, gradient[active])
        step = torch.linalg.solve_ex(damped, slope[..., None])[0][..., 0]
        trial = torch.minimum(torch.maximum(p[active] + step, least[active]), most[active])
        step = trial - p[active]
        new = look(trial, data[active], mask[active])
        better = new[0] <= cost[active]
        chosen = active[better]
        p[chosen] = trial[better]
        cost[chosen], gradient[chosen], curvature[chosen] = (part[better] for part in new[:3])
        damping[active] = torch.where(better, damping[active] * 0.2, damping[active] * 6.0).clamp(1e-9, 1e9)
        moved = step[:, 2 + widths : 4 + widths].abs().amax(dim=1)
        # What another step could gain, in noise: parameters that the window hardly tells may stay where they are.
        gain = (slope * step).sum(dim=1) * free[active] / (2.0 * cost[active]).clamp_min(1e-300)
        done = better & (
            ((moved < _STEP_PX) & (damping[active] < 1.0)) | ((gain.abs() < _GAIN) & (damping[active] < 1e-3))
        )
        settled[active[done]] = True
        active = active[~done]
        if len(active) == 0:
            break
    _, gradient, curvature, pull, jacobian = look(p, data, mask)
    stuck = _pinned(p, gradient, least, most)
    curvature = curvature + torch.diag_embed(torch.where(stuck, 1e9, 0.0) * curvature.diagonal(dim1=1, dim2=2))
    scores = jacobian * pull[:, None]
    meat = torch.bmm(scores, scores.transpose(1, 2)) * (mask.sum(dim=1) / free)[:, None, None]
    bread, failed = torch.linalg.inv_ex(curvature)
    covariance = bread @ meat @ bread
    settled &= failed == 0
    precision = torch.sqrt((p[:, 1] * p[:, 3] - p[:, 2] ** 2).clamp_min(1e-300)) if elliptic else p[:, 1]
    height = p[:, 1 + widths]
    # Intensity is 2 pi height / sqrt(det): its relative error by propagation.
    slope = torch.zeros_like(p)
    slope[:, 1 + widths] = 1.0 / height
    if elliptic:
        square = precision**2
        slope[:, 1], slope[:, 2], slope[:, 3] = -0.5 * p[:, 3] / square, p[:, 2] / square, -0.5 * p[:, 1] / square
    else:
        slope[:, 1] = -1.0 / p[:, 1]
    relative = torch.einsum("bp,bpq,bq->b", slope, covariance, slope).clamp_min(0.0).sqrt()
    error = covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    k = 2 + widths
    out = torch.stack(
        [
            p[:, k] + middle[:, 0], p[:, k + 1] + middle[:, 1], error[:, k], error[:, k + 1],
            precision.clamp_min(1e-300).rsqrt(), height, error[:, 1 + widths], relative,
        ],
        dim=1,
    )  # fmt: skip
    return out.numpy(), settled.numpy()
