"""Speed of the sample page in a real Chromium: prints numbers, judges none.

Times run from the start of the navigation to the image on the canvas, and to all panes, labels drawn: median and least
of several. Beside them stand the processor time of the page's process up to then, which other work on the machine
hardly lengthens, and the bytes of the shard that were fetched.
"""

from __future__ import annotations

import shutil
import statistics
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from builder.portal import build_portal
from builder.render import render_library
from builder.serve import make_server
from temimagenet.recipe import load_recipe
from temimagenet.storage import read_catalogue

TRIES = 9
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """Address of a site of one sample of each entry of the demo, and the samples with few and with most columns."""
    folder = tmp_path_factory.mktemp("samples")
    recipe = load_recipe("demo")
    render_library(replace(recipe, samples=len(recipe.entries), engines=("linear",)), folder / "library", workers=1)
    build_portal(folder / "library", folder / "site", docs=False)
    server = make_server(folder / "site", port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ordered = read_catalogue(folder / "library").sort_values("columns")["id"]
    yield f"http://127.0.0.1:{server.server_address[1]}/", [ordered.iloc[0], ordered.iloc[-1]]
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_speed_of_a_sample_page(site: tuple[str, list[str]]) -> None:
    from playwright.sync_api import sync_playwright

    address, samples = site
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        system = browser.new_browser_cdp_session()
        for sample in samples:
            image, panes, work, sizes = [], [], [], []
            for _ in range(TRIES):
                context = browser.new_context(viewport={"width": 1400, "height": 900})
                page = context.new_page()
                fetched = []
                page.on("response", lambda reply, kept=fetched: kept.append(reply) if "/data/" in reply.url else None)
                page.goto(f"{address}sample.html?id={sample}&engine=linear")
                page.wait_for_function("performance.getEntriesByName('panes').length")
                told = system.send("SystemInfo.getProcessInfo")["processInfo"]
                work.append(1000.0 * max(process["cpuTime"] for process in told if process["type"] == "renderer"))
                image.append(page.evaluate("performance.getEntriesByName('image')[0].startTime"))
                panes.append(page.evaluate("performance.getEntriesByName('panes')[0].startTime"))
                sizes.append(sum(len(reply.body()) for reply in fetched))
                context.close()
            for what, times in (("image", image), ("all panes", panes)):
                print(f"\n{sample}: {what}: median {statistics.median(times):.0f} ms, least {min(times):.0f}", end="")
            print(f"; processor {statistics.median(work):.0f} ms; {max(sizes) / 1e3:.0f} kB of the shard")
        browser.close()
