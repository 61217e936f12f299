"""`evaluate`: run a localizer over benchmark cases; `compare`: two methods on the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from temimagenet.errors import LocalizeError, PrecisionError
from temimagenet.localize.protocol import FoundColumns, Localizer
from temimagenet.precision.cases import (
    CASE_SET_VERSION,
    CASES,
    IMAGES_PER_CASE,
    BenchmarkImage,
    case_images,
    find_case,
)
from temimagenet.precision.records import Record, Result, check_printable, machine, paired, with_scores
from temimagenet.precision.scores import Estimate, ImageScore, bootstrap, score_image

__all__ = ["ImageScore", "compare", "evaluate", "score_image"]


def evaluate(
    localizer: Localizer,
    cases: Iterable[str] | None = None,
    *,
    images: int = IMAGES_PER_CASE,
    bounds: bool = True,
    parameters: Mapping[str, Any] | None = None,
    method_version: str | None = None,
    cache: Path | None = None,
    on_image: Callable[[BenchmarkImage, ImageScore], None] | None = None,
) -> Record:
    """Run a localizer over the first images of each case and score it.

    The localizer is called as `localizer(image, pixel_size_A)` with a float64 image of electron counts of its own copy,
    once untimed beforehand, and must return `FoundColumns`; see `score_image` for what is checked. An image that it
    gives up with a `LocalizeError` counts as one where nothing was found; other errors are not caught.

    Args:
        localizer: the method.
        cases: names of cases; all unless given. Without one of `RESPONSE_CASES` the method gets no leaderboard row.
        images: how many of each case.
        bounds: work out the bounds, for efficiencies.
        parameters: settings to record; a dataclass's own fields unless given.
        method_version: version to record; that of the package the localizer comes from unless given.
        cache: folder of the bounds; the user's cache unless given.
        on_image: called after each image, to show progress.

    Raises:
        PrecisionError: a name or version that cannot stand in a table, an unknown case, a number of images out of
            range, or an answer that is not of the right form.
    """
    told_version = method_version or _package_version(type(localizer).__module__)
    check_printable(localizer.name, "the localizer's name")
    check_printable(told_version, f"{localizer.name}: the version")
    names = list(CASES) if cases is None else [find_case(name).name for name in cases]
    if not names or not 1 <= images <= IMAGES_PER_CASE:
        raise PrecisionError(f"{len(names)} cases, {images} images: expected a case and 1 to {IMAGES_PER_CASE} images")
    results: list[Result] = []
    for name in dict.fromkeys(names):
        for truth in case_images(name, range(images), bounds=bounds, cache=cache):
            if not results:
                _run(localizer, truth)
            start = time.perf_counter()
            found, error = _run(localizer, truth)
            seconds = time.perf_counter() - start
            score = score_image(found, truth, seconds)
            results.append(
                Result(
                    name, truth.spec.index, seconds, np.array(found.xy_px, dtype=np.float64),
                    np.array(found.sigma_px, dtype=np.float64), np.array(found.flags, dtype=np.int64),
                    score.tallies, error,
                )
            )  # fmt: skip
            if on_image is not None:
                on_image(truth, score)
    if parameters is None:
        parameters = asdict(localizer) if is_dataclass(localizer) and not isinstance(localizer, type) else {}
    return with_scores(
        Record(
            localizer.name, told_version, dict(parameters), CASE_SET_VERSION, _package_version("temimagenet"),
            machine(), datetime.now(UTC).date().isoformat(), bounds, tuple(results), {},
        )
    )  # fmt: skip


def _run(localizer: Localizer, truth: BenchmarkImage) -> tuple[FoundColumns, str]:
    """A localizer's answer, or nothing found and why."""
    try:
        return localizer(truth.image.copy(), truth.pixel_size_A), ""
    except LocalizeError as error:
        return FoundColumns.none(truth.pixel_size_A), str(error)


def _package_version(module: str) -> str:
    """Version of the installed package that a module belongs to."""
    try:
        return version(module.partition(".")[0])
    except (PackageNotFoundError, ValueError):
        return "unknown"


def compare(first: Record, second: Record) -> dict[str, dict[str, Estimate]]:
    """Paired differences of two methods: each metric of the first less that of the second.

    Both are resampled by the same images, so what makes an image hard cancels.

    Returns:
        By case that both were run on, over the images that both hold, then by metric.

    Raises:
        PrecisionError: the records are of different case sets, or share no image.
    """
    if first.case_set_version != second.case_set_version:
        raise PrecisionError(
            f"records of case sets {first.case_set_version} and {second.case_set_version}: run both on one set"
        )
    result = {}
    for case, results in first.cases.items():
        mine, other = paired(results, second.cases.get(case, ()))
        if mine:
            result[case] = bootstrap(mine, other)
    if not result:
        raise PrecisionError(f"{first.method} and {second.method} share no image: run both on the same cases")
    return result
