"""Sessions of the app without a window: maps, columns, edits, fits, what is saved and taken up again."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.io import loadmat

from temimagenet.app.figures import plot_intensities
from temimagenet.app.results import save_results
from temimagenet.app.session import (
    calibrate,
    default_choice,
    disconnected,
    draw_maps,
    edit_columns,
    find_columns,
    known_maps,
    open_image,
    refine_columns,
    revert,
    run,
)
from temimagenet.app.settings import Settings
from temimagenet.app.store import load_session, save_session
from temimagenet.errors import AppError, LocalizeError, MicrographError, ModelError
from temimagenet.localize import Flag, OtsuCentroid
from temimagenet.micrographs import list_signals
from temimagenet.models.inputs import scaled_grid
from temimagenet.models.predict import load_model
from temimagenet.progress import watched

SHAPE, STEP, SIZE = (72, 80), 16.0, 0.1
SPOTS = np.array([(x, y) for y in np.arange(12.3, 70, STEP) for x in np.arange(11.6, 76, STEP)])
FIT = Settings(method="gaussian-ls", maps=())


def spots(seed=0, step=2.0):
    """A lattice of spots with counting noise, intensities in a ratio of one to `step` by turns."""
    y, x = np.indices(SHAPE)
    heights = np.where(np.arange(len(SPOTS)) % 2, step, 1.0)
    clean = sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18.0) for h, (a, b) in zip(heights, SPOTS, strict=True))
    return np.random.default_rng(seed).poisson(20.0 + 200.0 * clean).astype(np.float32)


@pytest.fixture
def image(tmp_path):
    """A file with a lattice of spots."""
    np.save(tmp_path / "spots.npy", spots())
    return tmp_path / "spots.npy"


@pytest.fixture
def session(image):
    """A session with it, calibrated."""
    return open_image(image, pixel_size_A=SIZE)


def matched(columns, truth=SPOTS):
    """How far the nearest column of each true place is."""
    return np.linalg.norm(truth[:, None] - columns.xy_px[None], axis=2).min(axis=1)


def test_an_image_without_a_pixel_size_opens_and_says_what_it_lacks(image):
    session = open_image(image)
    assert session.micrograph.image.shape == SHAPE
    with pytest.raises(AppError, match="enter it"):
        find_columns(session, FIT)
    found = find_columns(calibrate(session, SIZE), FIT)
    assert found.opened.pixel_size_A == SIZE
    assert matched(found.columns).max() < 0.3
    assert "columns by Gaussian fit" in found.steps[-1]
    assert calibrate(found, 0.2).columns is None


def test_a_stack_opens_as_its_sum_and_a_frame_can_be_chosen(tmp_path):
    stack = np.stack([spots(0), spots(1)])
    np.save(tmp_path / "stack.npy", stack)
    assert default_choice(list_signals(tmp_path / "stack.npy")) == (0, "sum")
    np.testing.assert_array_equal(open_image(tmp_path / "stack.npy").micrograph.image, stack.sum(axis=0))
    np.testing.assert_array_equal(open_image(tmp_path / "stack.npy", signal=0, frame="1").micrograph.image, stack[1])
    np.testing.assert_array_equal(
        open_image(tmp_path / "stack.npy", signal="stack").micrograph.image, stack.sum(axis=0)
    )
    with pytest.raises(MicrographError, match="no signal 'HAADF'"):
        open_image(tmp_path / "stack.npy", signal="HAADF")
    np.save(tmp_path / "row.npy", np.arange(9.0))
    with pytest.raises(AppError, match="no image in the file"):
        open_image(tmp_path / "row.npy")


def test_maps_are_those_of_the_network_and_are_drawn_again_of_themselves(session):
    wanted = ("noNoise", "gaussianMask", "noNoiseUpinterpolation2x")
    once = draw_maps(session, Settings(maps=wanted))
    told = load_model("all").predict(session.micrograph.image, SIZE, wanted).maps
    assert list(once.maps) == list(wanted)
    for label in wanted:
        np.testing.assert_allclose(once.maps[label], told[label])
    twice = draw_maps(session, Settings(maps=wanted, iterations=2))
    again = load_model("all").predict(once.maps["noNoise"], SIZE, ["noNoise"]).maps["noNoise"]
    np.testing.assert_allclose(twice.maps["noNoise"], again)
    assert twice.maps["noNoiseUpinterpolation2x"].shape == (2 * SHAPE[0], 2 * SHAPE[1])
    assert not np.allclose(twice.maps["gaussianMask"], once.maps["gaussianMask"])
    with pytest.raises(AppError, match="no map"):
        draw_maps(session, Settings(maps=()))
    with pytest.raises(ModelError, match="sharp"):
        draw_maps(session, Settings(maps=("sharp",)))


def test_the_scale_is_what_the_network_sees(session):
    image = session.micrograph.image.astype(np.float64)
    assert scaled_grid(SHAPE, SIZE, 1 / 3).shape == (24, 26)
    assert scaled_grid(SHAPE, SIZE, 4.0).shape == (288, 320)
    assert scaled_grid(SHAPE, SIZE, 4.0).pixel_size_A == pytest.approx(0.025)
    np.testing.assert_array_equal(scaled_grid(SHAPE, SIZE, 1.0).resample(image), image)
    # An image of doubled pixels, shrunk by two, is the image again.
    doubled = np.kron(image, np.ones((2, 2)))
    model = load_model("all")
    half = model.predict(doubled, SIZE / 2, ["noNoise"], scale=1 / 2)
    plain = model.predict(image, SIZE, ["noNoise"])
    assert half.grid.shape == SHAPE
    np.testing.assert_allclose(half.columns.xy_px, 2.0 * plain.columns.xy_px + 0.5, atol=1e-4)
    np.testing.assert_allclose(half.columns.intensity, 4.0 * plain.columns.intensity, rtol=1e-4)
    found = find_columns(session, Settings(method="network", scale="x2"))
    assert np.median(matched(found.columns)) < 0.5
    for scale in (0.4, 9.0, 0.0):
        with pytest.raises(ModelError, match="scale"):
            scaled_grid(SHAPE, SIZE, scale)
    with pytest.raises(ModelError, match="at least 4 x 4"):
        scaled_grid((8, 8), SIZE, 1 / 4)


def test_columns_by_a_map_its_opening_and_a_threshold(session):
    found = run(session, Settings(maps=("gaussianMask",), method="map", threshold=0.4))
    assert len(found.columns) == len(SPOTS)
    assert matched(found.columns).max() < 1.0
    assert "threshold 40 %" in found.steps[-1]
    # Without the map it is drawn; nothing is left of spots narrower than the disc.
    opened = find_columns(session, Settings(method="map", disconnect="erosion", level_px=12, threshold=0.4))
    assert "gaussianMask" in opened.maps
    assert len(opened.columns) < len(SPOTS)
    with pytest.raises(AppError, match="threshold"):
        Settings(threshold=1.5)


def test_a_disc_parts_what_touches():
    y, x = np.indices((40, 60))
    discs = sum(((x - a) ** 2 + (y - 20) ** 2 <= 81) for a in (20, 40)).astype(np.float32)
    discs[19:22, 20:40] = 1.0
    read = OtsuCentroid(threshold=0.5)
    assert len(read(discs, 0.1)) == 1
    assert len(read(disconnected(discs, "opening", 3), 0.1)) == 2
    eroded = disconnected(discs, "erosion", 3)
    assert len(read(eroded, 0.1)) == 2
    assert eroded.sum() < disconnected(discs, "opening", 3).sum() < discs.sum()
    assert disconnected(discs, "opening", 0) is discs


def test_the_threshold_is_a_share_of_the_range():
    values = np.zeros((20, 20))
    values[5, 5], values[12, 12] = 4.0, 10.0
    assert len(OtsuCentroid(threshold=0.3, least_area_A2=0.0)(values, 0.1)) == 2
    assert len(OtsuCentroid(threshold=0.5, least_area_A2=0.0)(values, 0.1)) == 1
    with pytest.raises(LocalizeError, match="threshold 1"):
        OtsuCentroid(threshold=1.0)


def test_edits_keep_what_is_known_of_the_columns_that_stay(session):
    found = find_columns(session, FIT)
    old = found.columns
    assert edit_columns(found, old.xy_px.copy()) is found
    places = old.xy_px[1:][::-1].copy()
    places[0] += (0.5, -0.25)
    edited = edit_columns(found, np.concatenate([places, [[40.0, 30.0], [500.0, 3.0]]]))
    new = edited.columns
    assert len(new) == len(old)
    np.testing.assert_array_equal(new.xy_px[1:-1], old.xy_px[1:-1][::-1])
    np.testing.assert_array_equal(new.intensity[1:-1], old.intensity[1:-1][::-1])
    np.testing.assert_array_equal(new.sigma_px[1:-1], old.sigma_px[1:-1][::-1])
    assert np.isnan(new.intensity[[0, -1]]).all()
    assert edited.steps[-1] == "by hand: 2 columns placed, 2 taken away"
    once_more = edit_columns(edited, new.xy_px[1:])
    assert once_more.steps[-1] == "by hand: 2 columns placed, 3 taken away"
    assert len(edit_columns(found, np.zeros((0, 2))).columns) == 0
    # What a fit put beside the image stays until it is fitted again; nothing is placed there.
    beside = replace(found, columns=replace(old, xy_px=np.concatenate([[[-2.0, 5.0]], old.xy_px[1:]])))
    assert edit_columns(beside, beside.columns.xy_px) is beside
    assert len(refine_columns(beside, "gaussian-ls").columns) == len(old) - 1
    # Two points on one place: one of them is new.
    twice = edit_columns(found, np.concatenate([old.xy_px, old.xy_px[:1]])).columns
    assert np.isnan(twice.intensity).sum() == np.isnan(old.intensity).sum() + 1


@pytest.mark.parametrize("how", ["gaussian", "gaussian-ls", "scan-aware"])
def test_a_fit_starts_from_points_set_by_hand(session, how):
    rough = SPOTS + np.random.default_rng(3).normal(0.0, 1.0, SPOTS.shape)
    placed = edit_columns(session, rough)
    assert np.isnan(placed.columns.intensity).all()
    fitted = refine_columns(placed, how).columns
    inner = ~(fitted.flags & Flag.CUT > 0)
    assert matched(fitted)[inner].max() < 0.3
    bright = np.arange(len(SPOTS)) % 2 == 1
    ratio = np.median(fitted.intensity[bright & inner]) / np.median(fitted.intensity[~bright & inner])
    assert ratio == pytest.approx(2.0, rel=0.05)
    assert np.isfinite(fitted.sigma_px[fitted.sound]).all()


def test_a_fit_that_cannot_be_says_why(session):
    with pytest.raises(AppError, match="no columns"):
        refine_columns(session, "gaussian")
    with pytest.raises(AppError, match="expected one of"):
        refine_columns(find_columns(session, FIT), "parabola")


def test_a_watcher_hears_of_work_and_ends_it(session):
    heard = []
    with watched(lambda *told: heard.append(told)):
        run(session, Settings(maps=("noNoise",), method="auto"))
    assert {what for what, _, _ in heard} >= {"network", "fit"}
    assert all(0 <= done <= total for _, done, total in heard)

    class Enough(Exception):
        pass

    def stop(what, done, total):
        if what == "fit" and done == 2:
            raise Enough

    with pytest.raises(Enough), watched(stop):
        find_columns(session, Settings(method="scan-aware"))
    assert len(find_columns(session, Settings(method="scan-aware")).columns)


def test_everything_is_saved(session, tmp_path):
    found = run(session, Settings(maps=("gaussianMask", "noNoiseUpinterpolation2x"), method="map"))
    files = save_results(found, tmp_path / "out", formats=("csv", "json", "hdf5", "mat", "xyz"))
    names = {file.name.removeprefix("spots_") for file in files}
    assert names == {
        "maps.mat", "gaussianMask.tif", "gaussianMask.png", "noNoiseUpinterpolation2x.tif",
        "noNoiseUpinterpolation2x.png", "columns.png", "columns.svg", "four_panel_gaussianMask.png",
        "four_panel_noNoiseUpinterpolation2x.png", "columns.csv", "columns.json", "columns.h5", "columns.mat",
        "columns.xyz", "intensities.png", "app.json",
    }  # fmt: skip
    mat = loadmat(tmp_path / "out" / "spots_maps.mat")
    np.testing.assert_array_equal(mat["origin"], session.micrograph.image)
    np.testing.assert_array_equal(mat["noNoiseUpinterpolation2x"], found.maps["noNoiseUpinterpolation2x"])
    record = json.loads((tmp_path / "out" / "spots_app.json").read_text())
    assert record["settings"]["method"] == "map"
    assert record["steps"] == list(found.steps)
    with Image.open(tmp_path / "out" / "spots_four_panel_gaussianMask.png") as panels, Image.open(
        tmp_path / "out" / "spots_columns.png"
    ) as one:  # fmt: skip
        assert panels.width == 2 * one.width + 4
        rings = np.asarray(panels.crop((0, one.height + 4, one.width, panels.height)))
        np.testing.assert_array_equal(rings, np.asarray(one))
    few = save_results(found, tmp_path / "few", kinds=["columns"], formats=["csv"])
    assert [file.name for file in few] == ["spots_columns.csv", "spots_app.json"]
    with pytest.raises(AppError, match="nothing to save"):
        save_results(session, tmp_path / "none")
    with pytest.raises(AppError, match="expected some of"):
        save_results(found, tmp_path / "none", formats=["doc"])


def test_a_session_is_taken_up_where_it_was_left(session, tmp_path):
    settings = Settings(maps=("noNoise",), method="gaussian-ls", scale="x1/2", iterations=2, threshold=0.3)
    left = edit_columns(run(session, settings), SPOTS)
    path = save_session(left, tmp_path / "mine")
    assert path.name == "mine.session.h5"
    back = load_session(path)
    assert back.settings == settings
    assert back.steps == left.steps
    assert back.micrograph.pixel_size_A == SIZE
    np.testing.assert_array_equal(back.maps["noNoise"], left.maps["noNoise"])
    for name in ("xy_px", "sigma_px", "intensity", "intensity_sigma", "width_px", "flags"):
        np.testing.assert_array_equal(getattr(back.columns, name), getattr(left.columns, name))
    assert load_session(save_session(session, tmp_path / "bare")).columns is None
    fresh = revert(back)
    assert not fresh.maps
    assert fresh.columns is None
    assert fresh.settings == settings


def test_a_session_finds_its_image_and_knows_it(session, image, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    moved = open_image(shutil.copy(image, folder), pixel_size_A=SIZE)
    save_session(moved, folder / "a")
    folder.rename(tmp_path / "two")
    assert load_session(tmp_path / "two" / "a.session.h5").opened.path == (tmp_path / "two" / "spots.npy").resolve()
    np.save(tmp_path / "two" / "spots.npy", spots(5))
    with pytest.raises(AppError, match="contents differ"):
        load_session(tmp_path / "two" / "a.session.h5")
    assert load_session(tmp_path / "two" / "a.session.h5", image).opened.path == image.resolve()
    (tmp_path / "two" / "spots.npy").unlink()
    with pytest.raises(AppError, match="is gone"):
        load_session(tmp_path / "two" / "a.session.h5")


def test_what_is_no_session_is_refused(session, image, tmp_path):
    with pytest.raises(AppError, match="no session"):
        load_session(image)
    with pytest.raises(AppError, match="no session"):
        load_session(tmp_path / "nowhere.session.h5")
    path = save_session(session, tmp_path / "a")
    with h5py.File(path, "a") as file:
        told = json.loads(file.attrs["session"])
        file.attrs["session"] = json.dumps({**told, "settings": {"taste": 3}})
    with pytest.raises(AppError, match="taste"):
        load_session(path)
    with h5py.File(path, "a") as file:
        file.attrs["session"] = json.dumps({name: told[name] for name in told if name != "sha256"})
    with pytest.raises(AppError, match="sha256"):
        load_session(path)
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = 99
    with pytest.raises(AppError, match="schema 99"):
        load_session(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file["columns"].pop("flags"), "flags"),
        (lambda file: (file["columns"].pop("flags"), file["columns"].create_dataset("flags", data=[0])), "expected"),
        (lambda file: (file["maps"].pop("noNoise", 0), file["maps"].create_dataset("noNoise", data=["x"])), "no num"),
        (lambda file: file["columns"].attrs.pop("pixel_size_A"), "pixel_size_A"),
        (lambda file: file.attrs.modify("session", "[]"), "list"),
        (lambda file: file["maps"].__setitem__("noNoise", h5py.ExternalLink("other.h5", "/")), "another file"),
        (lambda file: file["maps"].create_dataset("noNoise", (2**40,), "f4", chunks=(64,)), "more than"),
    ],
)  # fmt: skip
def test_a_damaged_session_is_refused(session, tmp_path, damage, told):
    path = save_session(edit_columns(session, SPOTS), tmp_path / "a")
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(AppError, match=rf"a\.session\.h5: no session of this app, or damaged .*{told}"):
        load_session(path)


def test_settings_say_what_they_take():
    for wrong in ({"scale": "x5"}, {"method": "magic"}, {"disconnect": "dilation"}, {"iterations": 9},
                  {"level_px": -1}, {"tile_px": 10}):  # fmt: skip
        with pytest.raises(AppError, match="expected"):
            Settings(**wrong)
    assert Settings.from_dict(json.loads(json.dumps(Settings(threshold=0.5).to_dict()))) == Settings(threshold=0.5)
    assert "noNoise" in known_maps("all")


def test_the_histogram_shows_sound_columns_in_their_classes(session):
    columns = find_columns(session, FIT).columns
    figure = plot_intensities(columns)
    axes = figure.axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == (columns.sound & np.isfinite(columns.intensity)).sum()
    # Two classes, one twice as bright: the middle between them is empty.
    values = columns.intensity[columns.sound]
    low, high = np.percentile(values, (10, 90))
    assert not ((values > low + 0.3 * (high - low)) & (values < low + 0.7 * (high - low))).any()
    own = Figure().subplots()
    assert plot_intensities(None, own) is own.get_figure()
    unknown = replace(columns, intensity=np.full(len(columns), np.nan))
    assert not plot_intensities(unknown).axes[0].patches


def test_nothing_of_the_window_is_needed():
    code = (
        "import sys; import temimagenet.app.results, temimagenet.app.store, temimagenet.cli; "
        "sys.exit(any(name in sys.modules for name in ('napari', 'qtpy', 'PySide6')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_the_script_of_the_page_runs(image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "site" / "docs" / "app.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace('"my.dm4"', f"{str(image)!r}, pixel_size_A={SIZE}")
    names = {}
    exec(compile(code, "app.md", "exec"), names)
    assert (tmp_path / "my.session.h5").is_file()
    assert (tmp_path / "results" / "spots_columns.mat").is_file()
    # Flagged ones, cut by the edge, were dropped.
    assert 12 <= len(names["session"].columns) < len(SPOTS)
    assert np.median(matched(names["session"].columns)) < 0.1
