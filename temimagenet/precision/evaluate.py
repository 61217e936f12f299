"""`evaluate`: run a localizer over benchmark cases; `compare`: two methods on the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

from temimagenet.device import single_threaded
from temimagenet.errors import PrecisionError, TEMImageNetError
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
from temimagenet.precision.scores import Estimate, ImageScore, bootstrap, checked, score_image

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
    once untimed beforehand, and must return `FoundColumns`; see `score_image` for what is checked. An image on which it
    raises an exception, or whose answer is not of that form, counts as one where nothing was found: the record keeps
    the message (`Result.error`), and `Record.errors` counts them.

    Speeds are those of one thread: torch, BLAS and OpenMP have no more while the localizer runs. A pool of threads that
    a localizer opens by itself must follow `torch.get_num_threads()`.

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
        PrecisionError: a name or version that cannot stand in a table, an unknown case, or a number of images out of
            range.
    """
    told_version = method_version or _package_version(type(localizer).__module__)
    check_printable(localizer.name, "the localizer's name")
    check_printable(told_version, f"{localizer.name}: the version")
    names = list(CASES) if cases is None else [find_case(name).name for name in cases]
    if not names or not 1 <= images <= IMAGES_PER_CASE:
        raise PrecisionError(f"{len(names)} cases, {images} images: expected a case and 1 to {IMAGES_PER_CASE} images")
    results: list[Result] = []
    pools = ThreadpoolController()
    for name in dict.fromkeys(names):
        for truth in case_images(name, range(images), bounds=bounds, cache=cache):
            if not results:
                _run(localizer, truth, pools)
                # By now the method has loaded its libraries.
                pools = ThreadpoolController()
            found, seconds, error = _run(localizer, truth, pools)
            score = score_image(found, truth, seconds)
            results.append(
                Result(name, truth.spec.index, seconds, found.xy_px, found.sigma_px, found.flags, score.tallies, error)
            )
            if on_image is not None:
                on_image(truth, score)
    if parameters is None:
        parameters = asdict(localizer) if is_dataclass(localizer) and not isinstance(localizer, type) else {}
    return with_scores(
        Record(
            localizer.name, told_version, dict(parameters), CASE_SET_VERSION, _package_version("temimagenet"),
            machine() | {"threads": 1}, datetime.now(UTC).date().isoformat(), bounds, tuple(results), {},
        )
    )  # fmt: skip


def _run(localizer: Localizer, truth: BenchmarkImage, pools: ThreadpoolController) -> tuple[FoundColumns, float, str]:
    """A localizer's answer in one thread, how long it took in seconds, and "" or why nothing was found."""
    start = time.perf_counter()
    try:
        with pools.limit(limits=1), single_threaded():
            start = time.perf_counter()
            answer = localizer(truth.image.copy(), truth.pixel_size_A)
            seconds = time.perf_counter() - start
        return checked(answer, truth), seconds, ""
    # A method from outside may fail in any way, and other images still tell how good it is.
    except Exception as error:
        ours = isinstance(error, TEMImageNetError) and str(error)
        told = str(error) if ours else f"{type(error).__name__}: {error}"
        return FoundColumns.none(truth.pixel_size_A), time.perf_counter() - start, told


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
