"""Benchmark cases: fixed images, true positions and displacements, bounds that are kept."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from temimagenet.errors import PrecisionError
from temimagenet.imaging.scan import row_shifts_A, row_sigma_A
from temimagenet.precision import CASES, Bound, case_images, hybrid_bound, image_model
from temimagenet.precision import cases as module
from temimagenet.precision.cases import DOSE_LADDER, IMAGES_PER_CASE, MARGIN_A, RESPONSE_CASES, SCAN_LADDER, find_case
from temimagenet.recipe import spec_from_json, spec_to_json
from temimagenet.render import render, specimen_of

DIGESTS = {
    "pt110-particle": "d4131ff233ca",
    "pt110-05dB": "b770d6f9ad0e",
    "pt110-10dB": "089501691931",
    "pt110-15dB": "470b225ecf56",
    "pt110-20dB": "1766c614628d",
    "pt110-25dB": "967b252fb4aa",
    "pt110-30dB": "dee5ccceb6d2",
    "pt110-scan-0.05A": "9e91431d4d81",
    "pt110-scan-0.10A": "29dd7ab6e01d",
    "pt110-scan-0.20A": "c301fab13aa3",
    "pt110-scan-0.30A": "851878312364",
    "pt110-line-frequency": "199ca223cece",
    "si110-dumbbells": "32e4e26c3e68",
    "srtio3-001": "249fd0d95258",
    "tio2-001": "48e914b82a15",
    "licoo2-010": "71dd7dcbc33a",
    "particle-edges": "a76a7f02415b",
    "amorphous-graphene": "35ff1435ab43",
    "pt110-displaced-10pm": "0ec010adc93c",
    "pt110-displaced-20pm": "0120616e69d3",
    "pt110-displaced-30pm": "d6f403b4504b",
    "pt110-strained": "6e49a2457cd9",
    "srtio3-displaced-10pm": "8da84badfbbd",
    "srtio3-displaced-20pm": "4d89f9c3a366",
    "srtio3-displaced-30pm": "e82e8e57dda6",
    "srtio3-strained": "4544e93c210f",
    "pt110-multislice": "6c868ef0da1e",
    "si110-multislice": "392945feadcb",
    "srtio3-001-multislice": "0b168be1c093",
    "licoo2-010-multislice": "b4588bcabec3",
    "pt110-particle-multislice": "25ec167d2b40",
}


def digest(case):
    return hashlib.sha256(spec_to_json(case.spec(0)).encode()).hexdigest()[:12]


def test_the_set_is_the_one_that_records_were_made_on():
    """A change here must raise CASE_SET_VERSION."""
    assert module.CASE_SET_VERSION == 1
    assert {name: digest(case) for name, case in CASES.items()} == DIGESTS


def test_specs_are_pure_differ_and_survive_json():
    for case in CASES.values():
        specs = [case.spec(index) for index in range(IMAGES_PER_CASE)]
        assert case.spec(7) == specs[7]
        assert len({spec.noise_seed for spec in specs}) == IMAGES_PER_CASE
        assert len({spec.rotation_deg for spec in specs}) == IMAGES_PER_CASE
        assert spec_from_json(spec_to_json(specs[3])) == specs[3]
    one, other = (next(case_images("pt110-15dB", [4], bounds=False)) for _ in range(2))
    assert np.array_equal(one.image, other.image)
    assert not np.array_equal(one.image, next(case_images("pt110-15dB", [5], bounds=False)).image)


def test_ladders_step_one_thing():
    assert list(DOSE_LADDER) == [5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    assert list(SCAN_LADDER) == [0.0, 0.05, 0.1, 0.2, 0.3]
    assert all(CASES[name].scan_noise.sigma_A == 0.0 for name in DOSE_LADDER.values())
    assert all(CASES[name].psnr_dB == 20.0 for name in SCAN_LADDER.values())
    modulated = [case.name for case in CASES.values() if case.scan_noise.modulation is not None]
    assert modulated == ["pt110-line-frequency"]


def test_columns_lie_where_the_image_is_bright():
    for name in ("pt110-30dB", "particle-edges", "srtio3-displaced-30pm", "pt110-particle-multislice"):
        truth = next(case_images(name, [1], bounds=False))
        heavy = truth.xy_px[truth.counts & (truth.group != "O")]
        clean = render([truth.spec], ("noBackgroundnoNoise",), engine=truth.case.engine)[0]
        values = clean.labels["noBackgroundnoNoise"].numpy()
        at = np.rint(heavy).astype(int)
        # Each column tops all points half an angstrom from it.
        step = round(0.5 / truth.pixel_size_A)
        for dx, dy in ((step, 0), (-step, 0), (0, step), (0, -step)):
            assert (values[at[:, 1], at[:, 0]] > values[at[:, 1] + dy, at[:, 0] + dx]).all(), name


def test_what_is_near_the_border_or_faint_does_not_count():
    truth = next(case_images("licoo2-010", [0], bounds=False))
    assert set(truth.group[truth.counts]) == {"Co", "O"}
    assert "Li" in truth.group
    near = np.minimum(truth.xy_px + 0.5, 255.5 - truth.xy_px).min(axis=1) * truth.pixel_size_A
    assert near[truth.counts].min() >= MARGIN_A
    assert truth.counts[(near >= MARGIN_A) & (truth.group != "Li")].all()
    edges = next(case_images("particle-edges", [0], bounds=False))
    assert set(edges.group) == {"edge", "inside"}


@pytest.mark.parametrize("name", ["pt110-displaced-20pm", "srtio3-strained"])
def test_displacements_lead_back_to_the_perfect_lattice(name):
    truth = next(case_images(name, [2], bounds=False))
    p, scan = truth.pixel_size_A, truth.spec.scan
    perfect = specimen_of(
        replace(truth.spec.specimen, displacement_A=0.0, strain=(0.0, 0.0, 0.0), realisation=None, seed=0)
    )
    place = scan.to_specimen_A(truth.xy_px - truth.displacement_A / p)
    steps = (place[:, None] - perfect.column_xy_A[None]) @ np.linalg.inv(perfect.cell_A)
    off = np.abs((steps - np.rint(steps)) @ perfect.cell_A).max(axis=2).min(axis=1)
    assert off.max() < 1e-9
    if "displaced" in name:
        assert truth.displacement_A.std() == pytest.approx(0.2, rel=0.15)
    else:
        assert np.ptp(truth.displacement_A) > 0.1
    assert name not in RESPONSE_CASES or "displaced" in name


def test_bounds_are_kept_and_those_of_the_model(tmp_path, monkeypatch):
    truth = next(case_images("pt110-25dB", [0], cache=tmp_path))
    spec, sample = truth.spec, render([truth.spec], ())[0]
    level = 0.05 * sample.clean_peak
    model = image_model(specimen_of(spec.specimen), spec.optics, spec.detector, spec.scan, sample.dose_e_per_A2, level)
    bound = hybrid_bound(model)
    np.testing.assert_allclose(truth.bound_A, bound.xy_A, rtol=1e-6)
    kept = np.flatnonzero(truth.counts)[::2]
    k = bound.columns
    chosen = np.concatenate([kept, kept + k, kept + 2 * k, [3 * k]])
    wanted = Bound(bound.covariance[np.ix_(chosen, chosen)], len(kept)).relative_xy_A
    np.testing.assert_allclose(truth.relative_bound_A(kept), wanted, rtol=1e-5)
    monkeypatch.setattr(module, "sample_bound", None)
    again = next(case_images("pt110-25dB", [0], cache=tmp_path))
    assert np.array_equal(again.bound_A, truth.bound_A)
    assert np.array_equal(again.covariance_A2, truth.covariance_A2)


def test_an_image_with_a_dark_corner_has_a_bound(tmp_path):
    """The ramp is 0 where no column is within 8 A."""
    truth = next(case_images("particle-edges", [18], cache=tmp_path))
    assert np.isfinite(truth.bound_A).all()


def test_more_dose_less_jitter_is_a_smaller_bound(tmp_path):
    def mean(name):
        truth = next(case_images(name, [0], cache=tmp_path))
        return truth.bound_A[truth.counts].mean()

    assert mean("pt110-30dB") < 0.5 * mean("pt110-20dB")
    assert mean("pt110-scan-0.10A") > 1.2 * mean("pt110-20dB")


def test_modulated_rows_have_their_own_prior():
    spec = CASES["pt110-line-frequency"].spec(0)
    rng = [np.random.Generator(np.random.Philox(spec.scan_seed)) for _ in range(2)]
    sigma = row_sigma_A(spec.scan_noise, 256, rng[0])
    shifts = row_shifts_A(spec.scan_noise, 256, spec.pixel_size_A, rng[1])
    ratio = shifts / sigma
    assert np.abs(ratio).max() < 5.0
    assert ratio.std() == pytest.approx(1.0, abs=0.12)


def test_what_there_is_not_is_told():
    with pytest.raises(PrecisionError, match="no benchmark case 'pt111'"):
        find_case("pt111")
    with pytest.raises(PrecisionError, match="image 30: expected 0 to 29"):
        next(case_images("pt110-05dB", [30]))
    twin = next(case_images("si110-multislice", [0]))
    assert twin.bound_A is None
    with pytest.raises(PrecisionError, match="has no bound"):
        twin.relative_bound_A(np.arange(3))
