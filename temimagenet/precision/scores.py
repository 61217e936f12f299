"""Scores: found columns against true ones, image by image, and the metrics with intervals that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import chi2

from temimagenet.errors import PrecisionError
from temimagenet.localize.protocol import FoundColumns
from temimagenet.metrics import match
from temimagenet.precision.cases import MARGIN_A, BenchmarkImage

__all__ = [
    "ALL",
    "METRICS",
    "RESPONSE_RANGE",
    "SUMS",
    "Estimate",
    "ImageScore",
    "Tally",
    "bootstrap",
    "chance_limit",
    "checked",
    "metrics",
    "score_image",
    "total",
    "worst_group",
]

ALL = "all"
"""Key of the tally over all groups."""

RESPONSE_RANGE = (0.9, 1.1)
"""A method follows columns out of place if the whole interval of its response lies between these."""

_CHANCE = 1e-3
"""Chance of an efficiency above its limit for a method that reaches the bound."""

SUMS: tuple[str, ...] = (
    "columns", "hits", "false", "reported", "flagged", "seconds",
    "x", "y", "xx", "yy", "relative_xx", "relative_yy", "relative_n",
    "ratio", "ratio_n", "relative_ratio", "relative_ratio_n", "bound", "bound_n", "z", "z_n", "uu", "um",
)  # fmt: skip
"""What a tally sums over columns: counts; errors and their squares in pm (absolute, and less the image's mean); squared
ratios of errors to bounds; squared bounds in pm^2; squared ratios of errors to claimed errors; true displacement
squared and times measured, in pm^2; the matching numbers of terms."""

METRICS: Mapping[str, str] = {
    "sigma_x_pm": "standard deviation of the error in x",
    "sigma_y_pm": "standard deviation of the error in y",
    "bias_x_pm": "mean error in x",
    "bias_y_pm": "mean error in y",
    "rmse_pm": "root-mean-square error per axis",
    "sigma_relative_pm": "root-mean-square error per axis, each image's mean error taken off",
    "bound_pm": "root-mean-square of the absolute bound over the columns that count",
    "efficiency": "1 / mean of (error / absolute bound)^2",
    "efficiency_relative": "1 / mean of (error less the image's mean / relative bound)^2",
    "recall": "found among the columns that count",
    "precision": "true among those reported",
    "jaccard": "found / (columns that count + false ones)",
    "flagged": "share of the reported columns that the method itself flagged",
    "z_sd": "root-mean-square of error / claimed standard error",
    "response": "slope of measured against true displacement",
    "columns_per_s": "found columns that count per second",
}

Tally = Mapping[str, float]
"""Sums over the columns of an image, or a group of them, by the names in `SUMS`."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval over images; nan where it cannot be told.

    Efficiencies of errors that are exactly 0 are infinite.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class ImageScore:
    """One image's result: M columns that count were found.

    Attributes:
        true_index: (M,) index into the benchmark image's columns.
        found_index: (M,) index into the found columns.
        error_pm: (M, 2) found less true position (x, y).
        tallies: sums over all columns (`ALL`) and over each group.
    """

    true_index: Int[NDArray[np.int64], "M"]
    found_index: Int[NDArray[np.int64], "M"]
    error_pm: Float[NDArray[np.float64], "M 2"]
    tallies: Mapping[str, Tally]


def score_image(found: FoundColumns, truth: BenchmarkImage, seconds: float = 0.0) -> ImageScore:
    """Hold one image's found columns against the true ones.

    Only sound columns (no flag) are detections: a flagged one is neither a hit nor false, but its share is told. A
    detection that is matched with a column that does not count, or lies within `MARGIN_A` of the border unmatched, is
    left out as well.

    Args:
        found: what a localizer returned for `truth.image`: a `FoundColumns` with (N, 2) positions (x, y) in pixels,
            pixel centres at integers, the sound ones finite and on the image; (N, 2) standard errors in pixels above
            0, or nan; N integer flags; and the image's pixel size.
        truth: the image.
        seconds: how long it took.

    Raises:
        PrecisionError: `found` is not of that form; the message names the case, the image and what is wrong.
    """
    found = checked(found, truth)
    p = truth.pixel_size_A
    sound = np.flatnonzero(found.sound)
    true_index, place = match(found.xy_px[sound], truth.xy_px, p)
    found_index = sound[place]
    loose = np.setdiff1d(sound, found_index)
    size = np.array(truth.image.shape[::-1])
    edge = np.minimum(found.xy_px[loose] + 0.5, size - 0.5 - found.xy_px[loose]).min(axis=1, initial=np.inf) * p
    false = int((edge >= MARGIN_A).sum())
    real = truth.counts[true_index]
    true_index, found_index = true_index[real], found_index[real]
    error = (found.xy_px[found_index] - truth.xy_px[true_index]) * p * 100.0
    claimed = found.sigma_px[found_index] * p * 100.0
    # Means are the image's, so that a group is judged where the others are too.
    relative = error - error.mean(axis=0) if len(error) > 1 else np.full_like(error, np.nan)
    projected = np.full_like(error, np.nan)
    if truth.covariance_A2 is not None and len(error) > 1:
        projected = 100.0 * truth.relative_bound_A(true_index)
    true_move = measured = np.full_like(error, np.nan)
    if truth.displacement_A is not None and len(error) > 1:
        true_move = 100.0 * truth.displacement_A[true_index]
        measured = true_move + error
        true_move, measured = true_move - true_move.mean(axis=0), measured - measured.mean(axis=0)

    tallies: dict[str, Tally] = {}
    for name in (ALL, *np.unique(truth.group[truth.counts]).tolist()):
        mine = truth.counts & ((truth.group == name) | (name == ALL))
        hit = mine[true_index]
        tally = dict.fromkeys(SUMS, 0.0)
        tally["columns"], tally["hits"] = float(mine.sum()), float(hit.sum())
        tally["x"], tally["y"] = (float(v) for v in error[hit].sum(axis=0))
        tally["xx"], tally["yy"] = (float(v) for v in (error[hit] ** 2).sum(axis=0))
        if len(error) > 1:
            tally["relative_xx"], tally["relative_yy"] = (float(v) for v in (relative[hit] ** 2).sum(axis=0))
            tally["relative_n"] = float(hit.sum())
        if truth.bound_A is not None:
            bound = 100.0 * truth.bound_A
            tally["bound"], tally["bound_n"] = float((bound[mine] ** 2).sum()), 2.0 * float(mine.sum())
            tally["ratio"] = float(((error[hit] / bound[true_index][hit]) ** 2).sum())
            tally["ratio_n"] = 2.0 * float(hit.sum())
            if len(error) > 1:
                tally["relative_ratio"] = float(((relative[hit] / projected[hit]) ** 2).sum())
                tally["relative_ratio_n"] = 2.0 * float(hit.sum())
        told = np.isfinite(claimed[hit])
        tally["z"], tally["z_n"] = float(((error[hit][told] / claimed[hit][told]) ** 2).sum()), float(told.sum())
        if truth.displacement_A is not None and len(error) > 1:
            tally["uu"] = float((true_move[hit] ** 2).sum())
            tally["um"] = float((true_move[hit] * measured[hit]).sum())
        if name == ALL:
            tally["false"], tally["seconds"] = float(false), float(seconds)
            tally["reported"], tally["flagged"] = float(len(found)), float(len(found) - len(sound))
        tallies[name] = tally
    return ImageScore(true_index, found_index, error, tallies)


def checked(found: FoundColumns, truth: BenchmarkImage) -> FoundColumns:
    """A localizer's answer in the form that is scored: copies, positions and errors as float64, flags as int64.

    Integer positions and errors are taken too: those on an image lose nothing.

    Raises:
        PrecisionError: it is not of the form that `score_image` tells.
    """
    where = f"{truth.spec.id}: "
    if not isinstance(found, FoundColumns):
        raise PrecisionError(f"{where}a localizer returned {type(found).__name__}: expected FoundColumns")
    arrays = {name: np.asarray(getattr(found, name)) for name in ("xy_px", "sigma_px", "flags")}
    n = arrays["xy_px"].shape[:1]
    for name, array in arrays.items():
        kinds = (np.integer,) if name == "flags" else (np.integer, np.floating)
        if array.shape != (n if name == "flags" else (*n, 2)):
            raise PrecisionError(
                f"{where}{name} of shape {array.shape}: expected {'N' if name == 'flags' else '(N, 2)'}"
            )
        if not any(np.issubdtype(array.dtype, kind) for kind in kinds):
            expected = "integers" if name == "flags" else "floating-point numbers or integers"
            raise PrecisionError(f"{where}{name} of type {array.dtype}: expected {expected}")
    if not np.isclose(found.pixel_size_A, truth.pixel_size_A, rtol=1e-9):
        raise PrecisionError(f"{where}pixel size {found.pixel_size_A} A: expected the image's, {truth.pixel_size_A} A")
    found = replace(
        found,
        xy_px=arrays["xy_px"].astype(np.float64),
        sigma_px=arrays["sigma_px"].astype(np.float64),
        flags=arrays["flags"].astype(np.int64),
    )
    sound = found.xy_px[found.sound]
    if not np.isfinite(sound).all():
        bad = int(np.flatnonzero(found.sound)[~np.isfinite(sound).all(axis=1)][0])
        raise PrecisionError(
            f"{where}column {bad} at {found.xy_px[bad].tolist()}: expected finite positions, or a flag"
        )
    rows, columns = truth.image.shape
    outside = ((sound < -0.5) | (sound >= np.array([columns, rows]) - 0.5)).any(axis=1)
    if outside.any():
        bad = int(np.flatnonzero(found.sound)[outside][0])
        raise PrecisionError(
            f"{where}column {bad} at {found.xy_px[bad].tolist()} lies outside the image: expected (x, y) in pixels "
            f"from -0.5 to {columns - 0.5:g} and {rows - 0.5:g}, or a flag"
        )
    claimed = found.sigma_px[found.sound]
    if (claimed <= 0.0).any() or np.isinf(claimed).any():
        raise PrecisionError(f"{where}sigma_px holds zero, negative or infinite errors: expected above 0, or nan")
    return found


def metrics(tally: Tally) -> dict[str, float]:
    """The metrics of `METRICS` from the sums of one or many images; nan where nothing can be told."""
    arrays = _metrics({name: np.array(tally[name]) for name in SUMS})
    return {name: float(value) for name, value in arrays.items()}


def _metrics(s: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The metrics of arrays of sums."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where(s["hits"] > 0, s["hits"], np.nan)
        mean_x, mean_y = s["x"] / n, s["y"] / n
        out = {
            "sigma_x_pm": np.sqrt(np.maximum(s["xx"] / n - mean_x**2, 0.0)),
            "sigma_y_pm": np.sqrt(np.maximum(s["yy"] / n - mean_y**2, 0.0)),
            "bias_x_pm": mean_x,
            "bias_y_pm": mean_y,
            "rmse_pm": np.sqrt((s["xx"] + s["yy"]) / (2.0 * n)),
            "sigma_relative_pm": np.sqrt((s["relative_xx"] + s["relative_yy"]) / (2.0 * s["relative_n"])),
            "bound_pm": np.sqrt(s["bound"] / s["bound_n"]),
            "efficiency": s["ratio_n"] / s["ratio"],
            "efficiency_relative": s["relative_ratio_n"] / s["relative_ratio"],
            "recall": s["hits"] / s["columns"],
            "precision": s["hits"] / (s["hits"] + s["false"]),
            "jaccard": s["hits"] / (s["columns"] + s["false"]),
            "flagged": s["flagged"] / s["reported"],
            "z_sd": np.sqrt(s["z"] / s["z_n"]),
            "response": s["um"] / s["uu"],
            "columns_per_s": s["hits"] / s["seconds"],
        }
    # Errors of exactly 0 have an infinite efficiency; elsewhere a division by 0 is nothing told.
    exact = {"efficiency", "efficiency_relative"}
    return {name: np.where(np.isfinite(v) | (name in exact), v, np.nan) for name, v in out.items()}


def chance_limit(tallies: Sequence[Tally], *, relative: bool = False) -> float:
    """The largest efficiency that chance gives a method which reaches the bound, once in a thousand times.

    As if all errors of an image were one, along either axis: more independent errors scatter less. Few images leave
    chance much room, 44 for two of them and 1.9 for thirty.

    Args:
        tallies: one of each image.
        relative: of the relative efficiency.

    Returns:
        The limit; infinite without images that have a bound.
    """
    weight = np.array([tally["relative_ratio_n" if relative else "ratio_n"] for tally in tallies])
    if not weight.any():
        return float(np.inf)
    # Satterthwaite's degrees of freedom of the mean over images of unequal numbers of columns.
    freedom = 2.0 * weight.sum() ** 2 / (weight**2).sum()
    return float(freedom / chi2.ppf(_CHANCE, freedom))


def bootstrap(
    tallies: Sequence[Tally], other: Sequence[Tally] | None = None, *, draws: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Every metric with its 95 % interval: percentiles over images drawn anew with replacement.

    Args:
        tallies: one of each image.
        other: another method's on the same images, in the same order: differences (first less second) are told, both
            from the same draws.
        draws: number of draws.
        seed: of the draws; equal input gives equal output.

    Returns:
        By metric; intervals of a single image are nan. With few images intervals are too narrow: 8 or more are needed
        for them to mean 95 %.

    Raises:
        PrecisionError: no image, or unequal numbers.
    """
    if not tallies or (other is not None and len(other) != len(tallies)):
        raise PrecisionError("no images, or unequal numbers of them: nothing to resample")
    count = len(tallies)
    # The first row is the data itself.
    weights = np.ones((draws + 1, count))
    weights[1:] = np.random.Generator(np.random.Philox(seed)).multinomial(count, np.full(count, 1.0 / count), draws)

    def drawn(part: Sequence[Tally]) -> dict[str, NDArray[np.float64]]:
        sums = weights @ np.array([[tally[name] for name in SUMS] for tally in part])
        return _metrics(dict(zip(SUMS, sums.T, strict=True)))

    values = drawn(tallies)
    if other is not None:
        second = drawn(other)
        # Two infinite efficiencies have no difference.
        with np.errstate(invalid="ignore"):
            values = {name: value - second[name] for name, value in values.items()}
    result = {}
    for name, value in values.items():
        spread = value[1:][~np.isnan(value[1:])]
        if count == 1 or not len(spread):
            low, high = np.nan, np.nan
        elif np.isfinite(spread).all():
            low, high = np.percentile(spread, (2.5, 97.5))
        else:
            # Nothing lies between a number and infinity.
            low, high = np.percentile(spread, (2.5, 97.5), method="inverted_cdf")
        result[name] = Estimate(float(value[0]), float(low), float(high))
    return result


def total(tallies: Iterable[Tally]) -> Tally:
    """Sums of many tallies."""
    whole = dict.fromkeys(SUMS, 0.0)
    for tally in tallies:
        for name in SUMS:
            whole[name] += tally[name]
    return whole


def worst_group(images: Iterable[Mapping[str, Tally]]) -> tuple[str, dict[str, float]] | None:
    """The group of columns that fares worst, with its metrics.

    Worst is the least recall times efficiency, the share of the image's information that a method brings home; without
    bounds the largest error over recall. None where the images hold fewer than two groups.

    Args:
        images: `ImageScore.tallies` of each image.
    """
    groups: dict[str, list[Tally]] = {}
    for image in images:
        for name, tally in image.items():
            if name != ALL:
                groups.setdefault(name, []).append(tally)
    told = {name: metrics(total(parts)) for name, parts in groups.items()}
    if len(told) < 2:
        return None

    def fares(name: str) -> float:
        """More is better; a group of which nothing is found is worst of all."""
        found = told[name]
        if found["recall"] == 0.0:
            return -np.inf
        if not np.isnan(found["efficiency"]):
            return found["recall"] * found["efficiency"]
        return -found["rmse_pm"] / found["recall"]

    name = min(told, key=fares)
    return name, told[name]
