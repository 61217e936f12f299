"""Multislice images of what does not repeat: particles by PRISM, planar films with the thermal average in closed form.

Both sit in a padded cell and end as the band-limited `Series` of that cell, like a crystal's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial import KDTree
from scipy.special import j1
from torch import Tensor

from temimagenet.device import check_device
from temimagenet.errors import OpticsError, SpecimenError
from temimagenet.imaging.fourier import half_plane_indices
from temimagenet.imaging.multislice import (
    Accuracy,
    Grid,
    Series,
    fast_length,
    frozen_planes,
    random_stream,
    scatter,
    slice_plan,
    transmission_factor_A2,
)
from temimagenet.imaging.optics import Detector, Optics, wavelength_A
from temimagenet.specimen.stack import Stack

__all__ = ["WINDOW_A", "film_series", "particle_series"]

WINDOW_A = 8.0
"""Edge of the window that PRISM cuts out around a probe, at least; the documentation tells its error."""

_WINDOW_RADII = 1.6
_ABERRATED_WINDOW_RADII = 2.2
_BLOCK_A = 1.5
_FILM_WINDOW_A = 15.0
_FAINT = 2e-3
_TOGETHER = 8


def particle_series(
    stack: Stack,
    optics: Sequence[Optics],
    detector: Detector,
    *,
    configurations: int,
    accuracy: Accuracy = Accuracy(),  # noqa: B008 - frozen
    window_A: float | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_MB: float = 1024.0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Series]:
    """Images of a finite specimen by PRISM (Ophus, Adv. Struct. Chem. Imaging 3 (2017) 13) with frozen phonons.

    Only every f-th beam of the cell's reciprocal lattice is propagated, f = edge / window: their sum is a probe
    repeated every window, of which one is cut out around each beam position. Each configuration has its own
    displacements, Bloch offset and choice of beams, so that the aperture's edge is sampled anew. Pupils that want
    another f are propagated by themselves.

    The waves behind the specimen are held whole, cut to the detector: about 1.2 GB for a cell of 36 A at 200 keV and
    24 mrad, growing with its area.

    Args:
        stack: a particle in a square cell, from `particle_stack`.
        optics: pupils of one energy; source sizes are left to `Series.image`.
        detector: annular detector.
        configurations: number of frozen-phonon configurations.
        accuracy: band, slices and precision; its sweeps and supercell are not used.
        window_A: least edge of the window; by default 8 A or 1.6 (aberrated: 2.2) times the radius that holds 95 % of
            the probe, whichever is more. At the cell's edge and beyond no beam is left out.
        seed: seed of displacements and beams.
        device: where waves are propagated and images summed.
        batch_MB: memory for the waves of one batch of beams.
        on_progress: called after each configuration with how many are done.

    Returns:
        One series for each pupil, with the variance of its mean over configurations.

    Raises:
        OpticsError: no pupil, different energies, an aperture that reaches the detector, nothing to average, or a
            window, batch or seed that is none.
        SpecimenError: the cell is not square, or an element has no scattering factor.
        DeviceError: there is no such device.
    """
    edge = float(stack.cell_A[0, 0])
    if stack.period_A is not None or np.abs(stack.cell_A - edge * np.eye(2)).max() > 1e-9:
        raise SpecimenError(f"{stack.name}: expected a finite specimen in a square cell along x and y")
    energy_keV = _one_energy(optics, detector)
    if not isinstance(configurations, Integral) or configurations < 1:
        raise OpticsError(f"{configurations!r} configurations: expected a whole number, 1 or more")
    if window_A is not None and not 0.0 < window_A < np.inf:
        raise OpticsError(f"window {window_A} A: expected above 0 and finite, or None")
    if not 0.0 < batch_MB < np.inf:
        raise OpticsError(f"batches of {batch_MB} MB: expected above 0 and finite")
    check_device(device)
    wavelength = wavelength_A(energy_keV)
    limit = accuracy.band * detector.outer_mrad * 1e-3 / wavelength
    folds = [max(1, int(edge / (window_A or _own_window_A(o)))) for o in optics]
    rng = random_stream(seed)
    dtype = torch.complex128 if accuracy.double else torch.complex64
    images: list[list[NDArray[np.complex128]]] = [[] for _ in optics]
    for done, fold in product(range(configurations), sorted(set(folds))):
        members = [n for n, own in enumerate(folds) if own == fold]
        k_max = max(optics[n].k_max_per_A for n in members)
        kept_k = detector.outer_mrad * 1e-3 / wavelength + fold / edge
        side = fast_length(2.0 * kept_k * edge / fold + 4.0)
        offset = rng.random(2) - 0.5
        first = rng.integers(fold, size=2)
        grid = Grid.for_band(stack.cell_A, limit, (float(offset[0]), float(offset[1])))
        n1, n2 = grid.shape
        length = np.linalg.norm(grid.k_per_A, axis=-1)
        index = np.stack(np.meshgrid(*(_signed(n) for n in grid.shape), indexing="ij"), axis=-1)
        chosen = (length <= k_max) & ((index - first) % fold == 0).all(axis=-1)
        beams, k_beams = index[chosen], grid.k_per_A[chosen]
        kept = length <= kept_k
        # With the first beam's phase taken off, every beam fits the window a whole number of times: no leakage.
        places = torch.from_numpy((index[kept] - first) % (side * fold))
        plan = slice_plan(stack, np.array([np.nan]), 0.0, accuracy.slice_A)
        planes = frozen_planes(stack, plan, grid, limit, energy_keV, accuracy, rng, device)
        waves = torch.zeros((len(beams), side * fold, side * fold), dtype=dtype, device=device)
        batch = max(1, int(batch_MB * 1e6 / (16.0 * n1 * n2)))
        for start in range(0, len(beams), batch):
            (amplitude,) = scatter(beams[start : start + batch], grid, planes(), kept, dtype, device)
            waves[start : start + batch, places[:, 0], places[:, 1]] = amplitude
        for start in range(len(waves)):
            waves[start] = torch.fft.ifft2(waves[start], norm="forward")
        q = np.stack(np.meshgrid(*(_signed(side) * fold + o for o in offset + first), indexing="ij"), axis=-1) / edge
        angle = 1e3 * wavelength * np.linalg.norm(q, axis=-1)
        seen = torch.from_numpy((angle >= detector.inner_mrad) & (angle < detector.outer_mrad)).to(device)
        for n in members:
            images[n].append(_scan(waves, k_beams, seen, stack, optics[n], fold))
        if fold == max(folds):
            on_progress(done + 1)
    return [
        _finish(stack.cell_A, pupil, np.stack(collected), configurations)
        for pupil, collected in zip(optics, images, strict=True)
    ]


def _scan(
    waves: Complex[Tensor, "B m m"],
    k_beams: Float[NDArray[np.float64], "B 2"],
    seen: Tensor,
    stack: Stack,
    pupil: Optics,
    fold: int,
) -> NDArray[np.complex128]:
    """Fourier coefficients of one configuration's image: windows are cut out for blocks of neighbouring probes."""
    edge = float(stack.cell_A[0, 0])
    side, grid_points = waves.shape[1] // fold, waves.shape[1]
    inside = np.linalg.norm(k_beams, axis=1) <= pupil.k_max_per_A
    amplitude = np.where(inside, np.exp(-1j * pupil.chi(np.linalg.norm(k_beams, axis=1))), 0.0)
    used = np.flatnonzero(inside)
    if len(used) == 0:
        raise OpticsError(f"{pupil.aperture_mrad} mrad: no beam of a cell of {edge:.0f} A lies in the aperture")
    points = int(np.ceil(2.0 * pupil.q_max_per_A * edge)) + 2
    image = torch.zeros((points, points), dtype=torch.float64, device=waves.device)
    nearby = KDTree((stack.xy_A + 0.5 * edge) % edge, boxsize=np.array([edge, edge]))
    reach = 0.5 * edge / fold * np.sqrt(2.0)
    norm = float(side) ** 4 * len(used)
    block = max(1, int(_BLOCK_A * points / edge))
    for i in range(0, points, block):
        for j in range(0, points, block):
            a = np.arange(i, min(i + block, points))
            b = np.arange(j, min(j + block, points))
            middle = np.array([a.mean(), b.mean()]) * edge / points
            if not nearby.query_ball_point((middle + 0.5 * edge) % edge, reach, return_length=True):
                continue
            corner = np.rint(middle / edge * grid_points).astype(int) - side // 2
            rows = torch.from_numpy((corner[0] + np.arange(side)) % grid_points).to(waves.device)
            columns = torch.from_numpy((corner[1] + np.arange(side)) % grid_points).to(waves.device)
            patch = waves[torch.from_numpy(used).to(waves.device)[:, None, None], rows[:, None], columns[None]]
            place = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2) * edge / points
            c = amplitude[used] * np.exp(-2j * np.pi * place @ k_beams[used].T)
            probes = torch.from_numpy(c).to(device=waves.device, dtype=waves.dtype) @ patch.reshape(len(used), -1)
            far = torch.fft.fft2(probes.reshape(-1, side, side))
            power = (far.real**2 + far.imag**2)[:, seen].sum(dim=1, dtype=torch.float64) / norm
            image[a[0] : a[-1] + 1, b[0] : b[-1] + 1] = power.reshape(len(a), len(b))
    return _coefficients(image.cpu().numpy(), stack.cell_A, pupil)


def film_series(stack: Stack, optics: Sequence[Optics], detector: Detector) -> list[Series]:
    """Images of a planar film, averaged over independent Gaussian vibrations in closed form: no statistical error.

    All atoms lie in one slice, so the wave behind it is 1 + sum_a t_a(r - r_a) and only products of two atoms'
    t enter an image: equal ones keep their own scattering, different ones are damped by both Debye-Waller factors,

        <S(q - k) S*(q - k')> = sum_ab T_a T_b* D_a D_b exp(...) + sum_a T_a T_a* [D(k - k') - D_a D_a] exp(...),

    D(k) = exp(-2 pi^2 u^2 k^2), the frozen-phonon average of `frozen_planes` carried out. The first sum is the image
    of damped atoms at rest, the second a kernel of |G| times the structure factor. Detector points of the first are
    taken as far apart as a window of 15 A, or twice the radius that holds 95 % of the probe, allows.

    Args:
        stack: a film in one plane; its cell must be larger than a probe (15 A).
        optics: pupils of one energy; source sizes are left to `Series.image`.
        detector: annular detector.

    Raises:
        OpticsError: no pupil, different energies, or an aperture that reaches the detector.
        SpecimenError: the atoms lie in more than one plane.
    """
    energy_keV = _one_energy(optics, detector)
    if stack.period_A is not None or np.ptp(stack.z_A) > 0.05:
        raise SpecimenError(f"{stack.name}: expected a single plane of atoms")
    species = sorted(set(zip(stack.numbers.tolist(), stack.u_A.tolist(), strict=True)))
    members = {kind: (stack.numbers == kind[0]) & (stack.u_A == kind[1]) for kind in species}
    fractional = stack.xy_A @ np.linalg.inv(stack.cell_A)
    area = abs(float(np.linalg.det(stack.cell_A)))
    result = []
    for pupil in optics:
        hk = half_plane_indices(stack.cell_A, pupil.q_max_per_A)
        g = np.linalg.norm(hk @ np.linalg.inv(stack.cell_A).T, axis=1)
        total = _damped_image(stack, pupil, detector, species, members)
        for kind in species:
            structure = _structure_factors(fractional[members[kind]], int(np.abs(hk).max()))
            half = structure.shape[0] // 2
            kernel = _kernel(kind, energy_keV, pupil, detector)
            total = total + kernel(g) / area * structure[hk[:, 0] + half, hk[:, 1] + half]
        result.append(
            Series(stack.cell_A, hk, np.array([np.nan]), total[None], np.zeros((1, len(hk)), dtype=np.float64))
        )
    return result


def _kernel(
    kind: tuple[int, float], energy_keV: float, pupil: Optics, detector: Detector
) -> Callable[[NDArray[np.float64]], NDArray[np.complex128]]:
    """One vibrating atom's own scattering K(|G|) in A^2, a spline; K(0) is its incoherent cross-section.

    Integrals over the overlap of the apertures by Gauss-Legendre nodes between its arcs, over the detector in rings.
    """
    number, u = kind
    radius = pupil.k_max_per_A
    # chi turns by this many radians across the aperture: enough nodes to follow its oscillations.
    turn = float(np.ptp(pupil.chi(np.linspace(0.0, radius, 2001))))
    nodes, weights = np.polynomial.legendre.leggauss(int(min(16 + 2.0 * turn, 96)))
    ring_nodes, ring_weights = np.polynomial.legendre.leggauss(20)
    wavelength = wavelength_A(energy_keV)
    low, high = (angle * 1e-3 / wavelength for angle in (detector.inner_mrad, detector.outer_mrad))
    ring = low + 0.5 * (high - low) * (ring_nodes + 1.0)
    around = 2.0 * np.pi * (np.arange(48) + 0.5) / 48
    q = np.stack([np.outer(ring, np.cos(around)), np.outer(ring, np.sin(around))], axis=-1).reshape(-1, 2)
    q_weight = np.repeat(0.5 * (high - low) * ring_weights * ring * 2.0 * np.pi / 48, 48)

    def damping(k2: NDArray[np.float64]) -> NDArray[np.float64]:
        damped: NDArray[np.float64] = np.exp(-2.0 * np.pi**2 * u**2 * k2)
        return damped

    knots = np.linspace(0.0, pupil.q_max_per_A, int(min(48 + 8.0 * turn, 240)))
    values = np.zeros(len(knots), dtype=np.complex128)
    for n, shift in enumerate(knots[:-1]):
        angle = 0.5 * np.pi * nodes
        height = np.sqrt(radius**2 - 0.25 * shift**2)
        y = height * np.sin(angle)
        y_weight = 0.5 * np.pi * weights * height * np.cos(angle)
        half = np.sqrt(radius**2 - y**2) - 0.5 * shift
        x = -0.5 * shift + half[:, None] * nodes
        k = np.stack([x, np.broadcast_to(y[:, None], x.shape)], axis=-1).reshape(-1, 2)
        k_weight = ((y_weight * half)[:, None] * weights).ravel() / (np.pi * radius**2)
        moved = k + np.array([shift, 0.0])
        c = np.exp(-1j * (pupil.chi(np.linalg.norm(k, axis=1)) - pupil.chi(np.linalg.norm(moved, axis=1))))
        one = np.linalg.norm(q[:, None] - k, axis=-1)
        other = np.linalg.norm(q[:, None] - moved, axis=-1)
        product = transmission_factor_A2(number, energy_keV, one) * np.conj(
            transmission_factor_A2(number, energy_keV, other)
        )
        product = product * (damping(np.array(shift**2)) - damping(one**2) * damping(other**2))
        values[n] = q_weight @ product @ (c * k_weight)
    spline = CubicSpline(knots, values)
    return lambda g: np.asarray(spline(g), dtype=np.complex128)


def _damped_image(
    stack: Stack,
    pupil: Optics,
    detector: Detector,
    species: Sequence[tuple[int, float]],
    members: dict[tuple[int, float], NDArray[np.bool_]],
) -> NDArray[np.complex128]:
    """Coefficients of the image of atoms at rest whose scattering is damped: a sum over detector points."""
    wavelength = pupil.wavelength_A
    inverse = np.linalg.inv(stack.cell_A).T
    area = abs(float(np.linalg.det(stack.cell_A)))
    lengths = np.linalg.norm(stack.cell_A, axis=1)
    outer = detector.outer_mrad * 1e-3 / wavelength
    reach = np.ceil((outer + pupil.k_max_per_A) * lengths).astype(int) + 1
    side = int(reach.max())
    axis = np.arange(-side, side + 1)
    mesh = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    length = np.linalg.norm(mesh @ inverse, axis=-1)
    fractional = stack.xy_A @ np.linalg.inv(stack.cell_A)
    field = np.zeros(length.shape, dtype=np.complex128)
    strength = np.zeros(length.shape)
    for kind in species:
        near = length < outer + pupil.k_max_per_A + 1.0
        factor = np.zeros(length.shape, dtype=np.complex128)
        factor[near] = transmission_factor_A2(kind[0], pupil.energy_keV, length[near])
        factor[near] *= np.exp(-2.0 * np.pi**2 * kind[1] ** 2 * length[near] ** 2)
        field += factor * _structure_factors(fractional[members[kind]], side) / area
        strength = np.maximum(strength, np.abs(factor) ** 2)
    step = max(1, int(lengths.min() / max(_FILM_WINDOW_A, 2.0 * _probe_radius_A(pupil))))
    angle = 1e3 * wavelength * length
    on_detector = (angle >= detector.inner_mrad) & (angle < detector.outer_mrad) & (mesh % step == 0).all(axis=-1)
    # Vibrations leave nothing far out: what is dropped there is below 1e-3 of a film's signal.
    on_detector &= strength > _FAINT * strength[on_detector].max(initial=0.0)
    # The pupil's disc as a small square, slid over the reversed field: A(q - k) for all beams k is one slice of it. The
    # square's corner only shifts the amplitude's phase.
    half = np.ceil(pupil.k_max_per_A * lengths).astype(int)
    square = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in half), indexing="ij"), axis=-1)
    k = np.linalg.norm(square @ inverse, axis=-1)
    open_ = k <= pupil.k_max_per_A
    c = torch.from_numpy(np.where(open_, np.exp(-1j * pupil.chi(k)), 0.0).astype(np.complex64))
    reversed_field = torch.from_numpy(field[::-1, ::-1].astype(np.complex64))
    points = [fast_length(2.0 * pupil.q_max_per_A * edge + 2.0) for edge in lengths]
    image = torch.zeros(points, dtype=torch.float64)
    corners = side - mesh[on_detector] - half
    for start in range(0, len(corners), _TOGETHER):
        patches = torch.stack(
            [
                reversed_field[i : i + c.shape[0], j : j + c.shape[1]]
                for i, j in corners[start : start + _TOGETHER].tolist()
            ]
        )
        wave = torch.fft.fft2(patches * c, s=points)
        image += torch.view_as_real(wave).square().sum(dim=(0, 3))
    image *= float(step) ** 2 / int(open_.sum())
    return _coefficients(image.numpy(), stack.cell_A, pupil)


def _structure_factors(fractional: NDArray[np.float64], most: int) -> Complex[NDArray[np.complex128], "n n"]:
    """sum_a exp(-2 pi i (h x_a + k y_a)) for h and k from -most to most."""
    axis = np.arange(-most, most + 1)
    along = np.exp(-2j * np.pi * np.outer(axis, fractional[:, 0]))
    across = np.exp(-2j * np.pi * np.outer(fractional[:, 1], axis))
    product: NDArray[np.complex128] = along @ across
    return product


def _own_window_A(pupil: Optics) -> float:
    """Window of a probe: by the radius that holds 95 % of it, and wider where aberrations bend what lies beyond."""
    plain = pupil.defocus_A == pupil.C3_mm == pupil.C5_mm == 0.0
    return max(WINDOW_A, (_WINDOW_RADII if plain else _ABERRATED_WINDOW_RADII) * _probe_radius_A(pupil))


def _probe_radius_A(pupil: Optics) -> float:
    """Radius that holds 95 % of the probe without its source.

    The encircled share is E(r) = 2 pi r times the integral over q of OTF(q) J1(2 pi q r).
    """
    sharp = replace(pupil, source_size_A=0.0)
    nodes, weights = np.polynomial.legendre.leggauss(1024)
    q = 0.5 * sharp.q_max_per_A * (nodes + 1.0)
    r = np.linspace(0.0, 60.0 / sharp.q_max_per_A, 1201)
    inside = 2.0 * np.pi * r * (j1(2.0 * np.pi * np.outer(r, q)) @ (0.5 * sharp.q_max_per_A * weights * sharp.otf(q)))
    beyond = np.flatnonzero(inside >= 0.95)
    return float(r[beyond[0]] if len(beyond) else r[-1])


def _signed(points: int) -> Int[NDArray[np.int64], "n"]:
    """Frequency indices in FFT order."""
    signed: NDArray[np.int64] = np.rint(np.fft.fftfreq(points) * points).astype(np.int64)
    return signed


def _one_energy(optics: Sequence[Optics], detector: Detector) -> float:
    """The energy that all pupils share."""
    energies = {pupil.energy_keV for pupil in optics}
    if len(energies) != 1:
        raise OpticsError(f"pupils of energies {sorted(energies)} keV: expected one energy")
    widest = max(pupil.aperture_mrad for pupil in optics)
    if widest >= detector.inner_mrad:
        raise OpticsError(f"aperture {widest} mrad reaches the detector at {detector.inner_mrad} mrad")
    return energies.pop()


def _coefficients(
    image: NDArray[np.float64], cell_A: NDArray[np.float64], pupil: Optics
) -> Complex[NDArray[np.complex128], "G"]:
    """Coefficients up to the band limit of an image sampled evenly over the cell, axis 0 along its first vector."""
    hk = half_plane_indices(cell_A, pupil.q_max_per_A)
    transform = np.fft.fft2(image) / image.size
    picked: NDArray[np.complex128] = transform[hk[:, 0] % image.shape[0], hk[:, 1] % image.shape[1]]
    return picked


def _finish(cell_A: NDArray[np.float64], pupil: Optics, coefficients: NDArray[np.complex128], count: int) -> Series:
    """Mean over configurations and its variance."""
    hk = half_plane_indices(cell_A, pupil.q_max_per_A)
    mean = coefficients.mean(axis=0)
    variance = np.full(len(hk), np.nan)
    if count > 1:
        variance = (np.abs(coefficients - mean) ** 2).sum(axis=0) / (count - 1) / count
    return Series(cell_A, hk, np.array([np.nan]), mean[None], variance[None])
