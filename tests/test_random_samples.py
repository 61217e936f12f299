"""Samples of random specimens: images, labels, vacuum, and what a library keeps of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import j0

from builder.render import render_library
from temimagenet import TEMImageNet
from temimagenet.imaging.scattering import annular_cross_section_A2
from temimagenet.labels import LABELS, SCALARS
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import VACUUM_PEAK, render, specimen_of


def random_specs(count: int):
    recipe = load_recipe("training")
    specs = (sample_spec(recipe, i) for i in range(10**6))
    chosen = (s for s in specs if s.specimen.kind == "random" and len(specimen_of(s.specimen).numbers))
    return [next(chosen) for _ in range(count)]


def test_a_random_specimen_is_the_direct_sum_of_its_spots():
    for spec in random_specs(5):
        spec = replace(spec, image_size=24, field_of_view_A=24.0)
        specimen = specimen_of(spec.specimen)
        sample = render([spec], ["noBackgroundnoNoise"])[0]
        at = np.stack(np.meshgrid(np.arange(24.0), np.arange(24.0)), axis=-1).reshape(-1, 2)
        beam = spec.scan.to_specimen_A(at)
        apart = np.linalg.norm(beam[:, None] - specimen.xy_A[None], axis=-1)
        # Hankel transform of transfer function times thermal factor, one radius after another.
        nodes, weights = np.polynomial.legendre.leggauss(400)
        q = 0.5 * spec.optics.q_max_per_A * (nodes + 1.0)
        r = np.linspace(0.0, apart.max(), 6000)
        kernel = j0(2.0 * np.pi * r[:, None] * q) * (np.pi * spec.optics.q_max_per_A * weights * q * spec.optics.otf(q))
        total = np.zeros(len(beam))
        for z, u in set(zip(specimen.numbers.tolist(), specimen.u_A.tolist(), strict=True)):
            spot = kernel @ np.exp(-2.0 * np.pi**2 * u**2 * q**2)
            among = (specimen.numbers == z) & (specimen.u_A == u)
            weight = annular_cross_section_A2(z, spec.optics.energy_keV, spec.detector) * specimen.atoms[among]
            total += np.interp(apart[:, among], r, spot) @ weight
        clean = sample.labels["noBackgroundnoNoise"].double().numpy().ravel()
        # What the window leaves out, the tails beyond 8 A, is below 1 % of the peak.
        assert np.abs(clean - total).max() < 0.01 * total.max()
        assert np.corrcoef(clean, total)[0, 1] > 0.9999


def test_labels_of_random_specimens_show_their_columns():
    for spec in random_specs(12):
        sample = render([spec], LABELS + SCALARS)[0]
        inside = sample.columns.inside((256, 256))
        there = spec.scan.to_pixels(specimen_of(spec.specimen).xy_A)
        expected = there[((there >= -0.5) & (there < 255.5)).all(axis=1)]
        found = sample.labels["position"].numpy()
        assert len(found) == int(inside.sum()) == len(expected)
        assert np.abs(found[np.lexsort(found.T)] - expected[np.lexsort(expected.T)]).max(initial=0.0) < 1e-9
        middle = np.clip(np.rint(found), 0, 255).astype(int)
        assert sample.labels["gaussianMask"].numpy()[middle[:, 1], middle[:, 0]].min(initial=1.0) > 0.1
        assert sample.labels["circularMask"].numpy()[middle[:, 1], middle[:, 0]].min(initial=1.0) == 1.0


def test_vacuum_is_an_image_without_columns():
    recipe = load_recipe("training")
    specs = (sample_spec(recipe, i) for i in range(10**6))
    empty = next(s for s in specs if s.specimen.kind == "random" and not len(specimen_of(s.specimen).numbers))
    sample = render([empty], LABELS + SCALARS)[0]
    assert sample.clean_peak == VACUUM_PEAK
    assert len(sample.columns) == 0
    assert sample.labels["position"].shape == (0, 2)
    for name in ("circularMask", "gaussianMask", "noBackgroundnoNoise", "noNoiseNoBackgroundSuperresolution"):
        assert not sample.labels[name].any()
    expected = sample.labels["noNoise"].mean() * sample.dose_e_per_A2 * empty.pixel_size_A**2
    assert float(sample.image.mean()) == pytest.approx(float(expected), rel=0.1)


def test_random_specimens_and_vacuum_are_stored_and_redrawn(tmp_path):
    training = load_recipe("training")
    entries = tuple(entry for entry in training.entries if entry.kind == "random")
    render_library(replace(training, entries=entries, image_size=64, samples=60), tmp_path, workers=1)
    dataset = TEMImageNet(tmp_path, split=None, labels=LABELS)
    assert set(dataset.catalogue["morphology"]) == {"random"}
    assert min(len(sample.columns) for sample in dataset) == 0
    for sample in dataset:
        again = render([sample.spec], LABELS, quantised=True)[0]
        assert np.array_equal(sample.image, again.image)
        assert all(np.array_equal(sample.labels[name], again.labels[name]) for name in LABELS)
