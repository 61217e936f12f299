"""Particles by PRISM and films in closed form, against the engine's own beam pairs, the atlas and the linear model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from temimagenet.atlas import find_series
from temimagenet.errors import DeviceError, OpticsError, SpecimenError
from temimagenet.imaging.finite import film_series, particle_series
from temimagenet.imaging.fourier import FourierImage, derivatives, evaluate, half_plane_indices, in_vacuum
from temimagenet.imaging.linear import fourier_image
from temimagenet.imaging.multislice import Accuracy, BeamPairs, _configuration, _series, beam_pairs, series
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.imaging.scan import Scan
from temimagenet.recipe import SpecimenSpec
from temimagenet.specimen import faceted_particle, material, particle_stack, project
from temimagenet.specimen.stack import crystal_stack, lone_stack

DETECTOR = Detector()
AT_REST = Accuracy(vibrations=False)


def _generator(seed):
    return np.random.Generator(np.random.Philox(seed))


def _cluster(edge_A):
    """Four atoms of three elements, none on an axis."""
    xyz = np.array([[0.0, 0.0, 0.0], [1.5, 0.8, 1.5], [-1.0, 1.0, 3.0], [0.3, -1.2, 4.4]])
    return lone_stack("cluster", edge_A * np.eye(2), xyz, np.array([78, 14, 78, 38]), np.full(4, 0.07))


def test_prism_with_every_beam_is_the_sum_over_beam_pairs():
    """Two routes to one image: windows around probes, and F_G = sum M_ij c_i c_j*, which abTEM confirmed."""
    stack, optics, seed = _cluster(9.0), Optics(100.0, 24.0, 0.0, 30.0, 0.01), 1
    (found,) = particle_series(stack, [optics], DETECTOR, configurations=1, window_A=9.0, accuracy=AT_REST, seed=seed)
    offset = _generator(seed).random(2) - 0.5
    ladder = np.array([np.nan])
    part = _configuration(stack, 100.0, 24.0, DETECTOR, ladder, tuple(offset), 0.0, _generator(0), AT_REST, "cpu")
    zeros = np.zeros(len(part.k_per_A), dtype=np.int64)
    pairs = BeamPairs(
        "", stack.unit_A, stack.operations, 100.0, 24.0, DETECTOR, ladder, part.k_per_A, zeros, zeros, part.first,
        part.second, part.hk, part.values, np.array([1]), np.zeros((2, 2)),
    )  # fmt: skip
    k = np.linalg.norm(part.k_per_A, axis=1)
    pupil = np.where(k <= optics.k_max_per_A, np.exp(-1j * optics.chi(k)), 0.0)
    expected = _series(pairs, pupil[:, None], optics.q_max_per_A, symmetrise=False)
    error = np.abs(found.coefficients - expected.coefficients)
    assert error.max() < 1e-5 * abs(expected.coefficients[0, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optics", "edge_A"),
    [(Optics(100.0, 12.0, 0.8), 20.0), (Optics(60.0, 10.0, 0.8), 40.0), (Optics(100.0, 14.0, 0.8, 200.0), 30.0)],
)
def test_windows_cost_little(optics, edge_A):
    """The probe's own window against all beams in a cell twice as wide; small and defocused apertures among them."""
    stack = _cluster(edge_A)
    images = {}
    for window in (None, edge_A):
        (table,) = particle_series(
            stack,
            [optics],
            DETECTOR,
            configurations=8 if window is None else 2,
            window_A=window,
            accuracy=AT_REST,
            seed=4,
        )
        images[window] = evaluate(table.image(None, 0.8), Scan((60, 60), 0.2, 0.0, (-6.0, -6.0))).numpy()
        assert 0.0 < table.error_of_image(0.8)[0] < 0.1
    assert np.abs(images[None] - images[edge_A]).max() < 0.03 * images[edge_A].max()


def test_particles_have_the_columns_that_the_linear_model_sees():
    for zone in ((1, 1, 0), (0, 0, 1)):
        flat = faceted_particle("Pt", zone, size_A=15.0, rng=_generator(3))
        stack = particle_stack("Pt", zone, size_A=15.0, rng=_generator(3), margin_A=4.0)
        assert len(stack.numbers) == flat.atoms.sum()
        distance = np.linalg.norm(stack.xy_A[:, None] - flat.xy_A[None], axis=-1)
        assert distance.min(axis=1).max() < 1e-9
        np.testing.assert_array_equal(np.bincount(distance.argmin(axis=1)), flat.atoms)
        assert np.abs(stack.xy_A).max() == pytest.approx(0.5 * stack.cell_A[0, 0] - 4.0)
        # Atoms of one column are a lattice row apart along the beam.
        apart = np.diff(np.sort(stack.z_A[distance.argmin(axis=1) == 0]))
        np.testing.assert_allclose(apart, 3.9236 / (2**0.5 if zone == (1, 1, 0) else 1.0), rtol=1e-9)


def test_a_thermal_film_in_closed_form_is_the_frozen_phonon_average():
    """Graphene by the closed form in a wide cell, against the atlas, whose tables are averages.

    The film's aperture is sampled by its cell: where more of the scattering is coherent, at 60 keV, that is 0.7 % of
    the mean for 56 A (1.8 % for 30 A), less than 0.2 % at 200 keV.
    """
    known = material("graphene")
    spec = SpecimenSpec("crystal", "graphene", "", (0, 0, 1))
    scan = Scan((40, 40), 0.1, 20.0)
    for number, edge_A, sampling in ((1, 16.0, 3e-3), (3, 24.0, 3e-3), (6, 56.0, 1e-2)):
        stack = crystal_stack(known.atoms(), (0, 0, 1), u_A=known.u_A, name="graphene", minimum_A=edge_A)
        optics = CONDITIONS[number]
        table = find_series(spec, optics, DETECTOR)
        (film,) = film_series(stack, [optics], DETECTOR)
        one, other = (evaluate(item.image(None, optics.source_size_A), scan).numpy() for item in (film, table))
        error = float(table.error_of_image()[0]) * other.mean()
        assert np.abs(one - other).max() < 5.0 * error + sampling * other.mean()


def test_a_film_averages_what_frozen_phonons_average():
    """Aperiodic and of two elements, under an aberrated pupil: chi-square of the engine's own Monte-Carlo average."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), axis=-1).reshape(-1, 2) * 2.2
    xy = grid + rng.normal(size=grid.shape) * 0.15
    edge = 5 * 2.2
    numbers = np.where(rng.random(25) < 0.5, 6, 14)
    stack = lone_stack("film", edge * np.eye(2), np.column_stack([xy, np.zeros(25)]), numbers, np.full(25, 0.09))
    optics = Optics(100.0, 12.0, 0.0, 300.0, 0.05)
    (film,) = film_series(stack, [optics], DETECTOR)
    accuracy = Accuracy(least_sweeps=24, most_sweeps=24, most_thin_sweeps=0)
    pairs = beam_pairs(stack, 100.0, 12.0, DETECTOR, [1.0], accuracy=accuracy, seed=2)
    average = series(pairs, optics)
    difference = np.abs(film.coefficients[0] - average.coefficients[0]) ** 2
    ratio = difference / average.variance[0]
    # Each term has two degrees of freedom but shares its vibrations with all: the mean is loose, a factor is not.
    assert 0.5 < ratio.mean() < 2.0
    assert abs(film.coefficients[0, 0].real / average.coefficients[0, 0].real - 1.0) < 0.01
    # The statistic can tell: no aberrations, or atoms at rest.
    (sharp,) = film_series(stack, [Optics(100.0, 12.0)], DETECTOR)
    assert (np.abs(sharp.coefficients[0] - average.coefficients[0]) ** 2 / average.variance[0]).mean() > 4.0
    rest = replace(stack, u_A=np.full(25, 1e-6))
    (still,) = film_series(rest, [optics], DETECTOR)
    assert (np.abs(still.coefficients[0] - average.coefficients[0]) ** 2 / average.variance[0]).mean() > 4.0


@pytest.mark.parametrize(("name", "zone", "seen"), [("Si", (1, 1, 0), ("Si",)), ("LiCoO2", (0, 1, 0), ("Co", "O"))])
def test_columns_stay_where_they_are_as_thickness_goes_to_zero(name, zone, seen):
    """All atoms of one repeat in a plane: maxima as in the linear `adf` image within 0.1 pm, heights as one atom's."""
    known = material(name)
    stack = crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name, minimum_A=12.0)
    assert stack.period_A is not None
    flat = replace(stack, z_A=np.zeros_like(stack.z_A), period_A=None)
    optics = Optics(200.0, 24.0, 0.5)
    (table,) = film_series(flat, [optics], DETECTOR)
    slab = project(known.atoms(), zone, u_A=known.u_A, name=name).slab(stack.period_A)
    linear, thin = fourier_image(slab, optics, DETECTOR), table.image(None, 0.5)
    for place, kind in zip(slab.column_xy_A, slab.column_kinds, strict=True):
        if kind not in seen:
            continue
        (one, height), (other, expected) = (_climb(image, place) for image in (thin, linear))
        assert 100.0 * np.linalg.norm(one - other) < 0.1
        assert height / expected == pytest.approx(1.0, abs=0.08)


def _climb(image: FourierImage, start):
    """Place and height of the maximum next to a point."""
    values = image.coefficients.numpy().astype(complex)
    g = 2.0 * np.pi * image.g_per_A[1:]
    place = start.copy()
    for _ in range(80):
        waves = 2.0 * values[1:] * np.exp(1j * g @ place)
        step = np.linalg.solve((waves.real[:, None] * g).T @ g, -(waves.imag @ g))
        place = place + step * min(1.0, 0.05 / (np.linalg.norm(step) + 1e-30))
    return place, float(values[0].real + 2.0 * (values[1:] * np.exp(1j * g @ place)).real.sum())


def test_a_particle_stands_alone_in_vacuum():
    cell, optics = 20.0 * np.eye(2), CONDITIONS[3]
    flat = replace(faceted_particle("Pt", (0, 0, 1), size_A=9.0, rng=_generator(1)), cell_A=cell)
    image = fourier_image(flat, optics, DETECTOR)
    wide = in_vacuum(image, 70.0)
    assert wide.cell_A[0, 0] >= 70.0
    near, far = Scan((80, 80), 0.2, 30.0, (-4.0, -9.0)), Scan((60, 60), 0.2, 30.0, (18.0, 12.0))
    inside, outside = (evaluate(wide, scan).numpy() for scan in (near, far))
    peak = inside.max()
    np.testing.assert_allclose(inside, evaluate(image, near).numpy(), atol=5e-3 * peak)
    assert evaluate(image, far).numpy().max() > 0.5 * peak
    assert np.abs(outside).max() < 5e-3 * peak
    assert in_vacuum(image, 10.0) is image


def test_vacuum_along_a_rotated_scan_holds_the_same_particle():
    cell, optics = 26.0 * np.eye(2), CONDITIONS[3]
    flat = replace(faceted_particle("Pt", (0, 0, 1), size_A=9.0, rng=_generator(1)), cell_A=cell)
    image = fourier_image(flat, optics, DETECTOR)
    scan = Scan((90, 70), 0.2, 37.0, (-4.0, -9.0), 0.2 * np.random.default_rng(0).normal(size=(90, 2)))
    turned = in_vacuum(image, 60.0, scan.rotation_deg)
    x, y = np.asarray(scan.offset_A) @ scan.rotation
    straight = replace(scan, rotation_deg=0.0, offset_A=(float(x), float(y)))
    expected = evaluate(in_vacuum(image, 60.0), scan).numpy()
    np.testing.assert_allclose(evaluate(turned, straight).numpy(), expected, atol=1e-3 * expected.max())
    corners = scan.to_specimen_A(np.array([[0, 0], [69, 0], [0, 89], [69, 89]]))
    assert np.abs(corners).max() > 13.0, "the field reaches beyond the particle's own cell"


@pytest.mark.parametrize("cell", [np.diag([34.0, 50.0]), np.array([[40.0, 3.0], [-9.0, 33.0]])])
def test_long_series_are_evaluated_at_any_points(cell):
    """The non-uniform transform against the plain sum, rotated, offset and jittered."""
    rng = np.random.default_rng(0)
    hk = half_plane_indices(cell, 1.2)
    values = (rng.normal(size=len(hk)) + 1j * rng.normal(size=len(hk))) / len(hk) ** 0.5
    values[0] = 1.0
    image = FourierImage(cell, hk, torch.from_numpy(values.astype(np.complex64)))
    assert len(hk) > 2048
    scan = Scan((9, 11), 0.7, 33.0, (3.0, -70.0), rng.normal(size=(9, 2)))
    shifts = scan.row_shift_A
    i, j = np.meshgrid(np.arange(9), np.arange(11), indexing="ij")
    points = np.stack([0.7 * j + shifts[i, 0], 0.7 * i + shifts[i, 1]], axis=-1) @ scan.rotation.T + scan.offset_A
    waves = np.exp(2j * np.pi * points @ image.g_per_A[1:].T) @ values[1:].astype(np.complex64)
    np.testing.assert_allclose(evaluate(image, scan).numpy(), 1.0 + 2.0 * waves.real, atol=3e-6 * np.abs(waves).max())


@pytest.mark.parametrize("q_max_per_A", [0.3, 1.2])
def test_derivatives_are_those_of_the_image(q_max_per_A):
    """Short and long series against central differences and the plain sum."""
    rng = np.random.default_rng(1)
    cell = np.array([[40.0, 3.0], [-9.0, 33.0]])
    hk = half_plane_indices(cell, q_max_per_A)
    values = torch.from_numpy((rng.normal(size=len(hk)) + 1j * rng.normal(size=len(hk))) / len(hk) ** 0.5)
    values[0] = 1.0
    image = FourierImage(cell, hk, values)
    points, step = rng.normal(size=(5, 2)) * 30.0, 1e-3
    value, slope, curve = derivatives(image, points)
    expected = 1.0 + 2.0 * (np.exp(2j * np.pi * points @ image.g_per_A[1:].T) @ values.numpy()[1:]).real
    np.testing.assert_allclose(value, expected, atol=1e-5)
    for axis in range(2):
        move = step * np.eye(2)[axis]
        ahead, behind = derivatives(image, points + move), derivatives(image, points - move)
        np.testing.assert_allclose(slope[:, axis], (ahead[0] - behind[0]) / (2 * step), atol=2e-3)
        np.testing.assert_allclose(curve[:, axis], (ahead[1] - behind[1]) / (2 * step), atol=2e-2)


def test_what_cannot_be_imaged_is_told():
    stack = _cluster(9.0)
    with pytest.raises(OpticsError, match="one energy"):
        particle_series(stack, [CONDITIONS[1], CONDITIONS[2]], DETECTOR, configurations=1)
    with pytest.raises(OpticsError, match="configurations"):
        particle_series(stack, [CONDITIONS[1]], DETECTOR, configurations=0)
    with pytest.raises(OpticsError, match="reaches the detector"):
        film_series(stack, [Optics(200.0, 99.0)], DETECTOR)
    with pytest.raises(SpecimenError, match="single plane"):
        film_series(stack, [CONDITIONS[1]], DETECTOR)
    with pytest.raises(SpecimenError, match="square cell"):
        particle_series(replace(stack, cell_A=np.diag([9.0, 8.0])), [CONDITIONS[1]], DETECTOR, configurations=1)
    for count in (0, 1.5, np.nan, None):
        with pytest.raises(OpticsError, match="configurations: expected a whole number"):
            particle_series(stack, [CONDITIONS[1]], DETECTOR, configurations=count)
    for bad in ({"window_A": np.nan}, {"window_A": np.inf}, {"window_A": 0.0}, {"batch_MB": 0.0}, {"batch_MB": np.nan}):
        with pytest.raises(OpticsError, match=r"expected above 0"):
            particle_series(stack, [CONDITIONS[1]], DETECTOR, configurations=1, **bad)
    with pytest.raises(OpticsError, match="seed -1"):
        particle_series(stack, [CONDITIONS[1]], DETECTOR, configurations=1, seed=-1)
    with pytest.raises(DeviceError, match="'gpu'"):
        particle_series(stack, [CONDITIONS[1]], DETECTOR, configurations=1, device="gpu")
    for series_of in (
        lambda: film_series(stack, [], DETECTOR),
        lambda: particle_series(stack, [], DETECTOR, configurations=1),
    ):
        with pytest.raises(OpticsError, match="expected one energy"):
            series_of()
    for xyz in (np.zeros((0, 3)), np.array([[np.nan, 0.0, 0.0]])):
        with pytest.raises(SpecimenError, match="one atom or more"):
            lone_stack("film", 9.0 * np.eye(2), xyz, np.full(len(xyz), 14), np.full(len(xyz), 0.07))
