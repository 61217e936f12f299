"""The portal of images that others made: a converted folder of TEMImageNet v1.3, shown as far as it goes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import mlcroissant
import numpy as np
import pytest
import torch
from PIL import Image

from builder.describe import CROISSANT
from builder.portal import build_portal
from builder.samples import FOLDER
from temimagenet import TEMImageNet
from temimagenet.storage import Shard, read_catalogue
from temimagenet.storage.published import PublishedFolder, convert_published

NUMBERS = (1, 2, 1072, 3403, 3592)
LABELS = ("circularMask", "noNoise", "noNoiseUpinterpolation2x", "position", "positionRadius")
SIZE = 48


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """The portal of five images in the published layout, with three of the eight maps."""
    folder = tmp_path_factory.mktemp("others")
    draw = np.random.default_rng(0)
    root = folder / "v1.3"
    for name in (*LABELS[:3], "image", "position", "radius"):
        (root / name).mkdir(parents=True)
    for number in NUMBERS:
        for name in (*LABELS[:3], "image"):
            edge = 2 * SIZE if "2x" in name else SIZE
            grey = draw.integers(0, 256, (edge, edge)).astype(np.uint8)
            Image.fromarray(grey if "Mask" not in name else 255 * (grey > 200).astype(np.uint8)).save(
                root / name / f"{number:05d}.png"
            )
        places = draw.uniform(1.0, SIZE, (7, 2))
        (root / f"position/{number:05d}.txt").write_text("".join(f"{y:.3f} {x:.3f}\n" for y, x in places))
        (root / f"radius/{number:05d}.txt").write_text("4.7312\n")
    convert_published(PublishedFolder.open(root), folder / "library", samples_per_shard=3)
    build_portal(folder / "library", folder / "site", docs=False)
    return folder / "site"


def test_records_and_metadata_hold_what_is_known(others):
    index = json.loads((others / FOLDER / "index.json").read_text())
    assert tuple(index["labels"]) == LABELS
    check = jsonschema.Draft202012Validator(json.loads((others / "schemas/sample.schema.json").read_text()))
    for name in read_catalogue(others / "data")["id"]:
        record = json.loads((others / f"{FOLDER}/linear/{name}.json").read_text())
        check.validate(record)
        assert record["series"] is None
        fields = record["fields"]
        unknown = ("psnr_dB", "dose_e_per_A2", "rotation_deg", "offset_x_A", "scan_sigma_A", "background_level")
        assert {field: fields[field] for field in unknown} == dict.fromkeys(unknown)
        assert {fields[field] for field in ("material", "contrast", "background", "scan_modulation")} == {"unknown"}
    records = list(mlcroissant.Dataset(others / CROISSANT).records("samples"))
    assert [record["samples/id"].decode() for record in records] == [f"v1.3-{number:05d}" for number in NUMBERS]
    home, statistics = ((others / f"{page}.html").read_text() for page in ("index", "statistics"))
    assert "samples, 5 labels each" in home
    assert "superresolution" not in home.lower()
    for absent in ("Zone axis.", "Rotation (°).", "Peak signal-to-noise ratio (dB), Dose (e/Å²), "):
        assert f"Not known of these samples: {absent}" in statistics


@pytest.mark.browser
def test_a_visitor_finds_looks_and_takes_home(visit, serving, others, tmp_path, monkeypatch):
    from axe_playwright_python.sync_playwright import Axe

    sample = TEMImageNet(others / "data", split=None, labels=LABELS, where="id == 'v1.3-01072'")[0]
    with serving(others) as address:
        page = visit(address, viewport={"width": 1400, "height": 900})
        page.goto(f"{address}browse.html?condition=2&rotation_deg=0&sort=psnr_dB")
        page.wait_for_function("document.querySelector('#count')?.textContent.startsWith('1 of 5 ')")
        notice = page.locator("#notice").inner_text()
        assert "rotation_deg" in notice
        assert "psnr_dB" in notice
        legends = page.locator("#facets legend").all_inner_texts()
        assert {"Condition", "Field of view (Å)", "Columns in the image"} <= set(legends)
        assert not {"Rotation (°)", "Zone axis", "PSNR (dB)", "Dose (e/Å²)", "Scan jitter (Å)"} & set(legends)
        page.get_by_role("button", name="Table").click()
        assert "PSNR" not in " ".join(page.get_by_role("columnheader").all_inner_texts())
        page.locator(".item.cells a").first.click()
        page.wait_for_function("performance.getEntriesByName('panes').length")
        assert Axe().run(page).response["violations"] == []
        assert page.locator("#notice").is_hidden()
        assert page.locator("#noise").is_hidden()
        assert "not known" in page.locator("#bound").inner_text()
        maps = page.locator("#label option").evaluate_all("options => options.map((option) => option.value)")
        assert maps == ["image", "noNoise", "noNoiseUpinterpolation2x", "circularMask"]

        def taken(button):
            with page.expect_download() as caught:
                page.get_by_role("button", name=button, exact=True).click()
            return Path(caught.value.path()).read_bytes()

        archive = np.load(io.BytesIO(taken("NPZ")))
        assert np.array_equal(archive["image"], sample.image.numpy())
        assert np.isnan(archive["dose_e_per_A2"])
        assert "gaussianMask" not in archive
        for name in LABELS:
            np.testing.assert_allclose(archive[name], sample.labels[name], rtol=1e-6)
        (tmp_path / "one.h5").write_bytes(taken("HDF5"))
        with Shard(tmp_path / "one.h5") as shard:
            read = shard.sample(0, LABELS)
        assert torch.equal(read.image, sample.image)
        assert all(torch.equal(read.labels[name], sample.labels[name]) for name in LABELS)
        (tmp_path / "library").symlink_to(others / "data")
        monkeypatch.chdir(tmp_path)
        names: dict = {}
        exec(page.locator("#snippet").inner_text(), names)
        assert names["sample"].id == sample.id
        assert tuple(names["sample"].labels) == LABELS

        page.goto(f"{address}collection.html?condition=2")
        page.wait_for_selector("#tiles li")
        assert 'labels=["circularMask", "noNoise", ' in page.locator("#snippet").inner_text()
