"""Detection: where columns are, from the image alone, without a lattice; and how wide their spots are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg
from scipy.spatial import KDTree
from scipy.special import gammaln

from temimagenet.errors import LocalizeError
from temimagenet.imaging.detector import without_spikes
from temimagenet.localize.protocol import check_image

__all__ = [
    "FILTER",
    "Detected",
    "Leftovers",
    "brightest",
    "chance_maxima",
    "detect_columns",
    "empty_areas",
    "middle_of",
    "spot_width_px",
]

Array = NDArray[np.float32]

_WIDTH_STEP = 1.3
"""Ratio of neighbouring trial widths."""

FILTER = 0.8
"""Standard deviation of the filter in that of the spot: less resolves closer columns, more averages more noise."""

_FINE_PX = 1.5
"""Trials of wider spots are made on images binned until the width is below twice this."""

_TILE_PX = 384
"""The width is measured on a part of the image of this edge."""

_FOUND_PX = 2.2
"""Columns are found on an image binned until the width is just above this."""

_LEAST_WIDTH_PX = 0.7

_NOISE_REACH = 2.0
"""Noise is averaged over this many filter widths."""

_FREEDOM = 12.0
"""Degrees of freedom of that average for a filter of one pixel; measured on white noise."""

_FAINTEST = 0.06
"""A column beside brighter ones needs this share of their height: the tails of probes are no columns."""

_LEAST_NOISE = 1e-4
"""Noise in standard deviations of the image is taken to be this at least: less is rounding."""

_RIDGE = 0.2
"""Least curvature of a maximum over its greatest: edges and stripes are no columns (as Lowe, Int. J. Comput. Vis. 60
(2004) 91, does it)."""

_FILTERED = 0.5 * np.pi
"""Sum of squares of the filter, of unit blur and height."""

_LEVELS_OF = 50_000
"""The levels of an image are those of about so many pixels."""

_PRIOR_COUNTS = 20.0
"""The noise where few were counted is drawn towards that of the whole image as by this many counts."""

_HIDDEN = 2.2
"""Columns that others hide are looked for from so many widths away from them: nearer lies what spots leave of others
that are not quite Gaussian."""

_SOME_PX = 384
"""Edge of the part of an image that its noise is measured on."""

_SMOOTHED = 0.05
"""Roughness of noise below which it was smoothed."""

_NEVER = 30.0
"""Counts expected on a square where none, or all the same, are never seen."""

_FINER = 0.4
"""Width in the spot's of a filter that lets next to nothing of spots through."""

_LEFT_OVER = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 6.0)
"""Standard deviations of filtered residuals from which places count, and those beyond which they are counted."""

_MORE = 3.0
"""Standard deviations by which there must be more of them than by chance."""

_ROUGHNESS = np.array([1.0, -4.0, 6.0, -4.0, 1.0], dtype=np.float32) / np.float32(np.sqrt(70.0))
"""Fourth difference, of unit variance on white noise, blind to what is smooth over five rows."""


@dataclass(frozen=True, eq=False)
class Detected:
    """Columns that were detected: starts for a fit.

    Attributes:
        xy_px: (N, 2) positions (x, y) in pixels, pixel centres at integers.
        width_px: standard deviation of the typical spot in pixels; nan where nothing was found.
        height: (N,) heights of Gaussians of that width in the image's unit.
        significance: (N,) height over its standard deviation by shot and scan noise.
    """

    xy_px: Float[NDArray[np.float64], "N 2"]
    width_px: float
    height: Float[NDArray[np.float64], "N"]
    significance: Float[NDArray[np.float64], "N"]

    def __len__(self) -> int:
        """Number of columns."""
        return len(self.xy_px)


def detect_columns(
    image: ArrayLike,
    pixel_size_A: float,
    *,
    width_A: tuple[float, float] = (0.16, 1.7),
    false_share: float = 0.1,
) -> Detected:
    """Find columns and the width of their spots.

    Columns are bright: of an image with dark ones, such as a bright-field one, give the negative.

    For each trial width, maxima of the scale-normalised Laplacian of Gaussian (Lindeberg, Int. J. Comput. Vis. 30
    (1998) 79) above the noise are taken for Gaussian spots and their heights are solved for together. The width whose
    spots correlate best with the band-passed image is the image's. Columns that brighter neighbours hide are then
    found on what the spots leave over. Columns cut by the image's border are not looked for, and those nearer to it
    than their width are drawn towards it.

    Noise is measured from fourth differences between rows after filtering along them. Rows are independent, in counts
    and in scan noise, so both kinds are in it. Smoothing of an image hides noise: more of it is then found. The
    least step between an image's levels is taken for a count: noise of few counts is not normal.

    Args:
        image: (rows, columns) intensities in any unit.
        pixel_size_A: pixel size; only bounds the width, so it may be wrong by a factor of two.
        width_A: least and largest standard deviation of a spot.
        false_share: largest expected share of noise among what is found (Benjamini & Hochberg, J. R. Stat. Soc. B 57
            (1995) 289); in an image without columns, the chance that anything is found.

    Returns:
        Columns in no particular order; none where nothing stands out.

    Raises:
        LocalizeError: the image or a setting cannot be used.
    """
    if not 0.0 < false_share < 1.0:
        raise LocalizeError(f"share of false columns {false_share}: expected between 0 and 1")
    picture, deviation, step = _picture(image, pixel_size_A)
    width = _spot_width(picture, step, pixel_size_A, width_A, false_share)
    if width is None:
        return Detected(np.empty((0, 2)), float("nan"), np.empty(0), np.empty(0))
    bins = max(1, int(width // _FOUND_PX))
    xy, height, significance = _find(_binned(picture, bins), step / bins**2, width / bins, false_share)
    # What passes for spots on finer or coarser pixels need not on these.
    width = width if len(xy) else float("nan")
    return Detected(xy * bins + (bins - 1) / 2.0, width, height * deviation, significance)


def spot_width_px(image: ArrayLike, pixel_size_A: float, width_A: tuple[float, float] = (0.16, 1.7)) -> float:
    """Standard deviation of an image's typical spot in pixels, as `detect_columns` finds it; nan where nothing shows.

    Raises:
        LocalizeError: the image or the bounds cannot be used.
    """
    picture, _, step = _picture(image, pixel_size_A)
    return _spot_width(picture, step, pixel_size_A, width_A, 0.1) or float("nan")


def _picture(image: ArrayLike, pixel_size_A: float) -> tuple[Array, float, float]:
    """An image without hot pixels, of mean 0 and standard deviation 1; what it was divided by; and the least step
    between its levels, which no count is smaller than."""
    raw = check_image(image, pixel_size_A)
    values = without_spikes(raw)
    deviation = float(values.std())
    steps = np.diff(np.unique(raw.ravel()[:: -(-raw.size // _LEVELS_OF)]))
    step = float(steps.min(initial=np.inf)) / deviation
    return ((values - values.mean()) / deviation).astype(np.float32), deviation, step if step < np.inf else 0.0


def _spot_width(
    picture: Array, step: float, pixel_size_A: float, width_A: tuple[float, float], false_share: float
) -> float | None:
    """Width of the typical spot in pixels, None where nothing stands out."""
    if not 0.0 < width_A[0] <= width_A[1] < np.inf:
        raise LocalizeError(f"widths {width_A} A: expected a positive least and a largest standard deviation")
    trials = _trial_widths(np.array(width_A) / pixel_size_A, min(picture.shape))
    return _width(_liveliest(picture), step, trials, false_share)


def _trial_widths(bounds_px: NDArray[np.float64], edge: int) -> NDArray[np.float64]:
    """Geometric ladder of widths in pixels that the pixels and the image can hold."""
    low, high = np.clip(bounds_px, _LEAST_WIDTH_PX, max(_LEAST_WIDTH_PX, edge / 8.0))
    steps = int(np.ceil(np.log(high / low) / np.log(_WIDTH_STEP) - 1e-9))
    ladder: NDArray[np.float64] = low * _WIDTH_STEP ** np.arange(steps + 1)
    return ladder


def _liveliest(picture: Array) -> Array:
    """The tile of the image with the greatest differences between neighbours, after binning against noise."""
    edge = _TILE_PX // 4
    if min(picture.shape) <= _TILE_PX:
        return picture
    level = _binned(picture, 4)
    energy = np.diff(level, axis=0)[:, 1:] ** 2 + np.diff(level, axis=1)[1:] ** 2
    sums = np.pad(energy, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    tiles = sums[edge:, edge:] - sums[:-edge, edge:] - sums[edge:, :-edge] + sums[:-edge, :-edge]
    i, j = 4 * np.array(np.unravel_index(np.argmax(tiles), tiles.shape))
    return picture[i : i + _TILE_PX, j : j + _TILE_PX]


def _binned(picture: Array, bins: int) -> Array:
    """Means of square bins; the odd rows and columns at the end are left out."""
    rows, columns = (size // bins for size in picture.shape)
    blocks = picture[: rows * bins, : columns * bins].reshape(rows, bins, columns, bins)
    means: Array = blocks.mean(axis=(1, 3))
    return means


def _width(picture: Array, step: float, trials: NDArray[np.float64], false_share: float) -> float | None:
    """The width whose spots explain most of the image, or None where none explains any."""
    bins = max(1, int(trials[0] // _FINE_PX))
    level = _binned(picture, bins)
    fine, coarse = trials[0], 1.2 * trials[-1]
    band = _blurred(level, fine / bins) - _blurred(level, coarse / bins)
    energy = float(np.mean(band**2))
    scores = np.zeros(len(trials))
    for number, width in enumerate(trials):
        while width / bins >= 2.0 * _FINE_PX and min(level.shape) >= 16:
            bins *= 2
            level, band = _binned(level, 2), _binned(band, 2)
        s = width / bins
        count = step / bins**2
        response, noise, blurred = _response(level, count, FILTER * s)
        xy, value, _ = _maxima(response, noise, blurred, count, false_share, FILTER * s)
        if not len(xy):
            continue
        spots = _painted(xy, _heights(xy, value, s, FILTER * s), level.shape)
        model = _blurred(spots, np.hypot(s, fine / bins)) - _blurred(spots, np.hypot(s, coarse / bins))
        overlap = max(0.0, float(np.mean(model * band)))
        scores[number] = overlap**2 / max(float(np.mean(model**2)) * energy, 1e-30)
    best = int(np.argmax(scores))
    if scores[best] <= 0.0:
        return None
    if 0 < best < len(trials) - 1:
        left, middle, right = scores[best - 1 : best + 2]
        return float(trials[best] * _WIDTH_STEP ** (0.5 * (left - right) / min(left - 2.0 * middle + right, -1e-12)))
    return float(trials[best])


def _find(
    picture: Array, step: float, width: float, false_share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positions, heights and significances of spots of a known width: the plain ones, then the hidden ones."""
    blur = FILTER * width
    response, noise, blurred = _response(picture, step, blur)
    unit = float(_overlap(np.zeros(1), width, blur)[0])
    xy, value, significance = _maxima(response, noise, blurred, step, false_share, blur)
    if not len(xy):
        return xy, value, significance
    # A background may have spoilt the width, which must be right where spots are taken off.
    factors = _WIDTH_STEP ** np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0])
    misfits = [float(np.mean(_less(response, xy, value, f * width, blur)[0] ** 2)) for f in factors]
    own = width * float(factors[int(np.argmin(misfits))])
    height = _heights(xy, value, width, blur)
    for _ in range(2):
        left, spots = _less(response, xy, value, own, blur)
        blurred_left = blurred - ndimage.gaussian_filter(spots, float(np.hypot(own, blur)), mode="constant")
        more, rest, sure = _maxima(left, noise, blurred_left, step, false_share, blur)
        near = KDTree(xy)
        apart, _ = near.query(more)
        keep = (apart > _HIDDEN * width) & (rest > _FAINTEST * unit * brightest(near, height, more, 6.0 * width))
        if not keep.any():
            break
        xy, value, significance = (
            np.concatenate(pair)
            for pair in ((xy, more[keep]), (value, _sampled(response, more[keep])), (significance, sure[keep]))
        )
        height = _heights(xy, value, width, blur)
    good = height > _FAINTEST * brightest(KDTree(xy), height, xy, 6.0 * width)
    return xy[good], height[good], significance[good]


def _less(
    response: Array, xy: NDArray[np.float64], value: NDArray[np.float64], width: float, blur: float
) -> tuple[Array, Array]:
    """What a response has more than spots at places, of heights that explain its values there; and these spots."""
    height = _heights(xy, value, width, blur)
    spots = _painted(xy, 2.0 * np.pi * width**2 * height, response.shape)
    return response - _laplacian(spots, float(np.hypot(width, blur))) * np.float32(blur**2), spots


def brightest(tree: KDTree, height: NDArray[np.float64], xy: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Greatest height of the nearest few columns within a reach of each place; 0 where there is none."""
    if not tree.n:
        return np.zeros(len(xy))
    count = min(8, tree.n)
    _, index = tree.query(xy, k=count, distance_upper_bound=reach)
    padded = np.append(height, 0.0)
    best: NDArray[np.float64] = padded[np.asarray(index).reshape(len(xy), count)].max(axis=1)
    return best


def _blurred(picture: Array, sigma: float) -> Array:
    """Gaussian blur."""
    blurred: Array = ndimage.gaussian_filter(picture, sigma, mode="reflect")
    return blurred


def _laplacian(picture: Array, sigma: float) -> Array:
    """Minus the Laplacian of a Gaussian blur."""
    negative: Array = -ndimage.gaussian_laplace(picture, sigma, mode="constant")
    return negative


def _response(picture: Array, step: float, blur: float) -> tuple[Array, Array, Array]:
    """Scale-normalised minus Laplacian of Gaussian, the standard deviation of its noise, and the blurred picture."""
    curved = ndimage.gaussian_filter1d(picture, blur, axis=1, order=2)
    smooth = ndimage.gaussian_filter1d(picture, blur, axis=1)
    response = ndimage.gaussian_filter1d(curved, blur, axis=0) + ndimage.gaussian_filter1d(
        smooth, blur, axis=0, order=2
    )
    reach = int(4.0 * blur + 0.5) + 1
    impulse = np.zeros(2 * reach + 1)
    impulse[reach] = 1.0
    even, bent = (ndimage.gaussian_filter1d(impulse, blur, order=order) for order in (0, 2))
    rough, plain = (ndimage.convolve1d(part, _ROUGHNESS, axis=0, mode="reflect") for part in (curved, smooth))
    # Rows are independent: variances add with the squares of the filter's weights.
    variance = (even @ even) * rough**2 + 2.0 * (even @ bent) * rough * plain + (bent @ bent) * plain**2
    variance = ndimage.gaussian_filter(variance.astype(np.float32), _NOISE_REACH * blur, truncate=3.0)
    # Clipped and empty areas have no noise of their own.
    usual = float(variance.mean())
    variance = np.maximum(variance, 1e-3 * usual)
    # Few counts tell little of how many to expect.
    area = 4.0 * np.pi * (_NOISE_REACH * blur) ** 2
    one = 2.0 * step**2 * float((even @ even) * (bent @ bent) + (even @ bent) ** 2)
    prior = _PRIOR_COUNTS * one / area
    variance = (variance + prior) / (1.0 + prior / max(usual, 1e-30))
    scale = np.float32(blur**2)
    noise = np.maximum(scale * np.sqrt(variance), np.float32(_LEAST_NOISE))
    return -scale * response, noise, ndimage.gaussian_filter1d(smooth, blur, axis=0)


def _sparseness() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By what factor a response to counts is less significant than its share of the noise, and for which argument.

    The signed root of the likelihood ratio of a Poisson field behind this filter, at the saddle point (Lugannani &
    Rice, Adv. Appl. Probab. 12 (1980) 475), over response / noise. It depends alone on the response, in
    that of a single count, over the counts expected on blur^2.
    """
    edges = np.linspace(0.0, 8.0, 801)
    rho = 0.5 * (edges[1:] + edges[:-1])
    ring = 2.0 * np.pi * rho * np.diff(edges)
    filtered = (1.0 - 0.5 * rho**2) * np.exp(-0.5 * rho**2)
    tilt = np.geomspace(0.01, 30.0, 200)
    tilted = np.exp(tilt[:, None] * filtered)
    mean, log = tilted @ (ring * filtered), np.expm1(tilt[:, None] * filtered) @ ring
    return mean, np.sqrt(2.0 * _FILTERED * (tilt * mean - log)) / mean


_SPARSE = _sparseness()


def _maxima(
    response: Array, noise: Array, blurred: Array, step: float, false_share: float, blur: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sub-pixel maxima above the noise: positions, values, values over noise."""
    size = 2 * max(1, round(blur)) + 1
    top = (ndimage.maximum_filter(response, size=size) == response) & (response > 2.0 * noise)
    # A maximum on the border belongs to what lies beyond it.
    top[[0, -1]] = top[:, [0, -1]] = False
    i, j = np.nonzero(top)
    i, j = (part[_is_round(blurred, i, j)] for part in (i, j))
    value, deviation = response[i, j].astype(np.float64), noise[i, j].astype(np.float64)
    significance = value / deviation
    significance *= np.interp(significance / deviation * (_FILTERED * step / (np.pi * blur**2)), *_SPARSE)
    order = np.argsort(-significance)
    passed = chance_maxima(significance[order], response.size, blur) <= false_share * np.arange(1, len(order) + 1)
    chosen = order[: int(np.flatnonzero(passed).max(initial=-1)) + 1]
    i, j, significance = i[chosen], j[chosen], significance[chosen]
    padded = np.pad(response.astype(np.float64), 1, mode="reflect")
    middle = padded[i + 1, j + 1]

    def shift(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
        bend = np.minimum(before - 2.0 * middle + after, -1e-12)
        vertex: NDArray[np.float64] = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)
        return vertex

    x = j + shift(padded[i + 1, j], padded[i + 1, j + 2])
    y = i + shift(padded[i, j + 1], padded[i + 2, j + 1])
    return np.stack([x, y], axis=1), middle, significance


def _is_round(blurred: Array, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which maxima inside an image bend in every direction."""
    part = np.stack([blurred[i + a, j + b] for a in (-1, 0, 1) for b in (-1, 0, 1)]).astype(np.float64)
    vertical, across = part[1] - 2.0 * part[4] + part[7], part[3] - 2.0 * part[4] + part[5]
    mixed = 0.25 * (part[0] - part[2] - part[6] + part[8])
    least = _RIDGE / (1.0 + _RIDGE) ** 2 * (vertical + across) ** 2
    bent: NDArray[np.bool_] = vertical * across - mixed**2 > least
    return bent


def chance_maxima(significance: NDArray[np.float64], pixels: int, blur: float) -> NDArray[np.float64]:
    """Expected number of maxima above a significance in noise alone.

    The Euler characteristic of a Student field (Worsley, Adv. Appl. Probab. 26 (1994) 13) whose freedom is that of the
    estimate of noise; white noise behind this filter has a roughness of 1.5 / blur^2.
    """
    freedom = _FREEDOM * blur
    unit = np.exp(gammaln(0.5 * (freedom + 1.0)) - gammaln(0.5 * freedom)) / np.sqrt(0.5 * freedom)
    tail = significance * (1.0 + significance**2 / freedom) ** (-0.5 * (freedom - 1.0))
    number: NDArray[np.float64] = pixels * 1.5 / blur**2 * (2.0 * np.pi) ** -1.5 * unit * tail
    return number


@dataclass(frozen=True, eq=False)
class Leftovers:
    """Residuals behind the filter of detection, on pixels binned until the spot is some two of them wide.

    Attributes:
        response: what is behind the filter, in the standard deviations that white noise has there.
        bins: pixels binned.
        blur: width of the filter in binned pixels.
        spread: how many times that of white noise the noise is, at least 1, by what spots have no part in.
        misfit: how many times that of white noise what is left over is where spots are, at least 1.
        smoothed: whether the noise was smoothed.
        fine: as `misfit`, in structures half as wide as spots.
        empty: (rows, columns) pixels that hold nothing, if there are such.
    """

    response: Array
    bins: int
    blur: float
    spread: float
    misfit: float
    smoothed: bool
    fine: float
    empty: NDArray[np.bool_] | None

    @staticmethod
    def of(residual: NDArray[np.float64], width_px: float, empty: NDArray[np.bool_] | None = None) -> Leftovers:
        """Of a fit's residuals, divided by their standard deviations, with spots of a width; and which pixels hold
        nothing."""
        if empty is not None:
            residual = np.where(empty, 0.0, residual)
        bins = max(1, int(width_px // _FOUND_PX))
        binned = _binned(residual.astype(np.float32), bins) * np.float32(bins)
        blur = FILTER * width_px / bins
        # The squares of the filter's weights have this sum.
        response = _laplacian(binned, blur) * np.float32(blur**3 * np.sqrt(2.0 * np.pi))
        part = middle_of(residual.shape)
        some, bare = residual[part], None if empty is None else empty[part]
        fine = _fine_noise(some, width_px, bare)
        spread = max(1.0, _row_noise(some, width_px, bare), fine)
        # Columns left over are above, so what is below tells.
        seen = response if empty is None else response[~_binned_mask(empty, bins)]
        low = float(np.quantile(seen.ravel()[:: max(1, -(-seen.size // _LEVELS_OF))], 0.16)) if seen.size else 0.0
        misfit = max(spread, -low)
        # Of smoothed noise nothing is fine, and all that is left over is noise.
        smoothed = _roughness(some, bare) < _SMOOTHED
        return Leftovers(response, bins, blur, misfit if smoothed else spread, misfit, smoothed, fine, empty)

    def errors(self, width_px: float, count: int) -> tuple[float, float]:
        """How many times those in white noise the errors of the spots' places and heights are.

        `misfit` is that of the filter of detection. Heights are told by lower frequencies than it lets through, places
        by some between: of noise that was smoothed there is more of these. White noise smoothed by s has
        (1 + s^2 / f^2)^(-3/2) of its deviation left behind a filter as wide as f, so two filters tell s.

        Args:
            width_px: the spots' standard deviation.
            count: spots that were fitted; each took up the noise of about pi width^2 pixels.
        """
        if not self.smoothed:
            return self.misfit, self.misfit
        taken = min(0.5, math.pi * width_px**2 * count / (self.response.size * self.bins**2))
        misfit = self.misfit / math.sqrt(1.0 - taken)
        wide, narrow = (self.blur * self.bins) ** 2, (self.blur * self.bins * _FINER / FILTER) ** 2
        ratio = float(np.clip((misfit / max(self.fine, 1e-30)) ** (2.0 / 3.0), 1.0, 0.8 * wide / narrow))
        smoothing = wide * narrow * (ratio - 1.0) / (wide - ratio * narrow)
        white = misfit * (1.0 + smoothing / wide) ** 1.5
        return white / (1.0 + smoothing / width_px**2), white / math.sqrt(1.0 + smoothing / width_px**2)

    def at(self, xy_px: Float[NDArray[np.float64], "N 2"]) -> Float[NDArray[np.float64], "N"]:
        """What is behind the filter at places, in the standard deviations of the noise."""
        return _sampled(self.response, (xy_px - (self.bins - 1) / 2.0) / self.bins) / self.spread

    def places(
        self, known_px: Float[NDArray[np.float64], "N 2"], apart_px: float
    ) -> tuple[Float[NDArray[np.float64], "M 2"], bool]:
        """Places where columns may be left over: maxima; and whether there are more, or higher ones, than by chance.

        Args:
            known_px: positions (x, y) of the columns that were fitted.
            apart_px: places nearer than this to one of them do not count.
        """
        response, bins = self.response / np.float32(self.spread), self.bins
        size = 2 * max(1, round(self.blur)) + 1
        top = (ndimage.maximum_filter(response, size=size) == response) & (response > _LEFT_OVER[0])
        top[[0, -1]] = top[:, [0, -1]] = False
        places, height = np.argwhere(top)[:, ::-1].astype(np.float64), response[top]
        near = KDTree((known_px - (bins - 1) / 2.0) / bins)
        free = near.query(places)[0] > apart_px / bins
        if self.empty is not None:
            bare = _binned_mask(self.empty, bins)
            bare = ndimage.binary_dilation(bare, iterations=max(1, round(2.0 * apart_px / bins)))
            free &= ~bare[places[:, 1].astype(np.int64), places[:, 0].astype(np.int64)]
        places, height = places[free], height[free]
        rows, columns = (np.arange(0.0, edge, max(1.0, edge / 128.0)) for edge in response.shape)
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        share = float(np.mean(near.query(grid)[0] > apart_px / bins))
        levels = np.array(_LEFT_OVER[1:])
        found = (height[:, None] > levels).sum(axis=0)
        expected = share * chance_maxima(levels, response.size, self.blur)
        surplus = bool((found > expected + _MORE * np.sqrt(expected) + 0.5).any())
        return places * bins + (bins - 1) / 2.0, surplus


def middle_of(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The middle of an image, large enough to tell its noise."""
    return tuple(slice(max(0, (edge - _SOME_PX) // 2), (edge + _SOME_PX) // 2) for edge in shape)


def empty_areas(image: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """(rows, columns) pixels of areas that hold nothing, such as padding; None where there are none.

    All pixels of a square of seven are equal there, though counts as few as the image's would differ.
    """
    size = 7
    rows, columns = (edge - size + 1 for edge in image.shape)
    if min(rows, columns) < 2:
        return None
    beside, below = image[:, 1:] == image[:, :-1], image[1:] == image[:-1]
    # Runs of equal pixels in a row, then runs of such rows.
    run = np.logical_and.reduce([beside[:, k : k + columns] for k in range(size - 1)])
    if not run.any():
        return None
    flat = np.logical_and.reduce([run[k : k + rows] for k in range(size)])
    flat &= np.logical_and.reduce([below[k : k + rows, :columns] for k in range(size - 1)])
    if not flat.any():
        return None
    areas = np.zeros(image.shape, dtype=np.bool_)
    for y in range(size):
        for x in range(size):
            areas[y : y + rows, x : x + columns] |= flat
    rest = image[~areas]
    if not rest.size:
        return None
    levels = np.unique(rest[:: -(-rest.size // _LEVELS_OF)])
    step = float(np.diff(levels).min(initial=np.inf))
    counts = (float(rest.mean()) - float(image[areas].min())) / step
    return areas if counts * size**2 > _NEVER else None


def _binned_mask(mask: NDArray[np.bool_], bins: int) -> NDArray[np.bool_]:
    """Squares of pixels any of which is in a mask."""
    return _binned(mask.astype(np.float32), bins) > 0.0


def _roughness(residual: NDArray[np.float64], empty: NDArray[np.bool_] | None) -> float:
    """Variance of fourth differences over that of white noise of the same variance, the greater of both directions.

    What a fit does not know yet makes it less by some times; smoothing by a pixel, by thirty.
    """
    whole = max(_deviation(residual.astype(np.float32), empty), 1e-30)
    rough = (ndimage.convolve1d(residual.astype(np.float32), _ROUGHNESS, axis=axis, mode="reflect") for axis in (0, 1))
    return max(_deviation(part, empty) / whole for part in rough) ** 2


def _row_noise(residual: NDArray[np.float64], width_px: float, empty: NDArray[np.bool_] | None) -> float:
    """Noise of whole rows, such as streaks, as `_response` measures it, over that of white noise."""
    blur = FILTER * width_px
    smooth = ndimage.gaussian_filter1d(residual.astype(np.float32), blur, axis=1)
    rough = ndimage.convolve1d(smooth, _ROUGHNESS, axis=0, mode="reflect")
    return _deviation(rough, empty) * float(np.sqrt(2.0 * np.sqrt(np.pi) * blur))


def _fine_noise(residual: NDArray[np.float64], width_px: float, empty: NDArray[np.bool_] | None) -> float:
    """Noise in structures half as wide as spots, of which these have next to nothing, over that of white noise."""
    blur = _FINER * width_px
    return _deviation(_laplacian(residual.astype(np.float32), blur), empty) * blur**3 * float(np.sqrt(2.0 * np.pi))


def _deviation(values: Array, empty: NDArray[np.bool_] | None) -> float:
    """Standard deviation of the bulk of the values, of mean 0, where an image holds something."""
    known = values.ravel() if empty is None else values[~empty]
    some = known[:: max(1, -(-known.size // _LEVELS_OF))]
    return float(np.median(np.abs(some))) / 0.6745 if some.size else 0.0


def _sampled(response: Array, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation at places."""
    values: NDArray[np.float64] = ndimage.map_coordinates(
        response, xy.T[::-1], order=1, mode="nearest", output=np.float64
    )
    return values


def _overlap(r2: NDArray[np.float64], width: float, blur: float) -> NDArray[np.float64]:
    """Response to a spot of unit height at squared distances from its middle."""
    v = width**2 + blur**2
    response: NDArray[np.float64] = (blur * width) ** 2 / v * (2.0 / v - r2 / v**2) * np.exp(-0.5 * r2 / v)
    return response


def _heights(xy: NDArray[np.float64], value: NDArray[np.float64], width: float, blur: float) -> NDArray[np.float64]:
    """Heights of the spots that together give the responses seen at their middles."""
    tree = KDTree(xy)
    pairs = tree.query_pairs(4.5 * np.hypot(width, blur), output_type="ndarray")
    apart = ((xy[pairs[:, 0]] - xy[pairs[:, 1]]) ** 2).sum(axis=1)
    mutual = sparse.coo_array((_overlap(apart, width, blur), (pairs[:, 0], pairs[:, 1])), shape=(len(xy),) * 2).tocsr()
    # The kernel's transform is positive, so the matrix is too; a little more on the diagonal parts close spots.
    unit = float(_overlap(np.zeros(1), width, blur)[0])
    matrix = mutual + mutual.T + 1.02 * unit * sparse.eye_array(len(xy))
    height, _ = cg(matrix, value, rtol=1e-3, maxiter=20)
    return np.asarray(height, dtype=np.float64)


def _painted(xy: NDArray[np.float64], weight: NDArray[np.float64], shape: tuple[int, ...]) -> Array:
    """Points of given weight on a grid, shared linearly between four pixels."""
    rows, columns = shape
    corner = np.floor(xy).astype(np.int64)
    part = xy - corner
    picture = np.zeros(rows * columns)
    for dx in (0, 1):
        for dy in (0, 1):
            share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            column = np.clip(corner[:, 0] + dx, 0, columns - 1)
            row = np.clip(corner[:, 1] + dy, 0, rows - 1)
            picture += np.bincount(row * columns + column, share * weight, minlength=rows * columns)
    return picture.reshape(rows, columns).astype(np.float32)
