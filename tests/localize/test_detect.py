"""Detection without a lattice: rendered samples, a real micrograph, noise, torn rows, and what a user may hand over."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from temimagenet.errors import LocalizeError, TEMImageNetError
from temimagenet.localize import Flag, GaussianFit, Localizer, OtsuCentroid, ScanAware, detect_columns
from temimagenet.precision import case_images
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import render

DATA = Path(__file__).parents[1] / "data"


def _spots(xy, height, sigma, shape, background=5.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    total = np.full(shape, float(background))
    for (px, py), h in zip(xy, np.broadcast_to(height, len(xy)), strict=True):
        total += h * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / sigma**2)
    return total


def _grid(step, shape, margin):
    x, y = np.arange(margin, shape[1] - margin, step), np.arange(margin, shape[0] - margin, step)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _is_found(xy, found, radius):
    """Each place's nearest detection is near, and it is the detection's nearest place."""
    away, there = KDTree(found.xy_px).query(xy)
    _, back = KDTree(xy).query(found.xy_px[there])
    return (away < radius) & (back == np.arange(len(xy)))


def test_hot_pixels_hide_no_columns():
    rng = np.random.default_rng(8)
    xy = _grid(20.0, (200, 200), 15.0)
    image = rng.poisson(_spots(xy, 60.0, 3.0, (200, 200))).astype(float)
    clean = detect_columns(image, 0.1)
    for i, j in rng.integers(0, 200, size=(5, 2)):
        image[i, j] = 1e5
    found = detect_columns(image, 0.1)
    assert _is_found(xy, found, 1.5).mean() > 0.97
    assert len(found) <= len(clean) + 5
    assert found.width_px == pytest.approx(clean.width_px, rel=0.15)


@pytest.mark.parametrize("sigma", [1.5, 3.0, 9.0, 20.0])
def test_all_columns_of_a_clear_image_and_their_width(sigma):
    rng = np.random.default_rng(0)
    shape = (256, 256)
    xy = _grid(5.0 * sigma, shape, 2.5 * sigma) + rng.uniform(-0.3, 0.3, size=2) * sigma
    image = rng.poisson(_spots(xy, 60.0, sigma, shape)).astype(float)
    found = detect_columns(image, 0.45 / sigma)
    assert len(xy) <= len(found) <= 1.02 * len(xy) + 1
    assert _is_found(xy, found, 1.0 * sigma).all()
    # The image's border pulls those next to it.
    inner = ((xy > 4.0 * sigma) & (xy < 255.0 - 4.0 * sigma)).all(axis=1)
    assert _is_found(xy[inner], found, 0.35 * sigma).all()
    assert found.width_px == pytest.approx(sigma, rel=0.2)
    assert np.median(found.height) == pytest.approx(60.0, rel=0.25)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_pixel_size_wrong_by_two_changes_nothing(factor):
    rng = np.random.default_rng(1)
    xy = _grid(18.0, (200, 200), 12.0)
    image = rng.poisson(_spots(xy, 30.0, 4.0, (200, 200))).astype(float)
    found = detect_columns(image, 0.1 * factor)
    assert len(xy) <= len(found) <= len(xy) + 3
    assert _is_found(xy, found, 1.5).all()


@pytest.mark.parametrize("background", ["ramp", "blob"])
def test_a_background_is_no_column(background):
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:200, :200] / 200.0
    under = {"ramp": 60.0 * x, "blob": 60.0 * np.exp(-8.0 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))}[background]
    xy = _grid(20.0, (200, 200), 14.0)
    xy = xy[xy[:, 0] < 100]
    found = detect_columns(rng.poisson(_spots(xy, 40.0, 4.0, (200, 200)) + under).astype(float), 0.1)
    assert _is_found(xy, found, 1.5).all()
    assert len(found) <= len(xy) + 1


def test_noise_alone_gives_next_to_nothing():
    rng = np.random.default_rng(3)
    number = [len(detect_columns(rng.poisson(20.0, (200, 200)), 0.1)) for _ in range(20)]
    assert np.mean(np.array(number) > 0) <= 0.2
    assert np.mean(number) < 1.0


@pytest.mark.parametrize("mean", [0.01, 0.03, 0.1, 0.3, 1.0, 10.0])
def test_sparse_counts_alone_give_nothing(mean):
    """Where few electrons were counted, two or three that met are no column."""
    rng = np.random.default_rng(11)
    images = (rng.poisson(mean, (256, 256)) for _ in range(10))
    assert sum(len(detect_columns(image, 0.1)) for image in images) <= 1


@pytest.mark.parametrize(("level", "height"), [(0.01, 0.5), (0.1, 1.0), (0.3, 1.5), (1.0, 2.0)])
def test_columns_that_stand_out_of_sparse_counts_are_found(level, height):
    rng = np.random.default_rng(12)
    xy = _grid(24.0, (256, 256), 20.0)
    found = detect_columns(rng.poisson(_spots(xy, height, 4.5, (256, 256), level)), 0.1)
    assert _is_found(xy, found, 4.0).mean() > 0.95
    assert len(found) <= 1.05 * len(xy)


Y, X = np.mgrid[:128, :128].astype(float)


@pytest.mark.parametrize("gain", [1.0, 1e-3])
@pytest.mark.parametrize(
    "picture",
    [X >= 64, Y >= 64, X + Y >= 128, X, Y, X + 2.0 * Y, X**2 + Y**2, X // 8 % 2, np.sin(Y / 5.0), (X + Y) % 2,
     1.0 / (1.0 + np.exp(-(X - 64.0) / 3.0))],
)  # fmt: skip
def test_edges_ramps_and_stripes_without_noise_are_no_columns(picture, gain):
    found = detect_columns(gain * picture + 3.0, 0.1)
    assert len(found) == 0
    assert np.isnan(found.width_px)


def test_columns_that_brighter_ones_hide_are_found():
    """Oxygen between titanium: shoulders that no maximum shows."""
    truth = next(case_images("tio2-001", [0], bounds=False))
    found = detect_columns(truth.image, truth.pixel_size_A)
    xy = truth.xy_px[truth.counts]
    assert _is_found(xy, found, 0.5 / truth.pixel_size_A).mean() > 0.9
    assert (KDTree(truth.xy_px).query(found.xy_px)[0] < 0.6 / truth.pixel_size_A).all()


def test_dumbbells_are_two_and_light_columns_are_seen():
    rng = np.random.default_rng(4)
    shape = (240, 240)
    centre = _grid(40.0, shape, 22.0)
    arm = np.array([6.1, 2.8])
    pairs = np.concatenate([centre + arm, centre - arm])
    found = detect_columns(rng.poisson(_spots(pairs, 80.0, 4.5, shape)).astype(float), 0.1)
    assert len(found) == len(pairs)
    assert _is_found(pairs, found, 2.0).all()
    light = centre[:-1] + 20.0
    both = np.concatenate([centre, light])
    heights = np.concatenate([np.full(len(centre), 200.0), np.full(len(light), 30.0)])
    found = detect_columns(rng.poisson(_spots(both, heights, 5.0, shape)).astype(float), 0.1)
    assert _is_found(both, found, 2.0).mean() > 0.95
    assert len(found) <= len(both) + 1


def test_torn_rows_give_no_doubles():
    rng = np.random.default_rng(5)
    xy = _grid(24.0, (240, 240), 18.0)
    clean = _spots(xy, 100.0, 5.0, (240, 240))
    for _ in range(4):
        torn = np.stack([np.roll(row, int(k)) for row, k in zip(clean, np.rint(rng.normal(0, 2.5, 240)), strict=True)])
        found = detect_columns(rng.poisson(torn).astype(float), 0.1)
        assert len(found) == len(xy)
        assert _is_found(xy, found, 4.0).all()


def test_rendered_samples():
    """Of 25 kinds of specimen, all columns that the clean image shows as maxima of some height."""
    recipe = load_recipe("v1")
    shown = seen = right = total = 0
    for index in range(25, 50):
        sample = render([sample_spec(recipe, index)], labels=["noNoise"])[0]
        if sample.psnr_dB < 12.0:
            continue
        found = detect_columns(sample.image.numpy(), sample.pixel_size_A)
        reach = 0.35 / sample.pixel_size_A
        clean = gaussian_filter(sample.labels["noNoise"].numpy().astype(float), 1.0)
        xy = sample.columns.xy_px[sample.columns.inside((256, 256))]
        inner = xy[((xy > 4 * reach) & (xy < 255 - 4 * reach)).all(axis=1)]
        i, j = np.rint(inner[:, 1]).astype(int), np.rint(inner[:, 0]).astype(int)
        around = max(3, round(1.6 * reach))
        ring = [clean[i + a, j + b] for a, b in ((around, 0), (-around, 0), (0, around), (0, -around))]
        plain = clean[i, j] - np.max(ring, axis=0) > 0.05 * np.ptp(clean)
        if plain.any():
            seen += int(_is_found(inner[plain], found, reach).sum())
            shown += int(plain.sum())
        if plain.mean() > 0.5:
            right += int((KDTree(sample.columns.xy_px).query(found.xy_px)[0] < reach).sum())
            total += len(found)
    assert shown > 500
    assert seen / shown > 0.95
    assert right / total > 0.95


def test_a_real_micrograph_shows_its_dumbbells():
    """Si [110], about 8.9 pm a pixel: pairs 136 pm apart, four atoms on 543 x 384 pm."""
    image = np.array(Image.open(DATA / "si110_8.9pm.png")).astype(float)
    found = detect_columns(image, 0.089)
    inner = ((found.xy_px > 12.0) & (found.xy_px < 499.0)).all(axis=1)
    expected = 487.0**2 * 8.9**2 * 4.0 / (543.0 * 384.0)
    assert inner.sum() == pytest.approx(expected, rel=0.04)
    apart = KDTree(found.xy_px).query(found.xy_px[inner], k=2)[0][:, 1] * 8.9
    assert np.median(apart) == pytest.approx(136.0, abs=12.0)
    assert (apart > 90.0).all()
    for scale in (257.0, 1.0 / 255.0):
        again = detect_columns((image * scale).astype(np.uint16 if scale > 1 else np.float32), 0.089)
        assert len(again) == len(found)
        np.testing.assert_allclose(
            again.xy_px[np.lexsort(again.xy_px.T)], found.xy_px[np.lexsort(found.xy_px.T)], atol=0.01
        )


def test_gaussian_fit_is_a_localizer():
    rng = np.random.default_rng(6)
    xy = _grid(20.0, (160, 160), 20.0) + 0.3
    localizer: Localizer = GaussianFit()
    image = rng.poisson(_spots(xy, 80.0, 3.0, (160, 160))).astype(float)
    found = localizer(image, 0.15)
    # What noise adds does not pass for a column.
    assert found.sound.sum() == len(xy)
    assert len(found) <= len(xy) + 2
    away, _ = KDTree(found.xy_px[found.sound]).query(xy)
    assert np.sqrt(np.mean(away**2)) < 0.1
    assert "poisson" in localizer.name
    # One hot pixel is no column: nothing, or nothing sound.
    lonely = np.zeros((32, 32))
    lonely[16, 16] = 1.0
    assert not (GaussianFit()(lonely, 0.1).flags == Flag.SOUND).any()
    with pytest.raises(LocalizeError, match="constant"):
        GaussianFit()(np.ones((20, 20)), 0.1)


@pytest.mark.parametrize(
    ("image", "change", "told"),
    [
        (np.zeros((0, 0)), {}, "two dimensions"),
        (np.full((20, 20), np.nan), {}, "nan or infinite"),
        (np.eye(20), {"pixel_size_A": 0.0}, "pixel size"),
        (np.eye(20), {"width_A": (0.5, 0.2)}, "widths"),
        (np.eye(20), {"false_share": 1.0}, "share"),
    ],
)
def test_bad_input_is_told(image, change, told):
    with pytest.raises(LocalizeError, match=told):
        detect_columns(image, **{"pixel_size_A": 0.1, **change})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.uint8, np.uint16, np.float32]).flatmap(
        lambda kind: arrays(kind, st.tuples(st.integers(1, 40), st.integers(1, 40)))
    ),
    st.floats(1e-3, 1e3),
)
def test_any_image_gives_columns_inside_it_or_one_clear_error(image, pixel_size_A):
    try:
        found = detect_columns(image, pixel_size_A)
    except TEMImageNetError:
        return
    assert found.xy_px.shape == (len(found), 2)
    assert np.isfinite(found.xy_px).all()
    assert (found.xy_px >= -0.5).all()
    assert (found.xy_px <= np.array(image.shape[::-1]) - 0.5).all()
    assert np.isnan(found.width_px) or found.width_px > 0.0


LOCALIZERS = (GaussianFit(), GaussianFit("least-squares"), ScanAware(), OtsuCentroid())
CLEAR = np.random.default_rng(13).poisson(_spots(_grid(20.0, (80, 80), 15.0) + 0.3, 80.0, 3.0, (80, 80)))


@pytest.mark.parametrize("localizer", LOCALIZERS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "change",
    [
        lambda v: v * 1e30,
        lambda v: v * 1e-30,
        lambda v: v.astype(np.float16),
        lambda v: v.astype(">f8"),
        lambda v: v.tolist(),
        lambda v: torch.from_numpy(v).requires_grad_(),
        lambda v: np.ma.masked_invalid(v),
        lambda v: np.repeat(v, 2, axis=1)[:, ::2],
        np.asfortranarray,
    ],
)
def test_unit_type_and_layout_change_no_position(localizer, change):
    plain = localizer(CLEAR.astype(float), 0.1)
    changed = localizer(change(CLEAR.astype(float)), 0.1)
    np.testing.assert_array_equal(changed.flags, plain.flags)
    np.testing.assert_allclose(changed.xy_px, plain.xy_px, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("localizer", LOCALIZERS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("image", "pixel_size_A", "told"),
    [
        (np.ma.masked_greater(CLEAR, 50), 0.1, "pixels are masked"),
        (CLEAR * 1e300, 0.1, "multiply the image"),
        (CLEAR * 1e-300, 0.1, "multiply the image"),
        ([[1, 2, 3], [1, 2]], 0.1, "dense array"),
        (torch.zeros(8, 8, device="meta"), 0.1, "dense array"),
        (CLEAR.astype("m8[s]"), 0.1, "real numbers"),
        (CLEAR + 1j, 0.1, "real numbers"),
        (np.stack([CLEAR] * 3), 0.1, "two dimensions"),
        *((CLEAR, size, "pixel size") for size in (np.nan, np.inf, 0, -1.0, "0.1", None, [0.1], True, 1e-30, 1e30)),
    ],
)  # fmt: skip
def test_what_cannot_be_used_gives_one_clear_error(localizer, image, pixel_size_A, told):
    with pytest.raises(LocalizeError, match=told):
        localizer(image, pixel_size_A)
