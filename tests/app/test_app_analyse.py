"""Classes, lattice and strain in the app without a window: what is made, shown, saved and taken up again."""

import csv
import json
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from temimagenet.analysis.classes import CLASS_COLOURS
from temimagenet.app.analyse import analyse, map_strain, quantities, tell
from temimagenet.app.arrays import take
from temimagenet.app.figures import plot_quantity
from temimagenet.app.results import save_results
from temimagenet.app.session import calibrate, draw_maps, edit_columns, find_columns, open_image, refine_columns, revert
from temimagenet.app.settings import Settings
from temimagenet.app.store import load_session, save_session
from temimagenet.cli import app
from temimagenet.errors import AppError, LocalizeError, MicrographError
from temimagenet.localize import Flag, FoundColumns
from temimagenet.micrographs.analyses import Analysis, parse_region
from temimagenet.progress import watched

SIZE, STEP = 0.1, 16.0
STRETCH = np.array([[1.02, 0.004], [0.004, 0.985]])
"""The right half's, symmetric: U of F = R U."""

TURN_DEG = 1.5
"""R of it, from x towards y: clockwise as an image is shown."""

REFERENCE = (0.0, 0.0, 110.0, 220.0)


def film():
    """Columns of a square lattice, its right half stretched and turned, bright ones and faint ones by turns."""
    turn = np.radians(TURN_DEG)
    gradient = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ STRETCH
    steps = np.stack(np.meshgrid(np.arange(-7, 8), np.arange(-6, 7)), axis=-1).reshape(-1, 2)
    xy = STEP * steps.astype(float)
    right = steps[:, 0] > 0
    xy[right] = xy[right] @ gradient.T
    bright = steps.sum(axis=1) % 2 == 0
    rng = np.random.default_rng(3)
    intensity = np.where(bright, 300.0, 100.0) + rng.normal(0.0, 3.0, len(xy))
    one = np.ones(len(xy))
    flags = np.zeros(len(xy), dtype=np.int64)
    flags[5] = int(Flag.FAINT)
    columns = FoundColumns(
        xy + np.array([125.0, 110.0]), 0.02 * np.ones((len(xy), 2)), intensity, one, 3.0 * one, flags, SIZE
    )  # fmt: skip
    return columns, bright


@pytest.fixture
def session(tmp_path):
    """A session with these columns; the image has nothing to do with them."""
    np.save(tmp_path / "film.npy", np.random.default_rng(0).poisson(50.0, (220, 250)).astype(np.float32))
    return replace(open_image(tmp_path / "film.npy", pixel_size_A=SIZE), columns=film()[0])


def both(session):
    """Everything that the page makes."""
    settings = Settings(reference_px=REFERENCE)
    return map_strain(analyse(session, settings), settings)


def test_strain_is_that_of_the_columns_in_per_cent_and_degrees(session):
    strained = map_strain(session, Settings(reference_px=REFERENCE))
    shown = quantities(strained)
    assert list(shown) == ["εxx / %", "εyy / %", "εxy / %", "rotation / °"]
    # Means over a lattice vector and a half do not reach from half to half.
    x = film()[0].xy_px[film()[0].sound, 0] - 125.0
    for (name, quantity), value in zip(shown.items(), (2.0, -1.5, 0.4, TURN_DEG), strict=True):
        np.testing.assert_allclose(quantity.values[x > 3 * STEP], value, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(quantity.values[x < -3 * STEP], 0.0, atol=1e-6, err_msg=name)
    assert strained.settings.reference_px == REFERENCE
    assert strained.settings.method == session.settings.method
    assert strained.steps[-1] == "strain at 194 columns against 0,0,110,220"
    assert "a = 160.0 pm, b = 160.0 pm; strain at 194 of 194" in tell(strained)[1]
    whole = map_strain(session, Settings())
    assert whole.strain.reference.all()
    assert whole.steps[-1].endswith("against the whole image")


def test_strain_is_coloured_alike_on_both_sides_of_zero(session):
    session = map_strain(session, Settings(reference_px=REFERENCE))
    strain = session.strain
    odd = replace(strain, exx=np.linspace(-0.01, 0.01, len(strain.exx)))
    odd.exx[0] = np.nan
    colours = quantities(replace(session, strain=odd))["εxx / %"].colours
    # The last is as red as the first is blue; the middle is white.
    assert colours[-1, 0] > colours[-1, 2] + 0.2
    assert colours[1, 2] > colours[1, 0] + 0.2
    assert colours[len(colours) // 2, :3].min() > 0.9
    # Where nothing is told, nothing is drawn.
    assert colours[:, 3].tolist() == [0.0] + [1.0] * (len(colours) - 1)
    skewed = replace(strain, exx=np.where(np.arange(len(strain.exx)) % 2, 0.02, 0.0))
    white = quantities(replace(session, strain=skewed))["εxx / %"].colours[0]
    assert white[:3].min() > 0.9


@pytest.mark.parametrize("number", [None, 3])
def test_classes_and_sublattices_are_those_of_the_columns(session, number):
    sorted_ = analyse(session, Settings(classes=number))
    columns, bright = film()
    label, site = sorted_.analysis.classes.label, sorted_.analysis.lattice.site
    assert len(sorted_.analysis.classes) == (number or 2)
    assert sorted_.settings.classes == number
    assert ("as given" in sorted_.steps[-1]) == (number is not None)
    sound = columns.sound
    shown = quantities(sorted_)
    assert list(shown) == ["class", "sublattice"]
    np.testing.assert_array_equal(np.isnan(shown["class"].values), ~sound)
    np.testing.assert_array_equal(shown["class"].colours[:, 3], sound)
    assert site[~sound].tolist() == [-1]
    if number is None:
        np.testing.assert_array_equal(label[sound], bright[sound].astype(int))
        want = np.array([to_rgba(CLASS_COLOURS[one]) for one in label[sound]])
        np.testing.assert_allclose(shown["class"].colours[sound], want)
        assert "class 1: 300" in tell(sorted_)[0]


def test_what_is_told_of_columns_goes_with_them(session):
    made = both(session)
    assert draw_maps(made, Settings(maps=("noNoise",))).strain is made.strain
    for changed in (
        edit_columns(made, made.columns.xy_px[1:]), calibrate(made, 0.2), revert(made),
        refine_columns(made, "gaussian-ls"), find_columns(made, Settings(method="otsu")),
    ):  # fmt: skip
        assert changed.analysis is None
        assert changed.strain is None
        assert not quantities(changed)
        assert tell(changed) == ("", "")
    assert edit_columns(made, made.columns.xy_px) is made


def test_too_few_columns_are_told_in_one_message(session):
    few = replace(session, columns=session.columns.select(np.arange(10)))
    for verb in (analyse, map_strain):
        with pytest.raises(AppError, match="no columns yet"):
            verb(replace(session, columns=None), Settings())
        with pytest.raises(AppError, match=r"^9 sound columns of 10: classes, lattice and strain need 12 or more$"):
            verb(few, Settings())
    # A dozen are enough for both.
    dozen = np.flatnonzero(session.columns.xy_px[:, 0] < 75.0)[:13]
    assert len(analyse(replace(session, columns=session.columns.select(dozen)), Settings()).analysis.classes)
    with pytest.raises(LocalizeError, match=r"^reference 0,0,40,40: 4 columns: a lattice needs 12"):
        map_strain(session, Settings(reference_px=(0.0, 0.0, 40.0, 40.0)))


def test_what_one_analysis_cannot_tell_the_other_may(session):
    unknown = replace(session.columns, intensity=np.full(len(session.columns), np.nan))
    placed = analyse(replace(session, columns=unknown), Settings())
    assert list(quantities(placed)) == ["sublattice"]
    assert "no classes of intensity" in placed.steps[-1]
    assert "No classes of intensity: 0 sound columns of known intensity" in tell(placed)[0]
    rng = np.random.default_rng(1)
    scattered = replace(session.columns, xy_px=rng.uniform(0.0, 220.0, session.columns.xy_px.shape))
    assert list(quantities(analyse(replace(session, columns=scattered), Settings()))) == ["class"]
    with pytest.raises(AppError, match=r"No classes .* No lattice"):
        analyse(replace(session, columns=replace(scattered, intensity=unknown.intensity)), Settings())


def test_a_watcher_hears_of_analyses_and_ends_them(session):
    class Enough(Exception):
        pass

    def stop(what, done, total):
        if done == total:
            raise Enough(what)

    for verb, what in ((analyse, "classes and lattice"), (map_strain, "strain")):
        with pytest.raises(Enough, match=what), watched(stop):
            verb(session, Settings())


def test_figures_show_what_is_chosen(session):
    made = both(session)
    strain = plot_quantity(made, "εyy / %").axes[0]
    assert sum(bar.get_height() for bar in strain.patches) == np.isfinite(made.strain.eyy).sum()
    low, high = strain.patches[0], strain.patches[-1]
    assert low.get_facecolor()[2] > low.get_facecolor()[0]
    assert high.get_facecolor()[0] > high.get_facecolor()[2]
    assert low.get_x() == pytest.approx(-(high.get_x() + high.get_width()))
    classes = plot_quantity(made, "class").axes[0]
    assert len(classes.get_legend().get_texts()) == 2
    assert "a = " in plot_quantity(made, "sublattice").axes[0].get_title()
    own = Figure().subplots()
    assert plot_quantity(session, "class", own) is own.get_figure()
    assert "nothing" in own.texts[0].get_text()


def test_files_are_those_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y, x = np.indices((120, 130))
    spots = [(a, b) for b in np.arange(12.3, 115, STEP) for a in np.arange(11.6, 125, STEP)]
    clean = sum((1 + n % 2) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18.0) for n, (a, b) in enumerate(spots))
    np.save("spots.npy", np.random.default_rng(0).poisson(20.0 + 200.0 * clean).astype(np.float32))
    call = ["spots.npy", "--pixel-size", "0.1", "--method", "gaussian-ls", "--out", "line"]
    for words in (["analyse", *call], ["strain", *call, "--reference", "0,0,130,100"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    settings = Settings(method="gaussian-ls", maps=(), reference_px=(0.0, 0.0, 130.0, 100.0))
    found = find_columns(open_image("spots.npy", pixel_size_A=0.1), settings)
    made = map_strain(analyse(found, settings), settings)
    files = {file.name for file in save_results(made, "app", kinds=["analysis", "strain"])}
    assert files == {
        "spots_analysis.csv", "spots_neighbours.png", "spots_classes.png", "spots_lattice.png", "spots_analyse.json",
        "spots_strain.csv", "spots_strain.png", "spots_strain.json", "spots_app.json",
    }  # fmt: skip
    for name in files - {"spots_app.json"}:
        theirs, ours = tmp_path / "line" / name, tmp_path / "app" / name
        if name.endswith("csv"):
            assert theirs.read_bytes() == ours.read_bytes()
        elif name.endswith("png"):
            np.testing.assert_array_equal(np.asarray(Image.open(theirs)), np.asarray(Image.open(ours)))
        else:
            one, other = json.loads(theirs.read_text()), json.loads(ours.read_text())
            # The app tells the steps, for columns may have been edited since.
            assert set(one) - set(other) == {"method"}
            assert set(other) - set(one) == {"steps"}
            for key in set(one) & set(other) - {"written"}:
                assert one[key] == other[key], key
    rows = list(csv.DictReader((tmp_path / "app" / "spots_strain.csv").read_text().splitlines()))
    assert len(rows) == int(found.columns.sound.sum())
    # What was not made is not written.
    assert {file.name for file in save_results(found, "none", kinds=["analysis", "columns"], formats=["csv"])} == {
        "spots_columns.csv", "spots_app.json"
    }  # fmt: skip


def same(one, other):
    """Whether two dataclasses of arrays hold the same."""
    for entry in fields(one):
        np.testing.assert_array_equal(getattr(one, entry.name), getattr(other, entry.name), err_msg=entry.name)
        assert type(getattr(one, entry.name)) is type(getattr(other, entry.name))


def test_a_session_keeps_them(session, tmp_path):
    made = both(session)
    back = load_session(save_session(made, tmp_path / "made"))
    same(back.strain, made.strain)
    for entry in fields(Analysis):
        if entry.name == "notes":
            assert back.analysis.notes == made.analysis.notes
        else:
            same(getattr(back.analysis, entry.name), getattr(made.analysis, entry.name))
    assert back.settings.reference_px == REFERENCE
    # Without a region, classes or both.
    whole = load_session(save_session(map_strain(session, Settings()), tmp_path / "whole"))
    assert whole.strain.reference_px is None
    assert whole.analysis is None
    unknown = replace(session.columns, intensity=np.full(len(session.columns), np.nan))
    placed = analyse(replace(session, columns=unknown), Settings())
    again = load_session(save_session(placed, tmp_path / "placed"))
    assert again.analysis.classes is None
    assert again.analysis.notes == placed.analysis.notes


@pytest.mark.parametrize(
    ("place", "values", "message"),
    [
        ("strain/exx", np.zeros(3), "expected 194 along N"),
        ("strain/xy_px", np.zeros(194), r"expected \(N, 2\)"),
        ("strain/rotation_deg", None, "rotation_deg"),
        ("analysis/classes/label", np.zeros(7), "expected 195 along N"),
        ("analysis/classes/mean", np.zeros(9), "along K"),
        ("analysis/lattice/vectors_px", np.zeros((3, 2)), "expected 2 along 2"),
        ("analysis/neighbours/distance_pm", np.array([b"x"]), "no numbers"),
        ("analysis/neighbours", None, "neighbours"),
    ],
)
def test_damaged_sessions_are_refused(session, tmp_path, place, values, message):
    path = save_session(both(session), tmp_path / "made")
    with h5py.File(path, "a") as file:
        del file[place]
        if values is not None:
            file[place] = values
    with pytest.raises(AppError, match=f"damaged .*{message}"):
        load_session(path)


def test_dataclasses_of_numbers_are_read_by_their_annotations(session, tmp_path):
    classes = analyse(session, Settings()).analysis.classes
    with h5py.File(save_session(analyse(session, Settings()), tmp_path / "made")) as file:
        read = take(file["analysis/classes"], type(classes), N=len(session.columns))
        assert read.bic == classes.bic
        assert isinstance(read.usual_error, float)
        assert read.label.dtype == np.int64
        with pytest.raises(ValueError, match="expected 3 along N"):
            take(file["analysis/classes"], type(classes), N=3)


def test_settings_of_analyses_say_what_they_take():
    settings = Settings(classes=4, reference_px=(1.0, 2.0, 3.5, 4.0))
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Settings.from_dict({"maps": ["noNoise"]}) == Settings(maps=("noNoise",))
    for wrong in ({"classes": 0}, {"classes": 99}, {"reference_px": (3.0, 0.0, 1.0, 9.0)}):
        with pytest.raises(AppError, match="expected"):
            Settings(**wrong)
    with pytest.raises(AppError, match="cannot be"):
        Settings.from_dict({"reference_px": [1.0, 2.0]})


def test_a_region_is_read_as_it_is_written():
    assert parse_region(" ") is None
    assert parse_region("1, 2,30.5,4e1") == (1.0, 2.0, 30.5, 40.0)
    for text in ("1,2,3", "a,b,c,d", "5,0,5,9", "0,0,nan,9"):
        with pytest.raises(MicrographError, match="expected left,top,right,bottom"):
            parse_region(text)
