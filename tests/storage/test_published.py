"""The published layout of v1.3: written here by another code from our renderings, read back, damaged, converted."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from builder.publish import dataset_card
from temimagenet import LABELS, PublishedTEMImageNet, TEMImageNet, collate, sample_spec
from temimagenet.cli import app
from temimagenet.errors import DatasetError, LabelError, RecipeError
from temimagenet.labels import MAPS
from temimagenet.recipe import spec_from_json, spec_to_json
from temimagenet.render import render
from temimagenet.storage import Shard, repack_library, verify_library
from temimagenet.storage.published import PublishedFolder, condition_of, convert_published

NUMBERS = (1, 1072, 2143, 2962, 3403, 3592)
MASKS = ("circularMask", "smallcircularMask")
CONDITIONS = (1, 2, 3, 5, 6, 1)

# Wavelengths from Kirkland's table (2010, table 2.1), apertures and sources of the paper's conditions.
RADIUS_A = {
    1: math.hypot(0.25 * 0.025079 / 24e-3, 0.45),
    2: math.hypot(0.25 * 0.037014 / 30e-3, 0.4),
    3: math.hypot(0.25 * 0.025079 / 10.5e-3, 0.45),
    5: math.hypot(0.25 * 0.025079 / 10e-3, 0.8),
    6: math.hypot(0.25 * 0.048661 / 30e-3, 0.25),
}


def grey(values: torch.Tensor) -> np.ndarray:
    """8-bit values over the map's range."""
    low, high = values.min(), values.max()
    return ((values - low) / ((high - low) or 1.0) * 255.0).round().numpy().astype(np.uint8)


@pytest.fixture(scope="module")
def rendered(recipe):
    return render([sample_spec(recipe, index) for index in range(len(NUMBERS))], LABELS)


@pytest.fixture
def tree(rendered, tmp_path):
    """A folder in the published layout, written file by file."""
    root = tmp_path / "v1.3"
    for name in ("image", *MAPS, "position", "positionRadius", "radius", "smallradius"):
        (root / name).mkdir(parents=True)
    for number, condition, sample in zip(NUMBERS, CONDITIONS, rendered, strict=True):
        Image.fromarray(grey(sample.image)).save(root / f"image/{number:05d}.png")
        for name in MAPS:
            picture = (
                grey(sample.labels[name]) if name not in MASKS else (255 * sample.labels[name].numpy()).astype(np.uint8)
            )
            Image.fromarray(picture).save(root / f"{name}/{number:05d}.png")
        radius = RADIUS_A[condition] / sample.pixel_size_A
        rows = [(y + 1.0, x + 1.0) for x, y in sample.labels["position"].tolist()]
        lines = {
            "position": [f"{r:.6f} {c:.6f}" for r, c in rows],
            "positionRadius": [f"{r:.6f} {c:.6f} {radius:.6f}" for r, c in rows],
            "radius": [f"{radius:.8f}"] * len(rows),
            "smallradius": [f"{0.7 * radius:.8f}"],
        }
        for name, texts in lines.items():
            (root / f"{name}/{number:05d}.txt").write_text("\n".join(texts) + "\n")
    return root


def test_positions_radii_and_pixel_sizes_are_those_that_were_drawn(tree, rendered):
    data = PublishedTEMImageNet(tree, labels=[*LABELS, "radius", "smallRadius"])
    assert data.absent == ()
    assert [int(row) for row in data.catalogue["number"]] == list(NUMBERS)
    for sample, drawn, condition in zip(data, rendered, CONDITIONS, strict=True):
        assert sample.spec.condition == condition
        assert sample.pixel_size_A == pytest.approx(drawn.pixel_size_A, rel=2e-5)
        assert sample.radius_A == pytest.approx(RADIUS_A[condition], rel=2e-5)
        radius_px = RADIUS_A[condition] / drawn.pixel_size_A
        assert float(sample.labels["radius"]) == pytest.approx(radius_px, rel=2e-5)
        assert float(sample.labels["smallRadius"]) == pytest.approx(0.7 * radius_px, rel=2e-5)
        torch.testing.assert_close(sample.labels["position"], drawn.labels["position"], atol=1e-5, rtol=0.0)
        torch.testing.assert_close(sample.labels["positionRadius"][:, :2], sample.labels["position"])
        np.testing.assert_allclose(sample.labels["positionRadius"][:, 2], radius_px, rtol=2e-5)
        assert torch.equal(sample.image, torch.from_numpy(grey(drawn.image).astype(np.float32)))
        assert torch.equal(sample.labels["circularMask"], drawn.labels["circularMask"])
        for name in ("noNoise", "noNoiseUpinterpolation2x"):
            np.testing.assert_allclose(sample.labels[name], grey(drawn.labels[name]) / 255.0, atol=1e-6)
        assert math.isnan(sample.psnr_dB)
        assert math.isnan(sample.dose_e_per_A2)


def test_the_origin_of_positions_is_an_argument(tree):
    one = PublishedTEMImageNet(tree, labels=["position"])[0].labels["position"]
    zero = PublishedTEMImageNet(tree, labels=["position"], origin=0)[0].labels["position"]
    below = one[(one < 62.0).all(1)]
    assert len(below) > 50
    torch.testing.assert_close(zero[[int((zero - p - 1.0).norm(dim=1).argmin()) for p in below]], below + 1.0)


@pytest.mark.parametrize(
    ("number", "condition"),
    [(1, 1), (1071, 1), (1072, 2), (2142, 2), (2143, 3), (2961, 3), (2962, 5), (3402, 5), (3403, 6), (3591, 6),
     (3592, 1), (7182, 6), (7183, 1), (14364, 6)],
)  # fmt: skip
def test_conditions_follow_from_the_image_number(number, condition):
    assert condition_of(number) == condition


def test_numbers_beyond_the_published_ones_are_refused(tree):
    (tree / "image/00001.png").rename(tree / "image/14365.png")
    with pytest.raises(DatasetError, match=r"14365.*00001 to 14364"):
        PublishedTEMImageNet(tree)


def test_splits_keep_images_of_the_same_place_together(tree):
    for number in (3592, 7183):
        (tree / f"image/{number:05d}.png").write_bytes((tree / "image/00001.png").read_bytes())
    frame = PublishedFolder.open(tree).catalogue().set_index("number")
    assert frame.loc[1, "split"] == frame.loc[3592, "split"] == frame.loc[7183, "split"]
    assert list(frame.loc[[1, 3592, 7183], "field_of_view"]) == [1, 2, 3]


def test_it_loads_like_our_own_data(tree):
    data = PublishedTEMImageNet(tree, labels=["gaussianMask", "position"], where="condition != 6")
    batch = collate(list(data))
    assert batch.image.shape == (5, 1, 64, 64)
    assert batch.labels["gaussianMask"].shape == (5, 1, 64, 64)
    assert batch.n_columns.min() > 0


def test_absent_folders_are_told_by_name(tree):
    for file in (tree / "gaussianMask").iterdir():
        file.unlink()
    data = PublishedTEMImageNet(tree, labels=["circularMask"])
    assert data.absent == ("gaussianMask",)
    assert "absent: gaussianMask" in repr(data)
    with pytest.raises(LabelError, match="gaussianMask"):
        PublishedTEMImageNet(tree)


def test_images_that_lack_a_label_are_left_out_and_told(tree):
    (tree / "noNoise/01072.png").unlink()
    assert PublishedTEMImageNet(tree, labels=["noNoise"]).left_out == (1072,)
    assert len(PublishedTEMImageNet(tree, labels=["noNoise"])) == len(NUMBERS) - 1
    assert len(PublishedTEMImageNet(tree, labels=["circularMask"])) == len(NUMBERS)
    with pytest.raises(LabelError, match=r"noNoise.01072\.png"):
        PublishedFolder.open(tree).sample(1072, ["noNoise"])


def test_positions_come_from_either_file_and_radii_from_three(tree, rendered):
    for name in ("position", "radius"):
        for file in (tree / name).iterdir():
            file.unlink()
    sample = PublishedTEMImageNet(tree, labels=["positionRadius"])[0]
    assert sample.pixel_size_A == pytest.approx(rendered[0].pixel_size_A, rel=2e-5)
    for file in (tree / "positionRadius").iterdir():
        file.unlink()
    sample = PublishedTEMImageNet(tree, labels=["circularMask"])[0]
    assert sample.pixel_size_A == pytest.approx(rendered[0].pixel_size_A, rel=2e-5)
    assert len(sample.columns) == 0
    for file in (tree / "smallradius").iterdir():
        file.unlink()
    with pytest.raises(LabelError, match=r"00001.*pixel size"):
        PublishedTEMImageNet(tree, labels=["circularMask"])[0]


def test_no_images_or_no_folder(tmp_path):
    with pytest.raises(DatasetError, match="image"):
        PublishedTEMImageNet(tmp_path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["image", "noNoise"])
def test_a_flipped_bit_in_a_picture_is_found_and_named(tree, name, place):
    path = tree / f"{name}/00001.png"
    flip(path, int(place * path.stat().st_size))
    with pytest.raises(DatasetError, match=rf"{name}.00001\.png: damaged"):
        PublishedTEMImageNet(tree, labels=["noNoise"])[0]


def test_truncated_empty_and_foreign_pictures(tree):
    path = tree / "noNoise/00001.png"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"GIF89a not a picture", whole[:-12]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"noNoise.00001\.png: damaged"):
            PublishedTEMImageNet(tree, labels=["noNoise"])[0]
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(DatasetError, match=r"noNoise.00001\.png.*RGB.*8-bit grey"):
        PublishedTEMImageNet(tree, labels=["noNoise"])[0]
    Image.new("L", (64, 32)).save(path)
    with pytest.raises(DatasetError, match=r"noNoise.00001\.png.*\(64, 64\)"):
        PublishedTEMImageNet(tree, labels=["noNoise"])[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("position", "1.0\n", r"line 1.*2 finite"),
        ("position", "1.0 2.0\n3.0 4.0 5.0\n", r"line 2.*2 finite"),
        ("position", "1.0 two\n", r"line 1.*2 finite"),
        ("position", "1.0 nan\n", r"line 1.*2 finite"),
        ("position", "1.0 2.0\n", r"positionRadius.00001\.txt: 1 and \d+ lines"),
        ("position", "\x00\xff\xfe", r"damaged|finite"),
        ("radius", "", r"0 lines"),
        ("radius", "2.0\n2.0\n", r"2 lines, expected 1 or"),
        ("radius", "-2.0\n", r"above 0"),
        ("radius", "9.0\n", r"positionRadius.*says 9"),
    ],
)
def test_damaged_text_is_named_with_its_line(tree, name, text, said):
    (tree / f"{name}/00001.txt").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=said) as caught:
        PublishedTEMImageNet(tree, labels=["position"])[0]
    assert f"{name}/00001.txt" in str(caught.value)


def test_far_positions_are_refused(tree):
    for name, tail in (("position", ""), ("positionRadius", " 3.0")):
        (tree / f"{name}/00001.txt").write_text(f"1e6 2.0{tail}\n")
    with pytest.raises(DatasetError, match="1e\\+06 pixels in an image of 64"):
        PublishedTEMImageNet(tree, labels=["position"])[0]


def test_a_converted_library_gives_the_same_samples(tree, tmp_path):
    (tree / "noNoise/03592.png").unlink()
    out = tmp_path / "library"
    manifest, left_out = convert_published(PublishedFolder.open(tree), out, samples_per_shard=2)
    assert manifest.is_file()
    assert left_out == (3592,)
    verify_library(out)
    labels = [*LABELS, "radius"]
    with_folder = PublishedTEMImageNet(tree, labels=labels)
    library = TEMImageNet(out, split=None, labels=labels)
    assert len(library) == len(with_folder) == 5
    for one, two in zip(library, with_folder, strict=True):
        assert one.spec.id == two.spec.id
        assert one.spec.field_of_view_A == two.spec.field_of_view_A
        assert torch.equal(one.image, two.image)
        assert one.radius_A == two.radius_A
        for name in labels:
            assert torch.equal(one.labels[name], two.labels[name]), name


def test_the_card_of_a_converted_library_tells_what_it_has(tree, tmp_path):
    shutil.rmtree(tree / "gaussianMask")
    out = tmp_path / "library"
    convert_published(PublishedFolder.open(tree, engine="multislice"), out)
    card = dataset_card(out, "atoms/published", "v1.3")
    told = card.split("Labels: ")[1].split("\n")[0]
    assert "`circularMask`" in told
    assert "gaussianMask" not in card
    assert "Fourier series" not in card
    snippet = card.split("```python\n")[1].split("```")[0]
    options = dict(re.findall(r'(split|engine)="(\w+)"', snippet))
    labels = json.loads(re.search(r"labels = (.*)", snippet)[1])
    assert TEMImageNet(out, labels=labels, **options)[0].labels.keys() == set(labels)


def test_a_conversion_goes_on_where_it_stopped(tree, tmp_path):
    out = tmp_path / "library"
    (tree / "noNoise/02962.png").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="02962"):
        convert_published(PublishedFolder.open(tree), out, samples_per_shard=2)
    first = out / "shards/linear-00000.h5"
    written = first.stat().st_mtime_ns
    assert not (out / "manifest.json").exists()
    (tree / "noNoise/02962.png").write_bytes((tree / "noNoise/02143.png").read_bytes())
    seen = []
    convert_published(PublishedFolder.open(tree), out, samples_per_shard=2, on_samples=lambda *told: seen.append(told))
    assert first.stat().st_mtime_ns == written
    assert seen == [(2, 6), (4, 6), (6, 6)]
    assert verify_library(out) == 8
    assert not list(out.rglob("*.partial"))


def test_labels_that_the_folder_lacked_are_not_invented(tree, tmp_path):
    for file in (tree / "gaussianMask").iterdir():
        file.unlink()
    out = tmp_path / "library"
    convert_published(PublishedFolder.open(tree), out)
    assert TEMImageNet(out, None, labels=["circularMask"])[0].labels["circularMask"].max() == 1.0
    with pytest.raises(LabelError, match="gaussianMask is absent"):
        TEMImageNet(out, None, labels=["gaussianMask"])[0]


def test_samples_of_others_have_no_series_and_say_so(tree, tmp_path):
    out = tmp_path / "library"
    for file in (tree / "gaussianMask").iterdir():
        file.unlink()
    convert_published(PublishedFolder.open(tree), out)
    with (
        Shard(out / "shards/linear-00000.h5") as shard,
        pytest.raises(LabelError, match=r"sample 2: .* no Fourier series"),
    ):
        shard.series(2)
    with pytest.raises(LabelError, match="gaussianMask is absent"):
        repack_library(out, tmp_path / "fast", ["gaussianMask"])
    labels = ["circularMask", "noNoiseUpinterpolation2x", "position"]
    repack_library(out, tmp_path / "fast")
    for one, two in zip(*(TEMImageNet(root, None, labels=labels) for root in (out, tmp_path / "fast")), strict=True):
        assert torch.equal(one.image, two.image)
        for name in labels:
            assert torch.equal(one.labels[name], two.labels[name]), name


@pytest.mark.parametrize("radius", [0.0, -1.0, 1e999, math.nan, "wide", []])
def test_a_specification_with_a_radius_that_cannot_be_is_refused(tree, radius):
    spec = PublishedFolder.open(tree).sample(1, []).spec
    read = spec_from_json(spec_to_json(spec))
    assert read.radius_A == spec.radius_A
    assert math.isnan(read.psnr_dB)
    text = json.dumps(json.loads(spec_to_json(spec)) | {"mask_radius_A": radius})
    with pytest.raises(RecipeError, match="not a sample's specification"):
        spec_from_json(text)


def test_a_library_needs_columns(tree, tmp_path):
    for name in ("position", "positionRadius"):
        for file in (tree / name).iterdir():
            file.unlink()
    with pytest.raises(LabelError, match="position or positionRadius"):
        convert_published(PublishedFolder.open(tree), tmp_path / "library")


def test_the_command_line_converts_and_tells_what_is_absent(tree, tmp_path):
    for file in (tree / "circularMask").iterdir():
        file.unlink()
    (tree / "noNoise/00001.png").unlink()
    told = CliRunner().invoke(app, ["convert", str(tree), str(tmp_path / "library"), "--workers", "2"])
    assert told.exit_code == 0, told.output
    assert "absent: circularMask" in told.output
    assert "left out: 1 images" in told.output
    assert len(TEMImageNet(tmp_path / "library", None, labels=["noNoise"])) == 5
