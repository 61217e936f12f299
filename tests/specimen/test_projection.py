"""Projections against the zero-order Laue zone, and cases in which columns or atoms could get lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from temimagenet.errors import SpecimenError
from temimagenet.specimen import MATERIALS, Specimen, faceted_particle, material, parse_zone, project, read_structure
from temimagenet.specimen.crystal import defective

REACH_PER_A = 0.9
BULK = [name for name, item in MATERIALS.items() if item.morphology == "bulk"]
ZONES = [(0, 0, 1), (1, 1, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (2, 1, 1), (1, 2, 3)]


def reflections(reciprocal, indices, positions, weights, volume):
    """Sorted (|g|, |F_g| / volume) of every reflection that is not extinct."""
    g = np.array(indices) @ reciprocal.T
    g = g[np.linalg.norm(g, axis=1) < REACH_PER_A]
    strength = np.abs(np.exp(-2j * np.pi * g @ positions.T) @ weights) / volume
    rows = np.column_stack([np.linalg.norm(g, axis=1), strength])[strength > 1e-3]
    return rows[np.lexsort((rows[:, 1].round(4), rows[:, 0].round(4)))]


def box(lengths):
    """All index tuples that can lie within reach."""
    return itertools.product(*[range(-n, n + 1) for n in np.ceil(REACH_PER_A * np.asarray(lengths)).astype(int)])


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", BULK)
def test_a_projection_diffracts_like_the_zero_order_laue_zone(name, zone):
    # Projection-slice theorem: F of the projection is F_hkl of the crystal on hu + kv + lw = 0; no orienting needed.
    atoms = material(name).atoms()
    cell = atoms.cell.array
    in_zone = [hkl for hkl in box(atoms.cell.lengths()) if np.dot(hkl, zone) == 0]
    weights = atoms.numbers.astype(float)
    expected = reflections(np.linalg.inv(cell), in_zone, atoms.positions, weights, atoms.cell.volume)

    flat = project(atoms, zone)
    hk = list(box(np.linalg.norm(flat.cell_A, axis=1)))
    area = np.linalg.det(flat.cell_A)
    found = reflections(np.linalg.inv(flat.cell_A), hk, flat.xy_A, flat.amount * flat.numbers, area)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=2e-3)


def same_points(one: np.ndarray, two: np.ndarray, cell: np.ndarray) -> bool:
    """Whether two sets of points are one set, modulo a lattice."""
    delta = (one[:, None] - two[None]) @ np.linalg.inv(cell)
    apart = np.linalg.norm((delta - np.rint(delta)) @ cell, axis=-1)
    return len(one) == len(two) and bool((apart.min(axis=0) < 1e-6).all() and (apart.min(axis=1) < 1e-6).all())


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", BULK)
def test_an_undamaged_supercell_has_the_columns_of_its_cell(name, zone):
    cell = project(material(name).atoms(), zone).slab(40.0)
    block = defective(cell, (3, 2), 0.0, 0.0, np.random.default_rng(0))
    steps = np.array([(i, j) for i in range(3) for j in range(2)]) @ cell.cell_A
    assert same_points(block.column_xy_A, (cell.column_xy_A + steps[:, None]).reshape(-1, 2), block.cell_A)


def test_a_column_across_the_cell_edge_stays_whole_in_a_supercell():
    # One column of two sites 0.2 A apart, either side of x = 0.
    cell = Specimen(
        "pair",
        np.eye(2) * 4.0,
        np.array([[0.1, 1.0], [3.9, 1.0]]),
        np.array([8, 8]),
        np.ones(2),
        np.full(2, 0.08),
        np.zeros(2, dtype=np.int64),
    )
    block = defective(cell, (2, 1), 0.0, 0.0, np.random.default_rng(0))
    assert same_points(block.column_xy_A, np.array([[0.0, 1.0], [4.0, 1.0]]), block.cell_A)


def test_near_translations_that_form_no_group_lose_no_atoms():
    # Shifts by 1/4 and 3/4 fit within 0.01 A, the shift by 1/2 that they imply does not.
    x = [0.0, 3.004, 6.009, 9.004]
    atoms = Atoms("Pt4", positions=[[v, 0.0, 0.0] for v in x], cell=[12.0, 4.0, 5.0], pbc=True)
    flat = project(atoms, (0, 0, 1))
    assert flat.amount.sum() / np.linalg.det(flat.cell_A) == pytest.approx(4 / atoms.cell.volume, rel=1e-9)


def test_a_layer_in_a_file_stays_a_layer(tmp_path):
    write(tmp_path / "layer.extxyz", material("graphene").atoms())
    assert project(read_structure(tmp_path / "layer.extxyz"), (0, 0, 1)).layer


def test_a_molecule_in_a_box_is_refused(tmp_path):
    write(tmp_path / "molecule.extxyz", Atoms("CO", positions=[[0, 0, 0], [1.1, 0, 0]], cell=[9, 9, 9], pbc=False))
    with pytest.raises(SpecimenError, match="periodic along none, expected a crystal"):
        read_structure(tmp_path / "molecule.extxyz")


@pytest.mark.parametrize("zone", [None, 110, 1.5])
def test_a_zone_axis_that_is_no_sequence_is_refused(zone):
    with pytest.raises(SpecimenError, match="zone axis"):
        parse_zone(zone)


def test_a_compound_particle_is_refused():
    with pytest.raises(SpecimenError, match="NiO is a compound"):
        faceted_particle("NiO", (0, 0, 1), size_A=30.0, rng=np.random.default_rng(0))
