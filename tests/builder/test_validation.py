"""Validation of networks: what counts as found, filters at their best, intensities, resuming, and the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_cli import builder

from builder.portal import build_leaderboard, build_portal
from builder.validation import denoising, images, micrographs, run, speed
from builder.validation.denoising import best_setting, compare_filters, likeness
from builder.validation.detection import Faintness, Tally, detection_claims, faintness_table, judge
from builder.validation.images import BACKGROUNDS, Truth, carbon_image, empty_image, resolvable, unseen_specs
from builder.validation.intensity import cell_sums, slope
from builder.validation.page import ORDER
from builder.validation.report import Claim, Part, read_part, spread, write_part
from temimagenet.errors import ModelError, PrecisionError
from temimagenet.localize import FoundColumns
from temimagenet.models import AtomNet, UNet, load_model
from temimagenet.models.zoo import write_weights
from temimagenet.recipe import Recipe, load_recipe
from temimagenet.render import Sample

DATA = Path(__file__).resolve().parents[1] / "data"
GRID = np.stack(np.meshgrid(np.arange(10.0, 100.0, 20.0), np.arange(10.0, 100.0, 20.0)), axis=-1).reshape(-1, 2)


def truth(asked: np.ndarray | None = None, xy: np.ndarray = GRID) -> Truth:
    return Truth(xy, np.ones(len(xy), dtype=bool) if asked is None else asked, 0.1, 6.0, (100, 100))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that was never trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_weights(AtomNet(widths=(8, 8), reach=3), path, {})
    return path


@pytest.fixture(scope="module")
def small() -> Recipe:
    """The entries of v1 that are shown, as small images."""
    v1 = load_recipe("v1")
    shown = ("SrTiO3 [001]", "Co3O4 [110]", "Au [110]", "SrTiO3 [001] strained", "Si [110] defective")
    return replace(v1, image_size=64, entries=tuple(entry for entry in v1.entries if entry.name in shown))


@pytest.fixture(scope="module")
def measured(weights: Path, small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every part; what takes long and has tests of its own is left out."""

    def near(sample: Sample) -> SimpleNamespace:
        inside = sample.columns.inside((sample.spec.image_size,) * 2)
        return SimpleNamespace(xy_A=np.full((int(inside.sum()), 2), 0.05), intensity=np.full(int(inside.sum()), 0.1))

    folder = tmp_path_factory.mktemp("validation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "sample_bound", near)
        patch.setattr(run, "EMPTY_A_KIND", 1)
        patch.setattr(denoising, "FILTERS", {"Gaussian filter": denoising.FILTERS["Gaussian filter"]})
        patch.setattr(micrographs, "fitted", lambda image, pixel_size_A: FoundColumns.none(pixel_size_A))
        patch.setattr(speed, "measure_speed", lambda model: speed.Speed((1.0, 2.0, 4.0), 10**9, 1e9, False, 2))
        parts = list(run.validate(str(weights), 1, folder, small))
    assert [part.name for part in parts] == list(ORDER)
    return folder


def test_an_oracle_finds_everything() -> None:
    tally = judge(GRID, truth()).tally
    assert tally == Tally(asked=25, hit=25)
    assert tally.recall == tally.precision == 1.0


def test_columns_found_elsewhere_are_missed_and_false() -> None:
    tally = judge(GRID + np.array([6.0, 0.0]), truth()).tally
    assert tally.hit == 0
    assert tally.recall == tally.precision == 0.0
    assert tally.false == 20, "those that moved over the border do not count"


def test_what_is_found_near_an_unresolved_column_is_not_false() -> None:
    asked = np.ones(25, dtype=bool)
    asked[12] = False
    beside = GRID[12] + [0.0, 5.5]
    others = np.delete(GRID, 12, axis=0)
    assert judge(np.vstack([others, beside]), truth(asked)).tally == Tally(24, 24, 0, 1, 1)
    assert judge(GRID, truth(asked)).tally == Tally(24, 24, 0, 1, 1)
    assert judge(np.vstack([others, GRID[12] + [0.0, 7.0]]), truth(asked)).tally.false == 1, "a spot's radius is 6 px"
    assert judge(np.vstack([others, beside]), truth()).tally == Tally(25, 24, 1, 0, 0)


def test_columns_near_the_border_count_neither_way() -> None:
    xy = np.array([[3.0, 50.0], [50.0, 50.0]])
    assert judge(xy[1:], truth(xy=xy)).tally == Tally(1, 1)
    assert judge(np.vstack([xy, [[2.0, 20.0]]]), truth(xy=xy)).tally == Tally(1, 1)


def test_without_columns_all_that_is_found_is_false() -> None:
    none = truth(xy=np.zeros((0, 2)))
    assert judge(GRID, none).tally == Tally(false=25)
    assert np.isnan(judge(np.zeros((0, 2)), none).tally.recall)


def test_resolvable_columns_have_a_small_bound_for_their_neighbours() -> None:
    xy = np.array([[0.0, 0.0], [3.0, 0.0], [10.0, 0.0], [10.6, 0.0]])
    assert resolvable(xy, np.full((4, 2), 0.19)).tolist() == [True, True, True, True]
    assert resolvable(xy, np.full((4, 2), 0.21)).tolist() == [True, True, False, False]
    assert resolvable(xy, np.array([[0.2, 0.2], [0.1, 0.4], [np.nan, np.nan], [np.inf, 0.1]])).tolist() == [
        True, False, False, False,
    ]  # fmt: skip


def test_unheard_of_precision_is_not_met() -> None:
    recipe = load_recipe("v1")
    claims = detection_claims({"Pt [001]": Tally(), "Au [110]": Tally(10, 10, 1)}, recipe, 20.0)
    told = {claim.what: claim for claim in claims}
    assert not told["Recall, entries of training, 20 dB"].met
    assert told["Recall, held-out entries, 20 dB"].met
    assert not told["Precision, worst entry, 20 dB"].met
    assert Claim("", 1.0, 0.97, 1.03).met
    assert not Claim("", 1.04, 0.97, 1.03).met
    assert Claim("", 1.0).asked == "–"
    assert Claim("", 8.07, most=11.436608, unit="pm").asked == "at most 11.44 pm"
    assert [Claim("", value, most=0.0).told for value in (1.0, 0.25, math.nan)] == ["1", "0.250", "–"]
    assert Claim("", 1.0, 0.99).told == "1.000"
    assert Claim("", 0.98978, 0.99).told == "0.9898"  # not met, as 0.990 would be


def test_images_are_the_same_every_time_and_not_for_training(small: Recipe) -> None:
    specs = unseen_specs(small, 2)
    assert specs == unseen_specs(small, 2)
    assert all(len(of_entry) == 2 for of_entry in specs.values())
    assert {spec.split for of_entry in specs.values() for spec in of_entry} == {"test", "heldout"}


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_empty_images_are_counts_of_a_background(kind: str) -> None:
    image, pixel_size_A = empty_image(kind, 3, 64)
    np.testing.assert_array_equal(image, empty_image(kind, 3, 64)[0])
    assert (image == np.rint(image)).all()
    assert 1.0 < image.mean() < 300.0
    assert 0.06 <= pixel_size_A <= 0.2


def test_carbon_is_rougher_than_its_shot_noise() -> None:
    rough = [image.var() / image.mean() for image, _ in (carbon_image(number, 64) for number in range(8))]
    assert np.mean(rough) > 1.3
    assert not np.array_equal(carbon_image(0, 64)[0], carbon_image(1, 64)[0])


def test_the_search_for_a_setting_improves_on_its_start() -> None:
    tried: list[float] = []

    def score(setting: float) -> float:
        tried.append(setting)
        return -abs(np.log(setting / 5.0))

    setting, reached = best_setting(score, 1.0)
    assert 4.3 < setting < 5.8
    assert reached == max(-abs(np.log(one / 5.0)) for one in tried)
    assert best_setting(lambda setting: -setting, 1.0)[0] < 1.0


def test_filters_at_their_best_denoise() -> None:
    rng = np.random.default_rng(0)
    clean = 20.0 + 10.0 * np.sin(np.arange(48) / 3.0)[:, None] * np.cos(np.arange(48) / 4.0)
    noisy = rng.poisson(clean).astype(np.float32)
    given = likeness(noisy, clean.astype(np.float32))
    for best in compare_filters(noisy, clean.astype(np.float32)).values():
        assert best.psnr_dB > given.psnr_dB + 3.0
        assert best.ssim > given.ssim


def test_recall_is_told_by_significance_beside_an_ideal_observers() -> None:
    faint = Faintness(np.array([3.5, 5.0, 5.5, 40.0]), np.array([True, False, True, False]))
    table = faintness_table({20.0: faint})
    assert [row[0] for row in table.rows] == ["0 to 3", "3 to 4", "4 to 6", "6 to 10", "10 to 20", "over 20", "all"]
    assert [row[3] for row in table.rows] == [0, 1, 2, 0, 0, 1, 4]
    assert [table.rows[i][1] for i in (1, 2, 5, 6)] == [1.0, 0.5, 0.0, 0.5]
    assert table.rows[1][2] == 0.5
    assert table.rows[5][2] == pytest.approx(1.0)


@pytest.mark.parametrize("micrograph", micrographs.MICROGRAPHS)
def test_marks_hold_a_method_to_account(micrograph: micrographs.Micrograph) -> None:
    marks = np.loadtxt(DATA / micrograph.marks, delimiter=",", skiprows=1)
    missed, false = micrographs.annotation_claims(marks, micrograph, DATA)
    assert missed.met
    assert false.met
    middle = np.argsort(np.abs(marks - 255.5).max(axis=1))
    between = marks[middle[:1]] + 0.7 / micrograph.pixel_size_A
    missed, false = micrographs.annotation_claims(
        np.vstack([np.delete(marks, middle[0], axis=0), between]), micrograph, DATA
    )
    assert (missed.reached, false.reached) == (1.0, 1.0)
    assert micrographs.annotation_claims(np.zeros((0, 2)), micrograph, DATA)[0].reached > 300.0


def test_cells_share_an_image_between_columns() -> None:
    values = np.ones((40, 40))
    halves = cell_sums(values, np.array([[9.5, 19.5], [29.5, 19.5]]), 100.0)
    assert halves.tolist() == [800.0, 800.0]
    assert cell_sums(values, np.array([[20.0, 20.0], [100.0, 20.0]]), 3.0).tolist() == [25.0, 0.0]
    sums = np.array([1.0, 2.0, 3.0])
    assert slope(sums, 0.9 * sums) == pytest.approx(0.9)
    assert np.isnan(slope(np.zeros(0), np.zeros(0)))


def test_speed_counts_convolutions(weights: Path) -> None:
    model = load_model(weights)
    assert speed.convolution_flop(model, 64) == 4 * speed.convolution_flop(model, 32)
    measured = speed.measure_speed(model, 64, 2)
    assert len(measured.seconds) == 2
    assert measured.share > 0.0
    assert speed.Speed((1.0, 2.0, 4.0), 10**9, 1e9, False, 2).share == 0.5


def test_a_spread_needs_two_values() -> None:
    assert spread([1.0, 3.0]).deviation == pytest.approx(np.sqrt(2.0))
    assert np.isnan(spread([1.0]).deviation)
    assert np.isnan(spread([]).mean)


def test_every_part_is_measured_and_kept(measured: Path) -> None:
    for name in ORDER:
        text = (measured / f"{name}.json").read_text()
        assert json.loads(text)["name"] == name
        assert "NaN" not in text
    detection = read_part(measured / "detection.json")
    assert detection is not None
    assert {claim.asked for claim in detection.claims} == {"at least 0.99", "at least 0.95"}
    assert not any(claim.met for claim in detection.claims if claim.what.startswith("Recall"))
    pictures = list((measured / "pictures").iterdir())
    assert len(pictures) == 5 * 9 + 2 * 10
    assert max(path.stat().st_size for path in pictures) < 300_000


def test_parts_that_are_there_are_not_measured_again(
    measured: Path, weights: Path, small: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []

    def measure(bench: run.Bench) -> Part:
        made.append(bench.name)
        return bench.part("speed", "Speed", "so", [Claim("what", float("nan"), 1.0)])

    monkeypatch.setattr(run, "PARTS", {"speed": measure})
    (kept,) = run.validate(str(weights), 1, measured, small)
    assert kept.title == "Speed"
    assert len(kept.claims) == 2
    assert not made
    list(run.validate(str(weights), 1, tmp_path, small))
    (again,) = run.validate(str(weights), 1, tmp_path, small)
    assert len(made) == 1
    assert np.isnan(again.claims[0].reached)
    list(run.validate(str(weights), 2, tmp_path, small))
    assert len(made) == 2, "another number of images is another measurement"
    (tmp_path / "speed.json").write_text('{"name": "speed"}')
    list(run.validate(str(weights), 2, tmp_path, small))
    assert len(made) == 3, "a damaged part is measured again"


def test_a_network_that_draws_one_map_cannot_be_validated(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    write_weights(UNet(width=4, depth=1), path, {})
    assert load_model(path).maps == ("gaussianMask",)
    with pytest.raises(ModelError, match="every map"):
        next(run.validate(str(path), 1, tmp_path / "out"))


def test_the_page_shows_every_claim_and_picture(library: Path, measured: Path, tmp_path: Path) -> None:
    build_portal(library, tmp_path / "site", docs=False, validation=measured)
    page = (tmp_path / "site/validation.html").read_text()
    assert page.count("✗ not met") > 3
    assert page.count("<svg") == 3
    assert page.count('src="validation/') == len(list((tmp_path / "site/validation").iterdir())) == 65
    assert page.count('alt="') >= 65
    assert "nan" not in page.replace("non-", "")
    for name in ORDER:
        part = read_part(measured / f"{name}.json")
        assert part is not None
        assert f'id="{name}"' in page
        assert all(claim.what in page for claim in part.claims)
    assert 'href="validation.html"' in (tmp_path / "site/index.html").read_text()


def test_the_page_tells_what_is_missing(library: Path, measured: Path, tmp_path: Path) -> None:
    part = read_part(measured / "speed.json")
    assert part is not None
    half = tmp_path / "half"
    half.mkdir()
    write_part(part, half)
    write_part(replace(part, name="detection", origin=dict(part.origin) | {"images": 7}, tables=()), half)
    build_portal(library, tmp_path / "site", docs=False, validation=half)
    page = (tmp_path / "site/validation.html").read_text()
    assert "not measured with the same weights" in page
    assert "Not measured yet: located, false-columns, denoising" in page


def test_a_portal_without_results_says_so(library: Path, tmp_path: Path) -> None:
    build_portal(library, tmp_path / "site", docs=False)
    assert "No results yet" in (tmp_path / "site/validation.html").read_text()
    with pytest.raises(PrecisionError, match="no folder"):
        build_portal(library, tmp_path / "site", docs=False, validation=tmp_path / "none")
    build_leaderboard(None, tmp_path / "alone")
    assert "validation.html" not in (tmp_path / "alone/leaderboard.html").read_text()


def test_a_bad_model_is_one_clear_line(tmp_path: Path) -> None:
    done = builder("validate", "--model", tmp_path / "none.safetensors", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no model" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_results_that_every_portal_shows_are_those_of_the_shipped_weights() -> None:
    folder = Path(run.__file__).resolve().parents[2] / "site" / "results" / "validation"
    model = run.load_complete("all")
    for name in ORDER:
        part = read_part(folder / f"{name}.json")
        assert part is not None, name
        assert part.origin == run.Bench("all", model, part.origin["images"], folder, load_recipe("v1")).origin
        assert all((folder / "pictures" / picture.file).is_file() for picture in part.pictures)
