"""The site from any folder of a server, with odd names in it, and what stays of it without JavaScript."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest

from builder.portal import build_portal
from builder.render import render_library
from temimagenet.recipe import load_recipe
from temimagenet.storage.library import read_manifest

ODD = """
schema = 1
name = "größe-1"
seed = 3
samples = 6
image_size = 32

[draw]
condition = [1]
field_of_view_A = [10]
rotation_deg = [0]
background = ["constant"]
background_level = [0.1]
scan_sigma_A = [0.05]
scan_modulation = ["constant"]
scan_form = ["beam"]
thickness_A = [20]
psnr_dB = { min = 18, max = 22 }

[[entry]]
name = "Pt & \\"100 %\\" <b> #1?"
material = "Pt"
zone = "[110]"

[[entry]]
name = "Si/ä+b"
material = "Si"
zone = "[110]"
"""


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory):
    """A site below a folder, both with odd names; the folder, and the site's path in an address."""
    root = tmp_path_factory.mktemp("anywhere")
    (root / "odd.toml").write_text(ODD, encoding="utf-8")
    render_library(load_recipe(root / "odd.toml"), root / "a library #1", workers=1)
    place = "some/base é & #1/v 1"
    report = build_portal(root / "a library #1", root / "served" / place, docs=True)
    assert report.links > 1000
    return root / "served", quote(place) + "/"


@pytest.mark.browser
def test_a_visitor_clicks_through_a_site_in_a_folder_with_odd_names(visit, serving, anywhere):
    folder, place = anywhere
    with serving(folder) as address:
        base = address + place
        page = visit(base, viewport={"width": 1400, "height": 900})
        page.goto(f"{base}index.html")
        assert page.locator(".mosaic img").first.evaluate("i => i.complete && i.naturalWidth") == 96
        page.get_by_role("link", name='Pt & "100 %" <b> #1?', exact=True).click()
        page.wait_for_url("**/browse.html?entry=*")
        page.wait_for_function("/^[1-6] /.test(document.querySelector('#count')?.textContent)")
        page.goto(f"{base}index.html")
        page.get_by_role("link", name="Statistics").click()
        page.wait_for_url("**/statistics.html")
        page.locator("#by-material summary").click()
        page.locator("#by-material a").first.click()
        page.wait_for_url("**/browse.html?material=*")
        page.wait_for_function("/^[1-6] /.test(document.querySelector('#count')?.textContent)")
        page.locator(".tile a").first.click()
        page.wait_for_url("**/sample.html?*id=gr*")
        page.wait_for_function("document.querySelector('#image')?.width === 32")
        with page.expect_download() as caught:
            page.get_by_role("link", name="Facts (JSON)").click()
        assert b'"gr\xc3\xb6\xc3\x9fe-1-' in Path(caught.value.path()).read_bytes()
        page.get_by_role("link", name="Documentation").click()
        page.get_by_role("link", name="Data format").first.click()
        page.wait_for_url("**/docs/data-format/**")
        page.get_by_role("link", name="Downloads").first.click()
        page.wait_for_url(f"{base}downloads.html")
        page.get_by_role("link", name="TEMImageNet", exact=True).click()
        page.wait_for_url(f"{base}index.html")


@pytest.mark.browser
def test_without_javascript_text_downloads_and_documentation_remain(browser, server, site, library):
    context = browser.new_context(
        java_script_enabled=False, accept_downloads=True, viewport={"width": 390, "height": 800}
    )
    page = context.new_page()
    page.goto(f"{server}index.html")
    assert "ground-truth labels" in page.inner_text("main")
    page.get_by_role("button", name="Menu").click()  # a popover needs no script
    page.get_by_role("link", name="Downloads", exact=True).click()
    page.wait_for_url("**/downloads.html")
    digest = read_manifest(library)["files"]["catalogue.parquet"]["sha256"]
    with page.expect_download() as caught:
        page.locator("table.files").get_by_role("link", name="catalogue.parquet").click()
    assert hashlib.sha256(Path(caught.value.path()).read_bytes()).hexdigest() == digest
    page.goto(f"{server}statistics.html")
    assert page.locator("figure svg").count() > 10
    page.locator("summary").first.click()
    assert page.locator("figure table").first.is_visible()
    for name in ("leaderboard", "validation"):
        page.goto(f"{server}{name}.html")
        assert len(page.inner_text("main")) > 150
    for name in ("browse", "sample", "collection", "try"):
        page.goto(f"{server}{name}.html")
        assert "JavaScript" in page.locator(".notice:visible").first.inner_text(), name
    page.goto(f"{server}docs/index.html")
    page.locator("article").get_by_role("link", name="Physics").click()
    page.wait_for_url("**/docs/physics/**")
    assert page.locator("article h1").inner_text().startswith("Physics")
    context.close()
