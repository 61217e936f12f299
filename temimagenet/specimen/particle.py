"""Faceted particles of cubic metals: a polyhedron of {111} facets capped by {100}, cut out of the crystal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from temimagenet.errors import SpecimenError
from temimagenet.specimen.crystal import displacements_A, orient
from temimagenet.specimen.materials import material
from temimagenet.specimen.specimen import Specimen
from temimagenet.specimen.stack import Stack, lone_stack

__all__ = ["MAX_PARTICLE_A", "faceted_particle", "particle_stack"]

MAX_PARTICLE_A = 200.0
"""Largest particle: 250,000 atoms of Pt."""


@dataclass(frozen=True, eq=False)
class _Cut:
    """Atoms of a particle: (N, 3) positions turned in the plane, atomic number, and the lattice row of each."""

    xyz_A: Float[NDArray[np.float64], "N 3"]
    numbers: Int[NDArray[np.int64], "N"]
    row: Int[NDArray[np.int64], "N"]


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
    cut = _cut(name, zone, size_A, rng)
    _, first, count = np.unique(cut.row, return_index=True, return_counts=True)
    numbers = cut.numbers[first]
    return Specimen(
        _title(name, zone),
        None,
        cut.xyz_A[first, :2],
        numbers,
        count.astype(float),
        displacements_A(numbers, material(name).u_A),
        np.arange(len(first), dtype=np.int64),
    )


def particle_stack(
    name: str, zone: tuple[int, int, int], *, size_A: float, rng: np.random.Generator, margin_A: float
) -> Stack:
    """The atoms of `faceted_particle` in three dimensions, in a square cell of vacuum, as multislice needs them.

    Args:
        name: as for `faceted_particle`.
        zone: as for `faceted_particle`.
        size_A: as for `faceted_particle`.
        rng: as for `faceted_particle`; equal generators give the same particle.
        margin_A: vacuum between the particle and each side of the cell.

    Returns:
        A stack without repeat along the beam; its centre is the origin.

    Raises:
        SpecimenError: as for `faceted_particle`.
    """
    cut = _cut(name, zone, size_A, rng)
    edge = 2.0 * (float(np.abs(cut.xyz_A[:, :2]).max()) + margin_A)
    u = displacements_A(cut.numbers, material(name).u_A)
    return lone_stack(_title(name, zone), edge * np.eye(2), cut.xyz_A, cut.numbers, u)


def _title(name: str, zone: tuple[int, int, int]) -> str:
    """A particle's name."""
    return f"{name} particle [{''.join(map(str, zone))}]"


def _cut(name: str, zone: tuple[int, int, int], size_A: float, rng: np.random.Generator) -> _Cut:
    """Cut a particle out of the crystal."""
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
    xyz, numbers, key = [], [], []
    for index, (position, number) in enumerate(zip(oriented.positions, oriented.numbers, strict=True)):
        points = steps @ cell + position - origin
        inside = (points @ normals.T <= distance).all(axis=1)
        xyz.append(points[inside])
        numbers.append(np.full(int(inside.sum()), number, dtype=np.int64))
        key.append(np.column_stack([steps[inside, :2], np.full(int(inside.sum()), index)]))
    atoms = np.concatenate(xyz)
    if len(atoms) < 10:
        raise SpecimenError(f"a particle of {size_A} A holds {len(atoms)} atoms of {name}: expected at least 10")
    spin = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    row = np.unique(np.concatenate(key), axis=0, return_inverse=True)[1].ravel()
    return _Cut(atoms @ spin.T, np.concatenate(numbers), row)
