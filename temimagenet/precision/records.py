"""Records: a method's submitted positions and scores as files that anyone can check again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from temimagenet.errors import PrecisionError
from temimagenet.localize.protocol import FoundColumns, Localizer
from temimagenet.precision.cases import CASE_SET_VERSION, CASES, IMAGES_PER_CASE, RESPONSE_CASES, case_images
from temimagenet.precision.scores import ALL, METRICS, SUMS, Estimate, Tally, bootstrap, score_image

__all__ = [
    "ENTRY_POINTS",
    "Record",
    "Result",
    "installed_localizers",
    "load_localizer",
    "machine",
    "read_record",
    "read_records",
    "verify",
    "write_record",
]

SCHEMA = 1
ENTRY_POINTS = "temimagenet.localizers"
"""Entry-point group under which other packages offer their localizers."""

_RELATIVE = 1e-6


@dataclass(frozen=True, eq=False)
class Result:
    """What a method submitted for one image, and the sums that follow from it.

    Attributes:
        case: name of the case.
        index: number of the image.
        seconds: how long the method took; cannot be checked afterwards.
        xy_px: (N, 2) positions (x, y) in pixels, flagged ones included.
        sigma_px: (N, 2) claimed standard errors in pixels; nan where none was claimed.
        flags: (N,) `Flag` values.
        tallies: sums over all columns and over each group; see `scores.SUMS`.
        error: why nothing was found: what the method raised, or what was wrong with its answer; "" otherwise.
    """

    case: str
    index: int
    seconds: float
    xy_px: Float[NDArray[np.float64], "N 2"]
    sigma_px: Float[NDArray[np.float64], "N 2"]
    flags: Int[NDArray[np.int64], "N"]
    tallies: Mapping[str, Tally]
    error: str = ""

    def found(self, pixel_size_A: float) -> FoundColumns:
        """The submission as a localizer's answer; what was not submitted is nan."""
        blank = np.full(len(self.xy_px), np.nan)
        return FoundColumns(self.xy_px, self.sigma_px, blank, blank, blank, self.flags, pixel_size_A)


@dataclass(frozen=True, eq=False)
class Record:
    """A method's results on a set of cases.

    Attributes:
        method: the localizer's name, settings included.
        version: version of the method.
        parameters: its settings.
        case_set_version: `CASE_SET_VERSION` of the images.
        library_version: version of this package.
        machine: what it ran on, see `machine`, and the number of threads.
        date: day, as YYYY-MM-DD.
        bounds: whether the bounds were worked out.
        results: one of each image.
        scores: metrics with intervals by case, as written down.
    """

    method: str
    version: str
    parameters: Mapping[str, Any]
    case_set_version: int
    library_version: str
    machine: Mapping[str, Any]
    date: str
    bounds: bool
    results: tuple[Result, ...]
    scores: Mapping[str, Mapping[str, Estimate]]

    @cached_property
    def cases(self) -> Mapping[str, tuple[Result, ...]]:
        """Results by case, in the order of `CASES`."""
        by_case: dict[str, list[Result]] = {}
        for result in self.results:
            by_case.setdefault(result.case, []).append(result)
        order = list(CASES)
        return {name: tuple(by_case[name]) for name in sorted(by_case, key=order.index)}

    @cached_property
    def errors(self) -> int:
        """Number of images on which the method failed; see `Result.error`."""
        return sum(bool(result.error) for result in self.results)

    @cached_property
    def gaps(self) -> Mapping[str, tuple[int, ...]]:
        """Images that lack before a case's last one, by case: a whole record holds images 0 to n - 1 of each."""
        held = {case: {r.index for r in results} for case, results in self.cases.items()}
        lacking = {case: tuple(sorted(set(range(max(own))) - own)) for case, own in held.items()}
        return {case: indices for case, indices in lacking.items() if indices}

    @cached_property
    def response(self) -> Estimate | None:
        """Slope of measured against true displacement over all cases of `RESPONSE_CASES`; None without any."""
        parts = [result.tallies[ALL] for result in self.results if result.case in RESPONSE_CASES]
        return bootstrap(parts)["response"] if parts else None

    def scored(self) -> dict[str, dict[str, Estimate]]:
        """Metrics with intervals by case, worked out from the results."""
        return {case: bootstrap([r.tallies[ALL] for r in results]) for case, results in self.cases.items()}


def machine() -> dict[str, Any]:
    """What speeds were measured on: processor, cores, platform and versions; no names of hosts or users."""
    import torch

    cpu = platform.processor()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": cpu or "unknown",
        "cores": os.cpu_count() or 0,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def write_record(record: Record, folder: str | Path) -> Path:
    """Write a record: NAME.json with scores and sums, NAME.npz with the submitted positions.

    The name follows from method, version and parameters, so running a method again replaces its record.

    Returns:
        The JSON file.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    identity = json.dumps([record.method, record.version, record.parameters], sort_keys=True, default=str)
    slug = re.sub(r"[^a-z0-9]+", "-", record.method.lower()).strip("-") or "method"
    name = f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    parts = root / f"{name}.npz"
    np.savez_compressed(
        parts,
        count=np.array([len(r.xy_px) for r in record.results], dtype=np.int64),
        xy_px=np.concatenate([np.zeros((0, 2)), *(r.xy_px for r in record.results)]),
        sigma_px=np.concatenate([np.zeros((0, 2)), *(r.sigma_px for r in record.results)]),
        flags=np.concatenate([np.zeros(0, dtype=np.int64), *(r.flags for r in record.results)]),
    )
    data = {
        "schema": SCHEMA,
        "method": record.method,
        "version": record.version,
        "parameters": record.parameters,
        "case_set_version": record.case_set_version,
        "library_version": record.library_version,
        "machine": record.machine,
        "date": record.date,
        "bounds": record.bounds,
        "positions": {"file": parts.name, "sha256": hashlib.sha256(parts.read_bytes()).hexdigest()},
        "scores": {
            case: {name: [_plain(e.value), _plain(e.low), _plain(e.high)] for name, e in scores.items()}
            for case, scores in record.scores.items()
        },
        "results": [
            {
                "case": r.case,
                "index": r.index,
                "seconds": r.seconds,
                "error": r.error,
                # Sums that are 0 are left out.
                "tallies": {group: {k: v for k, v in tally.items() if v} for group, tally in r.tallies.items()},
            }
            for r in record.results
        ],
    }
    path = root / f"{name}.json"
    path.write_text(json.dumps(data, indent=1, default=str, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _plain(value: float) -> float | str | None:
    """nan and infinity as JSON has them."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def read_record(path: str | Path) -> Record:
    """Read a record and the positions beside it.

    Raises:
        PrecisionError: a file is missing or malformed, of another schema, or the positions are not those that the
            record was written with; the message names the file, the field and what was expected.
    """
    source = Path(path)
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrecisionError(f"{source}: cannot be read as JSON ({error})") from error
    where = str(source)
    if not isinstance(data, dict):
        raise PrecisionError(f"{where}: holds a {type(data).__name__}, expected an object")
    if data.get("schema") != SCHEMA:
        raise PrecisionError(f"{where}: schema is {data.get('schema')!r}, expected {SCHEMA}")
    text = {key: _field(data, key, str, where) for key in ("method", "version", "library_version", "date")}
    for key, value in text.items():
        check_printable(value, f"{where}: {key}")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text["date"]):
        raise PrecisionError(f"{where}: date is {text['date']!r}, expected YYYY-MM-DD")
    positions = _field(data, "positions", dict, where)
    file_name = _field(positions, "file", str, f"{where}, positions")
    if not file_name.isprintable() or not file_name or Path(file_name).name != file_name:
        raise PrecisionError(f"{where}, positions: file is {file_name!r}, expected the name of a file beside it")
    arrays = _positions(source.with_name(file_name), _field(positions, "sha256", str, f"{where}, positions"))
    raw = _field(data, "results", list, where)
    if len(raw) != len(arrays):
        raise PrecisionError(f"{where}: {len(raw)} results, but positions of {len(arrays)} images")
    results = tuple(
        _result(item, part, f"{where}, result {i}") for i, (item, part) in enumerate(zip(raw, arrays, strict=True))
    )
    seen = [(r.case, r.index) for r in results]
    if len(set(seen)) < len(seen):
        raise PrecisionError(f"{where}: an image has two results, expected one of each")
    scores: dict[str, dict[str, Estimate]] = {}
    for case, values in _field(data, "scores", dict, where).items():
        if case not in CASES:
            raise PrecisionError(f"{where}: scores of {case!r}, expected cases of this set")
        if not isinstance(values, dict):
            raise PrecisionError(f"{where}, scores of {case}: expected an object")
        scores[case] = {name: _estimate(value, f"{where}, scores of {case}, {name}") for name, value in values.items()}
    machine_ = _field(data, "machine", dict, where)
    check_printable(_field(machine_, "cpu", str, f"{where}, machine"), f"{where}, machine: cpu")
    if "threads" in machine_:
        _field(machine_, "threads", int, f"{where}, machine")
    return Record(
        text["method"],
        text["version"],
        _field(data, "parameters", dict, where),
        _field(data, "case_set_version", int, where),
        text["library_version"],
        machine_,
        text["date"],
        _field(data, "bounds", bool, where),
        results,
        scores,
    )


def read_records(folder: str | Path) -> tuple[list[Record], list[str]]:
    """All records of a folder, in the order of their file names, and what was wrong with the others.

    Of two records of one method and version on one set of cases none is returned: nothing tells which is the method's.
    """
    records: dict[Path, Record] = {}
    problems = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            records[path] = read_record(path)
        except PrecisionError as error:
            problems.append(str(error))
    alike: dict[tuple[str, str, int], list[Path]] = {}
    for path, record in records.items():
        alike.setdefault((record.method, record.version, record.case_set_version), []).append(path)
    for (method, version, _), paths in alike.items():
        if len(paths) > 1:
            told = " and ".join(map(str, paths))
            problems.append(f"{told}: records of one method and version, {method} ({version}); keep one, or rename")
            for path in paths:
                del records[path]
    return list(records.values()), problems


def _positions(path: Path, digest: str) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Positions, claimed errors and flags of each image."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PrecisionError(f"{path}: the submitted positions cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise PrecisionError(f"{path}: not the positions that the record was written with (SHA-256 differs)")
    try:
        with np.load(path, allow_pickle=False) as file:
            count, xy, sigma, flags = (file[name] for name in ("count", "xy_px", "sigma_px", "flags"))
    # Damaged archives fail in zipfile, zlib and NumPy, in ways that none of them lists.
    except Exception as error:
        raise PrecisionError(f"{path}: not a file of positions ({type(error).__name__}: {error})") from error
    for name, array, kind in (
        ("count", count, np.integer), ("xy_px", xy, np.floating), ("sigma_px", sigma, np.floating),
        ("flags", flags, np.integer),
    ):  # fmt: skip
        if not np.issubdtype(array.dtype, kind):
            raise PrecisionError(f"{path}: {name} of type {array.dtype}, expected {kind.__name__}")
    if count.ndim != 1 or (count < 0).any():
        raise PrecisionError(f"{path}: count of shape {count.shape}, expected one number of 0 or more for each image")
    n = sum(count.tolist())
    if xy.shape != (n, 2) or sigma.shape != (n, 2) or flags.shape != (n,):
        raise PrecisionError(
            f"{path}: shapes {xy.shape}, {sigma.shape}, {flags.shape}, expected ({n}, 2), ({n}, 2), ({n},)"
        )
    ends = np.cumsum(count)
    return [
        (xy[b - c : b].astype(np.float64), sigma[b - c : b].astype(np.float64), flags[b - c : b].astype(np.int64))
        for c, b in zip(count.tolist(), ends.tolist(), strict=True)
    ]


def _result(data: Any, arrays: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], where: str) -> Result:
    """One image's result."""
    if not isinstance(data, dict):
        raise PrecisionError(f"{where}: expected an object")
    case, index = _field(data, "case", str, where), _field(data, "index", int, where)
    if case not in CASES or not 0 <= index < IMAGES_PER_CASE:
        raise PrecisionError(f"{where}: image {index} of case {case!r}, expected a case of this set and 0 to 29")
    tallies: dict[str, Tally] = {}
    for group, values in _field(data, "tallies", dict, where).items():
        check_printable(group, f"{where}, tallies: group")
        if not isinstance(values, dict):
            raise PrecisionError(f"{where}, tallies of {group}: expected an object")
        unknown = set(values) - set(SUMS)
        if unknown:
            raise PrecisionError(f"{where}, tallies of {group}: unknown sum {min(unknown)!r}")
        told = {name: _number(value, f"{where}, tallies of {group}: {name}") for name, value in values.items()}
        tallies[group] = dict.fromkeys(SUMS, 0.0) | told
    if ALL not in tallies:
        raise PrecisionError(f"{where}: no tally {ALL!r}")
    seconds = _number(data.get("seconds"), f"{where}: seconds")
    if seconds <= 0.0:
        raise PrecisionError(f"{where}: seconds is {seconds:g}, expected more than 0")
    return Result(case, index, seconds, *arrays, tallies, _field(data, "error", str, where))


def _estimate(value: Any, where: str) -> Estimate:
    """[value, low, high] with null for nan and "inf" for infinity."""
    if not isinstance(value, list) or len(value) != 3:
        raise PrecisionError(f"{where}: {value!r}, expected [value, low, high]")
    words = {None: math.nan, "inf": math.inf}
    return Estimate(*(words[n] if n is None or n == "inf" else _number(n, where) for n in value))


def _number(value: Any, where: str) -> float:
    """A finite number as float."""
    # Integers beyond the largest float are none either.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise PrecisionError(f"{where} is {value!r}, expected a finite number")
    return float(value)


def check_printable(value: str, where: str) -> None:
    """Raise `PrecisionError` unless a text can stand in a table."""
    if not value.isprintable() or not value.strip():
        raise PrecisionError(f"{where} is {value!r}, expected printable text in one line")


def _field(data: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    """data[key], which must be of a kind."""
    if key not in data:
        raise PrecisionError(f"{where}: {key} is missing")
    value = data[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        told = kind.__name__ if isinstance(kind, type) else "number"
        raise PrecisionError(f"{where}: {key} is {value!r}, expected {told}")
    return value


def verify(record: Record, *, images: Iterable[int] | None = None, cache: Path | None = None) -> list[str]:
    """Check a record: draw the true columns anew, work everything out from the submitted positions, and compare.

    A whole record holds images 0 to n - 1 of each of its cases, once each; how many n is may be chosen. Speeds cannot
    be checked beyond their sign, nor that the positions came from the method.

    Args:
        record: as read.
        images: indices of the images to check in each case; all unless given. Sums of the others are believed.
        cache: folder of the bounds; the user's cache unless given.

    Returns:
        What differs, a line each; empty for a record that holds.
    """
    if record.case_set_version != CASE_SET_VERSION:
        return [f"made for case set {record.case_set_version}, this is {CASE_SET_VERSION}: nothing can be compared"]
    differences = _faults(record)
    chosen = None if images is None else set(images)
    scored: dict[tuple[str, int], Result] = {}
    for case, results in record.cases.items():
        mine = [r for r in results if chosen is None or r.index in chosen]
        if chosen is not None and (absent := chosen - {r.index for r in mine}):
            differences.append(f"{case}: images {_numbers(absent)} were to be checked, and are not there")
        truths = case_images(case, [r.index for r in mine], bounds=record.bounds, cache=cache)
        for result, truth in zip(mine, truths, strict=True):
            where = f"{case}, image {result.index}"
            try:
                score = score_image(result.found(truth.pixel_size_A), truth, result.seconds)
            except PrecisionError as error:
                differences.append(f"{where}: {error}")
                continue
            differences += [f"{where}: {text}" for text in _differences(result.tallies, score.tallies)]
            scored[case, result.index] = replace(result, tallies=score.tallies)
    # In the record's order, which the bootstrap follows.
    anew = replace(record, results=tuple(scored.get((r.case, r.index), r) for r in record.results)).scored()
    for case in sorted(set(record.cases) | set(record.scores)):
        if case not in anew or case not in record.scores:
            differences.append(f"{case}: scores or results are missing")
            continue
        for name in sorted(set(METRICS) | set(record.scores[case])):
            told, found = record.scores[case].get(name), anew[case].get(name)
            if not _same(told, found):
                differences.append(f"{case}: {name} is recorded as {told}, its positions give {found}")
    return differences


def _faults(record: Record) -> list[str]:
    """What is wrong with a record before any position is looked at."""
    faults = [] if record.results else ["no results"]
    for case, results in record.cases.items():
        indices = [r.index for r in results]
        if twice := {i for i in indices if indices.count(i) > 1}:
            faults.append(f"{case}: images {_numbers(twice)} have more than one result")
        if lacking := record.gaps.get(case):
            faults.append(
                f"{case}: {len(set(indices))} images, up to image {max(indices)}, without {_numbers(lacking)}: "
                "expected images 0 to n - 1 without gaps"
            )
        for result in results:
            if not 0.0 < result.seconds < math.inf:
                faults.append(f"{case}, image {result.index}: seconds is {result.seconds:g}, expected more than 0")
            if result.error and len(result.xy_px):
                faults.append(f"{case}, image {result.index}: has an error and positions, expected one of them")
    return faults


def _numbers(indices: Iterable[int]) -> str:
    """Indices in order, as text."""
    return ", ".join(map(str, sorted(indices)))


def _same(told: Estimate | None, found: Estimate | None) -> bool:
    """Whether both are there and alike."""
    if told is None or found is None:
        return False
    a, b = ((e.value, e.low, e.high) for e in (told, found))
    return bool(np.allclose(a, b, rtol=_RELATIVE, equal_nan=True))


def _differences(recorded: Mapping[str, Tally], found: Mapping[str, Tally]) -> list[str]:
    """Sums that are not what they should be."""
    if set(recorded) != set(found):
        return [f"groups {sorted(recorded)} are recorded, expected {sorted(found)}"]
    return [
        f"{group}: {name} is recorded as {recorded[group][name]:.8g}, the positions give {found[group][name]:.8g}"
        for group in found
        for name in SUMS
        if not math.isclose(recorded[group][name], found[group][name], rel_tol=_RELATIVE, abs_tol=1e-6)
    ]


def load_localizer(address: str) -> Localizer:
    """A localizer from "package.module:object"; a class is called without arguments.

    Raises:
        PrecisionError: the address is not of that form, the module cannot be imported, there is no such object, or it
            does not follow the `Localizer` protocol (a `name`, callable).
    """
    module_name, colon, object_name = address.partition(":")
    if not colon or not module_name or not object_name:
        raise PrecisionError(f"localizer {address!r}: expected package.module:object")
    try:
        item: Any = import_module(module_name)
    except ImportError as error:
        raise PrecisionError(f"localizer {address!r}: {module_name} cannot be imported ({error})") from error
    for part in object_name.split("."):
        if not hasattr(item, part):
            raise PrecisionError(f"localizer {address!r}: {module_name} has no {object_name!r}")
        item = getattr(item, part)
    return _localizer(item, address)


def _localizer(item: Any, told: str) -> Localizer:
    """An object that follows the protocol, made from its class where need be."""
    if isinstance(item, type):
        try:
            item = item()
        except TypeError as error:
            raise PrecisionError(f"localizer {told!r}: the class wants arguments ({error}); give an object") from error
    if not callable(item) or not isinstance(getattr(item, "name", None), str):
        raise PrecisionError(
            f"localizer {told!r}: {type(item).__name__} is no localizer: expected a name and a call "
            "(image, pixel_size_A) -> FoundColumns"
        )
    return cast(Localizer, item)


def installed_localizers() -> dict[str, Localizer]:
    """Localizers that installed packages offer under the entry-point group `temimagenet.localizers`, by entry name.

    Raises:
        PrecisionError: one cannot be loaded or is no localizer.
    """
    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            item = point.load()
        except (ImportError, AttributeError) as error:
            raise PrecisionError(f"entry point {point.name!r} = {point.value!r} cannot be loaded ({error})") from error
        found[point.name] = _localizer(item, point.value)
    return found


def with_scores(record: Record) -> Record:
    """The record with the scores that follow from its results."""
    return replace(record, scores=record.scored())


def paired(first: Sequence[Result], second: Sequence[Result]) -> tuple[list[Tally], list[Tally]]:
    """Tallies of the images that both hold, in one order."""
    a, b = ({r.index: r.tallies[ALL] for r in part} for part in (first, second))
    both = sorted(set(a) & set(b))
    return [a[i] for i in both], [b[i] for i in both]
