"""Speed and precision of every method side by side: `pytest benchmarks/ -k precision -s` prints the leaderboard.

Methods are this package's own, those of installed packages under the entry-point group `temimagenet.localizers`, those
given by `--localizer package:object`, a Faster R-CNN with the weights given by `--faster-rcnn FILE`, and the baselines
of `adapters.py` that are installed. Records go to `build/leaderboard/`; `python -m builder leaderboard` draws them.
"""

from __future__ import annotations

import time

import pytest
from adapters import BASELINES, installed

from builder.leaderboard import leaderboard_text
from temimagenet.localize import (
    FasterRCNN,
    GaussianFit,
    Localizer,
    NetworkColumns,
    NetworkOtsu,
    OtsuCentroid,
    ScanAware,
)
from temimagenet.precision import CASES, evaluate, load_localizer, read_record, write_record
from temimagenet.precision.records import installed_localizers

OWN: tuple[Localizer, ...] = (
    OtsuCentroid(), GaussianFit(), GaussianFit(estimator="least-squares"), ScanAware(), NetworkColumns(), NetworkOtsu(),
    ScanAware(NetworkColumns()),
)  # fmt: skip


def _methods(addresses: list[str], rcnn: str) -> tuple[dict[str, Localizer], dict[str, str]]:
    """Methods by name, and those that are absent with the reason."""
    methods: dict[str, Localizer] = {method.name: method for method in OWN}
    absent: dict[str, str] = {}
    for method in [*installed_localizers().values(), *map(load_localizer, addresses)]:
        methods[method.name] = method
    if rcnn:
        method = FasterRCNN(rcnn)
        methods[method.name] = method
    else:
        absent["Faster R-CNN"] = "no weights given (--faster-rcnn FILE)"
    for baseline in BASELINES:
        if installed(baseline):
            methods[baseline.name] = baseline
        else:
            absent[baseline.name] = f"not installed (package {baseline.package})"
    return methods, absent


def test_precision(pytestconfig: pytest.Config) -> None:
    """Every method over every case."""
    images = pytestconfig.getoption("--precision-images")
    cases = [name for name in pytestconfig.getoption("--precision-cases").split(",") if name] or list(CASES)
    methods, absent = _methods(pytestconfig.getoption("--localizer"), pytestconfig.getoption("--faster-rcnn"))
    records = []
    for name, method in methods.items():
        begin = time.perf_counter()
        record = evaluate(method, cases, images=images)
        path = write_record(record, pytestconfig.getoption("--leaderboard"))
        records.append(read_record(path))
        print(f"\n{name}: {len(record.results)} images in {time.perf_counter() - begin:.0f} s -> {path}", end="")
    print(f"\n\n{images} images a case, {len(cases)} cases\n\n{leaderboard_text(records, absent)}\n")
    assert all(len(record.results) == images * len(cases) for record in records)
