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
    const facts = { size: image_size, pixel_size_A, radius_A, clean_peak, background: JSON.parse(record.spec).background };
    const [columns, series] = [await readColumns(record), await readSeries(record)];
    const found = {};
    for (const name of names) {
        const { data } = name in record.arrays ? await readArray(record, name) : drawLabel(name, facts, columns, series);
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
