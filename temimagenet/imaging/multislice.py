"""The multislice engine: scattering matrices of a thermally vibrating crystal, and from them its `FourierImage`s.

Plane waves inside the aperture, not probes, are sent through the specimen. With S_i the amplitudes that beam i leaves
on the detector, M_ij = sum S_i S_j*, and the image of a probe with pupil c is the series

    F_G = sum_ij M_ij c_i c_j*,   G = k_j - k_i,

which holds for any aberrations and any aperture inside the largest, averaged over every unit cell of the supercell at
once. Only beams that differ by a reciprocal vector of the unit cell (a Bloch coset) meet in a pair. The theory is that
of the scattering matrix (Ophus, Adv. Struct. Chem. Imaging 3 (2017) 13) with frozen phonons (Loane, Xu & Silcox, Acta
Cryst. A47 (1991) 267).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from numbers import Integral, Real

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from numpy.typing import NDArray
from scipy import constants
from scipy.fft import next_fast_len
from scipy.interpolate import CubicSpline
from scipy.special import j0, k0, k1
from torch import Tensor

from temimagenet.device import check_device
from temimagenet.errors import OpticsError
from temimagenet.imaging.fourier import FourierImage, half_plane_indices
from temimagenet.imaging.optics import Detector, Optics, relativistic_gamma, source_envelope, wavelength_A
from temimagenet.imaging.scattering import lobato_coefficients
from temimagenet.specimen.stack import PlaneOperation, Stack

__all__ = [
    "Accuracy",
    "BeamPairs",
    "Grid",
    "Series",
    "Step",
    "beam_pairs",
    "estimate_seconds",
    "fast_length",
    "frozen_planes",
    "interaction_rad_per_VA",
    "projected_potential_VA",
    "random_stream",
    "scatter",
    "series",
    "slice_plan",
    "slices",
    "transmission_factor_A2",
]

POTENTIAL_VA2 = (constants.h**2 / (2.0 * np.pi * constants.m_e * constants.e)) * 1e20
"""h^2 / (2 pi m e) = 47.87765 V A^2: projected potential from the scattering factor (Kirkland 2010, eq. 5.15)."""


_CACHE_BYTES = 1_200_000
_CELL_POINTS = 6
_SAME_DEPTH_A = 1e-6
"""Rounded gaps add up to this, not to a rung that is a whole number of repeats: no slice is added to reach it."""


def interaction_rad_per_VA(energy_keV: float) -> float:
    """Interaction parameter sigma = 2 pi gamma m e lambda / h^2 in rad / (V A): 7.2884e-4 at 200 keV (Kirkland 5.6)."""
    return relativistic_gamma(energy_keV) * wavelength_A(energy_keV) / POTENTIAL_VA2


def projected_potential_VA(number: int, r_A: Float[NDArray[np.float64], "*n"]) -> Float[NDArray[np.float64], "*n"]:
    """Projected potential of one atom in V A at distance r > 0 in angstrom, in closed form.

    The two-dimensional Fourier transform of Lobato & Van Dyck's f_e (Acta Cryst. A70 (2014) 636): each term
    a (2 + b q^2) / (1 + b q^2)^2 becomes (2 pi a / b) [K0(x) + x K1(x) / 2], x = 2 pi r / sqrt(b).

    Raises:
        OpticsError: a distance is not above 0 and finite.
        SpecimenError: the element has no scattering factor.
    """
    if not ((np.asarray(r_A) > 0.0) & np.isfinite(r_A)).all():
        raise OpticsError("distances from an atom: expected above 0 A and finite, where its potential is")
    a, b = lobato_coefficients(number)
    x = 2.0 * np.pi * np.asarray(r_A, dtype=np.float64)[..., None] / np.sqrt(b)
    potential: NDArray[np.float64] = POTENTIAL_VA2 * np.sum(2.0 * np.pi * a / b * (k0(x) + 0.5 * x * k1(x)), axis=-1)
    return potential


@cache
def _transmission_spline(number: int, energy_keV: float, k_max_per_A: float) -> CubicSpline:
    """Spline over k of the Hankel transform of exp(i sigma V) - 1, by Gauss panels that shrink towards r = 0."""
    edges = np.concatenate([[0.0], np.geomspace(1e-7, 0.05, 40), np.arange(0.1, 12.0, 0.05)])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    r = (edges[:-1, None] + 0.5 * np.diff(edges)[:, None] * (nodes + 1.0)).ravel()
    w = (0.5 * np.diff(edges)[:, None] * weights).ravel()
    phase = interaction_rad_per_VA(energy_keV) * projected_potential_VA(number, r)
    source = 2.0 * np.pi * r * w * np.expm1(1j * phase)
    k = np.linspace(0.0, k_max_per_A, int(np.ceil(k_max_per_A / 0.02)) + 2)
    return CubicSpline(k, j0(2.0 * np.pi * np.outer(k, r)) @ source)


def transmission_factor_A2(
    number: int, energy_keV: float, k_per_A: Float[NDArray[np.float64], "*n"]
) -> Complex[NDArray[np.complex128], "*n"]:
    """Fourier transform of one atom's exp(i sigma V(r)) - 1 in A^2 at k in 1/A: the phase object without a grid.

    Forming exp(i sigma V) on the grid of the waves is not converged for heavy atoms (at 0.041 A one Pt atom scatters
    0.90 of its Born cross-section into 98-196 mrad at 200 keV; converged 0.74). Here the exponential is formed on
    radial nodes down to 1e-7 A and only then cut to the wanted frequencies.

    Raises:
        OpticsError: the energy or a frequency is not finite, or negative.
        SpecimenError: the element has no scattering factor.
    """
    k = np.asarray(k_per_A, dtype=np.float64)
    if not ((k >= 0.0) & np.isfinite(k)).all():
        raise OpticsError("spatial frequencies |k|: expected 0 1/A or more, and finite")
    limit = max(16.0, 4.0 * np.ceil(float(k.max(initial=0.0)) / 4.0))
    return np.asarray(_transmission_spline(number, energy_keV, limit)(k), dtype=np.complex128)


@dataclass(frozen=True)
class Accuracy:
    """What a computation spends; the defaults keep every error below the 1 % of the statistics (docs: convergence).

    Attributes:
        band: largest scattering angle kept, over the detector's outer angle. At 1.05 Pt [110] comes out 4 %
            too dark and SrTiO3 [001] 1.8 %; at 1.3 both are within 0.4 % of 1.6.
        slice_A: atoms within this span along the beam share a slice.
        supercell_A: least length of the supercell's vectors.
        offsets: Bloch offsets per sweep along each reciprocal axis; a sweep samples the aperture as finely as a
            supercell `offsets` times larger.
        least_sweeps: sweeps drawn before the standard error is looked at.
        most_sweeps: sweeps to the ladder's end after which to stop in any case.
        most_thin_sweeps: further sweeps through the thin part of the ladder, where few atoms make the images noisier.
        tolerance: wanted standard error of an image, root mean square over its points, over its mean.
        vibrations: frozen phonons; False leaves atoms at rest.
        double: complex128 throughout instead of complex64.
    """

    band: float = 1.3
    slice_A: float = 1.0
    supercell_A: float = 5.0
    offsets: int = 2
    least_sweeps: int = 4
    most_sweeps: int = 24
    most_thin_sweeps: int = 400
    tolerance: float = 0.01
    vibrations: bool = True
    double: bool = False

    def __post_init__(self) -> None:
        """Raise `OpticsError` for a setting that cannot give a result; the message names it and what is expected."""
        lengths = {"slice_A": np.inf, "supercell_A": 100.0, "tolerance": np.inf}
        counts = {"offsets": 1, "least_sweeps": 1, "most_sweeps": 1, "most_thin_sweeps": 0}
        for name, value in vars(self).items():
            number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
            if name in counts:
                good = number and isinstance(value, Integral) and int(value) >= counts[name]
                expected = f"a whole number, {counts[name]} or more"
            elif name == "band":
                good, expected = number and 1.0 <= value < np.inf, "a finite number, 1 or more"
            elif name in lengths:
                good = number and 0.0 < value <= lengths[name] and value < np.inf
                expected = "a finite number above 0" + (
                    f", at most {lengths[name]:g}" if lengths[name] < np.inf else ""
                )
            else:
                good, expected = isinstance(value, bool | np.bool_), "True or False"
            if not good:
                raise OpticsError(f"accuracy {name} {value!r}: expected {expected}")
        if self.least_sweeps > self.most_sweeps:
            raise OpticsError(
                f"accuracy least_sweeps {self.least_sweeps}: expected at most most_sweeps {self.most_sweeps}"
            )


@dataclass(frozen=True, eq=False)
class Grid:
    """A periodic, possibly oblique sampling of the supercell and the frequencies kept on it.

    Attributes:
        cell_A: (2, 2) supercell.
        shape: points along its two vectors.
        k_per_A: (n1, n2, 2) frequencies (x, y) in 1/A, Bloch offset included, in FFT order.
        band: (n1, n2) 1 inside the anti-aliasing limit, 0 outside (a taper is allowed).
    """

    cell_A: Float[NDArray[np.float64], "2 2"]
    shape: tuple[int, int]
    k_per_A: Float[NDArray[np.float64], "n1 n2 2"]
    band: Float[NDArray[np.float64], "n1 n2"]

    @classmethod
    def for_band(
        cls, cell_A: Float[NDArray[np.float64], "2 2"], limit_per_A: float, offset: tuple[float, float] = (0.0, 0.0)
    ) -> Grid:
        """The smallest grid on which products of two functions limited to |k| < limit do not alias into that band.

        Raises:
            OpticsError: the limit is not above 0 1/A and finite, or the cell has no area.
        """
        if not 0.0 < limit_per_A < np.inf or not 0.0 < abs(np.linalg.det(cell_A)) < np.inf:
            raise OpticsError(f"band limit {limit_per_A} 1/A, cell {cell_A.tolist()} A: expected above 0, and an area")
        needed = 3.0 * limit_per_A * np.linalg.norm(cell_A, axis=1) + 2.0
        shape = (fast_length(float(needed[0])), fast_length(float(needed[1])))
        k = _frequencies(cell_A, shape, offset)
        return cls(cell_A, shape, k, (np.linalg.norm(k, axis=-1) < limit_per_A).astype(np.float64))

    def propagator(self, distance_A: float, wavelength: float) -> Complex[NDArray[np.complex128], "n1 n2"]:
        """Fresnel propagator exp(-i pi lambda z k^2) inside the band (Kirkland 2010, eq. 6.65)."""
        k2 = (self.k_per_A**2).sum(axis=-1)
        free: NDArray[np.complex128] = self.band * np.exp(-1j * np.pi * wavelength * distance_A * k2)
        return free

    def on_detector(self, detector: Detector, wavelength: float) -> Bool[NDArray[np.bool_], "n1 n2"]:
        """Frequencies between the detector's angles."""
        angle = 1e3 * wavelength * np.linalg.norm(self.k_per_A, axis=-1)
        seen: NDArray[np.bool_] = (angle >= detector.inner_mrad) & (angle < detector.outer_mrad) & (self.band > 0.0)
        return seen


def fast_length(least: float) -> int:
    """The smallest multiple of 4 without prime factors above 7: twice as fast as odd lengths nearby (measured).

    Raises:
        OpticsError: the least length is not finite.
    """
    if not np.isfinite(least):
        raise OpticsError(f"grid of {least} points: expected a finite number")
    quarter = next_fast_len(int(np.ceil(least / 4.0)))
    while quarter % 11 == 0:
        quarter = next_fast_len(quarter + 1)
    return 4 * quarter


def _frequencies(
    cell_A: NDArray[np.float64], shape: tuple[int, int], offset: tuple[float, float]
) -> NDArray[np.float64]:
    """(n1, n2, 2) spatial frequencies of a grid in FFT order."""
    h = np.rint(np.fft.fftfreq(shape[0]) * shape[0]) + offset[0]
    k = np.rint(np.fft.fftfreq(shape[1]) * shape[1]) + offset[1]
    steps = np.stack(np.meshgrid(h, k, indexing="ij"), axis=-1)
    frequencies: NDArray[np.float64] = steps @ np.linalg.inv(cell_A).T
    return frequencies


def slices(stack: Stack, slice_A: float) -> list[tuple[float, NDArray[np.int64]]]:
    """Atoms of one repeat gathered into thin slices: (height in angstrom, atom indices), by rising height.

    A slice sits at the mean height of its atoms, so no plane of atoms is split or moved by a boundary.

    Raises:
        OpticsError: `slice_A` is not above 0.
    """
    if not slice_A > 0.0:
        raise OpticsError(f"slices of {slice_A} A: expected above 0")
    order = np.argsort(stack.z_A, kind="stable")
    height = stack.z_A[order]
    if stack.period_A is not None and len(order) > 1:
        # Begin after the widest gap, so that no slice wraps around the repeat.
        gap = np.diff(np.concatenate([height, height[:1] + stack.period_A]))
        first = (int(np.argmax(gap > gap.max() - 1e-6)) + 1) % len(order)
        order = np.roll(order, -first)
        height = np.where(np.arange(len(order)) < len(order) - first, np.roll(height, -first), 0.0) + np.where(
            np.arange(len(order)) < len(order) - first, 0.0, np.roll(height, -first) + stack.period_A
        )
    groups, start = [], 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or height[stop] - height[start] > slice_A:
            groups.append((float(height[start:stop].mean()), order[start:stop].astype(np.int64)))
            start = stop
    return groups


@dataclass(frozen=True, eq=False)
class BeamPairs:
    """Scattering between pairs of incident beams: everything that any aberrations need.

    Attributes:
        name: specimen.
        unit_A: (2, 2) lattice of the image.
        operations: plane-group symmetries of the image.
        energy_keV: beam energy.
        aperture_mrad: largest aperture.
        detector: annular detector.
        thickness_A: (L,) ladder; (nan,) for a single layer.
        k_per_A: (B, 2) incident beams of all configurations.
        configuration: (B,) which frozen-phonon configuration a beam belongs to.
        sweep: (B,) which sweep of Bloch offsets.
        first: (P,) beam i of each pair.
        second: (P,) beam j, i <= j: M_ji is M_ij's conjugate.
        hk: (P, 2) G = k_j - k_i in the reciprocal lattice of `unit_A`.
        values: (L, P) M_ij, fraction of the beam; 0 on rungs that a sweep did not reach.
        reach: (sweeps,) number of rungs that each sweep went through.
        mesh_per_A: (2, 2) rows span the parallelogram of reciprocal space that one beam of a sweep stands for.
        lean_A, seed, accuracy: how it was made.
    """

    name: str
    unit_A: Float[NDArray[np.float64], "2 2"]
    operations: tuple[PlaneOperation, ...]
    energy_keV: float
    aperture_mrad: float
    detector: Detector
    thickness_A: Float[NDArray[np.float64], "L"]
    k_per_A: Float[NDArray[np.float64], "B 2"]
    configuration: Int[NDArray[np.int64], "B"]
    sweep: Int[NDArray[np.int64], "B"]
    first: Int[NDArray[np.int64], "P"]
    second: Int[NDArray[np.int64], "P"]
    hk: Int[NDArray[np.int16], "P 2"]
    values: Complex[NDArray[np.complex128], "L P"]
    reach: Int[NDArray[np.int64], "W"]
    mesh_per_A: Float[NDArray[np.float64], "2 2"]
    lean_A: float = 0.0
    seed: int = 0
    accuracy: Accuracy = field(default_factory=Accuracy)


@dataclass(frozen=True, eq=False)
class Series:
    """Images of one specimen under one pupil over a thickness ladder, source size not applied.

    Attributes:
        cell_A: (2, 2) lattice.
        hk: (G, 2) half-plane indices, (0, 0) first.
        thickness_A: (L,) ladder; (nan,) for a layer.
        coefficients: (L, G) complex, fraction of the beam.
        variance: (L, G) variance of each coefficient's real and imaginary part together; nan with one sweep.
    """

    cell_A: Float[NDArray[np.float64], "2 2"]
    hk: Int[NDArray[np.int16], "G 2"]
    thickness_A: Float[NDArray[np.float64], "L"]
    coefficients: Complex[NDArray[np.complex128], "L G"]
    variance: Float[NDArray[np.float64], "L G"]

    def error_of_image(self, source_size_A: float = 0.0) -> Float[NDArray[np.float64], "L"]:
        """Standard error of the image over the ladder, root mean square over its points, over its mean."""
        blur = self._blur(source_size_A) ** 2
        twice = np.where((self.hk == 0).all(axis=1), 1.0, 2.0)
        error: NDArray[np.float64] = np.sqrt(self.variance @ (twice * blur)) / self.coefficients[:, 0].real
        return error

    def _blur(self, source_size_A: float) -> NDArray[np.float64]:
        """(G,) the source's Gaussian in Fourier space."""
        return source_envelope(source_size_A, np.linalg.norm(self.hk @ np.linalg.inv(self.cell_A).T, axis=1))

    def image(self, thickness_A: float | None, source_size_A: float = 0.0) -> FourierImage:
        """The image at a thickness, linear between the ladder's steps and from 0, with the source's blur.

        Raises:
            OpticsError: the thickness lies beyond the ladder, or the source size is negative or not finite.
        """
        if np.isnan(self.thickness_A).any():
            values = self.coefficients[0]
        else:
            if thickness_A is None or not 0.0 < thickness_A <= self.thickness_A[-1]:
                raise OpticsError(
                    f"thickness {thickness_A} A: the multislice table reaches from 0 to {self.thickness_A[-1]:g} A"
                )
            ladder = np.concatenate([[0.0], self.thickness_A])
            known = np.concatenate([np.zeros_like(self.coefficients[:1]), self.coefficients])
            upper = int(np.clip(np.searchsorted(ladder, thickness_A), 1, len(ladder) - 1))
            part = (thickness_A - ladder[upper - 1]) / (ladder[upper] - ladder[upper - 1])
            values = (1.0 - part) * known[upper - 1] + part * known[upper]
        blurred = values * self._blur(source_size_A)
        return FourierImage(self.cell_A, self.hk, torch.from_numpy(blurred.astype(np.complex64)))


def scatter(
    beams: Int[NDArray[np.int64], "B 2"],
    grid: Grid,
    planes: Iterator[tuple[Tensor, Tensor | None, bool]],
    detector: Bool[NDArray[np.bool_], "n1 n2"],
    dtype: torch.dtype = torch.complex64,
    device: torch.device | str = "cpu",
) -> Iterator[Complex[Tensor, "B D"]]:
    """Send plane waves through a stack of slices and yield their amplitudes on the detector wherever asked.

    Args:
        beams: (B, 2) indices of the incident waves on the grid.
        grid: sampling.
        planes: for each slice its transmission function in real space, the propagator to the next, or None where
            nothing is left to cross, and whether to yield what has come so far.
        detector: (n1, n2) frequencies to keep, D of them.
        dtype: complex64 or complex128.
        device: where to compute.
    """
    n1, n2 = grid.shape
    wave = torch.zeros((len(beams), n1, n2), dtype=dtype, device=device)
    wave[torch.arange(len(beams)), torch.from_numpy(beams[:, 0] % n1), torch.from_numpy(beams[:, 1] % n2)] = 1.0
    seen = torch.from_numpy(np.flatnonzero(detector.ravel())).to(device)
    # A few waves at a time stay in the processor's cache: four times faster than all at once.
    on_cpu = torch.device(device).type == "cpu"
    chunk = max(1, _CACHE_BYTES // (wave.element_size() * n1 * n2) if on_cpu else len(beams))
    # Memory is taken once: to ask the system for it at every step costs more than the transforms.
    near = torch.empty((min(chunk, len(beams)), n1, n2), dtype=dtype, device=device)
    for transmission, propagator, wanted in planes:
        for start in range(0, len(beams), chunk):
            part = wave[start : start + chunk]
            inside = near[: len(part)]
            torch.fft.ifft2(part, out=inside)
            inside.mul_(transmission)
            torch.fft.fft2(inside, out=part)
            if propagator is not None:
                part.mul_(propagator)
        if wanted:
            yield wave.reshape(len(beams), -1)[:, seen]


def beam_pairs(
    stack: Stack,
    energy_keV: float,
    aperture_mrad: float,
    detector: Detector,
    thickness_A: Sequence[float],
    *,
    accuracy: Accuracy = Accuracy(),
    watch: Sequence[Optics] = (),
    seed: int = 0,
    start: float | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, float], None] = lambda sweeps, error: None,
) -> BeamPairs:
    """Scattering matrices of a crystal or layer, averaged over frozen phonons, in pairs of beams.

    A sweep is a set of `offsets`^2 Bloch offsets that form a regular lattice at a random place, each with its own
    first slice. Every Bloch coset of an offset has its own displacements and is propagated by itself: its waves are
    what is held in memory at once. Sweeps are added until the images of all `watch`ed optics reach the tolerance at
    every thickness.

    Args:
        stack: from `crystal_stack`; its own supercell is used.
        energy_keV: beam energy.
        aperture_mrad: largest aperture semi-angle that will be asked for.
        detector: annular detector.
        thickness_A: rising ladder; ignored for a single layer.
        accuracy: what to spend.
        watch: optics whose standard error decides when to stop; the largest aperture without aberrations by default.
        seed: seed of displacements and offsets.
        start: first slice of every configuration, from 0 to below 1 of the repeat's slices; by default it moves
            through the repeat. From 0 to whole repeats the atoms are displaced alike however they are sliced.
        device: where waves are propagated.
        on_progress: called after each sweep with the number of sweeps and the largest standard error over its mean.

    Raises:
        OpticsError: the aperture reaches the detector, the ladder does not rise, a watched optics lies outside, or
            seed or start is none.
        DeviceError: there is no such device.
    """
    ladder = _check(stack, energy_keV, aperture_mrad, detector, thickness_A, watch)
    check_device(device)
    watched = list(watch) or [Optics(energy_keV, aperture_mrad)]
    rng = random_stream(seed)
    steps = accuracy.offsets**2
    parts: list[_Configuration] = []
    reach: list[int] = []
    rungs = len(ladder)
    errors = np.full(len(ladder), np.inf)
    for sweep in range(accuracy.most_sweeps + accuracy.most_thin_sweeps):
        base = rng.random(3)
        for step in range(steps):
            place = np.array([step // accuracy.offsets, step % accuracy.offsets]) + base[:2]
            # The first slice moves through the repeat as the configurations go on, evenly within a sweep.
            first = (base[2] + (step + 0.5) / steps) % 1.0 if start is None else start
            offset = place / accuracy.offsets - 0.5
            parts.append(
                _configuration(
                    stack, energy_keV, aperture_mrad, detector, ladder[:rungs], (float(offset[0]), float(offset[1])),
                    first, rng, accuracy, device,
                )
            )  # fmt: skip
        reach.append(rungs)
        done = sweep + 1
        if done >= accuracy.least_sweeps and (done % 4 == 0 or done <= accuracy.most_sweeps):
            pairs = _gather(stack, energy_keV, aperture_mrad, detector, ladder, parts, reach, seed, accuracy)
            errors = np.max([series(pairs, optics).error_of_image(optics.source_size_A) for optics in watched], axis=0)
            late = np.flatnonzero(~(errors <= accuracy.tolerance))
            if done >= accuracy.most_sweeps and stack.period_A is not None:
                late = late[ladder[late] <= 0.5 * ladder[-1]]
            if len(late) == 0:
                break
            # Thick specimens average over more atoms: what is left to do ends at the last rung that is not yet there.
            rungs = int(late[-1]) + 1
        on_progress(done, float(errors.max()))
        if done >= accuracy.most_sweeps and stack.period_A is None:
            break
    on_progress(len(reach), float(errors.max()))
    return _gather(stack, energy_keV, aperture_mrad, detector, ladder, parts, reach, seed, accuracy)


def random_stream(seed: int) -> np.random.Generator:
    """The random numbers of a seed.

    Raises:
        OpticsError: the seed is no whole number from 0 up.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or int(seed) < 0:
        raise OpticsError(f"seed {seed!r}: expected a whole number, 0 or more")
    return np.random.Generator(np.random.Philox(seed))


@dataclass(frozen=True, eq=False)
class _Configuration:
    """Beam pairs of one frozen-phonon configuration."""

    k_per_A: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    hk: NDArray[np.int16]
    values: NDArray[np.complex128]


def _check(
    stack: Stack,
    energy_keV: float,
    aperture_mrad: float,
    detector: Detector,
    thickness_A: Sequence[float],
    watch: Sequence[Optics],
) -> NDArray[np.float64]:
    """The ladder, after everything was checked."""
    Optics(energy_keV, aperture_mrad)
    if aperture_mrad >= detector.inner_mrad:
        raise OpticsError(
            f"aperture {aperture_mrad} mrad reaches the detector at {detector.inner_mrad} mrad: expected a dark field"
        )
    for optics in watch:
        if optics.energy_keV != energy_keV or optics.aperture_mrad > aperture_mrad:
            raise OpticsError(f"{optics}: expected {energy_keV} keV and at most {aperture_mrad} mrad")
    if stack.period_A is None:
        return np.array([np.nan])
    return _ladder(thickness_A)


def _ladder(thickness_A: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Thicknesses of a bulk crystal, after they were checked."""
    try:
        ladder = np.asarray(thickness_A, dtype=np.float64)
    except (TypeError, ValueError):
        ladder = np.empty(0)
    if ladder.ndim != 1 or len(ladder) == 0 or not np.isfinite(ladder).all() or np.diff(ladder, prepend=0.0).min() <= 0:
        raise OpticsError(f"thickness ladder {thickness_A}: expected finite, rising lengths above 0 A")
    return ladder


def _configuration(
    stack: Stack,
    energy_keV: float,
    aperture_mrad: float,
    detector: Detector,
    ladder: NDArray[np.float64],
    offset: tuple[float, float],
    start: float,
    rng: np.random.Generator,
    accuracy: Accuracy,
    device: torch.device | str,
) -> _Configuration:
    """One Bloch offset, each of its cosets with its own frozen-phonon configuration."""
    dtype = torch.complex128 if accuracy.double else torch.complex64
    wavelength = wavelength_A(energy_keV)
    limit = accuracy.band * detector.outer_mrad * 1e-3 / wavelength
    grid = Grid.for_band(stack.cell_A, limit, offset)
    plan = slice_plan(stack, ladder, start, accuracy.slice_A)
    seen = grid.on_detector(detector, wavelength)
    # Beams outside the aperture whose cell of the sweep's mesh reaches into it count with their share.
    mesh = np.linalg.inv(stack.cell_A).T / accuracy.offsets
    reach = 0.5 * max(np.linalg.norm(mesh[0] + mesh[1]), np.linalg.norm(mesh[0] - mesh[1]))
    k_max = aperture_mrad * 1e-3 / wavelength + reach
    inside = np.linalg.norm(grid.k_per_A, axis=-1) <= k_max
    beams = np.argwhere(inside)
    k = grid.k_per_A[inside]
    n1, n2 = grid.shape
    signed = np.where(beams > np.array([n1, n2]) // 2, beams - np.array([n1, n2]), beams)
    first, second, hk, values = [], [], [], []
    for coset in _cosets(signed, stack.multiple):
        # Cosets never meet, so each may vibrate in its own way: one more sample of the average for the same waves.
        planes = frozen_planes(stack, plan, grid, limit, energy_keV, accuracy, rng, device)
        i, j = np.triu_indices(len(coset))
        rows = np.zeros((len(ladder), len(i)), dtype=np.complex128)
        steps_with_marks = iter([step for step in plan if step.marks])
        for amplitude in scatter(signed[coset], grid, planes(), seen, dtype, device):
            amplitude = amplitude.to(torch.complex128)
            matrix = (amplitude @ amplitude.conj().T).cpu().numpy()
            for rung, weight in next(steps_with_marks).marks:
                rows[rung] += weight * matrix[i, j]
        first.append(coset[i])
        second.append(coset[j])
        step_hk = (signed[coset[j]] - signed[coset[i]]) @ np.linalg.inv(stack.multiple).T
        hk.append(np.rint(step_hk).astype(np.int16))
        values.append(rows)
    return _Configuration(
        k, np.concatenate(first), np.concatenate(second), np.concatenate(hk), np.concatenate(values, axis=1)
    )


@dataclass(frozen=True, eq=False)
class Step:
    """One slice on the way: its atoms, the distance to the next, and which rungs of the ladder it contributes to."""

    atoms: NDArray[np.int64]
    gap_A: float
    marks: tuple[tuple[int, float], ...]


def slice_plan(stack: Stack, ladder: NDArray[np.float64], start: float, slice_A: float) -> list[Step]:
    """The slices from the entrance to the ladder's end, beginning `start` of a repeat into the crystal.

    After slice p the crystal is as thick as the middle of the gap behind it; a rung between two such depths is their
    linear mixture, so that every column holds its amount of atoms on average.

    Raises:
        OpticsError: `slice_A` is not above 0, the ladder does not rise, or `start` is not from 0 to below 1.
    """
    groups = slices(stack, slice_A)
    if stack.period_A is None:
        heights = [height for height, _ in groups]
        gaps = [*np.round(np.diff(heights), 9).tolist(), 0.0]
        last = len(groups) - 1
        return [
            Step(atoms, gap, ((0, 1.0),) if p == last else ())
            for p, ((_, atoms), gap) in enumerate(zip(groups, gaps, strict=True))
        ]
    ladder = _ladder(ladder)
    if not 0.0 <= start < 1.0:
        raise OpticsError(f"first slice at {start} of the repeat: expected 0 to below 1")
    places = np.array([height for height, _ in groups])
    spacing = np.round(np.diff(np.concatenate([places, places[:1] + stack.period_A])), 9)
    count = len(groups)
    begin = int(start * count) % count
    before = 0.5 * float(spacing[begin - 1])
    order: list[int] = []
    depth: list[float] = []
    total = before
    while not depth or depth[-1] < ladder[-1] - _SAME_DEPTH_A:
        p = (begin + len(order)) % count
        order.append(p)
        depth.append(total + 0.5 * float(spacing[p]))
        total += float(spacing[p])
    marks: list[list[tuple[int, float]]] = [[] for _ in order]
    for rung, thickness in enumerate(ladder):
        upper = int(np.searchsorted(depth, thickness - _SAME_DEPTH_A))
        below = depth[upper - 1] if upper else 0.0
        part = float(np.clip((thickness - below) / (depth[upper] - below), 0.0, 1.0))
        marks[upper].append((rung, part))
        if upper and part < 1.0:
            marks[upper - 1].append((rung, 1.0 - part))
    return [Step(groups[p][1], float(spacing[p]), tuple(marks[n])) for n, p in enumerate(order)]


def frozen_planes(
    stack: Stack,
    plan: Sequence[Step],
    grid: Grid,
    limit_per_A: float,
    energy_keV: float,
    accuracy: Accuracy,
    rng: np.random.Generator,
    device: torch.device | str,
) -> Callable[[], Iterator[tuple[Tensor, Tensor, bool]]]:
    """What `scatter` sends waves through: one frozen-phonon configuration's slices, made anew at each call.

    Displacements are drawn once, here. Those along the beam are left out: they would move atoms from slice to slice
    and change the image by far less than its error.
    """
    dtype = torch.complex128 if accuracy.double else torch.complex64
    displaced = [
        stack.xy_A[step.atoms]
        + (rng.normal(size=(len(step.atoms), 2)) * stack.u_A[step.atoms, None] if accuracy.vibrations else 0.0)
        for step in plan
    ]
    cell = tuple(grid.cell_A.ravel().tolist())
    tables = {
        int(number): torch.from_numpy(_element_table(int(number), energy_keV, cell, grid.shape, limit_per_A)).to(
            device=device, dtype=dtype
        )
        for number in np.unique(stack.numbers)
    }
    wavelength = wavelength_A(energy_keV)
    propagators = {
        gap: torch.from_numpy(grid.propagator(gap, wavelength)).to(device=device, dtype=dtype)
        for gap in {step.gap_A for step in plan}
    }

    def planes() -> Iterator[tuple[Tensor, Tensor, bool]]:
        for step, xy in zip(plan, displaced, strict=True):
            function = _transmission(xy, stack.numbers[step.atoms], tables, grid.cell_A, grid.shape)
            yield function, propagators[step.gap_A], bool(step.marks)

    return planes


@lru_cache(maxsize=16)
def _element_table(
    number: int, energy_keV: float, cell_A: tuple[float, ...], shape: tuple[int, int], limit_per_A: float
) -> NDArray[np.complex128]:
    """An element's transform of exp(i sigma V) - 1 on a grid's frequencies, cut to the band, per cell area."""
    cell = np.array(cell_A).reshape(2, 2)
    length = np.linalg.norm(_frequencies(cell, shape, (0.0, 0.0)), axis=-1)
    table: NDArray[np.complex128] = (
        transmission_factor_A2(number, energy_keV, length) * (length < limit_per_A) / abs(np.linalg.det(cell))
    )
    return table


def _cosets(beams: NDArray[np.int64], multiple: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Beams by Bloch coset: equal modulo the unit cell's reciprocal lattice."""
    determinant = round(float(np.linalg.det(multiple)))
    adjugate = np.array([[multiple[1, 1], -multiple[0, 1]], [-multiple[1, 0], multiple[0, 0]]])
    residue = (beams @ adjugate.T) % abs(determinant)
    key = np.unique(residue, axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(key == coset) for coset in range(int(key.max()) + 1)]


def _transmission(
    xy_A: NDArray[np.float64],
    numbers: NDArray[np.int64],
    tables: dict[int, Tensor],
    cell_A: NDArray[np.float64],
    shape: tuple[int, int],
) -> Tensor:
    """A slice's transmission function on the grid: 1 + the atoms' band-limited exp(i sigma V) - 1.

    Each element's factor is multiplied by the exact phase ramps of its atoms, so that positions are continuous.
    """
    any_table = next(iter(tables.values()))
    device, dtype = any_table.device, any_table.dtype
    total = torch.zeros(shape, dtype=dtype, device=device)
    fractional = xy_A @ np.linalg.inv(cell_A)
    for number in np.unique(numbers).tolist():
        place = fractional[numbers == number]
        h = np.rint(np.fft.fftfreq(shape[0]) * shape[0])
        k = np.rint(np.fft.fftfreq(shape[1]) * shape[1])
        along = _ramps(np.outer(h, place[:, 0]), dtype, device)
        across = _ramps(np.outer(place[:, 1], k), dtype, device)
        total += (along @ across) * tables[number]
    total[0, 0] += 1.0
    function: Tensor = torch.fft.ifft2(total, norm="forward")
    return function


def _ramps(cycles: NDArray[np.float64], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """exp(-2 pi i cycles); whole cycles are dropped in double precision first."""
    angle = -2.0 * np.pi * (cycles - np.rint(cycles))
    return torch.from_numpy(np.exp(1j * angle)).to(device=device, dtype=dtype)


def _gather(
    stack: Stack,
    energy_keV: float,
    aperture_mrad: float,
    detector: Detector,
    ladder: NDArray[np.float64],
    parts: list[_Configuration],
    reach: list[int],
    seed: int,
    accuracy: Accuracy,
) -> BeamPairs:
    """All configurations in one table."""
    sizes = [len(part.k_per_A) for part in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    configuration = np.repeat(np.arange(len(parts)), sizes)
    counts = [part.values.shape[1] for part in parts]
    values = np.zeros((len(ladder), sum(counts)), dtype=np.complex128)
    for part, end in zip(parts, np.cumsum(counts), strict=True):
        values[: len(part.values), end - part.values.shape[1] : end] = part.values
    return BeamPairs(
        stack.name,
        stack.unit_A,
        stack.operations,
        energy_keV,
        aperture_mrad,
        detector,
        ladder,
        np.concatenate([part.k_per_A for part in parts]),
        configuration,
        configuration // accuracy.offsets**2,
        np.concatenate([part.first + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.second + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.hk for part in parts]),
        values,
        np.array(reach),
        np.linalg.inv(stack.cell_A).T / accuracy.offsets,
        stack.lean_A,
        seed,
        accuracy,
    )


def series(pairs: BeamPairs, optics: Optics, *, symmetrise: bool = True) -> Series:
    """The images under given optics, at every thickness: F_G = sum M_ij c_i c_j*, G = k_j - k_i.

    Args:
        pairs: beam pairs of the energy and of an aperture at least as large.
        optics: aperture and aberrations; the source's blur is left to `Series.image`.
        symmetrise: average over the plane group.

    Raises:
        OpticsError: another energy, or an aperture beyond the pairs'.
    """
    if optics.energy_keV != pairs.energy_keV or optics.aperture_mrad > pairs.aperture_mrad + 1e-9:
        raise OpticsError(
            f"{optics.energy_keV} keV and {optics.aperture_mrad} mrad asked of beam pairs for {pairs.energy_keV} keV "
            f"and up to {pairs.aperture_mrad} mrad"
        )
    # The pupil is integrated over each beam's cell of the mesh, where M is taken as constant: the aperture's edge and
    # the aberrations are then sampled far more finely than the beams.
    steps = (np.arange(_CELL_POINTS) + 0.5) / _CELL_POINTS - 0.5
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2) @ pairs.mesh_per_A
    k = np.linalg.norm(pairs.k_per_A[:, None] + shifts, axis=-1)
    pupil = np.where(k <= optics.k_max_per_A, np.exp(-1j * optics.chi(k)), 0.0)
    return _series(pairs, pupil, optics.q_max_per_A, symmetrise)


def _series(
    pairs: BeamPairs, pupil: Complex[NDArray[np.complex128], "B S"], q_max_per_A: float, symmetrise: bool
) -> Series:
    """The images for a pupil given at S points around each beam."""
    weight = np.einsum("ps,ps->p", pupil[pairs.first], pupil[pairs.second].conj()) / pupil.shape[1]
    live = weight != 0.0
    hk = half_plane_indices(pairs.unit_A, q_max_per_A * (1.0 + 1e-9) + 1e-12)
    number = {(int(h), int(j)): n for n, (h, j) in enumerate(hk)}
    pair_hk = pairs.hk[live].astype(np.int64)
    flip = (pair_hk[:, 0] < 0) | ((pair_hk[:, 0] == 0) & (pair_hk[:, 1] < 0))
    half = np.where(flip[:, None], -pair_hk, pair_hk)
    unique, inverse = np.unique(half, axis=0, return_inverse=True)
    target = np.array([number.get((int(h), int(j)), -1) for h, j in unique], dtype=np.int64)[inverse.ravel()]
    assert (target >= 0).all(), "a pair of beams lies beyond the band limit"
    values = pairs.values[:, live] * weight[live]
    values = np.where(flip, values.conj(), values)

    sweep_of_pair = pairs.sweep[pairs.first[live]]
    sweeps = int(pairs.sweep.max()) + 1
    slot = sweep_of_pair * len(hk) + target
    levels = len(pairs.thickness_A)
    sums = np.zeros((levels, sweeps * len(hk)), dtype=np.complex128)
    for level in range(levels):
        sums[level] = np.bincount(slot, values[level].real, sweeps * len(hk)) + 1j * np.bincount(
            slot, values[level].imag, sweeps * len(hk)
        )
    by_sweep = sums.reshape(levels, sweeps, len(hk))
    if symmetrise:
        by_sweep = _symmetrised(by_sweep, hk, number, pairs.unit_A, pairs.operations)
    norm = np.bincount(pairs.sweep, (np.abs(pupil) ** 2).mean(axis=1), sweeps)
    mean = np.zeros((levels, len(hk)), dtype=np.complex128)
    variance = np.full((levels, len(hk)), np.nan)
    for level in range(levels):
        there = np.flatnonzero(pairs.reach > level)
        mean[level] = by_sweep[level, there].sum(axis=0) / norm[there].sum()
        if len(there) > 1:
            # Linearised ratio estimator: each sweep's residual against the pooled mean.
            residual = (by_sweep[level, there] - norm[there, None] * mean[level]) / norm[there].mean()
            variance[level] = (np.abs(residual) ** 2).sum(axis=0) / (len(there) - 1) / len(there)
    return Series(pairs.unit_A, hk, pairs.thickness_A, mean, variance)


def _symmetrised(
    values: NDArray[np.complex128],
    hk: NDArray[np.int16],
    number: dict[tuple[int, int], int],
    unit_A: NDArray[np.float64],
    operations: Sequence[PlaneOperation],
) -> NDArray[np.complex128]:
    """Average over I(r) = I(R r + t): F_g becomes the mean of F_(R g) exp(2 pi i (R g) . t)."""
    reciprocal = np.linalg.inv(unit_A).T
    g = hk @ reciprocal
    total = np.zeros_like(values)
    for operation in operations:
        turned = g @ operation.rotation.T
        index = np.rint(turned @ unit_A.T).astype(np.int64)
        flip = (index[:, 0] < 0) | ((index[:, 0] == 0) & (index[:, 1] < 0))
        half = np.where(flip[:, None], -index, index)
        source = np.array([number[(int(h), int(j))] for h, j in half])
        picked = values[..., source]
        picked = np.where(flip, picked.conj(), picked)
        total += picked * np.exp(2j * np.pi * turned @ operation.translation_A)
    return total / len(operations)


def estimate_seconds(
    stack: Stack,
    energy_keV: float,
    aperture_mrad: float,
    detector: Detector,
    thickness_A: Sequence[float],
    accuracy: Accuracy,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Least and most time that `beam_pairs` will take, from timing a few waves through one slice.

    Returns:
        Seconds of `least_sweeps`, and of `most_sweeps` with all thin sweeps through a quarter of the thickness.

    Raises:
        OpticsError: the aperture reaches the detector, or the ladder does not rise.
        DeviceError: there is no such device.
    """
    ladder = _check(stack, energy_keV, aperture_mrad, detector, thickness_A, ())
    check_device(device)
    wavelength = wavelength_A(energy_keV)
    grid = Grid.for_band(stack.cell_A, accuracy.band * detector.outer_mrad * 1e-3 / wavelength)
    waves = int(np.sum(np.linalg.norm(grid.k_per_A, axis=-1) <= aperture_mrad * 1e-3 / wavelength)) + 1
    one = torch.ones(grid.shape, dtype=torch.complex128 if accuracy.double else torch.complex64, device=device)
    trial = min(waves, 12)
    seen = grid.on_detector(detector, wavelength)
    beams = np.zeros((trial, 2), dtype=np.int64)

    def slices_of(count: int) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
        return ((one, one, n == count - 1) for n in range(count))

    for _ in scatter(beams, grid, slices_of(2), seen, one.dtype, device):
        pass
    begin = time.perf_counter()
    for _ in scatter(beams, grid, slices_of(6), seen, one.dtype, device):
        pass
    # Transmission functions, pairs and bookkeeping cost about half as much again (measured on five crystals).
    per_slice = 1.5 * (time.perf_counter() - begin) / 6 * waves / trial
    sweep = per_slice * len(slice_plan(stack, ladder, 0.0, accuracy.slice_A)) * accuracy.offsets**2
    return sweep * accuracy.least_sweeps, sweep * (accuracy.most_sweeps + 0.25 * accuracy.most_thin_sweeps)
