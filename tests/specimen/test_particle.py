"""Faceted particles: whole atoms inside the polyhedron they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from temimagenet.errors import SpecimenError
from temimagenet.specimen import faceted_particle, material, project

ZONES = [(1, 1, 0), (0, 0, 1)]


@pytest.mark.parametrize("zone", ZONES)
def test_columns_hold_whole_atoms_on_the_projected_lattice(zone):
    particle = faceted_particle("Pt", zone, size_A=30.0, rng=np.random.default_rng(3))
    assert particle.cell_A is None
    assert np.array_equal(particle.atoms, np.round(particle.atoms))
    assert particle.atoms.min() >= 1
    apart = np.linalg.norm(particle.xy_A[:, None] - particle.xy_A[None], axis=-1) + 1e3 * np.eye(len(particle.xy_A))
    bulk = project(material("Pt").atoms(), zone)
    assert apart.min() == pytest.approx(np.linalg.norm(bulk.cell_A[0]), rel=1e-6)


@pytest.mark.parametrize("zone", ZONES)
def test_atoms_fill_the_volume_between_the_octahedron_bounds(zone):
    # {111} planes at 0.4 to 0.6 of the size: between a truncated octahedron of each, caps at 0.42 to 0.65.
    size, atomic_volume = 60.0, material("Pt").atoms().cell.volume / 4
    for seed in range(5):
        particle = faceted_particle("Pt", zone, size_A=size, rng=np.random.default_rng(seed))
        volume = particle.atoms.sum() * atomic_volume
        smallest = (0.42 * size * 2) ** 3 * 0.45
        octahedron = 4 / 3 * (np.sqrt(3) * 0.6 * size) ** 3
        assert smallest < volume < octahedron


@pytest.mark.parametrize("zone", ZONES)
def test_thickness_falls_from_the_middle_to_the_edge(zone):
    particle = faceted_particle("Pt", zone, size_A=50.0, rng=np.random.default_rng(0))
    radius = np.linalg.norm(particle.xy_A, axis=1)
    rim = radius > np.quantile(radius, 0.9)
    inner, outer = particle.atoms[radius < 8].mean(), particle.atoms[rim].mean()
    assert inner > 2 * outer
    hull = ConvexHull(particle.xy_A)
    per_column = abs(np.linalg.det(project(material("Pt").atoms(), zone).cell_A))
    assert hull.volume == pytest.approx(len(particle.xy_A) * per_column, rel=0.15)


def test_the_same_seed_gives_the_same_particle_and_another_does_not():
    one, two, three = (faceted_particle("Pt", (1, 1, 0), size_A=25.0, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one.xy_A, two.xy_A)
    assert len(one.xy_A) != len(three.xy_A) or not np.allclose(one.xy_A, three.xy_A)


def test_impossible_particles_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(SpecimenError, match="not cubic"):
        faceted_particle("TiO2", (0, 0, 1), size_A=20.0, rng=rng)
    with pytest.raises(SpecimenError, match="particle size"):
        faceted_particle("Pt", (0, 0, 1), size_A=-1.0, rng=rng)
    with pytest.raises(SpecimenError, match="at least 10"):
        faceted_particle("Pt", (0, 0, 1), size_A=2.0, rng=rng)
