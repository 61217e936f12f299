"""Gaussian fits against SciPy, against the information bound, and on what a user may hand over."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import least_squares

from temimagenet.errors import LocalizeError, TEMImageNetError
from temimagenet.localize import Flag, GaussianFit, detect_columns, fit_gaussians
from temimagenet.precision import ImageModel, gaussian_profile, hybrid_bound


def _picture(xy, height, sigma, shape, background=5.0, precision=None):
    """Gaussians on a constant background; `precision` (a, b, c) makes them elliptic."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    a, b, c = precision or (sigma**-2, 0.0, sigma**-2)
    total = np.full(shape, float(background))
    for (px, py), h in zip(xy, np.broadcast_to(height, len(xy)), strict=True):
        dx, dy = x - px, y - py
        total += h * np.exp(-0.5 * (a * dx**2 + 2 * b * dx * dy + c * dy**2))
    return total


def _lattice(step, count, rng, jitter=0.4):
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), axis=-1).reshape(-1, 2)
    return (grid + 1.0) * step + rng.uniform(-jitter, jitter, size=(count**2, 2))


def test_least_squares_is_scipys_solution():
    """Each window's problem handed to SciPy as it stands, neighbours included."""
    rng = np.random.default_rng(0)
    xy = np.array([(15.2, 15.4), (20.9, 16.1), (40.3, 18.8), (30.1, 40.7)])
    image = rng.poisson(_picture(xy, (60.0, 40.0, 80.0, 25.0), 2.2, (60, 60))).astype(float)
    found = fit_gaussians(image, 0.1, xy + 0.3, 2.0, estimator="least-squares")
    half = 5
    for k, start in enumerate(xy + 0.3):
        column, row = np.rint(start).astype(int)
        i, j = np.mgrid[row - half : row + half + 1, column - half : column + half + 1]
        others = [o for o in (0, 1) if k in (0, 1)] or [k]
        others = [k] + [o for o in others if o != k]

        def residuals(p, i=i, j=j, others=others):
            model = np.full(i.shape, p[0])
            for n in range(len(others)):
                h, x, y = p[2 + 3 * n : 5 + 3 * n]
                model = model + h * np.exp(-0.5 * p[1] * ((j - x) ** 2 + (i - y) ** 2))
            return (model - image[i, j]).ravel()

        first = [5.0, 2.0**-2] + [v for o in others for v in (50.0, *(xy[o] + 0.3))]
        best = least_squares(residuals, first, xtol=1e-12, ftol=1e-12, gtol=1e-12)
        np.testing.assert_allclose(found.xy_px[k], best.x[3:5], atol=1e-3)
    assert found.sound.all()


@pytest.mark.parametrize("elliptic", [False, True])
def test_poisson_fit_reaches_the_bound_and_knows_its_errors(elliptic):
    """Isolated columns without scan noise: within 1.05 of the bound, z-scores of unit width, whatever the gain."""
    rng = np.random.default_rng(1)
    sigma, height, background = 2.0, 100.0, 10.0
    xy = _lattice(16.0, 12, rng)
    shape = (212, 212)
    clean = _picture(xy, height, sigma, shape, background)
    errors, scores = [], []
    for _ in range(8):
        counts = rng.poisson(clean).astype(float)
        found = fit_gaussians(
            3.7 * counts, 0.1, xy + rng.normal(size=xy.shape) * 0.3, 2.3, elliptic=elliptic, window=3.5
        )
        assert found.sound.mean() > 0.99
        errors.append(found.xy_px - xy)
        scores.append((found.xy_px - xy) / found.sigma_px)
        np.testing.assert_allclose(found.intensity.mean(), 3.7 * 2 * np.pi * height * sigma**2, rtol=0.01)
        np.testing.assert_allclose(found.width_px.mean(), sigma, rtol=0.01)
    one = ImageModel(
        (25, 25), 1.0, np.array([[12.1, 11.8]]), np.array([2 * np.pi * height * sigma**2]), np.array([0]),
        np.array([0]), (gaussian_profile(sigma),), np.full((25, 25), background),
    )  # fmt: skip
    # The model follows a spot for 8 length units: four sigma here.
    bound = hybrid_bound(one).xy_A.mean()
    assert np.std(errors) < 1.05 * bound
    assert abs(np.mean(errors)) < 0.1 * bound
    assert np.std(scores) == pytest.approx(1.0, abs=0.1)


def test_displaced_columns_are_found_where_they_are():
    """Crowded columns with tails: the slope of found on true displacements, which shared widths would make 1.05."""
    rng = np.random.default_rng(5)
    sigma, step = 4.2, np.array([27.5, 19.4])
    corners = _lattice(1.0, 8, rng, jitter=0.0) * step
    xy = np.concatenate([corners, corners + step / 2]) + 10.0
    away = rng.normal(size=xy.shape) * 1.5
    shape = (190, 260)
    image = 0.96 * _picture(xy + away, 400.0, sigma, shape, 80.0) + 0.04 * _picture(
        xy + away, 400.0, 2.0 * sigma, shape, 80.0
    )
    found = fit_gaussians(rng.poisson(image).astype(float), 0.1, xy, sigma)
    inside = found.sound & (np.abs(xy - xy.mean(axis=0)) < np.ptp(xy, axis=0) / 2 - 15.0).all(axis=1)
    slopes = [np.polyfit(away[inside, k], (found.xy_px - xy)[inside, k], 1)[0] for k in range(2)]
    np.testing.assert_allclose(slopes, 1.0, atol=0.02)


def test_few_counts_still_settle():
    """A peak of two counts: columns that overlap a little, none of which may take the others with it."""
    rng = np.random.default_rng(6)
    xy = _lattice(22.0, 10, rng)
    image = rng.poisson(_picture(xy, 2.0, 4.5, (242, 242), 0.1)).astype(float)
    found = fit_gaussians(image, 0.1, xy, 4.5)
    assert found.sound.mean() > 0.95
    error = (found.xy_px - xy)[found.sound]
    assert np.sqrt((error**2).mean()) < 0.8
    assert np.std(error / found.sigma_px[found.sound]) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("estimator", ["least-squares", "poisson"])
def test_a_large_offset_takes_no_digits(estimator):
    """A thousandth of a percent of contrast, though windows are in single precision."""
    rng = np.random.default_rng(7)
    xy = _lattice(20.0, 6, rng)
    image = rng.normal(_picture(xy, 100.0, 3.0, (140, 140), 10.0), 3.0)
    alone = fit_gaussians(image, 0.1, xy, 3.0, estimator="least-squares")
    above = fit_gaussians(image + 1e6, 0.1, xy, 3.0, estimator=estimator)
    assert above.sound.all()
    np.testing.assert_allclose(above.xy_px, alone.xy_px, atol=1e-3)
    np.testing.assert_allclose(above.sigma_px, alone.sigma_px, rtol=0.02)


@settings(max_examples=15, deadline=None)
@given(st.floats(-13.0, 0.0), st.sampled_from(["poisson", "least-squares"]), st.booleans())
def test_errors_hold_at_any_contrast(exponent, estimator, elliptic):
    rng = np.random.default_rng(11)
    xy = _lattice(20.0, 4, rng)
    change = _picture(xy, 1.0, 3.0, (100, 100), 0.0) + rng.normal(0.0, 0.03, (100, 100))
    image = 1000.0 * (1.0 + 10.0**exponent * change)
    found = fit_gaussians(image, 0.1, xy + 0.4, 3.0, estimator=estimator, elliptic=elliptic)
    assert found.sound.all()
    assert np.std((found.xy_px - xy) / found.sigma_px) == pytest.approx(1.0, abs=0.4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0.0, 0.3), st.floats(0.0, 6.3)), min_size=1, max_size=6))
def test_a_column_that_is_told_twice_is_fitted_once(more):
    rng = np.random.default_rng(12)
    xy = _lattice(20.0, 3, rng)
    image = rng.poisson(_picture(xy, 80.0, 3.0, (80, 80))).astype(float)
    extra = np.array([xy[k] + 3.0 * part * np.array([np.cos(turn), np.sin(turn)]) for k, part, turn in more])
    once = fit_gaussians(image, 0.1, xy, 3.0)
    found = fit_gaussians(image, 0.1, np.concatenate([xy, extra]), 3.0)
    np.testing.assert_array_equal(found.xy_px[:9], once.xy_px)
    assert found.sound[:9].all()
    np.testing.assert_array_equal(found.flags[9:], int(Flag.TWICE))
    np.testing.assert_array_equal(found.xy_px[9:], once.xy_px[[k for k, _, _ in more]])


def test_dumbbells_are_told_apart():
    rng = np.random.default_rng(2)
    centre = _lattice(24.0, 6, rng)
    arm = np.array([2.9, 0.4])
    xy = np.concatenate([centre + arm, centre - arm])
    image = rng.poisson(_picture(xy, 120.0, 2.0, (170, 170))).astype(float)
    found = fit_gaussians(image, 0.1, xy + rng.normal(size=xy.shape) * 0.4, 2.0)
    alone = np.abs(found.xy_px - xy).max()
    assert found.sound.all()
    assert alone < 0.4
    distance = np.linalg.norm(found.xy_px[:36] - found.xy_px[36:], axis=1)
    assert distance.mean() == pytest.approx(2 * np.hypot(2.9, 0.4), abs=0.03)


def test_elliptic_spots_keep_their_axes():
    image = _picture([(20.3, 19.8)], 50.0, 2.0, (40, 40), precision=(0.4, 0.1, 0.15))
    found = fit_gaussians(image, 0.1, np.array([[20.0, 20.0]]), 2.0, elliptic=True, estimator="least-squares")
    np.testing.assert_allclose(found.xy_px, [(20.3, 19.8)], atol=1e-4)
    assert found.width_px[0] == pytest.approx((0.4 * 0.15 - 0.01) ** -0.25, rel=1e-4)


def test_poor_fits_are_flagged():
    rng = np.random.default_rng(3)
    xy = np.array([(20.0, 20.0), (1.0, 30.0)])
    image = rng.poisson(_picture(xy, 80.0, 2.0, (60, 60))).astype(float)
    starts = np.concatenate([xy, [(45.0, 45.0), (25.5, 20.0)]])
    found = fit_gaussians(image, 0.1, starts, 2.0)
    assert found.flags[0] == Flag.SOUND
    assert found.flags[1] & Flag.CUT
    assert found.flags[2] != Flag.SOUND
    assert found.flags[3] != Flag.SOUND
    frame = found.to_dataframe()
    assert list(frame["flags"]) == found.flags.tolist()
    np.testing.assert_allclose(frame["x_pm"], found.xy_px[:, 0] * 10.0)
    assert len(fit_gaussians(image, 0.1, np.empty((0, 2)), 2.0)) == 0
    assert GaussianFit("least-squares", elliptic=True).name == "Gaussian fit (least-squares, elliptic)"
    start = detect_columns(image, 0.1)
    expected = fit_gaussians(image, 0.1, start.xy_px, start.width_px)
    assert len(expected) > 0
    np.testing.assert_array_equal(GaussianFit()(image, 0.1).xy_px, expected.xy_px)


@pytest.mark.parametrize(
    ("image", "change", "told"),
    [
        (np.zeros((0, 0)), {}, "two dimensions"),
        (np.ones((20, 20)), {}, "constant"),
        (np.full((20, 20), np.nan), {}, "nan or infinite"),
        (np.eye(20) * 1j, {}, "real numbers"),
        (np.eye(20), {"pixel_size_A": -1.0}, "pixel size"),
        (np.eye(20), {"width_px": 0.0}, "width"),
        (np.eye(20), {"start_px": np.array([[99.0, 1.0]])}, "outside the image"),
        (np.eye(20), {"start_px": np.array([1.0, 2.0])}, "positions"),
        (np.eye(20) - 0.5, {}, "negative pixels"),
    ],
)
def test_bad_input_is_told(image, change, told):
    settings = {"pixel_size_A": 0.1, "start_px": np.array([[5.0, 5.0]]), "width_px": 2.0} | change
    with pytest.raises(LocalizeError, match=told):
        fit_gaussians(image, settings["pixel_size_A"], settings["start_px"], settings["width_px"])


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(4, 24), st.integers(4, 24))),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)), min_size=1, max_size=8),
    st.sampled_from(["poisson", "least-squares"]),
    st.booleans(),
)
def test_any_image_gives_columns_or_one_clear_error(image, places, estimator, elliptic):
    try:
        found = fit_gaussians(image, 0.1, np.array(places), 1.0, estimator=estimator, elliptic=elliptic)
    except TEMImageNetError:
        return
    assert len(found) == len(places)
    sound = found.sound
    assert np.isfinite(found.xy_px[sound]).all()
    assert (found.sigma_px[sound] >= 0.0).all()
    assert (np.linalg.norm(found.xy_px[sound] - np.array(places)[sound], axis=1) <= 1.5).all()


def test_windows_follow_the_width_that_is_found():
    """An expected width a third too small: windows that hold half a spot would know neither width nor background."""
    rng = np.random.default_rng(9)
    xy = _lattice(30.0, 6, rng)
    image = rng.poisson(_picture(xy, 40.0, 6.0, (210, 210), 5.0)).astype(float)
    found = fit_gaussians(image, 0.1, xy, 4.2)
    inside = ((xy > 25.0) & (xy < 185.0)).all(axis=1)
    assert found.sound[inside].all()
    np.testing.assert_allclose(found.width_px[inside].mean(), 6.0, rtol=0.02)
    assert np.std(((found.xy_px - xy) / found.sigma_px)[inside]) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("window", [-1.0, 0.0, 1e3, float("nan")])
def test_a_window_that_is_none_is_told(window):
    with pytest.raises(LocalizeError, match="window"):
        fit_gaussians(np.eye(20), 0.1, np.array([[5.0, 5.0]]), 2.0, window=window)


def test_dark_backgrounds_claim_no_more_than_counts_can_tell():
    """Almost no background: expected counts may not fall below zero, where errors would come out far too small."""
    rng = np.random.default_rng(10)
    xy = _lattice(16.0, 14, rng)
    image = rng.poisson(_picture(xy, 0.6, 2.5, (240, 240), 0.01)).astype(float)
    found = fit_gaussians(image, 0.1, xy, 2.5)
    sound = found.sound
    assert sound.mean() > 0.3
    # No estimate of a place is better than the width over the root of the counts.
    counts = np.maximum(found.intensity[sound], 1.0)
    least = found.width_px[sound] / np.sqrt(counts)
    assert (found.sigma_px[sound].mean(axis=1) > 0.4 * least).all()
    assert np.sqrt((((found.xy_px - xy) / found.sigma_px)[sound] ** 2).mean()) < 2.0
