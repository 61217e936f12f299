"""The browse page: its index, and what a visitor does with it in a real Chromium."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from builder.browse_index import INDEX, index_bytes
from builder.synthetic import many_samples
from temimagenet.errors import ShardError
from temimagenet.storage import read_catalogue

MANY = 100_000


def opened(path):
    """An index as the page reads it: header, and columns by name."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[4:8], "little")
    header = json.loads(data[8:start])
    assert len(data) == start + header["bytes"]
    columns = {
        field: np.frombuffer(data, "<" + told["type"], header["rows"], start + told["offset"])
        for field, told in header["columns"].items()
    }
    return header, columns


def test_the_index_holds_the_catalogue(site, library):
    catalogue = read_catalogue(library)
    header, columns = opened(site / INDEX)
    assert header["rows"] == len(catalogue) == 24
    ids = [header["prefix"] + f"{number:06d}" for number in columns["index"]]
    assert ids == list(catalogue["id"])
    for field in ("material", "zone", "engine", "split", "shard"):
        values = header["columns"][field]["values"]
        assert [values[code] for code in columns[field]] == list(catalogue[field])
    sizes = header["columns"]["field_of_view_A"]["values"]
    assert [float(sizes[code]) for code in columns["field_of_view_A"]] == list(catalogue["field_of_view_A"])
    assert np.allclose(columns["psnr_dB"], catalogue["psnr_dB"])
    assert header["notes"]["condition"]["5"] == "200 keV, 10 mrad, 1.6 Å"
    thumbnails = json.loads((site / "thumbs/index.json").read_text())
    offsets = thumbnails[catalogue["shard"][13]]["offsets"]
    row = catalogue["row"][13]
    assert columns["thumb"][13] == offsets[row]
    assert columns["thumb_bytes"][13] == offsets[row + 1] - offsets[row]


def test_identities_that_are_no_numbers_are_refused(site, library, tmp_path):
    catalogue = read_catalogue(library)
    catalogue.loc[3, "id"] = "mine"
    thumbnails = json.loads((site / "thumbs/index.json").read_text())
    with pytest.raises(ShardError, match="identities"):
        (tmp_path / INDEX).write_bytes(index_bytes(catalogue, thumbnails, "tiny"))


def counted(page, count):
    page.wait_for_function(f"/^{count} /.test(document.querySelector('#count')?.textContent)")


def told_counts(page, legend):
    """A facet's counts as they stand beside its values."""
    boxes = page.locator("fieldset", has=page.get_by_text(legend, exact=True)).locator("label")
    pairs = boxes.evaluate_all(
        "boxes => boxes.map((box) => [box.children[1].firstChild.textContent, box.querySelector('.count').textContent])"
    )
    return {value: int(count.replace(",", "")) for value, count in pairs}


@pytest.fixture(scope="module")
def many(site, library, tmp_path_factory):
    """The portal with an index of 100,000 made-up samples, and their catalogue."""
    folder = tmp_path_factory.mktemp("many") / "site"
    shutil.copytree(site, folder, ignore=shutil.ignore_patterns("docs", "data"))
    catalogue = many_samples(read_catalogue(library), MANY)
    catalogue["rotation_deg"] = np.linspace(0.0, 360.0, MANY)  # as a recipe draws it from a range
    (folder / INDEX).write_bytes(index_bytes(catalogue, json.loads((site / "thumbs/index.json").read_text()), "many"))
    return folder, catalogue


@pytest.mark.browser
def test_a_hundred_thousand_samples_are_filtered_counted_sorted_and_scrolled(visit, serving, many):
    folder, catalogue = many
    with serving(folder) as address:
        page = visit(address)
        page.goto(f"{address}browse.html")
        counted(page, "100,000")
        page.get_by_label("Search text").fill("110 srtio3 noisy")
        here = catalogue[(catalogue["entry"] == "SrTiO3 [110]") & (catalogue["psnr_dB"] < 14)]
        counted(page, f"{len(here):,}")
        page.locator("fieldset", has_text="Condition").get_by_text("3", exact=True).click()
        page.get_by_label("Scan jitter (Å), from").fill("0.1")
        jittery = here[here["scan_sigma_A"] >= 0.1]
        kept = jittery[jittery["condition"] == 3]
        counted(page, f"{len(kept):,}")
        # A facet counts what each of its values would give; the others count what is shown.
        assert told_counts(page, "Condition") == {
            str(k): int(v) for k, v in jittery["condition"].value_counts().items()
        }
        splits = kept["split"].value_counts().to_dict()
        assert {k: v for k, v in told_counts(page, "Split").items() if v} == splits
        page.get_by_label("Sort by").select_option("psnr_dB")
        page.get_by_role("button", name="Descending").click()
        page.get_by_role("button", name="Table").click()
        best = kept.sort_values("psnr_dB", ascending=False)
        assert page.locator(".item.cells a").first.inner_text() == best["id"].iloc[0]
        page.get_by_role("button", name="Clear filters").click()
        counted(page, "100,000")
        page.get_by_label("Rotation (°), from").fill("90")
        counted(page, f"{(catalogue['rotation_deg'] >= 90).sum():,}")
        page.get_by_label("Rotation (°), from").fill("")
        page.get_by_role("button", name="Grid").click()
        page.locator("#view").evaluate("view => view.scrollTo(0, view.scrollHeight)")
        worst = catalogue.sort_values("psnr_dB", kind="stable")["id"].iloc[0]
        page.locator(f'a[href*="{worst}"]').wait_for()
        assert page.evaluate("document.querySelectorAll('*').length") < 1500
        # On a phone the filters lie above the samples, which still scroll in a frame of their own.
        page.set_viewport_size({"width": 390, "height": 800})
        page.wait_for_function("document.querySelector('#view')?.clientHeight < innerHeight")
        page.get_by_label("Search text").fill("pt")
        counted(page, f"{catalogue['entry'].str.startswith('Pt').sum():,}")
        assert page.evaluate("document.querySelectorAll('*').length") < 1500


@pytest.mark.browser
def test_the_address_holds_the_whole_state(page, server):
    page.goto(f"{server}browse.html")
    counted(page, "24")
    page.get_by_label("Search text").fill("pt")
    page.locator("fieldset", has_text="Split").get_by_text("train", exact=True).click()
    page.get_by_label("PSNR (dB), upper handle").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.get_by_label("Sort by").select_option("columns")
    page.get_by_role("button", name="Table").click()
    page.wait_for_function("location.search.includes('view=table')")
    query = {key: value[0] for key, value in parse_qs(urlsplit(page.url).query).items()}
    assert {key: query[key] for key in ("q", "split", "sort", "view")} == {
        "q": "pt", "split": "train", "sort": "columns", "view": "table",
    }  # fmt: skip
    assert re.fullmatch(r"\.\.\d+(\.\d+)?", query["psnr_dB"])
    told = page.locator("#count").inner_text()
    page.reload()
    page.wait_for_function(f"document.querySelector('#count')?.textContent === {told!r}")
    assert page.get_by_label("PSNR (dB), to", exact=True).input_value() == query["psnr_dB"].removeprefix("..")
    assert page.get_by_role("table").is_visible()
    assert page.get_by_role("columnheader", name="Columns").get_attribute("aria-sort") == "ascending"


@pytest.mark.browser
def test_wrong_queries_are_told_and_the_rest_applies(page, server):
    asked = "colour=red&material=Pt|Xx&psnr_dB=a..b&columns=9..2&sort=-taste&view=round&constructor=1&sort=toString"
    page.goto(f"{server}browse.html?{asked}")
    counted(page, "4")
    notice = page.locator("#notice").inner_text()
    for wrong in ("colour", "Xx", "a..b", "9..2", "-taste", "round", "constructor", "toString"):
        assert wrong in notice
    assert "“Pt”" not in notice
    page.goto(f"{server}browse.html?psnr_dB=1e999..&material=Xx")
    counted(page, "24")
    assert "1e999.." in page.locator("#notice").inner_text()


@pytest.mark.browser
def test_an_entry_is_shown_alone_and_formulas_are_found_as_they_are_printed(page, server, library):
    catalogue = read_catalogue(library)
    page.goto(f"{server}index.html")
    page.get_by_role("link", name="SrTiO3 [110]", exact=True).click()
    counted(page, str((catalogue["entry"] == "SrTiO3 [110]").sum()))
    page.get_by_role("button", name="Remove filter Entry: SrTiO3 [110]").click()
    page.get_by_label("Search text").fill("SrTiO₃")
    counted(page, str((catalogue["material"] == "SrTiO3").sum()))


@pytest.mark.browser
def test_who_comes_back_from_a_sample_finds_the_list_where_it_was(visit, server):
    page = visit(server, viewport={"width": 390, "height": 640})
    page.goto(f"{server}browse.html?view=table")
    counted(page, "24")
    page.locator("#view").evaluate("view => view.scrollTo(0, 320)")
    page.locator(".item a").nth(12).click()
    page.wait_for_url("**/sample.html**")
    page.go_back()
    page.wait_for_function("document.querySelector('#view')?.scrollTop === 320")


@pytest.mark.browser
def test_nothing_found_is_explained_with_a_way_back(page, server):
    page.goto(f"{server}browse.html?material=Pt&morphology=layer")
    counted(page, "0")
    page.get_by_role("button", name="Remove filter Material: Pt").last.click()
    counted(page, "4")
    page.wait_for_url(lambda url: "material" not in url)
    page.get_by_label("Search text").fill("nothing like this")
    page.get_by_text("Without “nothing like this”: 4").wait_for()
    page.get_by_label("PSNR (dB), from").fill("99")
    page.get_by_text("Clear them to start anew").wait_for()
    page.get_by_role("button", name="Clear filters").click()
    counted(page, "24")


@pytest.mark.browser
def test_samples_are_reached_and_selected_by_keyboard_and_stay_selected(page, server):
    page.goto(f"{server}browse.html?engine=linear")
    first = page.locator(".tile a").first
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Space")
    focused = page.evaluate("document.activeElement.href")
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    across = page.evaluate("document.querySelector('.line').children.length")
    assert page.locator("#picked-count").inner_text() == f"{across + 1} selected"
    page.get_by_label("show only these").check()
    counted(page, str(across + 1))
    page.wait_for_url("**selected=1**")
    page.reload()
    counted(page, str(across + 1))
    page.locator(".tile:not([hidden]) a").last.focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    # The page completes its address by the library's name.
    page.wait_for_url("**/sample.html**")
    assert parse_qs(urlsplit(page.url).query).items() >= parse_qs(urlsplit(focused).query).items()
    page.go_back()
    counted(page, str(across + 1))
    page.get_by_role("button", name="Deselect all").click()
    counted(page, "24")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 9')), "schema 9"),
    ],
)
def test_an_index_that_cannot_be_read_is_told(browser, serving, site, tmp_path, damage, sentence):
    folder = tmp_path / "site"
    shutil.copytree(site, folder, ignore=shutil.ignore_patterns("docs", "data"))
    damage(folder / INDEX)
    with serving(folder) as address:
        page = browser.new_page()
        page.goto(f"{address}browse.html")
        page.get_by_role("alert").filter(has_text=sentence).wait_for()
        page.close()


@pytest.mark.browser
def test_missing_thumbnails_leave_the_samples_usable(browser, serving, site, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(site, folder, ignore=shutil.ignore_patterns("docs", "data", "*.bin"))
    shutil.copy(site / INDEX, folder / INDEX)
    with serving(folder) as address:
        page = browser.new_page()
        page.goto(f"{address}browse.html")
        page.locator(".tile.missing a").first.wait_for()
        page.close()


@pytest.mark.browser
def test_without_javascript_the_page_says_what_to_do(browser, server):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server}browse.html")
    assert "needs JavaScript" in page.locator("noscript .notice").inner_text()
    assert not page.locator("#filters").is_visible()
    page.locator("noscript a[href='statistics.html']").click()
    assert page.get_by_role("img", name="Material: samples").is_visible()
    context.close()
