"""The sample page in a real Chromium: what it shows, reads, draws and hands out, against the Python package."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from builder.fields import FIELDS
from builder.portal import build_portal
from builder.render import render_library
from temimagenet import LABELS, TEMImageNet
from temimagenet.labels import MAPS
from temimagenet.storage.shard import Shard

FIRST_VIEW_BYTES = 150_000
READY = "performance.getEntriesByName('panes').length"

READ = """async ([engine, id, names]) => {
    const { loadRecord } = await import("./assets/record.js");
    const { readArray, readColumns, readSeries } = await import("./assets/shard.js");
    const { drawLabel } = await import("./assets/labels.js");
    const record = await loadRecord("", id, engine);
    const { image_size, pixel_size_A, radius_A, clean_peak } = record.fields;
    const { background } = JSON.parse(record.spec);
    const facts = { size: image_size, pixel_size_A, radius_A, clean_peak, background };
    const [columns, series] = [await readColumns(record), await readSeries(record)];
    const found = {};
    for (const name of names) {
        const stored = name in record.arrays;
        const { data } = stored ? await readArray(record, name) : drawLabel(name, facts, columns, series);
        const bytes = new Uint8Array(Float32Array.from(data).buffer);
        let text = "";
        for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
        found[name] = btoa(text);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def twins(recipe, tmp_path_factory) -> Path:
    """The portal of a small library of both engines, with images of the usual size."""
    folder = tmp_path_factory.mktemp("twins")
    both = replace(recipe, samples=4, image_size=256, entries=recipe.entries[:2], engines=("linear", "multislice"))
    render_library(both, folder / "library", workers=1)
    build_portal(folder / "library", folder / "site", docs=False)
    return folder / "site"


@pytest.fixture
def twin_page(visit, serving, twins):
    """A page of the portal of both engines, and its address."""
    with serving(twins) as address:
        yield visit(address), address


def opened(page, address, sample, ready=READY):
    page.goto(f"{address}sample.html?id={sample.id}&engine={sample.engine}")
    page.wait_for_function(ready)


def taken(page, button):
    with page.expect_download() as caught:
        page.get_by_role("button", name=button, exact=True).click()
    return Path(caught.value.path()).read_bytes()


def test_records_say_where_the_bytes_lie(site, library):
    for sample in TEMImageNet(library, split=None, labels=["noNoise"]):
        record = json.loads((site / f"samples/linear/{sample.id}.json").read_text())
        place = record["arrays"]["noNoise"]
        shard = (site / "data" / record["shard"]["path"]).read_bytes()
        raw = zlib.decompress(shard[place["offset"] : place["offset"] + place["size"]])
        values = np.frombuffer(raw, np.uint8).reshape(2, -1).T.copy().view("<u2").reshape(place["shape"])
        offset, step = place["scale"]
        assert np.allclose(offset + step * values, sample.labels["noNoise"], atol=1e-7)
        assert place["size"] + record["arrays"]["image"]["size"] < len(shard)
        assert json.loads(record["spec"])["noise_seed"] == sample.spec.noise_seed


def test_records_lead_through_the_library(site, library):
    rows = TEMImageNet(library, split=None, labels=[]).catalogue
    record = json.loads((site / f"samples/linear/{rows['id'][0]}.json").read_text())
    walked = [rows["id"][0]]
    assert record["previous"] is None
    while record["next"]:
        walked.append(record["next"])
        record = json.loads((site / f"samples/linear/{walked[-1]}.json").read_text())
    assert walked == list(rows["id"])


def agree(page, data):
    """Every map of every sample as the page has it equals Python's."""
    for sample in data:
        found = page.evaluate(READ, [sample.engine, sample.id, ["image", *MAPS]])
        assert np.array_equal(decoded(found["image"]), sample.image.numpy().ravel())
        for name in MAPS:
            expected = sample.labels[name].numpy().ravel()
            if "ircularMask" in name:
                assert np.array_equal(decoded(found[name]), expected), (sample.id, name)
            else:
                error = np.abs(decoded(found[name]) - expected).max() / max(np.abs(expected).max(), 1e-30)
                assert error < 1e-5, (sample.id, name, error)


def decoded(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.mark.browser
def test_all_maps_equal_pythons(page, server, library):
    page.goto(f"{server}downloads.html")
    agree(page, TEMImageNet(library, split=None, labels=LABELS))


@pytest.mark.browser
@pytest.mark.parametrize("engine", ["linear", "multislice"])
def test_all_maps_equal_pythons_in_both_engines(twin_page, twins, engine):
    page, address = twin_page
    page.goto(f"{address}downloads.html")
    agree(page, TEMImageNet(twins / "data", split=None, labels=LABELS, engine=engine))


@pytest.mark.browser
def test_the_first_view_is_small(twin_page, twins):
    page, address = twin_page
    asked = []
    page.on("response", lambda reply: asked.append(reply) if "/data/" in reply.url else None)
    records = []
    page.on("request", lambda request: records.append(request.url) if "/samples/" in request.url else None)
    sample = TEMImageNet(twins / "data", split=None, labels=[])[3]
    opened(page, address, sample)
    assert sample.image.shape == (256, 256)
    assert {reply.status for reply in asked} == {206}
    assert 10_000 < sum(len(reply.body()) for reply in asked) < FIRST_VIEW_BYTES
    assert all("/shards/" in reply.url for reply in asked)
    assert records == [f"{address}samples/linear/{sample.id}.json"]


def test_first_views_of_the_library_are_small(twins):
    for path in (twins / "samples").glob("*/*.json"):
        arrays = json.loads(path.read_text())["arrays"]
        assert arrays["image"]["size"] + arrays["columns"]["size"] < FIRST_VIEW_BYTES


@pytest.mark.browser
def test_panes_look_at_the_same_place(twin_page, twins):
    page, address = twin_page
    sample = TEMImageNet(twins / "data", split=None, labels=["gaussianMask"])[0]
    opened(page, address, sample)
    page.wait_for_url(f"**library=tiny&id={sample.id}&engine=linear**")
    canvases = page.locator(".layer:not(.twin) canvas")
    assert canvases.count() == 2

    def transforms():
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return [canvases.nth(i).evaluate("node => node.style.transform") for i in range(canvases.count())]

    before, bar = transforms(), page.locator(".viewer").first.get_attribute("data-bar")
    page.locator(".viewer").nth(1).focus()
    for key in ("+", "+", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    moved = transforms()
    assert moved[0] == moved[1] != before[0]
    assert moved[0].startswith("scale(2.25)")
    assert page.locator(".viewer").first.get_attribute("data-bar") != bar
    page.keyboard.press("0")
    assert transforms() == before
    box = page.locator("#overlay").bounding_box()
    page.locator("#overlay").hover(position={"x": 3, "y": 3}, force=True)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.mouse.down()
    page.mouse.move(box["x"] - 20, box["y"] - 20)
    page.mouse.up()
    assert len(set(transforms())) == 1
    assert transforms() != before
    page.get_by_role("button", name="Show all").click()

    index = int(np.flatnonzero(sample.columns.inside((256, 256)))[0])
    x, y = sample.columns.xy_px[index]
    pixel = sample.image[round(y), round(x)].item()
    place = {"x": (round(x) + 0.5) / 256 * box["width"], "y": (round(y) + 0.5) / 256 * box["height"]}
    page.locator("#overlay").hover(position=place, force=True)
    page.wait_for_function("!document.querySelector('.tip')?.hidden")
    tip = page.locator(".tip").first.inner_text()
    assert tip.startswith(f"{sample.columns.kinds[sample.columns.kind[index]]}, ")
    assert "weight" in tip
    values = page.locator(".value").all_inner_texts()
    assert values[0] == f"{pixel:g} e⁻"
    assert float(values[1]) == pytest.approx(float(sample.labels["gaussianMask"][round(y), round(x)]), rel=1e-3)

    page.get_by_label("Colours").nth(1).select_option("viridis")
    page.get_by_label("White at").nth(1).fill("0.5")
    page.get_by_label("White at").nth(1).press("Enter")
    bright = sample.labels["gaussianMask"].numpy() >= 0.5
    assert (colours(page, 256, ".pane:nth-child(2) .layer canvas")[bright] == [253, 231, 37]).all()
    page.get_by_role("button", name="Add a pane").click()
    page.wait_for_function("document.querySelectorAll('.pane').length === 3")
    page.get_by_label("Map", exact=True).nth(2).select_option("circularMask")
    page.wait_for_url("**circularMask**")
    page.reload()
    page.wait_for_function("document.querySelectorAll('.pane').length === 3")
    assert page.get_by_label("Colours").nth(1).input_value() == "viridis"
    page.get_by_role("button", name="Close this pane").nth(1).click()
    page.wait_for_function("document.querySelectorAll('.pane').length === 2")


def colours(page, size, selector="#image"):
    """(size, size, 3) what a canvas shows."""
    pixels = page.evaluate(
        f"[...document.querySelector('{selector}').getContext('2d').getImageData(0, 0, {size}, {size}).data]"
    )
    return np.array(pixels).reshape(size, size, 4)[..., :3]


@pytest.mark.browser
def test_facts_say_what_they_are_and_what_is_the_linear_twins(twin_page):
    page, address = twin_page
    page.goto(f"{address}sample.html?id=tiny-000000&engine=multislice")
    name = page.locator("#facts dt", has_text="psnr_dB")
    assert name.get_attribute("title") == FIELDS["psnr_dB"]
    value = name.locator("xpath=following-sibling::dd[1]")
    assert value.inner_text().endswith("dB (linear twin’s)")
    page.goto(f"{address}sample.html?id=tiny-000000&engine=linear")
    page.wait_for_url("**engine=linear**")
    page.locator("#facts dt", has_text="psnr_dB").wait_for()
    assert value.inner_text().endswith(" dB")


@pytest.mark.browser
def test_noise_and_twin_and_keys(twin_page, twins):
    page, address = twin_page
    linear, other = (
        TEMImageNet(twins / "data", split=None, labels=["noNoise"], engine=engine)[1]
        for engine in ("linear", "multislice")
    )
    opened(page, address, linear)
    counts = linear.image.numpy()
    low, high = counts.min(), counts.max()
    page.keyboard.press("x")
    page.wait_for_function("document.querySelector('#image')?.getAttribute('aria-label').startsWith('expected')")
    expected = linear.labels["noNoise"].numpy() * linear.dose_e_per_A2 * linear.pixel_size_A**2
    assert np.abs(colours(page, 256)[..., 0] - np.clip(255 * (expected - low) / (high - low), 0, 255)).max() <= 1.0
    page.keyboard.press("x")
    page.keyboard.press("t")
    page.wait_for_selector(".divider")
    both = np.concatenate([counts, other.image.numpy()])
    twin = 255 * (other.image.numpy() - both.min()) / (both.max() - both.min())
    assert np.abs(colours(page, 256, ".twin canvas")[..., 0] - twin).max() <= 1.0
    page.locator(".divider").first.fill("20")
    clips = page.locator(".layer.twin").evaluate_all("nodes => nodes.map((node) => node.style.clipPath)")
    assert set(clips) == {"inset(0px 0px 0px 20%)"}
    page.keyboard.press("Escape")
    page.locator(".viewer").first.focus()
    page.keyboard.press("n")
    page.wait_for_url("**id=tiny-000002*")
    page.wait_for_function(READY)
    page.keyboard.press("p")
    page.wait_for_url("**id=tiny-000001*")


@pytest.mark.browser
def test_a_visitor_takes_a_sample_home(twin_page, twins, tmp_path, monkeypatch):
    page, address = twin_page
    sample = TEMImageNet(twins / "data", split=None, labels=(*LABELS, "radius"), engine="multislice")[2]
    opened(page, address, sample)
    counts, pixel = sample.image.numpy(), sample.pixel_size_A

    archive = np.load(io.BytesIO(taken(page, "NPZ")))
    assert np.array_equal(archive["image"], counts)
    for name in LABELS:
        expected = sample.labels[name].numpy()
        assert np.abs(archive[name] - expected).max() <= 1e-5 * np.abs(expected).max(), name
    assert archive["radius"] == sample.labels["radius"]
    assert json.loads(str(archive["spec"]))["id"] == sample.id

    (tmp_path / "one.h5").write_bytes(taken(page, "HDF5"))
    with h5py.File(tmp_path / "one.h5") as file:
        assert list(file["columns"].attrs["fields"][:2]) == ["x_px", "y_px"]
    with Shard(tmp_path / "one.h5") as shard:
        read = shard.sample(0, LABELS)
    assert read.spec == sample.spec
    assert read.engine == "multislice"
    assert torch.equal(read.image, sample.image)
    assert all(torch.equal(read.labels[name], sample.labels[name]) for name in LABELS)
    assert np.array_equal(read.columns.weight_A2, sample.columns.weight_A2)

    with tifffile.TiffFile(io.BytesIO(taken(page, "TIFF"))) as file:
        assert file.asarray().dtype == np.uint16
        assert np.array_equal(file.asarray(), counts)
        assert file.imagej_metadata["unit"] == "angstrom"
        assert file.imagej_metadata["pixel_size_A"] == pytest.approx(pixel)
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(pixel, rel=1e-6)
    assert Image.open(io.BytesIO(taken(page, "PNG"))).size == (256, 256)
    rows = list(csv.DictReader(io.StringIO(taken(page, "Columns (CSV)").decode())))
    assert np.allclose([[float(row["x_A"]), float(row["y_A"])] for row in rows], sample.columns.xy_A)

    page.locator("#label").select_option("noNoiseUpinterpolation2x")
    page.wait_for_function("document.querySelector('#image')?.width === 512")
    with tifffile.TiffFile(io.BytesIO(taken(page, "TIFF"))) as file:
        assert file.asarray().dtype == np.float32
        assert file.imagej_metadata["pixel_size_A"] == pytest.approx(pixel / 2)

    (tmp_path / "library").symlink_to(twins / "data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(page.locator("#snippet").inner_text(), names)
    assert names["sample"].id == sample.id
    assert torch.equal(names["sample"].image, sample.image)


@pytest.mark.browser
def test_bounds_are_told_or_how_to_get_them(page, server, library, tmp_path, monkeypatch):
    data = TEMImageNet(library, split=None, labels=[])
    specs = {sample.id: sample.spec.scan_noise.form for sample in data}
    page.goto(f"{server}sample.html?id={next(key for key, form in specs.items() if form == 'published')}")
    page.wait_for_function(READY)
    assert "whole pixels" in page.locator("#bound").inner_text()
    page.goto(f"{server}sample.html?id={next(key for key, form in specs.items() if form == 'beam')}")
    page.wait_for_function(READY)
    (tmp_path / "library").symlink_to(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(page.locator("#snippet").inner_text() + "\n" + page.locator("#bound-snippet").inner_text(), names)
    assert np.isfinite(names["bounds_pm"]).any()


def told(browser, address, path, wait):
    """What a page says of what is wrong, in a browser that may report failed requests; nothing may leave the origin."""
    page = browser.new_page()
    strangers, errors = [], []
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else strangers.append(r.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address + path)
    page.wait_for_selector("#notice:not([hidden])")
    page.wait_for_selector(wait)
    text, facts = page.locator("#notice").inner_text(), page.locator("#facts").inner_text()
    page.close()
    assert strangers == errors == []
    return text, facts


@pytest.mark.browser
def test_the_page_says_what_is_wrong_and_goes_on(browser, serving, twins, tmp_path):
    site = Path(shutil.copytree(twins, tmp_path / "site"))
    shard = site / "data/shards/linear-00000.h5"
    path = "sample.html?id=tiny-000001&engine=linear"
    facts_of = "#sample:not([hidden]) #facts dl"

    def changed(name, change):
        target = site / name
        record = json.loads(target.read_text())
        change(record)
        target.write_text(json.dumps(record))

    with serving(site) as address:
        assert "no sample “nothing” of engine “linear”" in told(browser, address, "sample.html?id=nothing", "h1")[0]
        assert "No sample was asked for" in told(browser, address, "sample.html", "h1")[0]
        text, facts = told(browser, address, f"{path}&library=other", facts_of)
        assert "asks for the library “other”; these pages show “tiny”" in text
        text, facts = told(browser, address, f"{path}&panes=colour:grey,toString:grey,noNoise:pink", facts_of)
        assert "maps “colour”, “toString”" in text
        assert "colours “pink”" in text

        content = shard.read_bytes()
        shard.unlink()
        shard.write_bytes(content[:3000])
        text, facts = told(browser, address, path, facts_of)
        assert "truncated" in text
        assert "psnr_dB" in facts
        shard.write_bytes(content.replace(content[9000:9100], bytes(100)))
        shard.unlink()
        text, facts = told(browser, address, path, facts_of)
        assert "linear-00000.h5 is missing" in text
        assert "psnr_dB" in facts
        place = json.loads((site / "samples/linear/tiny-000001.json").read_text())["arrays"]["image"]
        spoilt = bytearray(content)
        spoilt[place["offset"] + 500] ^= 255
        shard.write_bytes(spoilt)
        assert "wrong checksum" in told(browser, address, path, facts_of)[0]
        shard.write_bytes(content)

        changed("samples/linear/tiny-000001.json", lambda record: record["library"].update(schema=2))
        text, facts = told(browser, address, path, facts_of)
        assert "library has schema 2, this page reads up to 1" in text
        assert "psnr_dB" in facts
        changed("samples/linear/tiny-000001.json", lambda record: record.update(schema=2))
        assert "record has schema 2" in told(browser, address, path, "h1")[0]


@pytest.mark.browser
def test_a_large_shard_without_ranges_is_explained(browser, serving, twins, monkeypatch):
    from builder import serve

    def whole(self):
        self._left = None
        return super(serve.Handler, self).send_head()

    monkeypatch.setattr(serve.Handler, "send_head", whole)
    with serving(twins) as address:
        page = browser.new_page()
        page.route(
            "**/library.js", lambda route: route.fulfill(body=without_room(route), content_type="text/javascript")
        )
        page.goto(f"{address}sample.html?id=tiny-000001")
        page.wait_for_selector("#notice:not([hidden])")
        assert "too much to fetch for one sample" in page.locator("#notice").inner_text()
        assert "psnr_dB" in page.locator("#facts").inner_text()
        page.close()


def without_room(route):
    """The page's script, allowed to fetch next to nothing whole."""
    text = route.fetch().text()
    assert "const WHOLE_MB = 80;" in text
    return text.replace("const WHOLE_MB = 80;", "const WHOLE_MB = 0.001;")
