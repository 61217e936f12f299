"""`Optics`: the electron wavelength, the aberrated probe and the optical transfer function of incoherent imaging."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import constants
from scipy.interpolate import CubicSpline
from scipy.special import j0

from temimagenet.errors import OpticsError

__all__ = ["CONDITIONS", "Detector", "Optics", "relativistic_gamma", "source_envelope", "wavelength_A"]

_REST_ENERGY_KEV = constants.m_e * constants.c**2 / constants.e / 1e3
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def wavelength_A(energy_keV: float) -> float:
    """Relativistic electron wavelength in angstrom (Kirkland 2010, eq. 2.5): 0.025079 A at 200 keV.

    Raises:
        OpticsError: the energy is not above 0 and finite.
    """
    if not 0.0 < energy_keV < np.inf:
        raise OpticsError(f"beam energy {energy_keV} keV: expected above 0")
    energy_J = energy_keV * 1e3 * constants.e
    momentum_c = float(np.sqrt(energy_J * (energy_J + 2.0 * constants.m_e * constants.c**2)))
    return float(constants.h * constants.c / momentum_c * 1e10)


def relativistic_gamma(energy_keV: float) -> float:
    """Lorentz factor 1 + E / (m c^2): the electron's mass in units of its rest mass."""
    return 1.0 + energy_keV / _REST_ENERGY_KEV


def source_envelope(
    source_size_A: float, q_per_A: Float[NDArray[np.float64], "*n"]
) -> Float[NDArray[np.float64], "*n"]:
    """What a Gaussian source of a full width at half maximum in angstrom leaves of an image at |q| in 1/A.

    Raises:
        OpticsError: the width is negative or not finite.
    """
    if not 0.0 <= source_size_A < np.inf:
        raise OpticsError(f"source size {source_size_A} A: expected 0 or more")
    sigma = source_size_A / _FWHM_PER_SIGMA
    envelope: NDArray[np.float64] = np.exp(-2.0 * np.pi**2 * sigma**2 * q_per_A**2)
    return envelope


@dataclass(frozen=True)
class Detector:
    """An annular dark-field detector that counts every electron between two scattering angles.

    Attributes:
        inner_mrad: inner collection angle in mrad.
        outer_mrad: outer collection angle in mrad.
    """

    inner_mrad: float = 98.0
    outer_mrad: float = 196.0

    def __post_init__(self) -> None:
        """Raise `OpticsError` unless 0 <= inner < outer, both finite."""
        if not 0.0 <= self.inner_mrad < self.outer_mrad < np.inf:
            raise OpticsError(
                f"detector angles {self.inner_mrad} to {self.outer_mrad} mrad: expected 0 <= inner < outer"
            )


@dataclass(frozen=True)
class Optics:
    """A probe-forming system with round aberrations and a Gaussian effective source.

    chi(k) = (2 pi / lambda) (C1 a^2/2 + C3 a^4/4 + C5 a^6/6), a = lambda k, C1 = -defocus, and the probe's
    pupil is psi(k) = A exp(-i chi) with a hard aperture A (Kirkland 2010, eqs. 2.10 and 5.45; defocus > 0
    is underfocus).

    Attributes:
        energy_keV: beam energy.
        aperture_mrad: semi-angle of the probe-forming aperture.
        source_size_A: full width at half maximum of the effective source, in the specimen plane.
        defocus_A: defocus; C1 = -defocus.
        C3_mm: third-order spherical aberration.
        C5_mm: fifth-order spherical aberration.
    """

    energy_keV: float
    aperture_mrad: float
    source_size_A: float = 0.0
    defocus_A: float = 0.0
    C3_mm: float = 0.0
    C5_mm: float = 0.0

    def __post_init__(self) -> None:
        """Raise `OpticsError` for parameters that no microscope has."""
        if not 1.0 <= self.energy_keV <= 3000.0:
            raise OpticsError(f"beam energy {self.energy_keV} keV: expected 1 to 3000")
        if not 0.0 < self.aperture_mrad < 200.0:
            raise OpticsError(f"aperture {self.aperture_mrad} mrad: expected above 0 and below 200")
        if not 0.0 <= self.source_size_A < np.inf:
            raise OpticsError(f"source size {self.source_size_A} A: expected 0 or more")
        if not np.isfinite([self.defocus_A, self.C3_mm, self.C5_mm]).all():
            raise OpticsError(
                f"defocus {self.defocus_A} A, C3 {self.C3_mm} mm, C5 {self.C5_mm} mm: expected finite numbers"
            )

    @property
    def wavelength_A(self) -> float:
        """Electron wavelength in angstrom."""
        return wavelength_A(self.energy_keV)

    @property
    def k_max_per_A(self) -> float:
        """Radius of the aperture in 1/A."""
        return self.aperture_mrad * 1e-3 / self.wavelength_A

    @property
    def q_max_per_A(self) -> float:
        """Band limit of the image, 2 alpha / lambda, in 1/A."""
        return 2.0 * self.k_max_per_A

    @property
    def column_radius_A(self) -> float:
        """Radius of a column's mask, sqrt((0.5 lambda / alpha)^2 + (source / 2)^2), as printed in the paper.

        Lin et al., Sci. Rep. 11, 5386 (2021). The files published with it follow 0.25 lambda / alpha instead.
        """
        diffraction = 0.5 * self.wavelength_A / (self.aperture_mrad * 1e-3)
        return float(np.hypot(diffraction, 0.5 * self.source_size_A))

    def chi(self, k_per_A: Float[NDArray[np.float64], "*n"]) -> Float[NDArray[np.float64], "*n"]:
        """Aberration phase chi in radians at spatial frequency k in 1/A."""
        a2 = (self.wavelength_A * np.asarray(k_per_A, dtype=np.float64)) ** 2
        c1, c3, c5 = -self.defocus_A, self.C3_mm * 1e7, self.C5_mm * 1e7
        return 2.0 * np.pi / self.wavelength_A * a2 * (c1 / 2 + a2 * (c3 / 4 + a2 * c5 / 6))

    def otf(self, q_per_A: Float[NDArray[np.float64], "*n"]) -> Float[NDArray[np.float64], "*n"]:
        """Optical transfer function at |q| in 1/A: autocorrelation of the pupil times the source's Gaussian.

        OTF(0) = 1 and OTF = 0 beyond `q_max_per_A`. Without aberrations it is the closed form for a round aperture
        (Goodman, Introduction to Fourier Optics, eq. 6-33); with round aberrations it is real and found by quadrature
        over the overlap of the two shifted apertures.
        """
        q = np.abs(np.asarray(q_per_A, dtype=np.float64))
        aperture = _round_otf(q / self.q_max_per_A)
        if self.defocus_A or self.C3_mm or self.C5_mm:
            aperture = np.where(q < self.q_max_per_A, _aberrated_otf(self)(q / self.q_max_per_A), 0.0)
        return aperture * source_envelope(self.source_size_A, q)

    def probe(self, r_A: Float[NDArray[np.float64], "n"]) -> Float[NDArray[np.float64], "n"]:
        """Probe intensity at radius r in angstrom, unit volume (1/A^2), source included: the OTF's Hankel transform."""
        r = np.asarray(r_A, dtype=np.float64)
        nodes, weights = np.polynomial.legendre.leggauss(1024)
        q = 0.5 * self.q_max_per_A * (nodes + 1.0)
        kernel = np.pi * self.q_max_per_A * weights * self.otf(q) * q
        intensity: NDArray[np.float64] = j0(2.0 * np.pi * r[:, None] * q) @ kernel
        return intensity


def _round_otf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalised overlap of two unit-radius discs whose centres are 2 x apart."""
    x = np.clip(x, 0.0, 1.0)
    overlap: NDArray[np.float64] = 2.0 / np.pi * (np.arccos(x) - x * np.sqrt(1.0 - x**2))
    return overlap


@lru_cache(maxsize=64)
def _aberrated_otf(optics: Optics) -> CubicSpline:
    """Spline over q / q_max of the autocorrelation of an aberrated pupil, by Gauss-Legendre quadrature."""
    radius = optics.k_max_per_A
    # chi turns by this many radians across the aperture: enough nodes to follow the fastest oscillation.
    turn = np.ptp(optics.chi(np.linspace(0.0, radius, 2001)))
    order = int(min(48 + turn, 400))
    nodes, weights = np.polynomial.legendre.leggauss(order)
    angle, angle_weights = 0.25 * np.pi * (nodes + 1.0), 0.25 * np.pi * weights
    knots = np.linspace(0.0, 1.0, 801)
    values = np.empty_like(knots)
    for i, x in enumerate(knots):
        # Quarter of the lens-shaped overlap of discs centred at +-x radius: ky = ymax sin(angle), 0 < kx < edge.
        ymax = radius * np.sqrt(max(1.0 - x**2, 0.0))
        ky = ymax * np.sin(angle)
        edge = np.maximum(np.sqrt(radius**2 - ky**2) - x * radius, 0.0)
        kx = 0.5 * edge[:, None] * (nodes + 1.0)
        left = np.hypot(kx - x * radius, ky[:, None])
        right = np.hypot(kx + x * radius, ky[:, None])
        inner = 0.5 * edge * (np.cos(optics.chi(right) - optics.chi(left)) @ weights)
        values[i] = 4.0 * np.sum(angle_weights * ymax * np.cos(angle) * inner)
    return CubicSpline(knots, values / (np.pi * radius**2))


CONDITIONS: dict[int, Optics] = {
    1: Optics(200.0, 24.0, 0.9),
    2: Optics(100.0, 30.0, 0.8),
    3: Optics(200.0, 10.5, 0.9),
    4: Optics(200.0, 10.5, 0.9),
    5: Optics(200.0, 10.0, 1.6),
    6: Optics(60.0, 30.0, 0.5),
}
"""Imaging conditions of Lin et al. (2021), Table 1. Row 4 is printed equal to row 3 there and kept so;
row 6 is not printed but found in the published files."""
