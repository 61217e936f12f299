"""Electron scattering factors of neutral atoms and what an annular detector sees of one atom."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import resources

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.errors import SpecimenError
from temimagenet.imaging.optics import Detector, relativistic_gamma, wavelength_A

__all__ = ["annular_cross_section_A2", "electron_scattering_factor_A", "lobato_coefficients"]


@cache
def _lobato_table() -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Coefficients (a, b) by atomic number, from Lobato & Van Dyck, Acta Cryst. A70 (2014) 636."""
    text = (resources.files("temimagenet") / "data" / "lobato2014.csv").read_text(encoding="ascii")
    table = {}
    for line in text.splitlines()[2:]:
        symbol, *numbers = line.split(",")
        values = np.array([float(number) for number in numbers])
        table[atomic_numbers[symbol]] = (values[:5], values[5:])
    return table


def lobato_coefficients(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The five pairs (a in A, b in A^2) of an element, Lobato & Van Dyck, Acta Cryst. A70 (2014) 636.

    Raises:
        SpecimenError: the table has no such element (it ends at Z = 103).
    """
    try:
        return _lobato_table()[number]
    except KeyError:
        raise SpecimenError(f"no scattering factor for atomic number {number}: the table holds 1 to 103") from None


def electron_scattering_factor_A(
    number: int, q_per_A: Float[NDArray[np.float64], "*n"]
) -> Float[NDArray[np.float64], "*n"]:
    """Elastic electron scattering factor f_e in angstrom at spatial frequency q in 1/A, rest mass.

    Lobato & Van Dyck, Acta Cryst. A70 (2014) 636, eq. 16: sum of a (2 + b q^2) / (1 + b q^2)^2.

    Raises:
        SpecimenError: the table has no such element (it ends at Z = 103).
    """
    a, b = lobato_coefficients(number)
    bq2 = b * np.asarray(q_per_A, dtype=np.float64)[..., None] ** 2
    factor: NDArray[np.float64] = np.sum(a * (2.0 + bq2) / (1.0 + bq2) ** 2, axis=-1)
    return factor


@cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights: slower to find than to use."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


@lru_cache(maxsize=8192)
def annular_cross_section_A2(number: int, energy_keV: float, detector: Detector) -> float:
    """Cross-section in A^2 for elastic scattering of one atom into the detector, first Born approximation.

    (lambda gamma)^2 times the integral of |f_e(q)|^2 d^2q over inner < lambda q < outer (Kirkland 2010, ch. 5).
    """
    wavelength = wavelength_A(energy_keV)
    low, high = (angle * 1e-3 / wavelength for angle in (detector.inner_mrad, detector.outer_mrad))
    nodes, weights = _quadrature()
    q = low + 0.5 * (high - low) * (nodes + 1.0)
    integrand = electron_scattering_factor_A(number, q) ** 2 * 2.0 * np.pi * q
    integral = 0.5 * (high - low) * float(weights @ integrand)
    return (wavelength * relativistic_gamma(energy_keV)) ** 2 * integral
