"""Amorphous graphene: a sane threefold network with the ring statistics of published ones."""

from __future__ import annotations

import numpy as np
import pytest

from temimagenet.errors import SpecimenError
from temimagenet.specimen import amorphous_graphene, ring_sizes, sheet_specimen, shipped_sheet
from temimagenet.specimen.amorphous import SHIPPED_SHEETS

SHEETS = [shipped_sheet(i) for i in range(SHIPPED_SHEETS)]


def test_a_fresh_sheet_is_reproducible_and_threefold():
    one, two = (amorphous_graphene(24.0, seed=5) for _ in range(2))
    assert np.array_equal(one.xy_A, two.xy_A)
    other = amorphous_graphene(24.0, seed=6)
    assert len(other.xy_A) != len(one.xy_A) or not np.allclose(other.xy_A, one.xy_A)
    partners = [set(row) for row in one.neighbours.tolist()]
    assert all(len(p) == 3 and i not in p for i, p in enumerate(partners))
    assert all(i in partners[j] for i, p in enumerate(partners) for j in p)


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda s: f"seed{s.seed}")
def test_bonds_and_angles_are_those_of_threefold_carbon(sheet):
    bonds = sheet.bonds_A()
    lengths = np.linalg.norm(bonds, axis=-1)
    assert lengths.mean() == pytest.approx(1.42, abs=0.02)
    assert lengths.min() > 1.2
    assert lengths.max() < 1.65
    unit = bonds / lengths[..., None]
    cosines = (unit * np.roll(unit, 1, axis=1)).sum(axis=-1)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    assert angles.mean() == pytest.approx(120.0, abs=1.0)
    # Kapko, Drabold & Thorpe (2010) relax such networks to angles spread by about 11 degrees.
    assert 6.0 < angles.std() < 14.0
    assert len(sheet.xy_A) / sheet.cell_A**2 == pytest.approx(0.3818, rel=0.03)


def test_no_other_atom_comes_closer_than_second_neighbours_may():
    for sheet in SHEETS[:3]:
        delta = sheet.xy_A[:, None] - sheet.xy_A[None]
        delta -= sheet.cell_A * np.rint(delta / sheet.cell_A)
        apart = np.linalg.norm(delta, axis=-1) + 10.0 * np.eye(len(sheet.xy_A))
        np.put_along_axis(apart, sheet.neighbours, 10.0, axis=1)
        assert apart.min() > 1.75


def test_rings_average_six_and_match_published_networks():
    sizes = [ring_sizes(s.xy_A, s.neighbours, s.cell_A) for s in SHEETS]
    assert all(s.mean() == 6.0 for s in sizes)  # Euler's theorem on a torus
    every = np.concatenate(sizes)
    share = {n: float(np.mean(every == n)) for n in range(3, 12)}
    # Van Tuan et al., Phys. Rev. B 86 (2012) 121408: 24 % pentagons, 52 % hexagons, 24 % heptagons.
    assert share[5] == pytest.approx(0.24, abs=0.06)
    assert share[6] == pytest.approx(0.52, abs=0.06)
    assert share[7] == pytest.approx(0.24, abs=0.08)
    assert share[3] + share[4] == 0.0
    assert share[8] < 0.06
    assert sum(share[n] for n in (9, 10, 11)) == 0.0


def test_the_sheet_has_no_common_orientation():
    for sheet in SHEETS:
        bonds = sheet.bonds_A()
        angle = np.arctan2(bonds[..., 1], bonds[..., 0])
        assert abs(np.exp(6j * angle).mean()) < 0.25


def test_sheets_hold_the_turned_largest_field():
    assert min(sheet.cell_A for sheet in SHEETS) > np.sqrt(2) * 40.0


def test_every_atom_is_a_column():
    specimen = sheet_specimen(SHEETS[0])
    assert len(specimen.column_xy_A) == len(SHEETS[0].xy_A)
    assert set(specimen.column_kinds) == {"C"}


def test_missing_sheet_and_impossible_cell_are_refused():
    with pytest.raises(SpecimenError, match="the package holds 0 to"):
        shipped_sheet(SHIPPED_SHEETS)
    with pytest.raises(SpecimenError, match="expected 12 to 400"):
        amorphous_graphene(3.0, seed=0)
