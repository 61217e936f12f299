"""`intensity_classes`: columns sorted by intensity into as many classes as the data tell apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import FoundColumns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CLASS_COLOURS", "IntensityClasses", "intensity_classes"]

CLASS_COLOURS = ("#3b528b", "#e07b39", "#2ca25f", "#c0392b", "#8e44ad", "#7f6000", "#17a2b8", "#555555")
"""A colour a class, dimmest first; repeated beyond eight."""

_LEAST = 12
"""Columns below which no class is looked for."""

_ROUNDS, _FIRST_ROUNDS = 500, 25
"""Of expectation and maximisation: at most, and from each start before the likeliest goes on."""

_FLOOR = 0.01
"""Least spread of a class over that of all columns: a class of one column would else be infinitely likely."""


@dataclass(frozen=True, eq=False)
class IntensityClasses:
    """A mixture of K normal distributions of intensity, dimmest first.

    Of N columns given, flagged ones and those of unknown intensity belong to no class.

    Attributes:
        label: (N,) each column's most probable class, 0 to K-1; -1 for none.
        probability: (N, K) probability of each class; nan for none.
        mean: (K,) mean intensity of each class, in the image's unit.
        mean_sigma: (K,) standard error of it.
        spread: (K,) standard deviation within the class without the columns' own errors.
        share: (K,) share of the columns.
        bic: Bayesian information criterion of 1, 2, ... classes, as many as were tried; the least is the best.
        intensity: (N,) intensities that were sorted; nan for none.
        usual_error: median standard error of an intensity; 0 where unknown.
        xy_px: (N, 2) positions.
        pixel_size_A: pixel size.
    """

    label: Int[NDArray[np.int64], "N"]
    probability: Float[NDArray[np.float64], "N K"]
    mean: Float[NDArray[np.float64], "K"]
    mean_sigma: Float[NDArray[np.float64], "K"]
    spread: Float[NDArray[np.float64], "K"]
    share: Float[NDArray[np.float64], "K"]
    bic: tuple[float, ...]
    intensity: Float[NDArray[np.float64], "N"]
    usual_error: float
    xy_px: Float[NDArray[np.float64], "N 2"]
    pixel_size_A: float

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.mean)

    @property
    def confused(self) -> float:
        """Share of columns that are expected to have the wrong label: the mean of what their own probability lacks."""
        known = self.label >= 0
        return float(1.0 - self.probability[known].max(axis=1).mean())

    def plot(self) -> Figure:
        """Map of the classes, and the histogram of intensities with the mixture."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 4.4), layout="constrained")
        place, histogram = figure.subplots(1, 2)
        for number in range(len(self)):
            members = self.label == number
            colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
            place.scatter(*(0.1 * self.pixel_size_A * self.xy_px[members]).T, s=16, color=colour, lw=0)
        place.set_aspect("equal")
        place.invert_yaxis()
        place.set_xlabel("x / nm")
        place.set_ylabel("y / nm")
        self.plot_histogram(histogram)
        return figure

    def plot_histogram(self, axes: Axes) -> None:
        """The histogram of intensities, a colour a class, with the mixture as curves.

        Args:
            axes: where to draw.
        """
        known = self.label >= 0
        values = self.intensity[known]
        edges = np.histogram_bin_edges(values, bins=min(60, max(12, len(values) // 6)))
        # A class may hold columns far from all others.
        low, high = edges[0], edges[-1]
        fine = np.linspace(low, high, 600)
        width = edges[1] - edges[0]
        for number in range(len(self)):
            colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
            members = self.label == number
            name = f"{number}: {self.mean[number]:.4g} ± {self.mean_sigma[number]:.2g}, {int(members.sum())} columns"
            axes.hist(self.intensity[members], bins=list(edges), color=colour, alpha=0.6, label=name)
            seen = np.hypot(self.spread[number], self.usual_error)
            curve = np.exp(-0.5 * ((fine - self.mean[number]) / seen) ** 2) / (np.sqrt(2.0 * np.pi) * seen)
            axes.plot(fine, self.share[number] * len(values) * width * curve, color=colour)
        axes.set_xlabel("intensity of a column")
        axes.set_ylabel("columns")
        axes.legend(frameon=False, fontsize=8, title="class: mean ± standard error")


def intensity_classes(columns: FoundColumns, number: int | None = None, *, most: int = 6) -> IntensityClasses:
    """Sort columns by intensity.

    Intensities are taken for draws from a mixture of normal distributions, each seen through its own standard error,
    as told by the localizer: x_i ~ sum_k p_k N(m_k, s_k^2 + e_i^2). It is fitted by expectation and maximisation
    (Bovy, Hogg & Roweis, Ann. Appl. Stat. 5 (2011) 1657, of one dimension), and the number of classes is that of the
    least Bayesian information criterion, 3 K - 1 parameters for K classes (Schwarz, Ann. Stat. 6 (1978) 461).

    A slope of intensity over the image, of thickness for one, is sorted into classes as well: give the number then.

    Args:
        columns: what a localizer found; flagged columns are left out.
        number: number of classes; told by the data unless given.
        most: largest number that is tried.

    Raises:
        LocalizeError: too few columns of known intensity, or a number that cannot be.
    """
    chosen = columns.sound & np.isfinite(columns.intensity)
    count = int(chosen.sum())
    if count < _LEAST:
        raise LocalizeError(f"{count} sound columns of known intensity: classes need {_LEAST} or more")
    highest = count // 3
    if number is not None and not 1 <= number <= highest:
        raise LocalizeError(f"{number} classes of {count} columns: expected 1 to {highest}")
    if number is None and most < 1:
        raise LocalizeError(f"{most} classes at most: expected 1 or more")
    values = columns.intensity[chosen]
    scale = float(values.std()) or float(np.abs(values).mean()) or 1.0
    middle = float(values.mean())
    x = (values - middle) / scale
    known = columns.intensity_sigma[chosen] / scale
    variance = np.where(np.isfinite(known), known, 0.0) ** 2
    tried: list[_Mixture] = []
    bic: list[float] = []
    for classes in range(1, min(number or most, highest) + 1):
        tried.append(_fit(x, variance, classes, tried[-1] if tried else None))
        bic.append(float((3 * classes - 1) * np.log(count) - 2.0 * tried[-1].likelihood))
        # It has one minimum but for chance.
        if number is None and classes - int(np.argmin(bic)) > 2:
            break
    best = tried[-1] if number is not None else tried[int(np.argmin(bic))]
    order = np.argsort(best.mean)
    own, total, _ = _shares(x, variance, best)
    own = own[:, order]
    known_mean = (own / total[:, order]).sum(axis=0)
    label = np.full(len(columns), -1, dtype=np.int64)
    probability = np.full((len(columns), len(order)), np.nan)
    intensity = np.full(len(columns), np.nan)
    label[chosen], probability[chosen], intensity[chosen] = own.argmax(axis=1), own, values
    return IntensityClasses(
        label, probability, middle + scale * best.mean[order], scale / np.sqrt(np.maximum(known_mean, 1e-300)),
        scale * np.sqrt(best.variance[order]), best.share[order], tuple(bic), intensity,
        scale * float(np.sqrt(np.median(variance))), columns.xy_px, columns.pixel_size_A,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Mixture:
    """Means, variances and shares of K classes, and the logarithm of their likelihood."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    share: NDArray[np.float64]
    likelihood: float = -np.inf


def _fit(x: NDArray[np.float64], variance: NDArray[np.float64], classes: int, fewer: _Mixture | None) -> _Mixture:
    """The likeliest mixture found from means at quantiles, at equal steps, and from a class fewer with one cut in two.

    Args:
        x: (N,) values of mean 0 and standard deviation 1.
        variance: (N,) squares of their errors.
        classes: how many.
        fewer: the best mixture of one class fewer.
    """
    even = (np.arange(classes) + 0.5) / classes
    starts = [np.quantile(x, even), x.min() + even * np.ptp(x)]
    if fewer is not None:
        for part in range(classes - 1):
            step = np.sqrt(fewer.variance[part])
            starts.append(np.append(np.delete(fewer.mean, part), fewer.mean[part] + [-step, step]))
    share = np.full(classes, 1.0 / classes)
    found = []
    for start in starts:
        begin = _Mixture(start, np.full(classes, max(1.0 / classes**2, _FLOOR**2)), share)
        found.append(_settled(x, variance, begin, _FIRST_ROUNDS))
    return _settled(x, variance, max(found, key=lambda mixture: mixture.likelihood), _ROUNDS)


def _shares(
    x: NDArray[np.float64], variance: NDArray[np.float64], mixture: _Mixture
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(N, K) probabilities of each value's classes, (N, K) variances of it in them, and the log-likelihood of all."""
    total = mixture.variance + variance[:, None]
    with np.errstate(divide="ignore"):
        log = np.log(mixture.share) - 0.5 * ((x[:, None] - mixture.mean) ** 2 / total + np.log(2.0 * np.pi * total))
    most = log.max(axis=1, keepdims=True)
    own = np.exp(log - most)
    each = own.sum(axis=1, keepdims=True)
    own /= each
    return own, total, float((np.log(each) + most).sum())


def _settled(x: NDArray[np.float64], variance: NDArray[np.float64], mixture: _Mixture, rounds: int) -> _Mixture:
    """Expectation and maximisation until the likelihood rises no more, or for a number of rounds."""
    last = -np.inf
    for _ in range(rounds):
        own, total, likelihood = _shares(x, variance, mixture)
        if likelihood - last < 1e-5:
            return replace(mixture, likelihood=likelihood)
        last = likelihood
        # The value without its error, given the class: its mean and variance.
        gain = mixture.variance / total
        true = mixture.mean + gain * (x[:, None] - mixture.mean)
        rest = gain * variance[:, None]
        amount = np.maximum(own.sum(axis=0), 1e-12)
        mean = (own * true).sum(axis=0) / amount
        spread = (own * ((true - mean) ** 2 + rest)).sum(axis=0) / amount
        mixture = _Mixture(mean, np.maximum(spread, _FLOOR**2), amount / len(x))
    return replace(mixture, likelihood=_shares(x, variance, mixture)[2])
