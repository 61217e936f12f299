"""Spread of lattice spacings: known jitter is recovered, whatever the lattice; and what a user may hand over."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from temimagenet.errors import LocalizeError, TEMImageNetError
from temimagenet.localize import FoundColumns, GaussianFit
from temimagenet.precision import lattice_precision

DATA = Path(__file__).parents[1] / "data"


def _crystal(cell, motif, size=400.0, angle=0.0):
    """Columns of a lattice (rows of `cell`), turned, on a square image."""
    count = np.arange(-80, 81)
    nodes = np.stack(np.meshgrid(count, count), axis=-1).reshape(-1, 2) @ np.asarray(cell, dtype=float)
    turn = np.deg2rad(angle)
    turned = (nodes[:, None] + np.asarray(motif, dtype=float)).reshape(-1, 2) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    )
    kind = np.tile(np.arange(len(motif)), len(nodes))
    inside = (np.abs(turned) < 0.5 * size).all(axis=1)
    return turned[inside] + 0.5 * size, kind[inside]


def _found(xy, intensity, flags=None):
    n = len(xy)
    nan = np.full(n, np.nan)
    flags = np.zeros(n, dtype=np.int64) if flags is None else flags
    return FoundColumns(xy, np.full((n, 2), np.nan), intensity, nan, nan, flags, 0.1)


def _holds(spacing, sigma_pm):
    """Within four standard errors of what independent columns give."""
    return abs(spacing.sigma_pm / sigma_pm - 1.0) < 4.0 * np.sqrt(1.5 / 2.0 / len(spacing.length_pm))


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 90.0])
@pytest.mark.parametrize(
    ("cell", "motif", "lengths"),
    [
        ([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)], (20.0, 26.0)),
        ([(20.0, 0.0), (10.0, 17.3)], [(0.0, 0.0)], (20.0, 20.0)),
        # Si [110], centred: 38.4 x 54.3 with pairs 13.6 apart.
        ([(19.2, 27.15), (-19.2, 27.15)], [(0.0, 0.0), (0.0, 13.6)], (33.25, 33.25)),
    ],
)
def test_known_jitter_is_recovered(cell, motif, lengths, angle):
    rng = np.random.default_rng(0)
    xy, _ = _crystal(cell, motif, angle=angle)
    found = lattice_precision(xy + rng.normal(0.0, 0.5, xy.shape), 0.1)
    for spacing, length in zip((found.a, found.b), lengths, strict=True):
        assert spacing.mean_pm == pytest.approx(10.0 * length, abs=3.0)
        assert _holds(spacing, 5.0 * np.sqrt(2.0))
        assert spacing.column_sigma_pm == pytest.approx(spacing.sigma_pm / np.sqrt(2.0))
        assert spacing.frames_for_1pm == pytest.approx(spacing.sigma_pm**2)
        assert spacing.interval_pm[0] < spacing.sigma_pm < spacing.interval_pm[1] * 1.05
        assert spacing.outliers <= 1
    assert 59.0 < found.angle_deg < 121.0
    assert found.columns == len(xy)


def test_jitter_along_one_axis_shows_along_that_axis():
    rng = np.random.default_rng(1)
    xy, _ = _crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)])
    found = lattice_precision(xy + rng.normal(size=xy.shape) * np.array([0.8, 0.2]), 0.1)
    assert _holds(found.a, 8.0 * np.sqrt(2.0))
    assert _holds(found.b, 2.0 * np.sqrt(2.0))


def test_intensity_tells_sublattices_apart():
    """SrTiO3 [001]: without intensities Sr and Ti form one centred lattice."""
    rng = np.random.default_rng(2)
    xy, kind = _crystal([(39.05, 0.0), (0.0, 39.05)], [(0.0, 0.0), (19.5, 19.5)], size=500.0)
    xy = xy + rng.normal(0.0, 0.5, xy.shape)
    blind = lattice_precision(xy, 0.1)
    assert blind.a.mean_pm == pytest.approx(276.0, abs=3.0)
    seeing = lattice_precision(_found(xy, np.array([5.0, 2.0])[kind] * rng.normal(1.0, 0.05, len(xy))))
    assert seeing.a.mean_pm == pytest.approx(390.5, abs=3.0)
    assert seeing.b.mean_pm == pytest.approx(390.5, abs=3.0)
    assert _holds(seeing.a, 5.0 * np.sqrt(2.0))


def test_shear_vacancies_and_wrong_matches_do_not_count():
    rng = np.random.default_rng(3)
    xy, _ = _crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)])
    xy = (xy + rng.normal(0.0, 0.4, xy.shape)) @ np.array([[1.01, 0.03], [0.02, 0.98]])
    xy = xy[rng.random(len(xy)) > 0.1]
    stray = rng.choice(len(xy), 5, replace=False)
    xy[stray] += 3.5
    found = lattice_precision(xy, 0.1)
    for spacing in (found.a, found.b):
        assert _holds(spacing, 4.0 * np.sqrt(2.0))
        assert 4 <= spacing.outliers <= 10


def test_only_sound_columns_count():
    rng = np.random.default_rng(4)
    xy, _ = _crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)])
    poor = rng.random(len(xy)) < 0.2
    moved = xy + rng.normal(size=xy.shape) * np.where(poor, 1.5, 0.3)[:, None]
    found = lattice_precision(_found(moved, np.ones(len(xy)), poor.astype(np.int64)))
    assert found.columns == (~poor).sum()
    assert _holds(found.a, 3.0 * np.sqrt(2.0))


def test_interval_covers_correlated_rows():
    """Row shifts along x move whole rows: b varies with them, a does not, and b's interval is the wider."""
    rng = np.random.default_rng(5)
    xy, _ = _crystal([(20.0, 0.0), (13.0, 19.0)], [(0.0, 0.0)])
    rows = np.rint((xy[:, 1] - 200.0) / 19.0).astype(int)
    moved = xy + rng.normal(0.0, 0.2, xy.shape)
    moved[:, 0] += rng.normal(0.0, 0.6, 200)[rows]
    found = lattice_precision(moved, 0.1)
    # Along a (in the row) the shifts cancel.
    assert _holds(found.a, 2.0 * np.sqrt(2.0))
    assert found.sigma_b_pm > 1.3 * found.sigma_a_pm
    relative = [(s.interval_pm[1] - s.interval_pm[0]) / s.sigma_pm for s in (found.a, found.b)]
    assert relative[1] > 1.5 * relative[0]


@pytest.mark.parametrize(("size", "angle"), [(130.0, 0.0), (170.0, 60.0)])
def test_intervals_of_small_crystals_cover_the_truth(size, angle):
    """Crystals of some 6 x 5 and 8 x 6 columns: 95 % intervals may be wider than told there, not narrower."""
    rng = np.random.default_rng(6)
    xy, _ = _crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)], size=size, angle=angle)
    spacings = []
    for _ in range(60):
        found = lattice_precision(xy + rng.normal(0.0, 0.5, xy.shape), 0.1)
        spacings += [found.a, found.b]
    truth = 5.0 * np.sqrt(2.0)
    covered = np.mean([s.interval_pm[0] <= truth <= s.interval_pm[1] for s in spacings])
    # 114 of 120 are expected, 107 or fewer less than once in a hundred times.
    assert covered >= 0.9
    # They tell something, too.
    assert np.median([s.interval_pm[1] / s.interval_pm[0] for s in spacings]) < 3.5


def test_an_exact_lattice_has_no_spread():
    found = lattice_precision(_crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)])[0], 0.1)
    assert found.a.interval_pm == (found.a.sigma_pm, found.a.sigma_pm) == (0.0, 0.0)


def test_a_real_micrograph():
    """Si [110]: three of four lattice lengths are 333 pm; tens of picometres would be a failed fit."""
    image = np.array(Image.open(DATA / "si110_8.9pm.png")).astype(float)
    found = lattice_precision(GaussianFit()(image, 0.089))
    assert found.a.mean_pm == pytest.approx(332.5, rel=0.03)
    assert found.b.mean_pm == pytest.approx(332.5, rel=0.03)
    assert found.angle_deg == pytest.approx(109.5, abs=3.0)
    for sigma in (found.sigma_a_pm, found.sigma_b_pm):
        assert 3.0 < sigma < 20.0
    assert found.columns > 250
    figure = found.plot()
    assert [axes.get_title()[0] for axes in figure.axes] == ["a", "b"]
    assert all(len(axes.patches) > 3 for axes in figure.axes)


@pytest.mark.parametrize(
    ("columns", "pixel_size_A", "told"),
    [
        (np.empty((0, 2)), 0.1, "0 columns"),
        (np.ones((40, 2)), 0.1, "lie on one another"),
        (np.arange(80.0).reshape(40, 2), 0.1, "one line"),
        (np.random.default_rng(0).uniform(0, 200, (200, 2)), 0.1, "no lattice"),
        (np.full((40, 2), np.nan), 0.1, "finite"),
        (np.zeros((40, 3)), 0.1, "shape"),
        (np.zeros((40, 2)), None, "pixel size"),
        (np.zeros((40, 2)), -1.0, "pixel size"),
    ],
)
def test_bad_input_is_told(columns, pixel_size_A, told):
    with pytest.raises(LocalizeError, match=told):
        lattice_precision(columns, pixel_size_A)


def test_found_columns_have_their_own_pixel_size():
    xy, _ = _crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)])
    with pytest.raises(LocalizeError, match="their own pixel size"):
        lattice_precision(_found(xy, np.ones(len(xy))), 0.1)
    with pytest.raises(LocalizeError, match="0 columns"):
        lattice_precision(_found(xy, np.ones(len(xy)), np.ones(len(xy), dtype=np.int64)))


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.floats(-1e3, 1e3)))
def test_any_positions_give_a_lattice_or_one_clear_error(xy):
    try:
        found = lattice_precision(xy, 0.1)
    except TEMImageNetError:
        return
    assert np.isfinite([found.sigma_a_pm, found.sigma_b_pm]).all()


def test_a_method_without_intensities_has_a_lattice_too():
    rng = np.random.default_rng(4)
    xy, _ = _crystal([(20.0, 0.0), (0.0, 26.0)], [(0.0, 0.0)])
    moved = xy + rng.normal(0.0, 0.5, xy.shape)
    found = lattice_precision(_found(moved, np.full(len(xy), np.nan)))
    assert found.sigma_a_pm == lattice_precision(moved, 0.1).sigma_a_pm
