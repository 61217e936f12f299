"""Rendering: samples depend on their spec alone; counts, PSNR and clean labels are what they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from temimagenet.bounds import hybrid_bound, image_model
from temimagenet.errors import OpticsError
from temimagenet.imaging.background import Background, draw_background, evaluate_background
from temimagenet.imaging.detector import count_electrons, dose_for_psnr, psnr_dB
from temimagenet.imaging.fourier import evaluate
from temimagenet.imaging.scan import ScanNoise, row_sigma_A
from temimagenet.labels import LABELS, SCALARS
from temimagenet.recipe import recipe_for_structure, sample_spec
from temimagenet.render import render, sample_bound, specimen_of, with_bounds


def equal(one, two) -> bool:
    return torch.equal(one.image, two.image) and all(torch.equal(one.labels[n], two.labels[n]) for n in one.labels)


def test_batch_size_and_order_do_not_matter(recipe):
    specs = [sample_spec(recipe, i) for i in range(12)]
    together = render(specs, LABELS)
    apart = [render([spec], LABELS)[0] for spec in reversed(specs)][::-1]
    assert all(equal(a, b) for a, b in zip(together, apart, strict=True))


def test_thread_count_does_not_matter(recipe):
    specs = [sample_spec(recipe, i) for i in range(6)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = render(specs, LABELS)
        torch.set_num_threads(4)
        four = render(specs, LABELS)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    assert all(equal(a, b) for a, b in zip(one, four, strict=True))


def test_every_sample_has_all_labels_of_the_right_shape(recipe):
    for i in range(12):
        sample = render([sample_spec(recipe, i)], LABELS + SCALARS)[0]
        for name, value in sample.labels.items():
            if "2x" in name:
                assert value.shape == (128, 128)
            elif name in ("position", "positionRadius"):
                assert value.shape[1] == (2 if name == "position" else 3)
            elif name in SCALARS:
                assert value.ndim == 0
            else:
                assert value.shape == (64, 64)
            assert torch.isfinite(value).all()


def test_clean_labels_do_not_change_with_noise(recipe):
    spec = sample_spec(recipe, 0)
    noisier = replace(spec, psnr_dB=5.0, noise_seed=9, scan_noise=ScanNoise(0.4), scan_seed=3)
    one, two = render([spec, noisier], LABELS)
    assert not torch.equal(one.image, two.image)
    for name in LABELS:
        assert torch.equal(one.labels[name], two.labels[name])


def test_counts_have_the_mean_and_variance_of_the_clean_image(recipe):
    spec = replace(sample_spec(recipe, 0), scan_noise=ScanNoise(0.0))
    specs = [replace(spec, noise_seed=seed) for seed in range(400)]
    samples = render(specs, ["noNoise"])
    counts = torch.stack([s.image for s in samples]).double()
    expected = samples[0].labels["noNoise"].double() * samples[0].dose_e_per_A2 * spec.pixel_size_A**2
    z = (counts.mean(0) - expected) / torch.sqrt(expected / 400)
    assert abs(float(z.mean())) < 4 / 64
    assert float(z.std()) == pytest.approx(1.0, abs=0.05)
    ratio = float((counts.var(0) / expected).mean())
    assert ratio == pytest.approx(1.0, abs=0.01)


def test_dose_gives_the_asked_psnr(recipe):
    for i in range(8):
        spec = replace(sample_spec(recipe, i), psnr_dB=20.0)
        sample = render([spec], ["noNoise", "noBackgroundnoNoise"])[0]
        electrons = sample.dose_e_per_A2 * spec.pixel_size_A**2
        peak = float(sample.labels["noBackgroundnoNoise"].max()) * electrons
        mean = float(sample.labels["noNoise"].mean()) * electrons
        assert 20 * np.log10(peak / np.sqrt(mean)) == pytest.approx(20.0, abs=1e-3)
        assert peak / np.sqrt(mean) == pytest.approx(10.0, rel=1e-4)


def test_psnr_and_dose_are_inverse():
    dose = dose_for_psnr(17.0, 0.2, 0.1, 0.15)
    assert psnr_dB(0.2, 0.1, dose * 0.15**2) == pytest.approx(17.0)
    with pytest.raises(OpticsError, match="no signal"):
        dose_for_psnr(17.0, 0.0, 0.1, 0.15)


def test_twice_finer_labels_share_every_second_pixel(recipe):
    for i in range(6):
        labels = render([sample_spec(recipe, i)], LABELS)[0].labels
        for fine, coarse in (
            ("noNoiseNoBackgroundUpinterpolation2x", "noBackgroundnoNoise"),
            ("noNoiseUpinterpolation2x", "noNoise"),
        ):
            assert (labels[fine][::2, ::2] - labels[coarse]).abs().max() < 1e-5 * labels[coarse].max()


def test_scan_noise_moves_the_beam_not_the_labels(recipe):
    spec = replace(sample_spec(recipe, 0), scan_noise=ScanNoise(0.2), psnr_dB=45.0, background=Background("constant"))
    sample = render([spec], ["noBackgroundnoNoise"])[0]
    assert sample.row_shift_A.std() > 0.05
    moved = evaluate(sample.series, replace(sample.series_scan, row_shift_A=sample.row_shift_A))
    electrons = sample.dose_e_per_A2 * spec.pixel_size_A**2
    still = sample.labels["noBackgroundnoNoise"]
    residual = ((sample.image - moved * electrons) / torch.sqrt((moved * electrons).clamp(min=1.0))).double()
    assert float(residual.std()) == pytest.approx(1.0, abs=0.1)
    assert float((sample.image - still * electrons).std()) > 3 * float((sample.image - moved * electrons).std())


def test_bright_spots_of_an_isolated_lattice_are_at_the_positions(recipe):
    spec = next(s for s in (sample_spec(recipe, i) for i in range(24)) if s.entry == "W [111]")
    spec = replace(spec, field_of_view_A=20.0)
    sample = render([spec], ["noBackgroundnoNoise", "position"])[0]
    image = sample.labels["noBackgroundnoNoise"]
    for x, y in sample.labels["position"].tolist():
        if 3 < x < 60 and 3 < y < 60:
            i, j = round(y), round(x)
            patch = image[i - 2 : i + 3, j - 2 : j + 3]
            assert abs(int(patch.argmax()) // 5 - 2) <= 1
            assert abs(int(patch.argmax()) % 5 - 2) <= 1


@pytest.mark.parametrize("kind", ["constant", "ramp", "nonlinear", "film"])
def test_backgrounds_are_positive_and_within_their_level(kind):
    for seed in range(30):
        background = draw_background(kind, 0.4, np.random.default_rng(seed))
        values = evaluate_background(background, (64, 64))
        assert values.min() >= 0.0
        assert values.max() <= 0.4 + 1e-6
        fine = evaluate_background(background, (128, 128))
        assert (fine[::2, ::2] - values).abs().max() < 1e-6


def test_a_nonlinear_background_equals_its_formula():
    background = Background("nonlinear", 0.1, (0.0, 0.0), ((0.2, 1.3, -0.4, 0.7),), ((0.3, 0.2, 0.6, 0.25),))
    v, u = np.meshgrid(np.arange(32) / 32, np.arange(48) / 48, indexing="ij")
    expected = 0.1 + 0.1 * (1 + np.cos(2 * np.pi * (1.3 * u - 0.4 * v) + 0.7))
    expected += 0.3 * np.exp(-((u - 0.2) ** 2 + (v - 0.6) ** 2) / (2 * 0.25**2))
    assert np.abs(evaluate_background(background, (32, 48)).numpy() - expected).max() < 1e-6


def test_impossible_counts_are_refused():
    with pytest.raises(OpticsError, match="counts in a pixel"):
        count_electrons(torch.full((2, 2), 0.5), 1e9, 0.1, 0)
    with pytest.raises(OpticsError, match="expected 0 or more"):
        count_electrons(torch.full((2, 2), 0.5), -1.0, 0.1, 0)


def test_negative_pixel_size_is_refused(recipe):
    spec = replace(sample_spec(recipe, 0), field_of_view_A=-10.0)
    with pytest.raises(OpticsError, match="pixel size"):
        render([spec])


@pytest.mark.gpu
def test_a_gpu_renders_the_same_clean_image(recipe):
    spec = sample_spec(recipe, 0)
    here, there = (render([spec], ["noNoise"], device)[0].labels["noNoise"].cpu() for device in ("cpu", "cuda"))
    assert (here - there).abs().max() < 1e-5 * here.max()


def test_bounds_of_a_sample_are_those_of_its_model(recipe):
    for index in (2, 3, 6, 7):  # a film, a particle, layers and crystals; with and without modulation
        spec = replace(sample_spec(recipe, index), scan_noise=ScanNoise(0.1, (None, "line-frequency")[index % 2]))
        sample = render([spec], (), bounds=True)[0]
        level = sample.clean_peak * evaluate_background(spec.background, (64, 64)).double().numpy()
        model = image_model(
            specimen_of(spec.specimen), spec.optics, spec.detector, spec.scan, sample.dose_e_per_A2, level
        )
        rng = np.random.Generator(np.random.Philox(spec.scan_seed))
        wanted = hybrid_bound(model, row_sigma_A(spec.scan_noise, 64, rng)).xy_A
        inside = sample.columns.inside((64, 64))
        np.testing.assert_allclose(sample.columns.crlb_A[inside], wanted, rtol=1e-5)
        assert np.isnan(sample.columns.crlb_A[~inside]).all()
        places = model.site_xy_A[model.site_column == 0].mean(axis=0)
        assert np.linalg.norm(sample.columns.xy_A[inside][0] - places) < 0.3
        plain = render([spec], ())[0]
        assert plain.columns.crlb_A is None
        assert np.array_equal(with_bounds(plain).columns.crlb_A, sample.columns.crlb_A, equal_nan=True)


def test_the_bound_of_a_lone_column_is_that_of_finite_differences_of_its_image(tmp_path):
    """Fisher information of x, y, intensity and background from the rendered image alone, moved by its offset."""
    from ase import Atoms

    Atoms("Au", cell=[24.0, 24.0, 4.0], pbc=True, positions=[[12.0, 12.0, 2.0]]).write(tmp_path / "au.cif")
    recipe = recipe_for_structure(tmp_path / "au.cif")
    spec = replace(
        sample_spec(recipe, 0), image_size=64, field_of_view_A=6.0, offset_A=(9.1, 8.8), rotation_deg=0.0,
        scan_noise=ScanNoise(0.0), background=Background("constant", 0.1), psnr_dB=20.0,
    )  # fmt: skip
    sample = render([spec], (), bounds=True)[0]
    inside = sample.columns.inside((64, 64))
    assert inside.sum() == 1

    def clean(x, y):
        moved = replace(
            sample.series_scan, offset_A=(sample.series_scan.offset_A[0] + x, sample.series_scan.offset_A[1] + y)
        )
        return evaluate(sample.series, moved).double().numpy() * sample.dose_e_per_A2 * spec.pixel_size_A**2

    step, here = 0.02, clean(0.0, 0.0)
    by = [clean(step, 0.0) - clean(-step, 0.0), clean(0.0, step) - clean(0.0, -step)]
    by = [part / (2.0 * step) for part in by] + [here, np.ones_like(here)]
    slopes = np.stack([part.ravel() for part in by], axis=1)
    expected = here + 0.1 * sample.clean_peak * sample.dose_e_per_A2 * spec.pixel_size_A**2
    wanted = np.sqrt(np.diag(np.linalg.inv((slopes.T / expected.ravel()) @ slopes)))[:2]
    np.testing.assert_allclose(sample.columns.crlb_A[inside][0], wanted, rtol=0.01)


def test_what_has_no_bound_goes_without(recipe):
    spec = sample_spec(recipe, 0)
    stepped = replace(spec, scan_noise=ScanNoise(0.1, None, form="published"))
    sample = render([stepped], (), bounds=True)[0]
    assert sample_bound(sample) is None
    assert sample.columns.crlb_A is None
    still = render([replace(stepped, scan_noise=ScanNoise(0.0, form="published"))], (), bounds=True)[0]
    assert still.columns.crlb_A is not None
    cut = replace(still, columns=replace(still.columns, xy_px=still.columns.xy_px + 9.0))
    with pytest.raises(OpticsError, match="columns on the image, its specification has"):
        sample_bound(cut)


def test_multislice_images_have_no_bound():
    from temimagenet.precision import CASES

    spec = replace(CASES["si110-multislice"].spec(0), image_size=64)
    linear, twin = (render([spec], (), engine=engine, bounds=True)[0] for engine in ("linear", "multislice"))
    assert linear.columns.crlb_A is not None
    assert twin.columns.crlb_A is None
    assert sample_bound(twin) is None
