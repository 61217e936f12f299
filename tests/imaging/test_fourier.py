"""`FourierImage` against direct sums of point-spread functions in real space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from temimagenet.imaging.fourier import FourierImage, evaluate, half_plane_indices
from temimagenet.imaging.linear import column_weights_A2, fourier_image, site_weights_A2, window
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.imaging.scan import Scan, ScanNoise, row_shifts_A
from temimagenet.specimen import Specimen, faceted_particle, material, project, sheet_specimen, shipped_sheet

DETECTOR = Detector()


def crystal(name: str, zone: tuple[int, int, int]) -> Specimen:
    known = material(name)
    return project(known.atoms(), zone, u_A=known.u_A).slab(80.0)


def hankel(optics: Optics, r: np.ndarray, u: float) -> np.ndarray:
    """Point-spread function at r by dense quadrature of the transfer function, thermal motion included."""
    from scipy.special import j0

    nodes, weights = np.polynomial.legendre.leggauss(700)
    q = 0.5 * optics.q_max_per_A * (nodes + 1)
    kernel = np.pi * optics.q_max_per_A * weights * q * optics.otf(q) * np.exp(-2 * np.pi**2 * u**2 * q**2)
    return j0(2 * np.pi * r[..., None] * q) @ kernel


def poisson_summed(specimen: Specimen, optics: Optics, points: np.ndarray) -> np.ndarray:
    """Direct sum of every site's and image's PSF out to 250 A, each term in real space; the far rest as its mean.

    PSF tails fall as r^-3, so what lies beyond R adds a nearly constant sum; it is the mean weight density times the
    PSF's volume beyond R, found from the same quadrature.
    """
    reach = 250.0
    weights = site_weights_A2(specimen, optics, DETECTOR)
    area = abs(np.linalg.det(specimen.cell_A))
    n = int(np.ceil(reach / np.sqrt(area))) + 4
    steps = np.array([(i, j) for i in range(-2 * n, 2 * n + 1) for j in range(-2 * n, 2 * n + 1)]) @ specimen.cell_A
    total = np.zeros(len(points))
    grid = np.linspace(0.0, reach, 60001)
    for number, u in set(zip(specimen.numbers.tolist(), specimen.u_A.tolist(), strict=True)):
        table = np.concatenate([hankel(optics, part, u) for part in np.array_split(grid, 200)])
        inside = 2 * np.pi * np.trapezoid(table * grid, grid)
        for k in np.flatnonzero((specimen.numbers == number) & (specimen.u_A == u)):
            for i, point in enumerate(points):
                r = np.linalg.norm(point - specimen.xy_A[k] - steps, axis=1)
                total[i] += weights[k] * (np.interp(r[r < reach], grid, table).sum() + (1 - inside) / area)
    return total


@pytest.mark.parametrize(("name", "zone", "condition"), [("SrTiO3", (1, 1, 0), 3), ("Si", (1, 1, 0), 5)])
def test_series_equals_a_direct_sum_of_point_spread_functions(name, zone, condition):
    # Source blur makes the PSF's far tails smooth, so the direct sum converges; rotation, offset and jitter included.
    specimen, optics = crystal(name, zone), replace(CONDITIONS[condition], source_size_A=1.6)
    rng = np.random.default_rng(0)
    shifts = rng.normal(scale=0.3, size=(4, 2))
    scan = Scan((4, 3), 0.37, 30.0, (1.3, -0.7), shifts)
    image = evaluate(fourier_image(specimen, optics, DETECTOR), scan)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    places = []
    for i in range(4):
        for j in range(3):
            x, y = 0.37 * j + shifts[i, 0], 0.37 * i + shifts[i, 1]
            places.append((c * x - s * y + 1.3, s * x + c * y - 0.7))
    expected = poisson_summed(specimen, optics, np.array(places)).reshape(4, 3)
    assert np.abs(image.numpy() - expected).max() < 1e-5 * expected.max()


def direct_series(image: FourierImage, points: np.ndarray) -> np.ndarray:
    """The definition, term by term in double precision."""
    g = image.hk @ np.linalg.inv(image.cell_A).T
    values = image.coefficients.numpy().astype(np.complex128)
    factor = np.where((image.hk == 0).all(axis=1), 1.0, 2.0)
    return (np.exp(2j * np.pi * points @ g.T) @ (factor * values)).real


def beam_points(scan: Scan) -> np.ndarray:
    rows, columns = scan.shape
    shifts = np.zeros((rows, 2)) if scan.row_shift_A is None else scan.row_shift_A
    x = scan.pixel_size_A * np.arange(columns)[None, :] + shifts[:, :1]
    y = scan.pixel_size_A * np.arange(rows)[:, None] + shifts[:, 1:] + 0 * x
    angle = np.deg2rad(scan.rotation_deg)
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=-1)
    return (turned + scan.offset_A).reshape(-1, 2)


@pytest.mark.parametrize("rotation", [0.0, 15.0, 90.0, 215.0])
@pytest.mark.parametrize("name", ["oblique", "particle"])
def test_products_of_phases_equal_the_definition(name, rotation):
    rng = np.random.default_rng(1)
    scan = Scan((40, 50), 0.2, rotation, (3.0, -2.0), rng.normal(scale=0.2, size=(40, 2)))
    if name == "oblique":
        specimen = crystal("GaN", (0, 0, 1))
    else:
        particle = faceted_particle("Pt", (1, 1, 0), size_A=20.0, rng=rng)
        specimen, scan = window(particle, scan, 8.0)
    image = fourier_image(specimen, CONDITIONS[1], DETECTOR)
    expected = direct_series(image, beam_points(scan)).reshape(scan.shape)
    assert np.abs(evaluate(image, scan).numpy() - expected).max() < 1e-5 * expected.max()


def test_double_precision_coefficients_stay_double():
    image = fourier_image(crystal("Pt", (0, 0, 1)), CONDITIONS[2], DETECTOR)
    double = replace(image, coefficients=image.coefficients.to(torch.complex128))
    scan = Scan((10, 10), 0.3)
    assert evaluate(double, scan).dtype == torch.float64
    assert (
        np.abs(evaluate(double, scan).numpy() - direct_series(double, beam_points(scan)).reshape(10, 10)).max() < 1e-13
    )


def test_twice_finer_sampling_shares_every_second_pixel():
    image = fourier_image(crystal("SrTiO3", (1, 1, 0)), CONDITIONS[1], DETECTOR)
    scan = Scan((64, 64), 0.15, 30.0, (1.0, 2.0))
    coarse, fine = evaluate(image, scan), evaluate(image, scan.upsampled(2))
    assert (fine[::2, ::2] - coarse).abs().max() < 2e-6 * coarse.max()
    direct = direct_series(image, beam_points(Scan((128, 128), 0.075, 30.0, (1.0, 2.0)))).reshape(128, 128)
    assert np.abs(fine.numpy() - direct).max() < 1e-5 * direct.max()


def test_the_mean_is_the_scattered_fraction():
    specimen = crystal("SrTiO3", (0, 0, 1))
    image = fourier_image(specimen, CONDITIONS[1], DETECTOR)
    density = column_weights_A2(specimen, CONDITIONS[1], DETECTOR).sum() / 3.905**2
    assert float(image.coefficients[0].real) == pytest.approx(density, rel=1e-6)
    # Rutherford's closed form with the Mott-Bethe constant, f = 0.023934 Z / (q/2)^2, is what no screening would give.
    low, high = 0.098 / 0.0250793, 0.196 / 0.0250793
    charge = (0.023934 * 4) ** 2 * (38**2 + 22**2 + 3 * 8**2)
    rutherford = (0.0250793 * 1.39139) ** 2 * np.pi * charge * (low**-2 - high**-2) * 80 / 3.905 / 3.905**2
    assert 0.5 * rutherford < density < rutherford


@pytest.mark.parametrize("contrast", ["potential", "z-power"])
def test_other_contrasts_have_the_mean_of_adf(contrast):
    specimen = crystal("SrTiO3", (0, 0, 1))
    adf = fourier_image(specimen, CONDITIONS[1], DETECTOR)
    other = fourier_image(specimen, CONDITIONS[1], DETECTOR, contrast)
    assert other.coefficients[0].real == pytest.approx(float(adf.coefficients[0].real), rel=1e-6)
    assert not torch.allclose(other.coefficients, adf.coefficients, rtol=1e-2)


def test_half_plane_holds_each_pair_once():
    cell = np.array([[4.0, 0.0], [1.5, 6.0]])
    hk = half_plane_indices(cell, 1.9)
    everything = [
        (h, k) for h in range(-20, 21) for k in range(-20, 21)
        if np.linalg.norm(np.array([h, k]) @ np.linalg.inv(cell).T) < 1.9
    ]  # fmt: skip
    mine = {tuple(pair) for pair in hk.tolist()}
    assert len(mine) == len(hk)
    assert mine | {(-h, -k) for h, k in mine} == set(everything)
    assert tuple(hk[0]) == (0, 0)


@pytest.mark.parametrize("condition", [1, 5])
def test_wrap_around_of_the_padded_cell_is_below_one_percent(condition):
    optics = CONDITIONS[condition]
    particle = faceted_particle("Pt", (1, 1, 0), size_A=30.0, rng=np.random.default_rng(4))
    sheet = sheet_specimen(shipped_sheet(0))
    for specimen, offset in ((particle, (-8.0, -8.0)), (sheet, (10.0, 20.0))):
        scan = Scan((64, 64), 0.3, 30.0, offset)
        images = []
        for margin in (8.0, 60.0):
            part, placed = window(specimen, scan, margin)
            images.append(evaluate(fourier_image(part, optics, DETECTOR), placed))
        assert (images[0] - images[1]).abs().max() < 0.01 * images[1].max()


def test_window_of_a_periodic_specimen_agrees_with_its_own_series():
    specimen = crystal("SrTiO3", (0, 0, 1))
    scan = Scan((64, 64), 0.3, 20.0, (1.0, 0.5))
    whole = evaluate(fourier_image(specimen, CONDITIONS[1], DETECTOR), scan)
    part, placed = window(specimen, scan, 40.0)
    cut = evaluate(fourier_image(part, CONDITIONS[1], DETECTOR), placed)
    assert (whole - cut).abs().max() < 0.01 * whole.max()


def test_row_shifts_have_the_asked_spread_and_modulation():
    noise = ScanNoise(0.2)
    draws = np.stack([row_shifts_A(noise, 256, 0.1, np.random.default_rng(seed)) for seed in range(400)])
    assert draws.std() == pytest.approx(0.2 / np.sqrt(2), rel=0.01)
    constant = np.stack(
        [row_shifts_A(ScanNoise(0.2, None), 256, 0.1, np.random.default_rng(seed)) for seed in range(100)]
    )
    assert constant.std() == pytest.approx(0.2, rel=0.01)
    # The variance of row i is sigma^2 sin^2(2 pi f i + phi): its spectrum over rows peaks at 2 f.
    power = np.abs(np.fft.rfft(draws[..., 0] ** 2, axis=1)[:, 1:]).mean(axis=0)
    assert (1 + np.argmax(power)) / 256 == pytest.approx(2 * 0.19, abs=1 / 256)
    assert np.corrcoef(draws[..., 0].ravel() ** 2, draws[..., 1].ravel() ** 2)[0, 1] > 0.05


def test_published_form_moves_rows_by_whole_pixels():
    shifts = row_shifts_A(ScanNoise(0.3, form="published"), 200, 0.15, np.random.default_rng(0))
    assert np.allclose(shifts / 0.15, np.rint(shifts / 0.15))
    image = fourier_image(crystal("Pt", (0, 0, 1)), CONDITIONS[1], DETECTOR)
    shifts[:, 1] = 0.0
    still = evaluate(image, Scan((200, 240), 0.15, 0.0, (0.0, 0.0)))
    moved = evaluate(image, Scan((200, 240), 0.15, 0.0, (0.0, 0.0), shifts))
    for row, pixels in enumerate(np.rint(shifts[:, 0] / 0.15).astype(int)):
        rolled = torch.roll(still[row], -int(pixels))[20:-20]
        assert torch.allclose(moved[row, 20:-20], rolled, atol=1e-5 * float(still.max()))
