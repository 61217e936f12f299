"""The portal: built from a real library, browsed in a real Chromium."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from builder.portal import build_portal
from builder.render import render_library
from builder.serve import Handler
from builder.thumbnails import thumbnail
from temimagenet import LABELS, TEMImageNet
from temimagenet.errors import ShardError

CHECKOUT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_build_leaves_the_sources_alone(library, tmp_path):
    before = tree(CHECKOUT / "site")
    assert build_portal(library, tmp_path / "out", docs=False).samples == 24
    assert tree(CHECKOUT / "site") == before, "a build must not write into site/"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if key in ("href", "src") and value]


def test_every_link_of_every_page_leads_somewhere(site):
    checked = 0
    for page in site.glob("*.html"):
        parser = Links()
        parser.feed(page.read_text())
        for link in parser.found:
            parts = urlsplit(link)
            if parts.scheme or not parts.path:
                continue
            assert (page.parent / parts.path).exists(), f"{page.name} links to {link}"
            checked += 1
    assert checked > 60


def test_pages_ask_nothing_of_other_hosts(site):
    for page in [*site.glob("*.html"), *(site / "assets").iterdir()]:
        parser = Links()
        text = page.read_text()
        parser.feed(text)
        assert not [
            link
            for link in parser.found
            if link.startswith(("http:", "//")) or (link.startswith("https:") and "doi.org" not in link)
        ]
        assert "@import" not in text


def test_vendored_files_are_those_of_the_lock():
    folder = CHECKOUT / "site" / "vendor"
    lock = json.loads((folder / "vendor.lock.json").read_text())
    listed = {name: digest for package in lock.values() for name, digest in package["files"].items()}
    found = tree(folder)
    del found["vendor.lock.json"]
    assert found == listed
    assert all({"version", "licence", "integrity"} <= set(package) for package in lock.values())


def test_thumbnails_are_small_pictures_of_their_samples(site, library):
    index = json.loads((site / "thumbs/index.json").read_text())
    data = TEMImageNet(library, split=None)
    for i in (0, 11, 23):
        row = data.catalogue.iloc[i]
        entry = index[row["shard"]]
        pack = (site / "thumbs" / entry["pack"]).read_bytes()
        image = Image.open(io.BytesIO(pack[entry["offsets"][row["row"]] : entry["offsets"][row["row"] + 1]]))
        assert image.format == "WEBP"
        assert image.size == (96, 96)
        full = Image.fromarray(data[i].image.numpy()).resize((96, 96), Image.Resampling.BOX)
        assert np.corrcoef(np.asarray(image.convert("L"), float).ravel(), np.asarray(full).ravel())[0, 1] > 0.9


def test_a_flat_image_has_a_thumbnail():
    assert Image.open(io.BytesIO(thumbnail(np.full((64, 64), 7, np.uint16)))).size == (96, 96)


@pytest.mark.browser
def test_data_may_live_elsewhere(visit, browser, serving, library, tmp_path):
    ready = "performance.getEntriesByName('panes').length"
    with serving(library, allow_origin="*") as data:
        build_portal(library, tmp_path / "out", data_url=data, docs=False)
        assert not (tmp_path / "out" / "data").exists()
        with serving(tmp_path / "out") as address:
            page = visit(address, data)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{address}sample.html?id=tiny-000003")
            page.wait_for_function(ready)
            shown = page.evaluate(
                "document.querySelector('#image').getContext('2d').getImageData(0, 0, 64, 64).data[0]"
            )
            counts = TEMImageNet(library, split=None, labels=[])[3].image.numpy()
            assert shown == pytest.approx(255 * (counts[0, 0] - counts.min()) / np.ptp(counts), abs=1)
            assert {url.rsplit("/", 1)[0] for url in asked if url.startswith(data)} == {f"{data}shards"}
            page.goto(f"{address}collection.html?q=pt")
            page.wait_for_function(ready)
            with page.expect_download():
                page.get_by_role("button", name="Download the manifest (JSON)").click()
            assert f"{data}catalogue.parquet" in asked
            other = browser.new_page()
            other.route(f"{data}**", lambda route: route.abort())  # as a browser does without the header
            other.goto(f"{address}sample.html?id=tiny-000003")
            other.get_by_role("alert").filter(has_text="Access-Control-Allow-Origin").wait_for()
            other.close()


def test_rebuilding_keeps_unchanged_thumbnails_and_links(library, tmp_path):
    build_portal(library, tmp_path / "out", docs=False)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/thumbs").glob("*.bin")}
    build_portal(library, tmp_path / "out", docs=False)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/thumbs").glob("*.bin")} == stamps
    assert tree(library).items() <= {k.removeprefix("data/"): v for k, v in tree(tmp_path / "out").items()}.items()


def test_an_unfinished_library_has_no_portal(tmp_path):
    with pytest.raises(ShardError, match="not a finished library"):
        build_portal(tmp_path, tmp_path / "out")


def test_json_ld_describes_the_data_set(site):
    text = (site / "index.html").read_text()
    body = text.split('<script type="application/ld+json">')[1].split("</script>")[0]
    assert json.loads(body)["@type"] == "Dataset"


@pytest.fixture(scope="module")
def bounded_site(recipe, tmp_path_factory) -> Path:
    """The portal of a small library with bounds."""
    folder = tmp_path_factory.mktemp("bounded")
    render_library(replace(recipe, samples=12, image_size=32), folder / "library", bounds=True, workers=1)
    build_portal(folder / "library", folder / "site", docs=False)
    return folder / "site"


@pytest.mark.browser
def test_a_visitor_finds_a_sample_and_takes_its_columns_home(page, server, library):
    page.goto(server)
    page.get_by_role("link", name="Browse", exact=True).click()
    page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('24 ')")
    page.get_by_label("Search text").fill("pt 110 particle")
    page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('4 ')")
    page.get_by_label("Search text").fill("")
    box = page.locator("fieldset", has_text="Morphology").get_by_text("layer", exact=True)
    box.click()
    page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('4 ')")
    page.wait_for_url("**morphology=layer*")
    page.reload()
    page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('4 ')")
    page.wait_for_function(
        "document.querySelector('.tile canvas')?.getContext('2d').getImageData(0, 0, 96, 96).data"
        ".some((v, i) => i % 4 == 0 && v > 60)"
    )
    page.locator(".tile").first.click()
    page.wait_for_function("document.querySelector('#image')?.width === 64")

    identity = page.url.split("id=")[1].split("&")[0]
    data = TEMImageNet(library, split=None, labels=LABELS, where=f"id == '{identity}'")
    sample = data[0]
    grey = np.array(
        page.evaluate("[...document.querySelector('#image').getContext('2d').getImageData(0, 0, 64, 64).data]")
    )
    counts = sample.image.numpy()
    expected = 255 * (counts - counts.min()) / (counts.max() - counts.min())
    assert np.abs(grey.reshape(64, 64, 4)[..., 0] - expected).max() <= 1.0
    with page.expect_download() as caught:
        page.get_by_role("button", name="Columns (CSV)").click()
    rows = list(csv.DictReader(io.StringIO(Path(caught.value.path()).read_text())))
    assert np.allclose([[float(r["x_px"]), float(r["y_px"])] for r in rows], sample.columns.xy_px)
    assert {r["kind"] for r in rows} == {"Mo", "S2"}
    assert f"id == '{identity}'" in page.locator("#snippet").inner_text()


@pytest.mark.browser
def test_unknown_queries_are_told_and_the_page_goes_on(page, server):
    page.goto(f"{server}browse.html?colour=red&material=Pt")
    page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('4 ')")
    assert "colour" in page.locator("#notice").inner_text()


@pytest.mark.browser
def test_a_server_without_ranges_still_shows_the_right_image(browser, serving, site, monkeypatch):
    from builder import serve

    def whole(self):
        self._left = None
        return super(Handler, self).send_head()

    monkeypatch.setattr(serve.Handler, "send_head", whole)
    with serving(site) as address:
        page = browser.new_page()
        page.goto(f"{address}sample.html?id=tiny-000003&engine=linear")
        page.wait_for_function("document.querySelector('#image')?.width === 64")
        assert "does not answer byte ranges" in page.locator("#notice").inner_text()
        page.close()


@pytest.mark.browser
def test_the_docs_share_the_site_and_lead_back(page, server):
    page.goto(f"{server}docs/physics/index.html")
    assert "Fourier" in page.inner_text("body") or "transfer function" in page.inner_text("body")
    page.goto(f"{server}docs/api/datasets/index.html")
    assert "TEMImageNet" in page.inner_text("article")
    assert "Unknown split" in page.content() or "DatasetError" in page.inner_text("article")


@pytest.mark.browser
def test_bounds_are_shown_where_a_library_has_them(visit, page, server, serving, bounded_site):
    page.goto(f"{server}browse.html?crlb_median_pm=..5")
    page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('24 ')")
    assert "crlb_median_pm" in page.locator("#notice").inner_text()
    assert page.get_by_label("Bound, median (pm), to").count() == 0

    data = TEMImageNet(bounded_site / "data", split=None, labels=[])
    bounds = data.catalogue.set_index("id")["crlb_median_pm"].dropna()
    with serving(bounded_site) as address:
        mine = visit(address)
        mine.goto(f"{address}browse.html")
        most = float(bounds.median())
        mine.get_by_label("Bound, median (pm), to").fill(str(most))
        mine.wait_for_function(f"document.querySelector('#count')?.textContent.startsWith('{(bounds <= most).sum()} ')")
        sample = next(s for s in data if s.id in bounds.index)
        inside = sample.columns.inside((32, 32))
        mine.goto(f"{address}sample.html?id={sample.id}")
        mine.wait_for_function("document.querySelector('#image')?.width === 32")
        assert "crlb_median_pm" in mine.locator("#facts").inner_text()
        box = mine.locator("#overlay").bounding_box()
        x, y = (sample.columns.xy_px[inside][0] + 0.5) / 32 * [box["width"], box["height"]]
        mine.locator("#overlay").hover(position={"x": float(x), "y": float(y)})
        assert f"bound {100 * sample.columns.crlb_A[inside][0, 0]:.2f}"[:9] in mine.locator("#readout").inner_text()
