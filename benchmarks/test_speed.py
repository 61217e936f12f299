"""Speed of the main job on two CPU cores, and on a GPU where there is one: prints numbers, judges none.

Run with `make benchmark`. Renders are spread over processes of one thread each, as the builder does.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from builder.render import render_library
from temimagenet import LABELS, TEMImageNet, collate
from temimagenet.atlas import has_table
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import render

IMAGES = int(os.environ.get("TEMIMAGENET_BENCHMARK_IMAGES", "10000"))
CORES = min(2, os.cpu_count() or 1)
_TASK = 100


def _render_range(start: int, stop: int, labels: tuple[str, ...]) -> tuple[float, float]:
    """Render samples of `v1` in this process; seconds taken and peak memory in MB."""
    recipe = load_recipe("v1")
    begin = time.perf_counter()
    for index in range(start, stop):
        render([sample_spec(recipe, index)], labels)
    return time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _product_peak() -> float:
    """Matrix-product peak of one core in GFLOP/s, at the shape of a 256 x 256 evaluation of 200 coefficients."""
    torch.set_num_threads(1)
    a, b = torch.randn(256, 400), torch.randn(400, 256)
    best = np.inf
    for _ in range(200):
        begin = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begin)
    return 2 * 256 * 400 * 256 / best / 1e9


def _flops_per_sample(count: int = 240) -> float:
    """Mean arithmetic of a sample's three evaluations (1x twice, 2x once) as plain products of phases, in GFLOP."""
    from temimagenet.render import _linear_series

    recipe = load_recipe("v1")
    total = 0.0
    for index in range(count):
        series, _ = _linear_series(sample_spec(recipe, index))
        total += 2 * 2 * len(series.hk) * (256**2 * 2 + 512**2)
    return total / count / 1e9


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as executor:
        list(executor.map(_render_range, range(CORES), range(1, CORES + 1), [LABELS] * CORES))
        yield executor


@pytest.mark.parametrize("labels", [LABELS, ()], ids=["ten-labels", "image-only"])
def test_rendering(benchmark: Callable[..., object], pool: ProcessPoolExecutor, labels: tuple[str, ...]) -> None:
    """10,000 images of 256 x 256 of the v1 recipe on two cores."""
    starts = range(0, IMAGES, _TASK)
    stops = [min(s + _TASK, IMAGES) for s in starts]
    results: list[tuple[float, float]] = []

    def run() -> None:
        results[:] = pool.map(_render_range, starts, stops, [labels] * len(stops))

    begin = time.perf_counter()
    benchmark.pedantic(run, rounds=1, iterations=1)  # type: ignore[attr-defined]
    seconds = time.perf_counter() - begin
    rates = np.array([(stop - start) / r[0] for start, stop, r in zip(starts, stops, results, strict=True)])
    peak = _product_peak()
    needed = _flops_per_sample() / (peak * CORES) * IMAGES
    print(
        f"\n{IMAGES} images, {'all ten labels' if labels else 'images alone'}: {seconds:.1f} s on {CORES} cores, "
        f"{IMAGES / seconds:.0f} images/s; per core and 100 images {np.median(rates):.0f} "
        f"(10 to 90 %: {np.quantile(rates, 0.1):.0f} to {np.quantile(rates, 0.9):.0f}); "
        f"peak memory {max(r[1] for r in results):.0f} MB a process"
        f"\n  product peak {peak:.0f} GFLOP/s a core: the plain products of the evaluations alone would take "
        f"{needed:.1f} s at it, ratio {seconds / needed:.2f}"
    )


def test_writing_and_loading(benchmark: Callable[..., object], tmp_path: Path) -> None:
    """A compact library rendered, compressed and written; image and gaussianMask loaded with two workers."""
    from dataclasses import replace

    recipe = replace(load_recipe("v1"), samples=1200)
    begin = time.perf_counter()
    benchmark.pedantic(  # type: ignore[attr-defined]
        render_library, (recipe, tmp_path / "library"), {"workers": CORES, "samples_per_shard": 100}, rounds=1
    )
    seconds = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in (tmp_path / "library").rglob("*") if path.is_file())
    rate = 1200 / seconds
    print(
        f"\ncompact library: {rate:.0f} samples/s written, start of workers included; {size / 1200e3:.0f} kB a sample"
    )
    data = TEMImageNet(tmp_path / "library", split=None, labels=["gaussianMask"])
    rates = []
    for _ in range(5):
        loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=2, collate_fn=collate)
        batches = iter(loader)
        next(batches)
        begin, loaded = time.perf_counter(), 0
        for batch in batches:
            loaded += len(batch.ids)
        rates.append(loaded / (time.perf_counter() - begin))
    print(
        f"image + gaussianMask, 2 workers: {np.median(rates):.0f} samples/s "
        f"(five epochs {min(rates):.0f} to {max(rates):.0f})"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rendering_on_a_gpu() -> None:
    """The same images on a GPU, one process."""
    recipe = load_recipe("v1")
    count = min(IMAGES, 2000)
    specs = [sample_spec(recipe, index) for index in range(count)]
    for labels in (LABELS, ()):
        render(specs[:240], labels, "cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for start in range(0, count, 100):
            render(specs[start : start + 100], labels, "cuda")
        torch.cuda.synchronize()
        rate = count / (time.perf_counter() - begin)
        name = torch.cuda.get_device_name()
        print(f"\n{name}: {rate:.0f} images/s, {'all ten labels' if labels else 'images alone'}, one process")


def _engine_rate(engine: str, labels: tuple[str, ...]) -> float:
    """Images per second of one process over samples that both engines can render, tables warm."""
    recipe = load_recipe("v1")
    specs = [sample_spec(recipe, index) for index in range(400)]
    specs = [spec for spec in specs if has_table(spec.specimen, spec.optics, spec.detector)]
    render(specs, labels, engine=engine)  # type: ignore[arg-type]
    begin = time.perf_counter()
    render(specs, labels, engine=engine)  # type: ignore[arg-type]
    return len(specs) / (time.perf_counter() - begin)


@pytest.mark.parametrize("labels", [("gaussianMask",), LABELS], ids=["one label", "all labels"])
def test_multislice_against_linear(labels):
    """Both engines over the same specs in turn, five times."""
    ratios = []
    for _ in range(5):
        linear, twin = _engine_rate("linear", labels), _engine_rate("multislice", labels)
        ratios.append(twin / linear)
    spread = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(f"\nmultislice / linear, {len(labels)} labels: {np.median(ratios):.2f} ({spread}); last {twin:.0f} images/s")
    assert len(ratios) == 5
