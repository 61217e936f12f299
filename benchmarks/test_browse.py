"""Speed of the browse page over 100,000 samples in a real Chromium: prints numbers, judges none.

Times run from a visitor's input to the end of the frame that shows its effect: median and least of several. Beside them
stands the processor time of the page's process, with all its threads, which other work does not lengthen.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from builder.browse_index import INDEX, index_bytes
from builder.portal import build_portal
from builder.render import render_library
from builder.serve import make_server
from builder.statistics import library_plots
from builder.synthetic import many_samples
from temimagenet.recipe import load_recipe
from temimagenet.storage import read_catalogue

ROWS = int(os.environ.get("TEMIMAGENET_BROWSE_ROWS", "100000"))
TRIES = 7
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

MEASURE = """async ([script, arguments_]) => {
    const done = () => new Promise((told) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = told;
        channel.port2.postMessage(null);
    }));
    await done();
    await new Promise((told) => setTimeout(told, 300));
    await done();
    const start = performance.now();
    new Function("value", script)(arguments_);
    await done();
    return performance.now() - start;
}"""

SCROLL = """async ([pixels, seconds]) => {
    const view = document.getElementById("view");
    view.scrollTop = 0;
    await new Promise((told) => setTimeout(told, 500));
    const frames = [];
    const start = performance.now();
    let last = start;
    await new Promise((told) => {
        const step = (now) => {
            frames.push(now - last);
            last = now;
            view.scrollTop += pixels;
            now - start < 1000 * seconds ? requestAnimationFrame(step) : told();
        };
        requestAnimationFrame(step);
    });
    return frames.slice(2);
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site whose index holds many made-up samples."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("browse")
    recipe = load_recipe("demo")
    render_library(replace(recipe, samples=len(recipe.entries), engines=("linear",)), folder / "library", workers=1)
    build_portal(folder / "library", folder / "site", docs=False)
    thumbnails = json.loads((folder / "site/thumbs/index.json").read_text())
    many = many_samples(read_catalogue(folder / "library"), ROWS)
    start = time.perf_counter()
    (folder / "site" / INDEX).write_bytes(index_bytes(many, thumbnails, "many"))
    written = time.perf_counter()
    library_plots(many)
    print(f"\n{ROWS:,} rows: index {written - start:.2f} s, {(folder / 'site' / INDEX).stat().st_size / 1e6:.2f} MB; ")
    print(f"statistics {time.perf_counter() - written:.2f} s")
    server = make_server(folder / "site", port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/browse.html"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_speed_of_browsing(address: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        system = browser.new_browser_cdp_session()

        def used() -> float:
            told = system.send("SystemInfo.getProcessInfo")["processInfo"]
            return 1000.0 * max(process["cpuTime"] for process in told if process["type"] == "renderer")

        ready, work = [], []
        for _ in range(TRIES):
            page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
            page.goto(address)
            page.wait_for_function("performance.getEntriesByName('interactive').length")
            work.append(used())
            ready.append(page.evaluate("performance.getEntriesByName('interactive')[0].startTime"))
            if len(ready) < TRIES:
                page.context.close()
        _tell("interactive", ready, statistics.median(work))
        box = "document.querySelectorAll('#facets input[type=checkbox]')[value].click()"
        handle = (
            "const h = document.querySelectorAll('.handles input')[0];"
            "h.value = value; h.dispatchEvent(new Event('input'))"
        )
        typed = "const t = document.getElementById('text'); t.value = value; t.dispatchEvent(new Event('input'))"
        order = "const s = document.getElementById('sort'); s.value = value; s.dispatchEvent(new Event('change'))"
        _changes(page, used, "facet", box, [3, 3, 5, 5, 20, 20, 22, 22])
        _changes(page, used, "text", typed, ["s", "sr", "srt 110", "srtio3 110 noisy", "110", "pt", "clean", ""])
        _changes(page, used, "range", handle, [5, 10, 15, 20, 15, 10, 5, 0])
        _changes(
            page,
            used,
            "sort",
            order,
            ["psnr_dB", "dose_e_per_A2", "columns", "entry", "scan_sigma_A", "psnr_dB", "index"],
        )
        for view in ("grid", "table"):
            page.click(f"[data-view={view}]")
            for pixels in (60, 400, 5000):
                before = used()
                frames = page.evaluate(SCROLL, [pixels, 3])
                cpu = (used() - before) / len(frames)
                late = sum(frame > 50.0 for frame in frames)
                print(
                    f"{view}, {pixels} px a frame: {len(frames)} frames, median {statistics.median(frames):.1f} ms, "
                    f"99th percentile {np.percentile(frames, 99):.1f} ms, longest {max(frames):.1f} ms, "
                    f"{late} over 50 ms; processor {cpu:.1f} ms a frame"
                )
        print(f"elements in the page: {page.evaluate('document.querySelectorAll(`*`).length')}")
        browser.close()


def _changes(page: Any, used: Callable[[], float], what: str, script: str, values: list[Any]) -> None:
    """Time each of a kind of change."""
    idle = used()
    page.evaluate(MEASURE, ["", None])
    before = used()
    times = [page.evaluate(MEASURE, [script, value]) for value in values]
    _tell(what, times, (used() - before) / len(values) - (before - idle))


def _tell(what: str, times: list[float], processor: float) -> None:
    """Print times in milliseconds."""
    told = f"median {statistics.median(times):.1f} ms, least {min(times):.1f}, most {max(times):.1f}"
    print(f"{what}: {told}; processor {processor:.1f} ms")
