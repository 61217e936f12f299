"""Probe and transfer function against abTEM, closed forms and published numbers."""

from __future__ import annotations

import abtem
import numpy as np
import pytest

from temimagenet.errors import OpticsError
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics, wavelength_A
from temimagenet.imaging.scattering import annular_cross_section_A2, electron_scattering_factor_A

FIG7 = Optics(200.0, 20.0, 0.0, defocus_A=80.0, C3_mm=0.0257)
CASES = {**{f"condition{n}": optics for n, optics in CONDITIONS.items() if n != 4}, "fig7": FIG7}
EXTENT, POINTS = 240.0, 2400


def abtem_intensity(optics: Optics) -> np.ndarray:
    """abTEM's probe at the cell's corner with a hard aperture, unit sum over area, blurred by the source."""
    probe = abtem.Probe(
        energy=optics.energy_keV * 1e3,
        semiangle_cutoff=optics.aperture_mrad,
        extent=EXTENT,
        gpts=POINTS,
        soft=False,
        defocus=optics.defocus_A,
        Cs=optics.C3_mm * 1e7,
    )
    waves = probe.build((0.0, 0.0), lazy=False)
    intensity = np.abs(np.asarray(waves.array)) ** 2
    intensity = intensity.reshape(POINTS, POINTS)
    sampling = EXTENT / POINTS
    intensity = intensity / (intensity.sum() * sampling**2)
    q = np.fft.fftfreq(POINTS, sampling)
    sigma = optics.source_size_A / 2.354820045
    blur = np.exp(-2 * np.pi**2 * sigma**2 * (q[:, None] ** 2 + q[None] ** 2))
    return np.fft.ifft2(np.fft.fft2(intensity) * blur).real


@pytest.mark.parametrize("name", CASES)
def test_probe_profile_equals_abtem(name):
    optics = CASES[name]
    reference = abtem_intensity(optics)
    sampling = EXTENT / POINTS
    r = sampling * np.arange(80)
    ours = optics.probe(r)
    assert np.abs(ours - reference[0, :80]).max() < 1e-3 * reference.max()
    diagonal = optics.probe(np.sqrt(2) * r[:40])
    assert np.abs(diagonal - np.diag(reference)[:40]).max() < 1e-3 * reference.max()


@pytest.mark.parametrize("name", CASES)
def test_transfer_function_equals_the_fourier_transform_of_abtems_probe(name):
    optics = CASES[name]
    reference = abtem_intensity(optics)
    otf = np.fft.fft2(reference).real[0] * (EXTENT / POINTS) ** 2
    q = np.fft.fftfreq(POINTS, EXTENT / POINTS)
    inside = np.abs(q) < 1.02 * optics.q_max_per_A
    assert np.abs(optics.otf(q[inside]) - otf[inside]).max() < 1e-3


def test_aberrated_transfer_function_equals_brute_force_autocorrelation():
    k = np.linspace(-FIG7.k_max_per_A, FIG7.k_max_per_A, 1401)
    kx, ky = np.meshgrid(k, k)
    for x in (0.1, 0.35, 0.6, 0.85):
        q = x * FIG7.q_max_per_A
        left, right = np.hypot(kx - q / 2, ky), np.hypot(kx + q / 2, ky)
        both = (left <= FIG7.k_max_per_A) & (right <= FIG7.k_max_per_A)
        total = np.sum(np.cos(FIG7.chi(right) - FIG7.chi(left)) * both) / np.sum(np.hypot(kx, ky) <= FIG7.k_max_per_A)
        assert float(FIG7.otf(np.array([q]))[0]) == pytest.approx(total, abs=1e-3)


def test_the_quadrature_reduces_to_the_closed_form_without_aberrations():
    nearly = Optics(200.0, 24.0, 0.0, defocus_A=1e-9)
    q = np.linspace(0, nearly.q_max_per_A, 301)
    assert np.abs(nearly.otf(q) - Optics(200.0, 24.0).otf(q)).max() < 1e-6


def test_strong_aberrations_are_resolved_by_the_quadrature():
    strong = Optics(200.0, 20.0, defocus_A=1500.0)
    r = np.linspace(0.0, 30.0, 40)
    # An unaberrated-aperture probe far out of focus: compare with the wave's own Hankel transform.
    from scipy.special import j0

    k, w = np.polynomial.legendre.leggauss(4000)
    k = 0.5 * strong.k_max_per_A * (k + 1)
    w = 0.5 * strong.k_max_per_A * w
    wave = 2 * np.pi * (j0(2 * np.pi * r[:, None] * k) * np.exp(-1j * strong.chi(k)) * k) @ w
    reference = np.abs(wave) ** 2 / (np.pi * strong.k_max_per_A**2)
    assert np.abs(strong.probe(r) - reference).max() < 2e-3 * reference.max()


@pytest.mark.parametrize("name", CASES)
def test_transfer_function_is_one_at_zero_and_nothing_beyond_the_limit(name):
    optics = CASES[name]
    assert float(optics.otf(np.zeros(1))[0]) == pytest.approx(1.0, abs=1e-9)
    assert np.all(optics.otf(optics.q_max_per_A * np.array([1.0, 1.1, 5.0])) == 0.0)


def test_wavelengths_are_the_published_ones():
    # Kirkland, Advanced Computing in Electron Microscopy, and DESIGN: relativistic wavelengths.
    assert wavelength_A(200.0) == pytest.approx(0.025079, abs=5e-7)
    assert wavelength_A(100.0) == pytest.approx(0.037014, abs=5e-7)
    assert wavelength_A(60.0) == pytest.approx(0.048661, abs=5e-7)


def test_scattering_factors_equal_the_reference_table():
    import pathlib

    from ase.data import atomic_numbers

    table = np.load(pathlib.Path(__file__).parent.parent / "data" / "unit_lobato_fe.npz")
    for symbol in set(table.files) - {"k"}:
        ours = electron_scattering_factor_A(atomic_numbers[symbol], table["k"])
        assert ours == pytest.approx(table[symbol], abs=2e-5, rel=2e-5)


@pytest.mark.parametrize(("symbol", "number"), [("O", 8), ("Ti", 22), ("Sr", 38), ("Pt", 78)])
def test_annular_cross_section_equals_abtems_parametrisation_summed_on_a_grid(symbol, number):
    from abtem.parametrizations import LobatoParametrization

    detector = Detector(98.0, 196.0)
    factor = LobatoParametrization().scattering_factor(symbol)
    wavelength = wavelength_A(200.0)
    q = np.linspace(0.098 / wavelength, 0.196 / wavelength, 20001)
    # abTEM gives f_e(k^2); the cross-section is (gamma)^2 times the integral over solid angle.
    values = np.abs(np.asarray(factor(q**2), dtype=float))
    gamma = 1 + 200.0 / 510.99895
    expected = (wavelength * gamma) ** 2 * np.trapezoid(values**2 * 2 * np.pi * q, q)
    assert annular_cross_section_A2(number, 200.0, detector) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"energy_keV": -1.0}, {"aperture_mrad": 0.0}, {"source_size_A": -0.1}, {"energy_keV": np.nan},
        {"source_size_A": np.inf}, {"defocus_A": np.nan}, {"C3_mm": np.inf}, {"C5_mm": -np.inf},
    ],
)  # fmt: skip
def test_impossible_optics_are_refused(bad):
    with pytest.raises(OpticsError):
        Optics(**{"energy_keV": 200.0, "aperture_mrad": 20.0} | bad)


def test_detector_angles_must_rise():
    with pytest.raises(OpticsError, match="inner < outer"):
        Detector(196.0, 98.0)
    for outer in (np.nan, np.inf):
        with pytest.raises(OpticsError, match="inner < outer"):
            Detector(98.0, outer)


def test_mask_radius_is_the_paper_formula():
    optics = CONDITIONS[1]
    assert optics.column_radius_A == pytest.approx(np.sqrt((0.5 * 0.0250793 / 0.024) ** 2 + 0.45**2), abs=1e-5)
