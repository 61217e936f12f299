"""Information bounds against finite differences, closed forms, the rendered image and Monte-Carlo."""

from dataclasses import replace

import numpy as np
import pytest

from temimagenet.errors import OpticsError
from temimagenet.imaging.fourier import evaluate
from temimagenet.imaging.linear import fourier_image
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.imaging.scan import Scan
from temimagenet.precision import ImageModel, gaussian_profile, hybrid_bound, image_model
from temimagenet.specimen import material, project

DETECTOR = Detector()


def _spots(xy, counts, sigma=0.5, shape=(24, 26), pixel=0.2, background=1.0):
    xy = np.asarray(xy, dtype=float)
    return ImageModel(
        shape, pixel, xy, np.full(len(xy), float(counts)), np.arange(len(xy)), np.zeros(len(xy), dtype=np.int64),
        (gaussian_profile(sigma),), np.full(shape, float(background)),
    )  # fmt: skip


@pytest.mark.parametrize("contrast", ["adf", "potential", "z-power"])
def test_the_model_is_the_rendered_image(contrast):
    """Sums of radial spots against the Fourier series of the whole crystal, turned and jittered."""
    for name, zone in (("SrTiO3", (1, 1, 0)), ("DyScO3", (1, 1, 0))):
        known = material(name)
        slab = project(known.atoms(), zone, u_A=known.u_A, name=name).slab(50.0)
        rng = np.random.default_rng(3)
        shift = rng.normal(size=(40, 2)) * 0.1
        scan = Scan((40, 48), 0.25, 25.0, (2.0, -3.0))
        optics = CONDITIONS[1]
        model = image_model(slab, optics, DETECTOR, scan, 1e4, 0.01, contrast)
        counts, _ = model.expected(shift)
        image = evaluate(fourier_image(slab, optics, DETECTOR, contrast), replace(scan, row_shift_A=shift)).numpy()
        wanted = (image + 0.01) * 1e4 * 0.25**2
        # What lies beyond 8 A of a pixel is left out: a smooth 1 % at most.
        assert np.abs(counts - wanted).max() < 0.01 * wanted.max()


@pytest.mark.parametrize("real", [True, False])
def test_derivatives_are_finite_differences(real):
    if real:
        known = material("DyScO3")
        slab = project(known.atoms(), (1, 1, 0), u_A=known.u_A).slab(30.0)
        model = image_model(slab, Optics(200.0, 20.0, 0.6, 60.0, 0.02), DETECTOR, Scan((30, 30), 0.3, 15.0), 1e3, 0.01)
    else:
        model = _spots([(1.9, 2.1), (3.0, 2.4)], 800)
    rng = np.random.default_rng(0)
    rows = model.shape[0]
    shift = rng.normal(size=(rows, 2)) * 0.05
    _, matrix = model.expected(shift)
    k, step = model.columns, 1e-4

    def moved(**change):
        return replace(model, **change).expected(shift)[0]

    for column in range(min(k, 3)):
        mine = model.site_column == column
        for axis in range(2):
            move = step * mine[:, None] * np.eye(2)[axis]
            ahead, behind = moved(site_xy_A=model.site_xy_A + move), moved(site_xy_A=model.site_xy_A - move)
            found = matrix[:, [axis * k + column]].toarray().ravel()
            np.testing.assert_allclose(found, ((ahead - behind) / (2 * step)).ravel(), atol=2e-3 * np.abs(found).max())
        scale = 1.0 + step * mine
        ahead, behind = moved(site_counts=model.site_counts * scale), moved(site_counts=model.site_counts / scale)
        found = matrix[:, [2 * k + column]].toarray().ravel()
        np.testing.assert_allclose(found, ((ahead - behind) / (2 * step)).ravel(), atol=2e-3 * np.abs(found).max())
    for axis in range(2):
        move = np.tile(step * np.eye(2)[axis], (rows, 1))
        ahead, behind = model.expected(shift + move)[0], model.expected(shift - move)[0]
        found = matrix[:, [3 * k + 1 + axis]].toarray().ravel()
        np.testing.assert_allclose(found, ((ahead - behind) / (2 * step)).ravel(), atol=2e-3 * np.abs(found).max())


def test_one_gaussian_spot_is_known_to_sigma_over_root_n():
    """Closed form (Thompson, Larson & Webb, Biophys. J. 82 (2002) 2775): sigma / sqrt(N) without background."""
    model = _spots([(3.0, 3.1)], 5000, sigma=0.4, shape=(60, 60), pixel=0.1, background=1e-6)
    bound = hybrid_bound(model)
    np.testing.assert_allclose(bound.xy_A, 0.4 / 5000**0.5, rtol=2e-3)
    np.testing.assert_allclose(bound.intensity, 1.0 / 5000**0.5, rtol=2e-3)


def test_rows_that_move_add_their_variance():
    """One spot, displacements along the row only: information sum_i 1 / (s^2 + sigma^2 / N_i), N_i counts in row i."""
    model = _spots([(3.0, 3.1)], 5000, sigma=0.4, shape=(60, 60), pixel=0.1, background=1e-6)
    jitter = 0.03
    bound = hybrid_bound(model, np.tile([jitter, 0.0], (60, 1)), draws=4)
    in_row = model.expected()[0].sum(axis=1)
    wanted = 1.0 / np.sqrt(np.sum(1.0 / (jitter**2 + 0.4**2 / np.maximum(in_row, 1e-9))))
    assert bound.xy_A[0, 0] == pytest.approx(wanted, rel=0.01)
    np.testing.assert_allclose(bound.xy_A[0, 1], 0.4 / 5000**0.5, rtol=5e-3)
    # Two columns side by side share their rows: the distance is known better than the places.
    pair = _spots([(2.0, 3.0), (4.0, 3.0)], 5000, sigma=0.4, shape=(60, 60), pixel=0.1, background=1e-6)
    both = hybrid_bound(pair, np.tile([0.1, 0.0], (60, 1)), draws=4)
    assert both.relative_xy_A[0, 0] < 0.5 * both.xy_A[0, 0]
    assert both.relative_xy_A[0, 0] == pytest.approx(0.4 / 5000**0.5 / 2**0.5, rel=0.05)


def test_columns_outside_hold_rows_only_as_far_as_they_are_known():
    """A spot half over the edge: known, it says where its rows were; unknown, it says little; far out, nothing."""
    sigma = np.tile([0.1, 0.0], (60, 1))
    pair = _spots([(2.5, 3.0), (-0.1, 3.0)], 5000, sigma=0.4, shape=(60, 60), pixel=0.1, background=1.0)
    unknown = hybrid_bound(replace(pair, beyond=1), sigma, draws=4)
    known = hybrid_bound(replace(pair, site_column=np.array([0, -1])), sigma, draws=4)
    alone = hybrid_bound(
        replace(pair, site_column=np.array([0, 0]), site_counts=np.array([5000.0, 1e-6])), sigma, draws=4
    )
    assert unknown.columns == known.columns == 1
    assert known.xy_A[0, 0] < 0.8 * unknown.xy_A[0, 0]
    assert unknown.xy_A[0, 0] == pytest.approx(alone.xy_A[0, 0], rel=0.05)
    crystal = project(material("Pt").atoms(), (1, 1, 0), u_A=material("Pt").u_A).slab(20.0)
    model = image_model(crystal, CONDITIONS[1], DETECTOR, Scan((64, 64), 0.15), 2e4, 0.01)
    places = model.site_xy_A[model.site_column >= 0]
    on_image = ((places > -0.075) & (places < 63.5 * 0.15)).all(axis=1)
    assert 0 < model.beyond == (~on_image).sum()
    assert hybrid_bound(model).columns == on_image.sum()
    assert places.min() > -0.075 - 2.0


@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_an_efficient_estimator_reaches_the_bound(jitter):
    """Monte-Carlo of Fisher scoring over columns, background and, with their prior, all row displacements."""
    model = _spots([(1.7, 1.9), (2.9, 2.6), (3.6, 1.2)], 3000, background=2.0)
    rows, columns = model.shape
    rng = np.random.default_rng(11)
    sigma = np.full((rows, 2), jitter)
    bound = hybrid_bound(model, sigma, draws=16, rng=rng)
    size, trials, errors = 3 * model.columns + 1, 240, []
    for _ in range(trials):
        truth = rng.normal(size=(rows, 2)) * sigma
        counts = rng.poisson(model.expected(truth)[0])
        guess, shift = model, np.zeros((rows, 2))
        for _ in range(6):
            expected, matrix = guess.expected(shift)
            dense = matrix.toarray()
            beam = np.zeros((rows, columns, 2, rows))
            for i in range(rows):
                beam[i, :, :, i] = dense[:, size:].reshape(rows, columns, 2)[i]
            full = dense[:, :size]
            prior = np.zeros(size)
            start = np.zeros(size)
            if jitter:
                full = np.concatenate([full, beam.reshape(rows * columns, -1)], axis=1)
                prior = np.concatenate([prior, np.full(2 * rows, jitter**-2)])
                start = np.concatenate([start, shift.T.ravel()])
            weight = 1.0 / expected.ravel()
            normal = (full.T * weight) @ full + np.diag(prior)
            step = np.linalg.solve(normal, full.T @ (weight * (counts - expected).ravel()) - prior * start)
            k = model.columns
            guess = replace(
                guess,
                site_xy_A=guess.site_xy_A + step[: 2 * k].reshape(2, k).T,
                site_counts=guess.site_counts * np.exp(step[2 * k : 3 * k]),
                background_counts=np.maximum(guess.background_counts + step[3 * k], 0.05),
            )
            if jitter:
                shift = shift + step[size:].reshape(2, rows).T
        errors.append(guess.site_xy_A - model.site_xy_A)
    deviation = np.array(errors).std(axis=0)
    # 240 trials know a standard deviation to 4.6 %; the mean over six components to 2 %.
    assert (deviation / bound.xy_A).mean() == pytest.approx(1.0, abs=0.07)
    assert (deviation / bound.xy_A).max() < 1.2


def test_what_has_no_bound_is_told():
    model = _spots([(1.0, 1.0)], 100)
    with pytest.raises(OpticsError, match="no column"):
        hybrid_bound(replace(model, site_column=np.array([-1])))
    with pytest.raises(OpticsError, match="row_sigma_A"):
        hybrid_bound(model, np.zeros((3, 2)))
    with pytest.raises(OpticsError, match="no pixel expects any counts"):
        hybrid_bound(replace(model, background_counts=np.zeros(model.shape), site_counts=np.zeros(1)))


def test_pixels_without_counts_do_not_matter():
    """Spots are cut at 8 A: a dark corner beyond it says no more of the columns than one with a trace of counts."""
    model = _spots([(2.0, 2.1), (3.1, 2.4)], 5000, sigma=0.3, shape=(90, 90), background=0.0)
    assert model.expected()[0].min() == 0.0
    dark, lit = hybrid_bound(model), hybrid_bound(replace(model, background_counts=np.full(model.shape, 1e-3)))
    np.testing.assert_allclose(dark.xy_A, lit.xy_A, rtol=0.01)


def test_columns_on_one_another_have_no_finite_bound():
    pair = hybrid_bound(_spots([(2.0, 2.1), (2.0 + 1e-9, 2.1)], 5000))
    assert (pair.xy_A[:, 0] > 1e3).all()


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_the_bound_is_that_of_the_models_own_derivatives(jitter):
    """Elimination of rows against a dense inverse of the whole matrix of `ImageModel.expected`."""
    known = material("SrTiO3")
    slab = project(known.atoms(), (0, 0, 1), u_A=known.u_A).slab(40.0)
    model = image_model(slab, CONDITIONS[1], DETECTOR, Scan((70, 60), 0.15, 10.0, (1.0, 0.5)), 3e4, 0.003)
    inside = model.columns - model.beyond
    model = replace(model, site_column=np.where(model.site_column < inside, model.site_column, -1), beyond=0)
    rows, columns = model.shape
    size, draws = 3 * model.columns + 1, 3
    sigma = np.full((rows, 2), jitter)
    shifts = np.random.default_rng(5).standard_normal((draws, rows, 2)) * sigma
    whole = np.zeros((size + 2 * rows, size + 2 * rows))
    for shift in shifts:
        expected, matrix = model.expected(shift)
        dense = matrix.toarray()
        beam = np.zeros((rows, columns, 2, rows))
        for i in range(rows):
            beam[i, :, :, i] = dense[:, size:].reshape(rows, columns, 2)[i]
        full = np.concatenate([dense[:, :size], beam.reshape(rows * columns, -1)], axis=1)
        whole += (full.T / expected.ravel()) @ full / draws
    if jitter:
        whole[range(size, size + 2 * rows), range(size, size + 2 * rows)] += jitter**-2
        wanted = np.linalg.inv(whole)[:size, :size]
    else:
        wanted = np.linalg.inv(whole[:size, :size])
    bound = hybrid_bound(model, sigma, draws=draws, rng=np.random.default_rng(5))
    k = model.columns
    np.testing.assert_allclose(bound.xy_A.T.ravel(), np.sqrt(np.diag(wanted)[: 2 * k]), rtol=5e-3)
    np.testing.assert_allclose(bound.intensity, np.sqrt(np.diag(wanted)[2 * k : 3 * k]), rtol=5e-3)
