"""The multislice engine against abTEM, closed forms and the linear model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.spacegroup import crystal
from scipy import stats

from temimagenet.errors import DeviceError, OpticsError, SpecimenError
from temimagenet.imaging.fourier import half_plane_indices
from temimagenet.imaging.linear import fourier_image
from temimagenet.imaging.multislice import (
    Accuracy,
    BeamPairs,
    Grid,
    Series,
    _configuration,
    _series,
    beam_pairs,
    estimate_seconds,
    fast_length,
    interaction_rad_per_VA,
    projected_potential_VA,
    scatter,
    series,
    slices,
    transmission_factor_A2,
)
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics, wavelength_A
from temimagenet.imaging.scattering import annular_cross_section_A2, electron_scattering_factor_A
from temimagenet.specimen import material, project
from temimagenet.specimen.stack import crystal_stack

abtem = pytest.importorskip("abtem")

DATA = Path(__file__).parents[1] / "data" / "abtem"
DETECTOR = Detector()

# Unit cells of the reference images, as told beside them: edges (x, y, z), atoms and displacements.
PT, SI = 3.9242, 5.4307
CASES = {
    "si110": (
        (SI, SI / 2**0.5, SI / 2**0.5),
        [(14, p, 0.0763) for p in [(0, 0, 0), (0.25, 0, 0.5), (0.5, 0.5, 0.5), (0.75, 0.5, 0)]],
        (2, 3, 26), 288, Optics(200.0, 24.0), (1, 1), (24, 16),
    ),
    "pt110": (
        (PT, PT / 2**0.5, PT / 2**0.5),
        [(78, p, 0.07) for p in [(0, 0, 0), (0.5, 0.5, 0.5)]],
        (3, 4, 36), 288, Optics(200.0, 24.0), (1, 1), (16, 12),
    ),
    "sto001": (
        (3.905, 3.905, 3.905),
        [(38, (0, 0, 0), 0.0887), (22, (0.5, 0.5, 0.5), 0.0746)]
        + [(8, p, 0.0963) for p in [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]],
        (4, 4, 51), 384, Optics(200.0, 20.0, 0.0, 80.0, 0.0257), (2, 2), (26, 26),
    ),
}  # fmt: skip


def _potential(numbers, xy, cell, shape):
    """abTEM-free slice potential by exact phase ramps on a grid, V A."""
    h, k = (np.rint(np.fft.fftfreq(n) * n) for n in shape)
    kx, ky = h / cell[0, 0], k / cell[1, 1]
    q = np.hypot(kx[:, None], ky[None])
    total = np.zeros(shape, dtype=np.complex128)
    for z in sorted(set(numbers)):
        place = xy[np.asarray(numbers) == z]
        ramps = np.exp(-2j * np.pi * np.outer(kx, place[:, 0])) @ np.exp(-2j * np.pi * np.outer(place[:, 1], ky))
        total += electron_scattering_factor_A(z, q.ravel()).reshape(shape) * ramps
    return np.fft.ifft2(total).real * 47.87765 * shape[0] * shape[1] / np.linalg.det(cell)


def _reference_pairs(name, configuration=None):
    """Beam pairs at the reference's own grid, anti-aliasing, slices and soft aperture, and the pupil."""
    from abtem.antialias import antialias_aperture

    unit, atoms, repeat, gpts, optics, _, _ = CASES[name]
    unit = np.array(unit)
    cell = np.diag(unit[:2] * repeat[:2])
    fractional = np.array([p for _, p, _ in atoms], dtype=float)
    # ASE repeats the first axis slowest and the last fastest, all atoms of a cell together.
    steps = np.stack(np.meshgrid(*map(np.arange, repeat), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    xyz = ((fractional + steps) * unit).reshape(-1, 3)
    numbers = np.tile([z for z, _, _ in atoms], len(steps))
    if configuration is not None:
        rms = np.tile([u for _, _, u in atoms], len(steps))
        xyz = xyz + np.random.default_rng(100 + configuration).normal(size=xyz.shape) * rms[:, None]
    shape = (gpts, gpts)
    band = antialias_aperture(shape, (cell[0, 0] / gpts, cell[1, 1] / gpts), xp=np)
    h, k = (np.rint(np.fft.fftfreq(n) * n) for n in shape)
    frequencies = np.stack(np.meshgrid(h / cell[0, 0], k / cell[1, 1], indexing="ij"), axis=-1)
    grid = Grid(cell, shape, frequencies, np.asarray(band, dtype=float))
    thickness = unit[2] / 2
    count = 2 * repeat[2]
    level = np.floor((xyz[:, 2] + unit[2] / 4) / thickness + 1e-9).astype(int) % count
    wavelength = wavelength_A(200.0)
    propagator = torch.from_numpy(grid.propagator(thickness, wavelength)).to(torch.complex64)
    sigma = interaction_rad_per_VA(200.0)
    made = {}

    def planes():
        for n in range(count):
            key = n % 2 if configuration is None else n
            if key not in made:
                members = level == n
                function = np.exp(1j * sigma * _potential(numbers[members], xyz[members, :2], cell, shape))
                made.clear() if configuration is not None else None
                made[key] = torch.from_numpy(np.fft.ifft2(np.fft.fft2(function) * band)).to(torch.complex64)
            yield made[key], propagator, n == count - 1

    # abTEM's soft aperture: linear over one angular pixel around the edge.
    angle = wavelength * np.linalg.norm(frequencies, axis=-1)
    phi = np.arctan2(frequencies[..., 1], frequencies[..., 0])
    step = wavelength * np.hypot(np.cos(phi) / cell[0, 0], np.sin(phi) / cell[1, 1])
    soft = np.clip((optics.aperture_mrad * 1e-3 - angle) / step + 0.5, 0.0, 1.0)
    soft[0, 0] = 1.0
    beams = np.argwhere(soft > 0.0)
    k_beams = frequencies[soft > 0.0]
    seen = grid.on_detector(DETECTOR, wavelength)
    seen |= (1e3 * angle >= 98.0) & (1e3 * angle < 196.0) & (band > 0.0)
    (amplitude,) = scatter(beams, grid, planes(), seen)
    amplitude = amplitude.to(torch.complex128)
    matrix = (amplitude @ amplitude.conj().T).numpy()
    signed = np.where(beams > gpts // 2, beams - gpts, beams)
    i, j = np.triu_indices(len(beams))
    if name == "sto001" and configuration is not None:
        lattice, multiple = np.diag(unit[:2] * repeat[:2]), np.array([1, 1])
    else:
        lattice, multiple = np.diag(unit[:2]), np.array(repeat[:2])
    difference = signed[j] - signed[i]
    same = (difference % multiple == 0).all(axis=1)
    i, j, hk = i[same], j[same], (difference[same] // multiple).astype(np.int16)
    zeros = np.zeros(len(beams), dtype=np.int64)
    pairs = BeamPairs(
        name, lattice, (), 200.0, optics.aperture_mrad, DETECTOR, np.array([thickness * count]), k_beams, zeros, zeros,
        i, j, hk, matrix[i, j][None], np.array([1]), np.zeros((2, 2)),
    )  # fmt: skip
    pupil = soft[soft > 0.0] * np.exp(-1j * optics.chi(np.linalg.norm(k_beams, axis=1)))
    reach = 2.0 * float(np.linalg.norm(k_beams, axis=1).max()) * 1.001
    return _series(pairs, pupil[:, None], reach, symmetrise=False)


def _at(table, points):
    """The series at points (x, y), by the plain sum."""
    g = table.hk @ np.linalg.inv(table.cell_A).T
    values = table.coefficients[-1]
    phases = np.exp(2j * np.pi * points @ g.T)
    return values[0].real + 2.0 * (phases[:, 1:] @ values[1:]).real


def _scan_points(name):
    unit, _, _, _, _, cells, points = CASES[name]
    x, y = (np.arange(n) * u * c / n for n, u, c in zip(points, unit[:2], cells, strict=True))
    return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(
    "name", ["si110", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pt110", "sto001"))]
)
def test_atoms_at_rest_reproduce_abtem(name):
    expected = np.load(DATA / f"{name}_prism1_static_exactpot.npy")
    found = _at(_reference_pairs(name), _scan_points(name)).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-4 * expected.max()


@pytest.mark.slow
def test_a_phonon_configuration_reproduces_abtem():
    expected = np.load(DATA / "sto001_prism1_fp8_exactpot_perconfig.npy")[0]
    found = _at(_reference_pairs("sto001", 0), _scan_points("sto001")).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


@pytest.mark.parametrize("aperture_mrad", [10.0, 24.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_series_equals_abtem_at_points_off_the_grid(symmetric, aperture_mrad):
    """A static lattice, the same potential handed to both, probes at random places."""
    from abtem.antialias import antialias_aperture

    if symmetric:
        atoms = crystal("SrTiO", [(0, 0, 0), (0.5,) * 3, (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3)
        repeat, layers = (3, 3), 2
    else:
        # DyScO3 in its own cell along c: a glide plane is all that the projection keeps.
        atoms, repeat, layers = material("DyScO3").atoms(), (2, 2), 4
    lengths = atoms.cell.lengths()
    atoms = atoms.repeat((*repeat, 1))
    cell = np.diag(lengths[:2] * repeat)
    shape = (270, 270)
    height = lengths[2] / layers
    level = np.floor((atoms.positions[:, 2] + height / 2) / height + 1e-6).astype(int) % layers
    array = np.stack(
        [_potential(atoms.numbers[level == n], atoms.positions[level == n, :2], cell, shape) for n in range(layers)]
    )
    array = np.tile(array, (3, 1, 1)).astype(np.float32)
    rng = np.random.default_rng(4)
    points = rng.random((6, 2)) * np.diag(cell)
    optics = Optics(200.0, aperture_mrad, 0.0, 40.0, 0.01)

    potential = abtem.PotentialArray(array, slice_thickness=height, extent=tuple(np.diag(cell)))
    probe = abtem.Probe(
        energy=200e3, semiangle_cutoff=aperture_mrad, soft=False, extent=tuple(np.diag(cell)), gpts=shape, defocus=40.0,
        Cs=0.01 * 1e7,
    )  # fmt: skip
    annular = abtem.AnnularDetector(inner=98, outer=196)
    measured = probe.scan(potential, scan=abtem.CustomScan(points), detectors=annular, lazy=False)
    expected = np.asarray(measured.array).ravel()

    band = np.asarray(antialias_aperture(shape, tuple(np.diag(cell) / shape), xp=np), dtype=float)
    h, k = (np.rint(np.fft.fftfreq(n) * n) for n in shape)
    frequencies = np.stack(np.meshgrid(h / cell[0, 0], k / cell[1, 1], indexing="ij"), axis=-1)
    grid = Grid(cell, shape, frequencies, band)
    wavelength = wavelength_A(200.0)
    free = torch.from_numpy(grid.propagator(height, wavelength)).to(torch.complex64)
    functions = [
        torch.from_numpy(np.fft.ifft2(np.fft.fft2(np.exp(1j * interaction_rad_per_VA(200.0) * v)) * band)).to(
            torch.complex64
        )
        for v in array.astype(np.float64)
    ]
    inside = np.linalg.norm(frequencies, axis=-1) <= optics.k_max_per_A
    beams = np.argwhere(inside)
    steps = ((f, free, n == len(functions) - 1) for n, f in enumerate(functions))
    (amplitude,) = scatter(beams, grid, steps, grid.on_detector(DETECTOR, wavelength))
    matrix = (amplitude.to(torch.complex128) @ amplitude.to(torch.complex128).conj().T).numpy()
    signed = np.where(beams > 135, beams - 270, beams)
    i, j = np.triu_indices(len(beams))
    hk = (signed[j] - signed[i]).astype(np.int16)
    zeros = np.zeros(len(beams), dtype=np.int64)
    k_beams = frequencies[inside]
    pairs = BeamPairs(
        "", cell, (), 200.0, aperture_mrad, DETECTOR, np.array([1.0]), k_beams, zeros, zeros, i, j, hk,
        matrix[i, j][None], np.array([1]), np.zeros((2, 2)),
    )  # fmt: skip
    found = _at(series(pairs, optics, symmetrise=False), points)
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


@pytest.mark.parametrize(("number", "ratio"), [(8, 1.00), (22, 0.98), (38, 0.93), (78, 0.744)])
def test_one_atom_scatters_what_its_phase_object_scatters(number, ratio):
    """Against the transform of exp(i sigma V) on a fine grid, and the ratios to Born that the design was told of."""
    size, step = 2048, 0.0025
    axis = (np.arange(size) - size / 2 + 0.5) * step
    phase = interaction_rad_per_VA(200.0) * projected_potential_VA(number, np.hypot(axis[:, None], axis[None]).ravel())
    transform = np.fft.fft2(np.expm1(1j * phase).reshape(size, size)) * step**2
    k = np.fft.fftfreq(size, step)
    q = np.hypot(k[:, None], k[None])
    angle = 1e3 * wavelength_A(200.0) * q
    ring = (angle >= 98.0) & (angle < 196.0)
    on_grid = float((np.abs(transform[ring]) ** 2).sum() / (size * step) ** 2)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    low, high = 0.098 / wavelength_A(200.0), 0.196 / wavelength_A(200.0)
    at = low + 0.5 * (high - low) * (nodes + 1.0)
    factor = np.abs(transmission_factor_A2(number, 200.0, at)) ** 2
    closed = float(0.5 * (high - low) * (weights @ (factor * 2.0 * np.pi * at)))
    assert closed == pytest.approx(on_grid, rel=0.01)
    assert closed / annular_cross_section_A2(number, 200.0, DETECTOR) == pytest.approx(ratio, rel=0.01)


def test_constants_are_the_published_ones():
    assert interaction_rad_per_VA(200.0) == pytest.approx(7.28840e-4, rel=1e-5)


@pytest.mark.parametrize(("name", "zone"), [("Si", (1, 1, 0)), ("LiCoO2", (0, 1, 0))])
def test_a_thin_crystal_is_the_linear_model(name, zone):
    """One repeat: like the linear image in shape, with its columns where they are (a wrong sign of G inverts Si)."""
    known = material(name)
    stack = crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name)
    optics = Optics(200.0, 20.0)
    accuracy = Accuracy(least_sweeps=8, most_sweeps=8, most_thin_sweeps=0)
    assert stack.period_A is not None
    table = series(beam_pairs(stack, 200.0, 20.0, DETECTOR, [stack.period_A], accuracy=accuracy), optics)
    projected = project(known.atoms(), zone, u_A=known.u_A, name=name)
    np.testing.assert_allclose(table.cell_A, projected.cell_A, atol=1e-9)
    linear = fourier_image(projected.slab(stack.period_A), optics, DETECTOR)
    np.testing.assert_array_equal(table.hk, linear.hk)
    a, b = table.coefficients[0], linear.coefficients.numpy().astype(complex)
    error = table.error_of_image()[0]
    assert abs(a[0] / b[0] - 1.0) < 0.1 + 3.0 * error
    correlation = (a[1:] * b[1:].conj()).real.sum() / np.linalg.norm(a[1:]) / np.linalg.norm(b[1:])
    inverted = (a[1:].conj() * b[1:].conj()).real.sum() / np.linalg.norm(a[1:]) / np.linalg.norm(b[1:])
    assert correlation > 0.98
    assert inverted < correlation - 0.02 or name == "LiCoO2"


def test_stacks_fill_their_supercell_and_keep_their_symmetry():
    orders = {("SrTiO3", (0, 0, 1)): 8, ("Si", (1, 1, 0)): 4, ("DyScO3", (1, 1, 0)): 2, ("MoS2", (0, 0, 1)): 6}
    for (name, zone), order in orders.items():
        known = material(name)
        stack = crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name)
        assert len(stack.operations) == order
        projected = project(known.atoms(), zone, u_A=known.u_A)
        cells = abs(np.linalg.det(stack.multiple))
        per_cell = projected.amount * (1.0 if stack.period_A is None else stack.period_A)
        assert len(stack.z_A) == pytest.approx(cells * per_cell.sum())
        # Every atom lies on a projected site of its element.
        for z in set(stack.numbers.tolist()):
            delta = (stack.xy_A[stack.numbers == z][:, None] - projected.xy_A[projected.numbers == z]) @ np.linalg.inv(
                stack.unit_A
            )
            apart = np.linalg.norm((delta - np.rint(delta)) @ stack.unit_A, axis=-1).min(axis=1)
            assert apart.max() < 1e-6
        assert sum(len(atoms) for _, atoms in slices(stack, 1.0)) == len(stack.z_A)


def test_symmetrised_images_keep_the_symmetry_and_the_mean():
    known = material("SrTiO3")
    stack = crystal_stack(known.atoms(), (0, 0, 1), u_A=known.u_A, name="SrTiO3")
    accuracy = Accuracy(least_sweeps=2, most_sweeps=2, most_thin_sweeps=0)
    pairs = beam_pairs(stack, 200.0, 10.0, DETECTOR, [4.0, 8.0], accuracy=accuracy, seed=3)
    again = beam_pairs(stack, 200.0, 10.0, DETECTOR, [4.0, 8.0], accuracy=accuracy, seed=3)
    np.testing.assert_array_equal(pairs.values, again.values)
    raw, kept = (series(pairs, Optics(200.0, 10.0), symmetrise=s) for s in (False, True))
    np.testing.assert_allclose(kept.coefficients[:, 0], raw.coefficients[:, 0], rtol=1e-12)
    points = np.random.default_rng(0).random((20, 2)) * 3.905
    quarter = points @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(_at(kept, points), _at(kept, quarter), rtol=1e-9)
    # Another machine precision, the same physics.
    fine = Accuracy(least_sweeps=2, most_sweeps=2, most_thin_sweeps=0, double=True)
    double = series(beam_pairs(stack, 200.0, 10.0, DETECTOR, [4.0, 8.0], accuracy=fine, seed=3), Optics(200.0, 10.0))
    np.testing.assert_allclose(double.coefficients, kept.coefficients, atol=1e-5 * abs(kept.coefficients[0, 0]))


def _rectangular(stack):
    """A stack of one primitive cell of a centred rectangular lattice, as 2 x 3 cells along x and y."""
    first, second = stack.unit_A
    # Primitive vectors of equal length: their sum and difference are the rectangle's edges.
    pair = min(
        ((first, s * second + t * first) for s in (1, -1) for t in (0, 1)), key=lambda v: abs(v[0] @ v[0] - v[1] @ v[1])
    )
    edges = np.array([pair[0] + pair[1], pair[0] - pair[1]])
    edges = edges[np.argsort(-np.linalg.norm(edges, axis=1))]
    if np.linalg.det(edges) < 0.0:
        edges[1] *= -1.0
    lengths = np.linalg.norm(edges, axis=1)
    turn = (edges / lengths[:, None]).T
    cell = np.diag(lengths * (2, 3))
    steps = np.stack(np.meshgrid(np.arange(-12, 13), np.arange(-12, 13), indexing="ij"), axis=-1).reshape(-1, 2)
    shifts = steps @ stack.unit_A @ turn
    turns = shifts @ np.linalg.inv(cell)
    shifts = shifts[((turns > -1e-9) & (turns < 1.0 - 1e-9)).all(axis=1)]
    assert len(shifts) == 12
    unit = stack.unit_A @ turn
    xy = (stack.xy_A @ turn)[None] + shifts[:, None]
    copies = [np.tile(values, len(shifts)) for values in (stack.z_A, stack.numbers, stack.u_A)]
    return replace(
        stack, unit_A=unit, cell_A=cell, multiple=np.rint(cell @ np.linalg.inv(unit)).astype(np.int64),
        xy_A=xy.reshape(-1, 2), z_A=copies[0], numbers=copies[1], u_A=copies[2],
    )  # fmt: skip


@pytest.mark.slow
def test_frozen_phonons_agree_with_abtem_within_both_errors():
    """Hotelling's two-sample T^2 over Fourier coefficients: ours against abTEM's own runs with other displacements.

    Si [110], 15 A, 100 keV, 12 mrad. Both take the beams of the same supercell; potential, transmission, propagation,
    probe and detector are abTEM's on its side (the potential as phase ramps, since its own places atoms bilinearly).
    """
    known = material("Si")
    stack = _rectangular(crystal_stack(known.atoms(), (1, 1, 0), u_A=known.u_A, name="Si", minimum_A=1.0))
    width, height = stack.cell_A[0, 0], stack.cell_A[1, 1]
    optics, repeats, runs = Optics(100.0, 12.0), 4, 40
    assert stack.period_A is not None
    thickness = repeats * stack.period_A
    hk = half_plane_indices(stack.unit_A, optics.q_max_per_A)[:6]

    ours = []
    rng = np.random.Generator(np.random.Philox(1))
    ladder = np.array([thickness])
    for _ in range(runs):
        part = _configuration(stack, 100.0, 12.0, DETECTOR, ladder, (0.0, 0.0), 0.0, rng, Accuracy(), "cpu")
        zeros = np.zeros(len(part.k_per_A), dtype=np.int64)
        pairs = BeamPairs(
            "", stack.unit_A, stack.operations, 100.0, 12.0, DETECTOR, ladder, part.k_per_A, zeros, zeros, part.first,
            part.second, part.hk, part.values, np.array([1]), np.zeros((2, 2)),
        )  # fmt: skip
        k = np.linalg.norm(part.k_per_A, axis=1)
        pupil = np.where(k <= optics.k_max_per_A, np.exp(-1j * optics.chi(k)), 0.0)
        ours.append(_series(pairs, pupil[:, None], optics.q_max_per_A, symmetrise=False).coefficients[0, : len(hk)])

    shape = tuple(4 * int(np.ceil(edge / 0.05 / 4)) for edge in (width, height))
    layers = slices(stack, 1.0)
    steps = [int(np.ceil(2.0 * optics.q_max_per_A * np.linalg.norm(v))) + 1 for v in stack.unit_A]
    turns = np.stack(np.meshgrid(*(np.arange(n) / n for n in steps), indexing="ij"), axis=-1).reshape(-1, 2)
    probe = abtem.Probe(
        energy=100e3, semiangle_cutoff=12.0, soft=False, extent=(width, height), gpts=shape, device="cpu"
    )
    theirs = []
    draw = np.random.default_rng(2024)
    for _ in range(runs):
        potentials = []
        for _, atoms in layers * repeats:
            moved = stack.xy_A[atoms] + draw.normal(size=(len(atoms), 2)) * stack.u_A[atoms, None]
            potentials.append(_potential(stack.numbers[atoms], moved, stack.cell_A, shape))
        potential = abtem.PotentialArray(
            np.array(potentials, dtype=np.float32), slice_thickness=stack.period_A / len(layers), extent=(width, height)
        )
        # Another unit cell each time: the mean is periodic, one configuration is not.
        corner = draw.integers(0, 12, size=2) @ stack.unit_A
        scan = abtem.CustomScan((turns @ stack.unit_A + corner) % np.array([width, height]))
        annular = abtem.AnnularDetector(inner=98, outer=196)
        image = np.asarray(probe.scan(potential, scan=scan, detectors=annular, lazy=False).array).ravel()
        theirs.append(np.exp(-2j * np.pi * turns @ hk.T).T @ image / len(turns))

    def real(values):
        values = np.array(values)
        return np.column_stack([values.real, values.imag[:, 1:]])

    def p_value(one, other):
        """Of equal means; degrees of freedom after Nel & van der Merwe, Commun. Stat. 15 (1986) 3719."""
        difference = one.mean(axis=0) - other.mean(axis=0)
        a, b = np.cov(one.T) / len(one), np.cov(other.T) / len(other)
        both, p = a + b, one.shape[1]
        square = float(difference @ np.linalg.solve(both, difference))
        spread = sum((np.trace(c @ c) + np.trace(c) ** 2) / (len(x) - 1) for c, x in ((a, one), (b, other)))
        freedom = (np.trace(both @ both) + np.trace(both) ** 2) / spread
        assert freedom > p + 10
        return float(stats.f.sf(square * (freedom - p + 1) / (freedom * p), p, freedom - p + 1))

    assert p_value(real(ours), real(theirs)) > 0.01
    # The statistic can tell: G of the other sign, or 5 % more signal.
    assert p_value(real(np.conj(ours)), real(theirs)) < 1e-6
    assert p_value(real(1.05 * np.array(ours)), real(theirs)) < 0.01


def test_source_blur_is_abtems_gaussian():
    known = material("SrTiO3")
    stack = crystal_stack(known.atoms(), (0, 0, 1), u_A=known.u_A, name="SrTiO3")
    accuracy = Accuracy(least_sweeps=1, most_sweeps=1, most_thin_sweeps=0)
    table = series(beam_pairs(stack, 200.0, 15.0, DETECTOR, [4.0], accuracy=accuracy), Optics(200.0, 15.0))
    x = np.arange(96) * 3.905 / 96
    points = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    measured = abtem.Images(_at(table, points).reshape(96, 96).astype(np.float32), sampling=(3.905 / 96,) * 2)
    sigma = 0.9 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
    expected = np.asarray(measured.gaussian_filter(sigma, boundary="periodic").array)
    blurred = table.image(4.0, 0.9).coefficients.numpy().astype(complex)
    phases = np.exp(2j * np.pi * points @ (table.hk @ np.linalg.inv(table.cell_A).T).T)
    found = (blurred[0].real + 2.0 * (phases[:, 1:] @ blurred[1:]).real).reshape(96, 96)
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_pairs():
    known = material("SrTiO3")
    stack = crystal_stack(known.atoms(), (0, 0, 1), u_A=known.u_A, name="SrTiO3")
    accuracy = Accuracy(least_sweeps=1, most_sweeps=1, most_thin_sweeps=0)
    one, other = (
        beam_pairs(stack, 200.0, 10.0, DETECTOR, [8.0], accuracy=accuracy, seed=3, device=device)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(other.values, one.values, atol=1e-5 * np.abs(one.values).max())


def test_bad_input_is_told():
    known = material("Si")
    stack = crystal_stack(known.atoms(), (1, 1, 0), u_A=known.u_A)
    with pytest.raises(OpticsError, match="reaches the detector"):
        beam_pairs(stack, 200.0, 120.0, DETECTOR, [20.0])
    with pytest.raises(OpticsError, match="rising lengths"):
        beam_pairs(stack, 200.0, 20.0, DETECTOR, [40.0, 20.0])
    with pytest.raises(OpticsError, match="at most 10"):
        beam_pairs(stack, 200.0, 10.0, DETECTOR, [20.0], watch=[CONDITIONS[1]])
    with pytest.raises(OpticsError, match="seed -1"):
        beam_pairs(stack, 200.0, 10.0, DETECTOR, [20.0], seed=-1)
    with pytest.raises(OpticsError, match="0 to below 1"):
        beam_pairs(stack, 200.0, 10.0, DETECTOR, [20.0], start=1.0)
    for work in (
        lambda: beam_pairs(stack, 200.0, 10.0, DETECTOR, [20.0], device="gpu"),
        lambda: estimate_seconds(stack, 200.0, 10.0, DETECTOR, [20.0], Accuracy(), "gpu"),
    ):
        with pytest.raises(DeviceError, match="'gpu'"):
            work()
    for slice_A in (0.0, -1.0, np.nan):
        with pytest.raises(OpticsError, match="slices of"):
            slices(stack, slice_A)
    with pytest.raises(OpticsError, match="beam energy"):
        interaction_rad_per_VA(-1.0)
    with pytest.raises(OpticsError, match="distances"):
        projected_potential_VA(14, np.array([0.0, 1.0]))
    with pytest.raises(SpecimenError, match="atomic number 0"):
        projected_potential_VA(0, np.array([1.0]))
    with pytest.raises(OpticsError, match="frequencies"):
        transmission_factor_A2(14, 200.0, np.array([np.nan]))
    with pytest.raises(OpticsError, match="points"):
        fast_length(np.inf)
    for cell, limit in ((np.eye(2), np.nan), (np.eye(2), 0.0), (np.ones((2, 2)), 1.0)):
        with pytest.raises(OpticsError, match="band limit"):
            Grid.for_band(cell, limit)


@pytest.mark.parametrize(
    "ladder", [[], [-1.0], [0.0, 4.0], [np.nan], [4.0, np.nan], [np.inf], [4.0, 4.0], 4.0, None, ["thin"], [[4.0]]]
)
def test_a_ladder_that_is_none_is_told(ladder):
    stack = crystal_stack(material("Si").atoms(), (1, 1, 0))
    with pytest.raises(OpticsError, match="rising lengths"):
        beam_pairs(stack, 200.0, 20.0, DETECTOR, ladder)


@pytest.mark.parametrize("thickness_A", [-1.0, 0.0, np.nan, np.inf, None, 9.0])
def test_a_thickness_outside_the_ladder_is_told(thickness_A):
    hk = half_plane_indices(np.eye(2), 0.5)
    table = Series(np.eye(2), hk, np.array([8.0]), np.ones((1, len(hk)), dtype=complex), np.zeros((1, len(hk))))
    with pytest.raises(OpticsError, match="reaches from 0 to 8 A"):
        table.image(thickness_A)
    for size in (-1.0, np.nan, np.inf):
        with pytest.raises(OpticsError, match="source size"):
            table.image(8.0, size)
        with pytest.raises(OpticsError, match="source size"):
            table.error_of_image(size)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("band", (np.nan, np.inf, 0.9, "wide", None)),
        ("slice_A", (np.nan, np.inf, 0.0, -1.0)),
        ("supercell_A", (np.nan, np.inf, 0.0, 1e3)),
        ("tolerance", (np.nan, np.inf, 0.0, -0.01)),
        ("offsets", (0, 1.5, np.nan, True)),
        ("least_sweeps", (0, 2.0, np.inf, 25)),
        ("most_sweeps", (0, np.nan, -3)),
        ("most_thin_sweeps", (-1, np.nan, 1.5)),
        ("vibrations", ("no", 1, None)),
        ("double", (0, np.nan)),
    ],
)
def test_an_accuracy_that_is_none_names_its_field(name, values):
    for value in values:
        with pytest.raises(OpticsError, match=f"accuracy (least_sweeps .* )?{name} .*(: expected|$)"):
            Accuracy(**{name: value})
