"""Faceted particles of cubic metals: a polyhedron of {111} facets capped by {100}, cut out of the crystal."""

from __future__ import annotations

from itertools import product

import numpy as np

from temimagenet.errors import SpecimenError
from temimagenet.specimen.crystal import displacements_A, orient
from temimagenet.specimen.materials import material
from temimagenet.specimen.specimen import Specimen

__all__ = ["MAX_PARTICLE_A", "faceted_particle"]

MAX_PARTICLE_A = 200.0
"""Largest particle: 250,000 atoms of Pt."""


def faceted_particle(name: str, zone: tuple[int, int, int], *, size_A: float, rng: np.random.Generator) -> Specimen:
    """A particle seen along a zone axis; its centre is the origin, each column holds the atoms that its shape cuts out.

    The eight {111} facets lie at independent distances of 0.4 to 0.6 `size_A` from the centre, the six {100} caps at
    0.42 to 0.65: all between a nearly whole octahedron and a cube-like truncated one (Wulff shapes of fcc metals,
    Marks, Rep. Prog. Phys. 57 (1994) 603). The lattice is shifted at random against the shape, and the whole is turned
    at random in the plane.

    Args:
        name: a material of the registry with one element and cubic axes, such as Pt.
        zone: zone axis along the beam.
        size_A: mean distance between opposite {111} facets.
        rng: source of randomness.

    Returns:
        A finite specimen; every column is one projected lattice row.

    Raises:
        SpecimenError: the material is not a cubic element, the size is out of range, or fewer than 10 atoms lie inside.
    """
    known = material(name)
    conventional = known.atoms()
    lengths = conventional.cell.lengths()
    if known.morphology != "bulk" or np.ptp(lengths) > 1e-6 or np.ptp(conventional.cell.angles()) > 1e-6:
        raise SpecimenError(f"{name} is not cubic: faceted particles are cut from cubic crystals such as Pt")
    if len(known.u_A) > 1:
        raise SpecimenError(f"{name} is a compound: faceted particles are cut from cubic elements such as Pt")
    if not 0.0 < size_A <= MAX_PARTICLE_A:
        raise SpecimenError(f"particle size {size_A} A: expected above 0 and up to {MAX_PARTICLE_A:g}")
    oriented = orient(conventional, zone)
    cell = np.asarray(oriented.cell.array)

    # A cubic cell's axes are Cartesian, so facet normals turn as its atoms do.
    turn = oriented.info["frame"]
    normals = np.array([*product((-1, 1), repeat=3), *np.eye(3), *-np.eye(3)], dtype=np.float64)
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True) @ turn.T
    distance = size_A * np.concatenate([rng.uniform(0.40, 0.60, 8), rng.uniform(0.42, 0.65, 6)])
    origin = rng.random(3) @ cell
    angle = rng.uniform(0.0, 2.0 * np.pi)

    reach = 1.05 * size_A
    corners = np.array(list(product((-reach, reach), repeat=3))) @ np.linalg.inv(cell)
    ranges = [
        np.arange(np.floor(low) - 1, np.ceil(high) + 2)
        for low, high in zip(corners.min(0), corners.max(0), strict=True)
    ]
    steps = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    xy, numbers, key = [], [], []
    for index, (position, number) in enumerate(zip(oriented.positions, oriented.numbers, strict=True)):
        points = steps @ cell + position - origin
        inside = (points @ normals.T <= distance).all(axis=1)
        xy.append(points[inside, :2])
        numbers.append(np.full(int(inside.sum()), number))
        key.append(np.column_stack([steps[inside, :2], np.full(int(inside.sum()), index)]))
    all_xy, all_numbers = np.concatenate(xy), np.concatenate(numbers)
    if len(all_xy) < 10:
        raise SpecimenError(f"a particle of {size_A} A holds {len(all_xy)} atoms of {name}: expected at least 10")
    _, first, count = np.unique(np.concatenate(key), axis=0, return_index=True, return_counts=True)
    spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    site_numbers = all_numbers[first].astype(np.int64)
    u = displacements_A(site_numbers, known.u_A)
    title = f"{name} particle [{''.join(map(str, zone))}]"
    return Specimen(
        title, None, all_xy[first] @ spin.T, site_numbers, count.astype(float), u, np.arange(len(first), dtype=np.int64)
    )
