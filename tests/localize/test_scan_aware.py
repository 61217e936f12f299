"""The joint fit of columns and row displacements against dense algebra, the truth, and the information bound."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import KDTree

from temimagenet.errors import LocalizeError
from temimagenet.imaging.background import Background
from temimagenet.imaging.optics import CONDITIONS
from temimagenet.imaging.scan import ScanNoise
from temimagenet.localize import Flag, FoundColumns, ScanAware, fit_gaussians
from temimagenet.localize.detect import detect_columns, spot_width_px
from temimagenet.localize.joint import TAIL_SHARE, Equations, Problem, State
from temimagenet.localize.scan_aware import _first_state, fit_scan_aware
from temimagenet.metrics import match
from temimagenet.precision import ImageModel, case_images, gaussian_profile, hybrid_bound
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import render

WIDTH = 3.8


def _lattice(size, step=(19.0, 24.0), turn=13.0, margin=9.0):
    """A rotated centred lattice on a square image."""
    i, j = np.meshgrid(np.arange(-30, 30), np.arange(-30, 30), indexing="ij")
    xy = np.concatenate(
        [np.stack([i, j], axis=-1).reshape(-1, 2), np.stack([i + 0.5, j + 0.5], axis=-1).reshape(-1, 2)]
    )
    angle = np.deg2rad(turn)
    turned = xy * step @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + size / 2
    return turned[((turned > margin) & (turned < size - 1 - margin)).all(axis=1)]


def _image(xy, size, rng, sigma=0.0, height=40.0, level=5.0):
    """Poisson counts of Gaussian columns whose rows were displaced, and the displacements."""
    shift = sigma * rng.normal(size=(size, 2))
    axis = np.arange(size)
    expected = np.full((size, size), level)
    heights = np.broadcast_to(height, len(xy))
    for (x, y), h in zip(xy, heights, strict=True):
        form = (axis + shift[:, :1] - x) ** 2 + (axis + shift[:, 1] - y)[:, None] ** 2
        expected += h * np.exp(-0.5 * form / WIDTH**2)
    return rng.poisson(expected).astype(float), shift


def test_faint_columns_that_a_crystal_repeats_stay_and_vacancies_stay_vacant():
    """Faint columns of six standard errors between bright ones: noise puts one in twenty below 4.3 of them."""
    rng, size = np.random.default_rng(1), 260
    bright = _lattice(size, step=(28.0, 32.0))
    faint = bright + 14.0 * np.array([np.cos(np.deg2rad(13.0)), np.sin(np.deg2rad(13.0))])
    faint = faint[((faint > 9) & (faint < size - 10)).all(axis=1)]
    xy, height = np.concatenate([bright, faint]), np.repeat([40.0, 3.0], [len(bright), len(faint)])
    vacant = np.concatenate(
        [rng.choice(len(bright), 3, replace=False), len(bright) + rng.choice(len(faint), 8, replace=False)]
    )
    height[vacant] = 0.0
    image, _ = _image(xy, size, rng, sigma=0.5, height=height)
    found = fit_scan_aware(image, 0.1, xy, WIDTH, search=True).columns
    there = KDTree(found.xy_px).query(xy)[0] < 1.2 * WIDTH
    inner = ((xy > 20) & (xy < size - 21)).all(axis=1)
    assert there[inner & (height > 0.0)].mean() > 0.99
    assert not there[vacant].any()
    significance = (found.intensity / found.intensity_sigma)[KDTree(found.xy_px).query(xy[height == 3.0])[1]]
    assert 5.0 < np.median(significance) < 8.0


def test_the_sparse_equations_are_those_of_dense_algebra():
    """Step and covariances against a Jacobian by finite differences and a dense inverse."""
    rng = np.random.default_rng(1)
    size = 64
    xy = np.concatenate([_lattice(size, (13.0, 16.0), margin=4.0), [[0.0, 30.0], [63.2, 1.0]]])
    image, _ = _image(xy, size, rng)
    problem = Problem(image, xy + rng.normal(size=xy.shape), 2.2)
    assert len(problem.strips) >= 3
    state = _first_state(problem, xy, 2.2)
    state.shift = 0.5 * rng.normal(size=(size, 2))
    state.shape[1] = 0.02
    sigma = np.array([0.7, 0.4])
    model = problem.look(state)
    weight = 1.0 / np.maximum(model.image, 1.0)
    k, g = 3 * len(xy), 4 + len(state.weights)

    def look(change):
        columns, border, rows = change[:k].reshape(-1, 3), change[k : k + g], change[k + g :].reshape(-1, 2)
        moved = State(
            state.xy + columns[:, :2], state.height + columns[:, 2], state.shape + border[:4],
            state.weights + border[4:], state.shift + rows,
        )  # fmt: skip
        return problem.look(moved).image.ravel()

    total = k + g + 2 * size
    jacobian = np.empty((image.size, total))
    for number in range(total):
        change = np.zeros(total)
        change[number] = 1e-3 if k <= number < k + 4 else 1e-2
        jacobian[:, number] = (look(change) - look(-change)) / (2.0 * change[number])
    prior, pull = np.zeros(total), jacobian.T @ (weight * (image - model.image)).ravel()
    prior[k + g :] = np.tile(1.0 / sigma**2, size)
    pull[k + g :] -= prior[k + g :] * state.shift.ravel()
    for axis in range(2):
        prior[axis:k:3] = problem.anchor_precision
    pull[:k] += prior[:k] * np.column_stack([problem.anchor - state.xy, np.zeros(len(xy))]).ravel()
    prior[k + 3] = TAIL_SHARE[1] ** -2
    pull[k + 3] += prior[k + 3] * (TAIL_SHARE[0] - state.shape[3])
    covariance = np.linalg.inv(jacobian.T @ (weight.ravel()[:, None] * jacobian) + np.diag(prior))
    equations = Equations(problem, model, state, weight, sigma)
    step, spread = equations.step(model, state, weight, sigma), equations.covariance()
    found = np.concatenate([step.columns.ravel(), step.border, step.rows.ravel()])
    expected = covariance @ pull
    assert np.abs(found - expected).max() < 3e-3 * np.abs(expected).max()
    blocks = np.stack([covariance[n : n + 3, n : n + 3] for n in range(0, k, 3)])
    scale = np.sqrt(np.einsum("kp,kq->kpq", *2 * [blocks.diagonal(axis1=1, axis2=2)]))
    assert np.abs((spread.columns - blocks) / scale).max() < 2e-3
    np.testing.assert_allclose(spread.rows.ravel(), covariance.diagonal()[k + g :], rtol=2e-3)
    np.testing.assert_allclose(spread.shape.diagonal(), covariance.diagonal()[k : k + 4], rtol=5e-3)


def test_without_scan_noise_it_is_as_precise_as_the_bound_and_finds_no_displacement():
    size = 128
    xy = _lattice(size)
    errors, z, widths = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image, _ = _image(xy, size, rng)
        fit = fit_scan_aware(image, 0.1, xy + rng.normal(size=xy.shape), WIDTH)
        assert not (fit.columns.flags & int(Flag.NOT_CONVERGED)).any()
        errors.append(fit.columns.xy_px - xy)
        z.append(errors[-1] / fit.columns.sigma_px)
        widths.append(fit.row_sigma_px)
    bound, _ = _bound(xy, size, 0.0)
    ratio = np.sqrt((np.array(errors) ** 2).mean(axis=(0, 1)) / (bound**2).mean(axis=0))
    # Some 200 errors per axis know their own width to 5 %.
    assert (ratio < 1.12).all()
    assert (ratio > 0.88).all()
    np.testing.assert_allclose(np.array(z).std(), 1.0, atol=0.1)
    assert np.array(widths).max() < 0.1


def _bound(xy, size, sigma):
    """(K, 2) bounds in pixels of the columns of `_image`, absolute and relative to the image's mean."""
    model = ImageModel(
        (size, size), 0.1, 0.1 * xy, np.full(len(xy), 40.0 * 2.0 * np.pi * WIDTH**2), np.arange(len(xy)),
        np.zeros(len(xy), dtype=np.int64), (gaussian_profile(0.1 * WIDTH),), np.full((size, size), 5.0),
    )  # fmt: skip
    rows = np.full((size, 2), 0.1 * sigma) if sigma else None
    bound = hybrid_bound(model, rows, draws=2)
    return bound.xy_A / 0.1, bound.relative_xy_A / 0.1


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_with_scan_noise_it_comes_close_to_the_hybrid_bound(sigma):
    """Jitter of 0.1 and 0.2 A at 0.1 A a pixel, its width unknown, and far better than fits of each column alone."""
    size = 160
    xy = _lattice(size)
    errors, alone, z, widths, shifts = [], [], [], [], []
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        image, shift = _image(xy, size, rng, sigma)
        start = xy + rng.normal(size=xy.shape)
        fit = fit_scan_aware(image, 0.1, start, WIDTH)
        errors.append(fit.columns.xy_px - xy)
        alone.append(fit_gaussians(image, 0.1, start, WIDTH).xy_px - xy)
        z.append(errors[-1] / fit.columns.sigma_px)
        widths.append(fit.row_sigma_px)
        shifts.append([np.corrcoef(fit.row_shift_px[:, axis], shift[:, axis])[0, 1] for axis in range(2)])
    # An image's mean displacement is one error that all its columns share, and ten images say little of it.
    rms, rms_alone = (np.array(e).std(axis=1).mean(axis=0) for e in (errors, alone))
    bound = np.sqrt((_bound(xy, size, sigma)[1] ** 2).mean(axis=0))
    assert (rms < 1.1 * bound).all()
    assert (rms > 0.9 * bound).all()
    assert (rms < (0.7 if sigma < 1.5 else 0.5) * rms_alone).all()
    np.testing.assert_allclose(np.sqrt((np.array(z) ** 2).mean()), 1.0, atol=0.1)
    np.testing.assert_allclose(np.mean(widths), sigma, rtol=0.05)
    # A row may come out a lattice vector away, where the prior likes it better.
    assert np.median(shifts) > 0.97


def test_displaced_columns_are_found_where_they_are():
    """Response: columns moved by 20 pm at random are measured to have moved by as much."""
    size, rng = 160, np.random.default_rng(3)
    lattice = _lattice(size)
    moved, found = [], []
    for _ in range(6):
        true = lattice + 2.0 * rng.normal(size=lattice.shape)
        image, _ = _image(true, size, rng, 1.0)
        fit = fit_scan_aware(image, 0.1, lattice + 0.5 * rng.normal(size=lattice.shape), WIDTH)
        moved.append(true - lattice)
        found.append(fit.columns.xy_px - lattice)
    slope = (np.array(moved) * found).sum(axis=(0, 1)) / (np.array(moved) ** 2).sum(axis=(0, 1))
    np.testing.assert_allclose(slope, 1.0, atol=0.03)


def test_gain_offset_and_order_do_not_matter():
    size, rng = 128, np.random.default_rng(5)
    xy = _lattice(size)
    image, _ = _image(xy, size, rng, 1.0)
    start = xy + 0.5 * rng.normal(size=xy.shape)
    plain = fit_scan_aware(image, 0.1, start, WIDTH)
    scaled = fit_scan_aware(37.0 * image + 1200.0, 0.1, start, WIDTH)
    np.testing.assert_allclose(scaled.columns.xy_px, plain.columns.xy_px, atol=0.01)
    np.testing.assert_allclose(scaled.columns.sigma_px, plain.columns.sigma_px, rtol=0.02)
    np.testing.assert_allclose(scaled.columns.intensity, 37.0 * plain.columns.intensity, rtol=0.01)
    mixed = rng.permutation(len(xy))
    np.testing.assert_allclose(
        fit_scan_aware(image, 0.1, start[mixed], WIDTH).columns.xy_px, plain.columns.xy_px[mixed], atol=0.01
    )
    for factor in (0.6, 1.5):
        guessed = fit_scan_aware(image, 0.1, start, factor * WIDTH)
        np.testing.assert_allclose(guessed.columns.width_px, plain.columns.width_px, rtol=0.02)
        np.testing.assert_allclose(guessed.columns.xy_px, plain.columns.xy_px, atol=0.05)


def test_columns_that_nobody_told_of_do_not_pull_on_the_others():
    size, rng = 160, np.random.default_rng(7)
    xy = _lattice(size, margin=-8.0)
    inside = ((xy > 8.0) & (xy < size - 9.0)).all(axis=1)
    image, _ = _image(xy, size, rng)
    told = np.flatnonzero(inside)
    told = told[np.arange(len(told)) % 11 != 5]
    fit = fit_scan_aware(image, 0.1, xy[told] + rng.normal(size=(len(told), 2)), WIDTH)
    error = np.linalg.norm(fit.columns.xy_px - xy[told], axis=1)
    whole = np.linalg.norm(
        fit_scan_aware(image, 0.1, xy[((xy > 0) & (xy < size - 1)).all(axis=1)], WIDTH).columns.sigma_px, axis=1
    )
    assert np.median(error) < 1.5 * np.median(whole)
    assert error.max() < 12.0 * np.median(whole)


def test_rendered_columns_are_found_within_their_errors():
    """Real spots, not Gaussian ones, of a v1 sample under condition 1."""
    recipe = load_recipe("v1")
    specs = (sample_spec(recipe, index) for index in range(4000))
    spec = next(s for s in specs if s.entry == "Pt [110]" and s.field_of_view_A == 30.0 and s.optics == CONDITIONS[1])
    spec = replace(
        spec, scan_noise=ScanNoise(0.1, modulation=None), psnr_dB=20.0, background=Background("constant", 0.1)
    )
    sample = render([spec], ())[0]
    image = sample.image.numpy()
    xy = sample.columns.xy_px[sample.columns.inside(image.shape)]
    rng = np.random.default_rng(0)
    start = np.clip(xy + rng.normal(size=xy.shape), 0.0, 255.0)
    fit = fit_scan_aware(image, sample.pixel_size_A, start, 0.5 / sample.pixel_size_A)
    good = ((xy > 12.0) & (xy < 243.0)).all(axis=1)
    error = (fit.columns.xy_pm - 100.0 * sample.pixel_size_A * xy)[good]
    assert (np.sqrt((error**2).mean(axis=0)) < 3.0).all()
    assert 0.6 < np.sqrt(((error / fit.columns.sigma_pm[good]) ** 2).mean()) < 1.4
    np.testing.assert_allclose(np.array(fit.row_sigma_px) * sample.pixel_size_A, 0.1, atol=0.015)
    assert 0.9 < fit.noise[1] < 1.1


def test_what_cannot_be_fitted_is_told():
    image = np.random.default_rng(0).poisson(20.0, (40, 40)).astype(float)
    with pytest.raises(LocalizeError, match="no columns"):
        fit_scan_aware(image, 0.1, np.zeros((0, 2)), 3.0)
    with pytest.raises(LocalizeError, match="outside"):
        fit_scan_aware(image, 0.1, np.array([[50.0, 3.0]]), 3.0)
    for width in (0.0, "a", None):
        with pytest.raises(LocalizeError, match=f"width {width}"):
            fit_scan_aware(image, 0.1, np.array([[5.0, 3.0]]), width)
    with pytest.raises(LocalizeError, match="starts"):
        fit_scan_aware(image, 0.1, "a", 3.0)
    fit = fit_scan_aware(image, 0.1, np.array([[20.0, 20.0], [20.1, 20.0], [0.0, 39.0]]), 3.0)
    assert np.isfinite(fit.columns.xy_px).all()
    assert (fit.columns.flags != 0).all(), "noise is no column"


@pytest.mark.parametrize("place", [(0.0, 0.0), (63.4, 30.0), (63.5, 30.0)])
def test_one_start_at_the_edge_gives_one_flagged_column(place):
    image, _ = _image(_lattice(64), 64, np.random.default_rng(3))
    found = fit_scan_aware(image, 0.1, np.array([place]), WIDTH).columns
    assert len(found) == 1
    assert found.flags[0] & Flag.CUT


def test_a_column_that_is_told_twice_is_fitted_once():
    image, _ = _image(xy := _lattice(96), 96, np.random.default_rng(4))
    once = fit_scan_aware(image, 0.1, xy, WIDTH).columns
    found = fit_scan_aware(image, 0.1, np.concatenate([xy[:3] + 0.1, xy, xy[5:6]]), WIDTH).columns
    np.testing.assert_allclose(
        found.xy_px[[0, 1, 2, *range(6, len(xy) + 3), 8]], once.xy_px[[*range(len(xy)), 5]], atol=0.02
    )
    np.testing.assert_array_equal(np.flatnonzero(found.flags & int(Flag.TWICE)), [3, 4, 5, len(xy) + 3])


def test_any_localizer_can_start_the_fit():
    truth = next(case_images("pt110-scan-0.10A", [0], bounds=False))

    class Near:
        name = "near"

        def __call__(self, image, pixel_size_A):
            xy = truth.xy_px[((truth.xy_px > 0.0) & (truth.xy_px < 250.0)).all(axis=1)] + 1.0
            none = np.full(len(xy), np.nan)
            return FoundColumns(xy, np.stack([none] * 2, 1), none, none, none, np.zeros(len(xy), int), pixel_size_A)

    own, started = (ScanAware(start)(truth.image, truth.pixel_size_A) for start in (None, Near()))
    assert ScanAware(Near()).name == "scan-aware fit, started by near"
    near = match(started.xy_px[started.sound], own.xy_px[own.sound], truth.pixel_size_A)
    assert len(near[0]) == own.sound.sum()
    apart = started.xy_px[started.sound][near[1]] - own.xy_px[own.sound][near[0]]
    assert np.abs(apart).max() < 0.1


def test_a_hot_pixel_spoils_no_column_but_its_own():
    truth = next(case_images("pt110-scan-0.10A", [1], bounds=False))
    hot = truth.image.copy()
    hot[100, 40] = 1e5
    clean, spoilt = (ScanAware()(image, truth.pixel_size_A) for image in (truth.image, hot))
    assert spoilt.sound.sum() >= clean.sound.sum() - 1
    one, other = match(spoilt.xy_px[spoilt.sound], clean.xy_px[clean.sound], truth.pixel_size_A)
    apart = spoilt.xy_px[spoilt.sound][other] - clean.xy_px[clean.sound][one]
    far = np.linalg.norm(clean.xy_px[clean.sound][one] - [40, 100], axis=1) > 20.0
    assert np.sqrt((apart[far] ** 2).mean()) < 0.25 * np.median(clean.sigma_px)


def test_scan_noise_is_found_where_few_rows_meet_columns():
    """60 of 256 rows cross columns: the others must not make the displacements look unlikely."""
    truth = next(case_images("pt110-scan-0.20A", [1], bounds=False))
    image = truth.image.copy()
    image[60:] = np.random.default_rng(1).poisson(np.quantile(image, 0.02), image[60:].shape)
    near = (truth.xy_px > [0, 4]).all(axis=1) & (truth.xy_px < [255, 52]).all(axis=1)
    fit = fit_scan_aware(image, truth.pixel_size_A, truth.xy_px[near], spot_width_px(image, truth.pixel_size_A))
    # The standard error of a width from some 50 rows is a tenth; the rows drawn differ likewise from their 0.2 A.
    np.testing.assert_allclose(np.array(fit.row_sigma_px) * truth.pixel_size_A, 0.2, rtol=0.25)
    assert fit.rounds < 20


def test_light_columns_beside_heavy_ones_are_found_in_what_the_fit_leaves_over():
    """Oxygen of SrTiO3 [001], a twentieth of strontium's height: detection sees none of it."""
    truth = next(iter(case_images("srtio3-001", [0], bounds=False)))
    oxygen = truth.counts & (truth.group == "O")
    found = ScanAware()(truth.image, truth.pixel_size_A)
    start = detect_columns(truth.image, truth.pixel_size_A)
    plain = fit_scan_aware(truth.image, truth.pixel_size_A, start.xy_px, start.width_px).columns
    hit, _ = match(found.xy_px, truth.xy_px, truth.pixel_size_A)
    hit_plainly, _ = match(plain.xy_px, truth.xy_px, truth.pixel_size_A)
    assert oxygen.sum() > 40
    assert np.isin(np.flatnonzero(oxygen), hit).mean() > 0.9
    assert np.isin(np.flatnonzero(oxygen), hit_plainly).mean() < 0.1
    extra = np.setdiff1d(np.arange(len(found)), match(found.xy_px, truth.xy_px, truth.pixel_size_A)[1])
    assert (found.flags[extra] & Flag.CUT).all()


def test_what_the_crystal_repeats_is_found_where_it_is_and_not_where_it_is_missing():
    """Light columns of five standard errors: by themselves half of them would pass for noise."""
    rng = np.random.default_rng(11)
    heavy = _lattice(256, step=(30.0, 30.0))
    light = heavy + np.array([15.0, 3.5])
    light = light[(light < 246).all(axis=1) & (KDTree(heavy).query(light)[0] > 10.0)]
    there = rng.random(len(light)) > 0.15
    xy = np.concatenate([heavy, light[there]])
    image, _ = _image(xy, 256, rng, height=np.repeat([40.0, 2.6], [len(heavy), there.sum()]))
    # From the heavy ones, and from a column wherever there might be one.
    for start in (heavy, np.concatenate([heavy, light])):
        found = fit_scan_aware(image, 0.1, start, WIDTH, search=True).columns
        near = KDTree(found.xy_px).query(light)[0] < WIDTH
        assert near[there].mean() > 0.9
        assert near[~there].mean() < 0.2
        assert len(found) - len(heavy) - near.sum() <= 2


def test_what_was_started_from_nothing_is_left_out_by_a_search():
    rng = np.random.default_rng(5)
    xy = _lattice(160)
    image, _ = _image(xy, 160, rng)
    nothing = np.array([[40.0, 43.0], [90.0, 101.0], [120.0, 37.0]])
    nothing = nothing[KDTree(xy).query(nothing)[0] > 1.5 * WIDTH]
    assert len(nothing) >= 2
    start = np.concatenate([xy, nothing])
    asked = fit_scan_aware(image, 0.1, start, WIDTH).columns
    searched = fit_scan_aware(image, 0.1, start, WIDTH, search=True).columns
    assert len(asked) == len(start)
    assert len(searched) == len(xy)
    np.testing.assert_allclose(searched.xy_px, xy, atol=1.0)


def test_smoothed_noise_is_no_column_and_widens_the_errors():
    """Errors of a smoothed image are what its columns scatter by; supposing white noise they would be half of that."""
    z, extra, wanted = [], 0, 0
    for truth in case_images("pt110-10dB", range(3), bounds=False):
        smooth = ndimage.gaussian_filter(truth.image, 1.3)
        found = ScanAware()(smooth, truth.pixel_size_A)
        true, index = match(found.xy_px, truth.xy_px, truth.pixel_size_A)
        extra += len(found) - len(true)
        wanted += len(true)
        chosen = truth.counts[true]
        error = found.xy_px[index[chosen]] - truth.xy_px[true[chosen]]
        z.append(((error - error.mean(axis=0)) / found.sigma_px[index[chosen]]).ravel())
        assert np.isin(np.flatnonzero(truth.counts), true).mean() > 0.97
    assert extra < 0.05 * wanted
    assert 0.7 < np.concatenate(z).std() < 1.4


def test_columns_in_smoothed_noise_do_not_follow_each_other_out():
    """Noise of a tenth of a column's height once it is smoothed: what was left out must not pass for noise."""
    rng, size = np.random.default_rng(3), 220
    xy = _lattice(size, step=(26.0, 30.0))
    vacant = rng.choice(len(xy), 4, replace=False)
    axis, image = np.arange(size), np.zeros((size, size))
    for x, y in np.delete(xy, vacant, axis=0):
        image += np.exp(-0.5 * ((axis - x) ** 2 + (axis - y)[:, None] ** 2) / WIDTH**2)
    noise = ndimage.gaussian_filter(rng.normal(size=image.shape), 2.0)
    found = fit_scan_aware(image + 0.1 * noise / noise.std(), 0.1, xy, WIDTH, search=True).columns
    there = KDTree(found.xy_px).query(xy)[0] < WIDTH
    assert np.delete(there, vacant).mean() > 0.97
    assert not there[vacant].any()
    assert len(found) <= len(xy)


@pytest.mark.parametrize("blur_px", [0.0, 1.0, 2.0])
def test_errors_are_right_in_smoothed_images(blur_px):
    """Rows overshot there, and errors came out six times too large; by the filter of detection alone 1.5 times too
    small."""
    rng, size, level = np.random.default_rng(5), 240, 10.0
    xy = _lattice(size, step=(24.0, 28.0))
    smooth = ndimage.gaussian_filter(_image(xy, size, rng, height=30.0, level=level)[0], blur_px)
    fit = fit_scan_aware(smooth, 0.15, xy + rng.normal(scale=0.5, size=xy.shape), WIDTH, search=True)
    found = fit.columns
    assert max(fit.row_sigma_px) < 0.15
    away, nearest = KDTree(xy).query(found.xy_px)
    assert len(found) == len(xy)
    assert away.max() < 1.0
    sound = found.sound
    z = ((found.xy_px - xy[nearest]) / found.sigma_px)[sound]
    assert 0.8 < z.std() < 1.25
    z = ((found.intensity - found.intensity[sound].mean()) / found.intensity_sigma)[sound]
    assert 0.8 < z.std() < 1.25


def test_rows_that_settle_on_the_wrong_side_of_their_columns_are_found():
    """Scan noise of 0.3 A, two thirds of the spot's width: no row is left that fits far worse than noise would."""
    truth = next(iter(case_images("pt110-scan-0.30A", [3], bounds=False)))
    start = detect_columns(truth.image, truth.pixel_size_A)
    fit = fit_scan_aware(truth.image, truth.pixel_size_A, start.xy_px, start.width_px)
    variance = fit.noise[0] + fit.noise[1] * fit.model
    misfit = ((truth.image - fit.model) ** 2 / variance).mean(axis=1)
    assert misfit.max() < 1.0 + 6.0 * np.sqrt(2.0 / truth.image.shape[1])


@pytest.mark.parametrize("shape", ["columns", "rows", "corners"])
def test_padding_holds_no_columns_and_moves_none(shape):
    """Zeros beside an image, as of an aborted scan or a turned frame."""
    rng = np.random.default_rng(2)
    xy = _lattice(200)
    image, _ = _image(xy, 200, rng)
    y, x = np.mgrid[:200, :200]
    empty = {"columns": x >= 150, "rows": y >= 150, "corners": abs(x - 99.5) + abs(y - 99.5) > 120.0}[shape]
    found = ScanAware()(np.where(empty, 0.0, image), 0.1)
    away, nearest = KDTree(xy).query(found.xy_px)
    assert (away[found.sound] < 3.0).all()
    clear = ndimage.distance_transform_edt(~empty)[tuple(np.rint(xy).astype(int).T[::-1])] > 2.0 * WIDTH
    assert np.isin(np.flatnonzero(clear), nearest).all()
    error = (found.xy_px - xy[nearest]) / found.sigma_px
    assert 0.8 < error[found.sound].std() < 1.2


def test_smoothed_noise_alone_is_left_out_almost_whole():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(128, 128)), 1.5)
    assert len(detect_columns(noise, 0.2)) > 100
    assert len(ScanAware()(noise, 0.2)) <= 8


def test_a_few_columns_lead_to_all():
    rng = np.random.default_rng(3)
    xy = _lattice(200)
    image, _ = _image(xy, 200, rng)
    few = rng.permutation(len(xy))[:24]
    assert len(xy) > 5 * len(few) / 2
    found = fit_scan_aware(image, 0.1, xy[few], WIDTH, search=True).columns
    away, nearest = KDTree(xy).query(found.xy_px)
    assert len(np.unique(nearest)) == len(xy)
    assert away.max() < 3.0
