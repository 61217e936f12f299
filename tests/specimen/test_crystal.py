"""Crystals: projected columns against coordinates turned by hand, densities, and what cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from temimagenet.errors import SpecimenError
from temimagenet.specimen import MATERIALS, material, orient, parse_zone, project, read_structure, structure_from_text
from temimagenet.specimen.crystal import defective, equivalent_zones, strained


def by_hand(atoms: Atoms, zone: tuple[int, int, int]) -> list[tuple[int, float, float]]:
    """Projected atoms of a block of cells: z along the zone, any x and y, straight from ASE's coordinates."""
    cell = atoms.cell.array
    z = np.asarray(zone) @ cell
    z = z / np.linalg.norm(z)
    helper = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    block = atoms.repeat((5, 5, 5))
    xy = np.column_stack([block.positions @ x, block.positions @ y])
    return xy, block.numbers


def neighbour_table(xy: np.ndarray, numbers: np.ndarray, reach: float, keep: np.ndarray) -> set:
    """For every projected site of `keep`: its element and the elements and distances of sites within `reach`."""
    _, unique = np.unique(np.round(np.column_stack([xy, numbers]), 4), axis=0, return_index=True)
    sites, elements = xy[unique], numbers[unique]
    table = set()
    for i in np.flatnonzero(np.isin(unique, np.flatnonzero(keep))):
        apart = np.linalg.norm(sites - sites[i], axis=1)
        near = (apart < reach) & (apart > 1e-3)
        table.add(
            (
                int(elements[i]),
                tuple(sorted((int(e), round(float(d), 2)) for e, d in zip(elements[near], apart[near], strict=True))),
            )
        )
    return table


@pytest.mark.parametrize(
    ("name", "zone"),
    [("SrTiO3", (1, 1, 0)), ("Si", (1, 1, 0)), ("TiO2", (1, 0, 0)), ("DyScO3", (1, 1, 0)), ("LiCoO2", (0, 1, 0))],
)
def test_projected_neighbourhoods_equal_ase_coordinates_turned_by_hand(name, zone):
    atoms = material(name).atoms()
    xy, numbers = by_hand(atoms, zone)
    middle = np.linalg.norm(xy - xy.mean(axis=0), axis=1) < 4.0
    expected = neighbour_table(xy, numbers, 3.305, middle)

    crystal = project(atoms, zone)
    steps = np.array([(i, j) for i in range(-6, 7) for j in range(-6, 7)])
    tiled = (crystal.xy_A[None] + (steps @ crystal.cell_A)[:, None]).reshape(-1, 2)
    kinds = np.tile(crystal.numbers, len(steps))
    home = np.zeros(len(tiled), dtype=bool)
    home[len(crystal.xy_A) * 84 : len(crystal.xy_A) * 85] = True
    found = neighbour_table(tiled, kinds, 3.305, home)
    assert found == expected


def test_silicon_110_shows_dumbbells_a_quarter_of_a_apart():
    crystal = project(material("Si").atoms(), (1, 1, 0))
    a = 5.431020511
    assert len(crystal.xy_A) == 2
    delta = (crystal.xy_A[1] - crystal.xy_A[0]) @ np.linalg.inv(crystal.cell_A)
    images = [(delta + np.array([i, j])) @ crystal.cell_A for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert min(np.linalg.norm(v) for v in images) == pytest.approx(a / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "zone", "area_per_a2", "columns"),
    [("Pt", (0, 0, 1), 0.25, 1), ("Pt", (1, 1, 0), np.sqrt(2) / 4, 1), ("NiO", (1, 1, 0), np.sqrt(2) / 4, 2),
     ("SrTiO3", (0, 0, 1), 1.0, 4), ("SrTiO3", (1, 1, 0), np.sqrt(2) / 2, 3), ("Pt", (1, 1, 1), np.sqrt(3) / 2 / 6, 1)],
)  # fmt: skip
def test_projected_cell_is_primitive(name, zone, area_per_a2, columns):
    # fcc along [111]: three layers A, B, C overlap into a triangular net of spacing a / sqrt(6).
    atoms = material(name).atoms()
    crystal = project(atoms, zone)
    a = atoms.cell.lengths()[0]
    assert abs(np.linalg.det(crystal.cell_A)) == pytest.approx(area_per_a2 * a**2, rel=1e-6)
    assert crystal.column.max() + 1 == columns


@pytest.mark.parametrize("name", [name for name, item in MATERIALS.items() if item.morphology == "bulk"])
@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 1, 0), (1, 2, 3), (-2, 1, 5)])
def test_atoms_per_volume_survive_projection(name, zone):
    atoms = material(name).atoms()
    crystal = project(atoms, zone)
    density = crystal.amount.sum() / abs(np.linalg.det(crystal.cell_A))
    assert density == pytest.approx(len(atoms) / atoms.cell.volume, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    zone=st.tuples(*[st.integers(-3, 3)] * 3).filter(any),
    atoms=st.integers(1, 4),
)
def test_any_triclinic_crystal_keeps_its_density_and_gets_a_reduced_cell(seed, zone, atoms):
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * rng.uniform(3, 6, 3) + rng.uniform(-1, 1, (3, 3))
    crystal = Atoms(
        numbers=rng.choice([8, 22, 38], atoms), scaled_positions=rng.random((atoms, 3)), cell=cell, pbc=True
    )
    turned = orient(crystal, zone)
    direction = np.asarray(parse_zone(zone)) @ cell
    assert turned.cell.array[2, 2] == pytest.approx(np.linalg.norm(direction), rel=1e-9)
    assert np.allclose(turned.cell.array[2, :2], 0.0)
    assert turned.cell.volume == pytest.approx(crystal.cell.volume, rel=1e-9)
    projected = project(crystal, zone)
    a, b = projected.cell_A
    assert abs(a @ b) <= 0.5 * (a @ a) * (1 + 1e-6)
    assert a @ a <= (b @ b) * (1 + 1e-6)
    assert np.linalg.det(projected.cell_A) > 0
    density = projected.amount.sum() / np.linalg.det(projected.cell_A)
    assert density == pytest.approx(atoms / crystal.cell.volume, rel=1e-6)


def test_a_supercell_projects_to_the_same_primitive_lattice():
    unit = material("TiO2").atoms()
    large = make_supercell(unit, [[2, 1, 0], [0, 1, 1], [1, 0, 2]])
    zone = np.rint(np.array([0, 0, 1]) @ unit.cell.array @ np.linalg.inv(large.cell.array) * 5).astype(int)
    one, two = project(unit, (0, 0, 1)), project(large, tuple(int(i) for i in zone))
    assert np.linalg.det(two.cell_A) == pytest.approx(np.linalg.det(one.cell_A), rel=1e-6)
    assert sorted(two.amount) == pytest.approx(sorted(one.amount))


def test_gallium_nitride_along_c_is_a_hexagonal_lattice():
    crystal = project(material("GaN").atoms(), (0, 0, 1))
    lengths = np.linalg.norm(crystal.cell_A, axis=1)
    assert lengths == pytest.approx([3.190, 3.190])
    assert abs(crystal.cell_A[0] @ crystal.cell_A[1]) == pytest.approx(0.5 * 3.190**2, rel=1e-6)


def test_columns_say_what_they_are_made_of():
    assert set(project(material("MoS2").atoms(), (0, 0, 1)).sheet().column_kinds) == {"Mo", "S2"}
    assert set(project(material("SrTiO3").atoms(), (0, 0, 1)).slab(40).column_kinds) == {"Sr", "TiO", "O"}
    assert set(project(material("Si").atoms(), (1, 1, 0)).slab(40).column_kinds) == {"Si"}


@pytest.mark.parametrize(
    ("name", "zone", "light"), [("TiO2", (0, 0, 1), "O"), ("LiCoO2", (0, 1, 0), "Li"), ("DyScO3", (1, 1, 0), "O")]
)
def test_light_columns_stay_with_their_own_weight(name, zone, light):
    assert light in project(material(name).atoms(), zone).slab(100).column_kinds


def test_rutile_and_spinel_have_their_known_densities():
    # CRC Handbook: rutile 4.23, Co3O4 6.11, DyScO3 about 6.9, LiCoO2 about 5.06 g/cm^3.
    for name, expected in {"TiO2": 4.25, "Co3O4": 6.06, "DyScO3": 6.90, "LiCoO2": 5.05, "CaF2": 3.18}.items():
        atoms = material(name).atoms()
        assert atoms.get_masses().sum() / atoms.cell.volume * 1.66053907 == pytest.approx(expected, rel=0.015), name


def test_shortest_bonds_are_those_of_the_literature():
    # Ti-O 1.95, Co-O 1.81 tetrahedral..1.93 octahedral, Sc-O 2.09, Dy-O 2.2, Co-O in LiCoO2 1.92 A.
    for name, pair, expected in [
        ("TiO2", "TiO", 1.949),
        ("LiCoO2", "CoO", 1.92),
        ("DyScO3", "ScO", 2.09),
        ("MoS2", "MoS", 2.417),
        ("Co3O4", "CoO", 1.92),
    ]:
        atoms = material(name).atoms()
        block = atoms.repeat((2, 2, 2 if atoms.pbc[2] else 1))
        a, b = pair[:2], pair[2:]
        distances = block.get_all_distances(mic=True)
        symbols = np.array(block.get_chemical_symbols())
        assert distances[np.ix_(symbols == a, symbols == b)].min() == pytest.approx(expected, abs=0.03), name


def test_strain_moves_columns_as_the_tensor_says():
    specimen = project(material("SrTiO3").atoms(), (0, 0, 1)).slab(20)
    moved = strained(specimen, 0.03, -0.01, 0.02)
    assert moved.cell_A[0] == pytest.approx([3.905 * 1.03, 3.905 * 0.02])
    assert moved.cell_A[1] == pytest.approx([3.905 * 0.02, 3.905 * 0.99])


def test_defects_thin_the_asked_share_of_columns():
    specimen = project(material("Pt").atoms(), (0, 0, 1)).slab(40)
    damaged = defective(specimen, (40, 40), 0.2, 0.1, np.random.default_rng(1))
    full = specimen.atoms[0]
    assert np.mean(damaged.atoms < full * 0.999) == pytest.approx(0.2, abs=0.03)
    ideal = (np.array([(i, j) for i in range(40) for j in range(40)]) @ specimen.cell_A) + specimen.xy_A[0]
    assert np.std(damaged.xy_A - ideal) == pytest.approx(0.1, rel=0.05)


def test_a_damaged_layer_misses_whole_atoms_and_their_columns():
    sheet = project(material("graphene").atoms(), (0, 0, 1)).sheet()
    damaged = defective(sheet, (30, 30), 0.2, 0.0, np.random.default_rng(2))
    assert set(damaged.atoms) == {1.0}
    assert len(damaged.column_xy_A) == len(damaged.atoms)
    assert len(damaged.atoms) / 1800 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("name", "zone"), [("TiO2", (1, 0, 0)), ("DyScO3", (1, 1, 0)), ("GaN", (0, 0, 1)), ("Pt", (1, 2, 3))]
)
def test_the_frame_takes_crystal_coordinates_to_projected_sites(name, zone):
    atoms = material(name).atoms()
    crystal = project(atoms, zone)
    block = atoms.repeat((2, 2, 2))
    turned = block.positions @ crystal.frame.T
    assert np.allclose(crystal.frame @ crystal.frame.T, np.eye(3))
    assert np.linalg.det(crystal.frame) == pytest.approx(1.0)
    inverse = np.linalg.inv(crystal.cell_A)
    worst = []
    for shift in turned[0, :2] - crystal.xy_A[crystal.numbers == atoms.numbers[0]]:
        delta = (turned[:, None, :2] - shift - crystal.xy_A[None]) @ inverse
        apart = np.linalg.norm((delta - np.rint(delta)) @ crystal.cell_A, axis=-1)
        apart[block.numbers[:, None] != crystal.numbers[None]] = 9.0
        worst.append(apart.min(axis=1).max())
    assert min(worst) < 0.011


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("[110]", (1, 1, 0)),
        ("1-10", (1, -1, 0)),
        ("[1 -1 0]", (1, -1, 0)),
        ("2,2,0", (1, 1, 0)),
        ((0, 0, 2), (0, 0, 1)),
        ("10 -3 1", (10, -3, 1)),
    ],
)
def test_zone_axes_are_read_as_people_write_them(text, zone):
    assert parse_zone(text) == zone


@pytest.mark.parametrize("text", ["[000]", "[11]", "[1x0]", "110 5", "", (1, 2), (1.5, 0, 0), "[1111]", "1.5 0 0"])
def test_zone_axes_that_do_not_exist_are_refused(text):
    with pytest.raises(SpecimenError, match="zone axis"):
        parse_zone(text)


def test_unknown_material_names_the_nearest():
    with pytest.raises(SpecimenError, match=r"unknown material 'SrTi03' \(did you mean SrTiO3\?\)"):
        material("SrTi03")


def test_a_layer_has_only_its_normal():
    with pytest.raises(SpecimenError, match=r"zone axis \[110\] does not exist for the single layer"):
        project(material("graphene").atoms(), (1, 1, 0))


def test_bad_structure_files_are_refused_with_one_error(tmp_path):
    with pytest.raises(SpecimenError, match="no structure file"):
        read_structure(tmp_path / "missing.cif")
    broken = tmp_path / "broken.cif"
    broken.write_text("data_x\n_cell_length_a oops\nloop_\n_atom_site_label\n")
    with pytest.raises(SpecimenError, match=r"broken\.cif"):
        read_structure(broken)
    with pytest.raises(SpecimenError):
        structure_from_text("this is no CIF at all")


def test_partial_occupancy_is_refused(tmp_path):
    text = """data_alloy
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Au1 Au 0 0 0 0.5
Ag1 Ag 0 0 0 0.5
"""
    with pytest.raises(SpecimenError, match="occupied"):
        structure_from_text(text)


def test_a_cif_written_by_ase_projects_like_its_source(tmp_path):
    source = bulk("Cu", "fcc", a=3.615, cubic=True)
    source.write(tmp_path / "cu.cif")
    crystal = project(read_structure(tmp_path / "cu.cif"), (1, 1, 0))
    assert np.linalg.det(crystal.cell_A) == pytest.approx(3.615**2 * np.sqrt(2) / 4)


def test_cells_of_many_atoms_are_handled_and_of_too_many_refused(tmp_path):
    small = bulk("Cu", cubic=True)
    big = small * (6, 6, 6)
    projected = project(big, (0, 0, 1))
    np.testing.assert_allclose(
        abs(np.linalg.det(projected.cell_A)), abs(np.linalg.det(project(small, (0, 0, 1)).cell_A))
    )
    big.rattle(0.05, seed=1)
    assert abs(np.linalg.det(project(big, (0, 0, 1)).cell_A)) == pytest.approx((6 * 3.61) ** 2, rel=1e-3)
    # ASE takes minutes to read as many from a CIF.
    path = tmp_path / "huge.xyz"
    write(path, small * (11, 11, 11), format="extxyz")
    with pytest.raises(SpecimenError, match="5324 atoms"):
        read_structure(path)


@pytest.mark.parametrize(
    ("name", "zone", "count"),
    [
        ("SrTiO3", (0, 0, 1), 6), ("Pt", (1, 1, 1), 8), ("Pt", (1, 2, 3), 48), ("Si", (1, 1, 0), 12),
        ("TiO2", (1, 0, 0), 4), ("TiO2", (0, 0, 1), 2), ("DyScO3", (1, 1, 0), 4), ("GaN", (1, 0, 0), 6),
        ("GaN", (0, 0, 1), 1), ("LiCoO2", (0, 0, 1), 2), ("graphene", (0, 0, 1), 1),
    ],
)  # fmt: skip
def test_zones_of_a_form_are_those_of_the_point_group(name, zone, count):
    """Counts from the orders of m-3m, 4/mmm, mmm, 6mm and -3m; GaN [001] is polar, a layer has one zone."""
    others = equivalent_zones(material(name).atoms(), zone)
    assert len({zone, *others}) == count == len(others) + 1
    # The projections of a form have the same area and the same columns.
    for other in others[:3]:
        one, two = (project(material(name).atoms(), z) for z in (zone, other))
        assert abs(np.linalg.det(one.cell_A)) == pytest.approx(abs(np.linalg.det(two.cell_A)), rel=1e-6)
        np.testing.assert_allclose(np.sort(one.amount), np.sort(two.amount), rtol=1e-6)
