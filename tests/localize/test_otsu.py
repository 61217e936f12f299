"""Otsu's threshold against brute force, and the localizer built on it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from temimagenet.errors import LocalizeError, TEMImageNetError
from temimagenet.localize import Flag, Localizer, OtsuCentroid, otsu_threshold


def _map(xy, radius, shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.max([np.hypot(x - px, y - py) <= radius for px, py in xy], axis=0).astype(float)


def _between(values, threshold):
    """Variance between the two classes of the values themselves."""
    low, high = values[values <= threshold], values[values > threshold]
    if not len(low) or not len(high):
        return 0.0
    return len(low) * len(high) * (low.mean() - high.mean()) ** 2 / values.size**2


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(10.0, 2.0, 700), rng.normal(20.0, 3.0, 100 * (seed + 1))])
    best = max(_between(values, t) for t in values)
    assert _between(values, otsu_threshold(values)) == pytest.approx(best, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.integers(2, 60)))
def test_integers_are_parted_as_well_as_can_be(values):
    """8-bit values fall into bins without rounding, so the optimum is exact."""
    values = np.append(values, [0, 255]).astype(float)
    best = max(_between(values, t) for t in range(255))
    assert _between(values, otsu_threshold(values)) == pytest.approx(best, rel=1e-9)


def test_two_values_are_parted_in_the_middle():
    assert otsu_threshold(np.array([0.0, 0.0, 8.0])) == pytest.approx(4.0, abs=0.02)


@pytest.mark.parametrize("centre", ["geometric", "intensity"])
def test_regions_are_columns(centre):
    xy = np.array([(12.0, 11.0), (40.0, 14.0), (25.0, 44.0), (63.0, 30.0)])
    localizer: Localizer = OtsuCentroid(centre=centre)
    image = 7.0 + 3.0 * _map(xy, 4.0, (64, 64))
    found = localizer(image, 0.1)
    assert centre in localizer.name
    order = np.argsort(found.xy_px[:, 1])
    np.testing.assert_allclose(found.xy_px[order][[0, 1, 3]], xy[[0, 1, 2]], atol=1e-9)
    assert found.flags[order].tolist() == [Flag.SOUND, Flag.SOUND, Flag.CUT, Flag.SOUND]
    assert np.isnan(found.sigma_px).all()
    assert np.isnan(found.width_px).all()
    threshold = otsu_threshold(image)
    assert found.intensity.sum() == pytest.approx((image - threshold)[image > threshold].sum())


def test_intensity_moves_the_centre_and_small_regions_are_left_out():
    image = np.zeros((20, 20))
    image[5:8, 5:9] = 10.0
    image[5:8, 8] = 30.0
    image[15, 15] = 30.0
    plain = OtsuCentroid(least_area_A2=0.02)(np.minimum(image, 10.0), 0.1)
    weighted = OtsuCentroid(centre="intensity", least_area_A2=0.0)(image, 0.1)
    np.testing.assert_allclose(plain.xy_px, [(6.5, 6.0)])
    assert len(weighted) == 2
    assert (weighted.xy_px[:, 0] >= 8.0).all()


def test_a_blur_joins_what_noise_has_torn():
    rng = np.random.default_rng(0)
    xy = np.array([(20.0, 20.0), (60.0, 20.0), (40.0, 60.0)])
    image = rng.poisson(1.0 + 5.0 * _map(xy, 6.0, (80, 80)))
    found = OtsuCentroid(blur_A=0.2)(image, 0.1)
    assert len(found) == 3
    apart = np.linalg.norm(found.xy_px[:, None] - xy, axis=-1)
    assert apart.min(axis=0).max() < 1.0


@pytest.mark.parametrize(
    ("change", "image", "told"),
    [
        ({"centre": "median"}, np.eye(9), "centre"),
        ({"blur_A": -1.0}, np.eye(9), "blur"),
        ({"least_area_A2": np.nan}, np.eye(9), "least area"),
        ({}, np.ones((9, 9)), "constant"),
        ({}, np.full((9, 9), np.inf), "nan or infinite"),
        ({}, np.zeros(9), "two dimensions"),
    ],
)
def test_bad_input_is_told(change, image, told):
    with pytest.raises(LocalizeError, match=told):
        OtsuCentroid(**change)(image, 0.1)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.floats(0.0, 3.0), st.floats(0.01, 1.0))
def test_any_image_gives_columns_inside_it_or_one_clear_error(image, blur_A, pixel_size_A):
    try:
        found = OtsuCentroid(blur_A, "intensity", 0.0)(image, pixel_size_A)
    except TEMImageNetError:
        return
    assert np.isfinite(found.xy_px).all()
    assert (found.xy_px >= 0.0).all()
    assert (found.xy_px <= np.array(image.shape[::-1]) - 1).all()
    assert (found.intensity > 0.0).all()
