"""`Stack`: a crystal or layer in three dimensions, repeated sideways to a supercell, as multislice needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int
from numpy.typing import NDArray

from temimagenet.errors import SpecimenError
from temimagenet.specimen.crystal import displacements_A, orient, project

__all__ = ["PlaneOperation", "Stack", "crystal_stack", "lone_stack"]

_SAME_A = 1e-2


@dataclass(frozen=True, eq=False)
class PlaneOperation:
    """A symmetry of the projected image: r -> R r + t.

    Attributes:
        rotation: (2, 2) orthogonal matrix R.
        translation_A: (2,) t in angstrom.
    """

    rotation: Float[NDArray[np.float64], "2 2"]
    translation_A: Float[NDArray[np.float64], "2"]


@dataclass(frozen=True, eq=False)
class Stack:
    """Atoms of one repeat along the beam in a lateral supercell.

    A lateral translation of a crystal may also lean along the beam (DyScO3 [110]). It is taken as flat: what enters
    the supercell at one side is off by `lean_A` along the beam, exact in the plane.

    Attributes:
        name: what it is ("SrTiO3 [001]").
        unit_A: (2, 2) primitive lattice of the projection, rows are the vectors: the image repeats with it.
        cell_A: (2, 2) supercell, `multiple @ unit_A`.
        multiple: (2, 2) integers.
        xy_A: (N, 2) atoms in the specimen's frame.
        z_A: (N,) height along the beam, 0 to `period_A`.
        numbers: (N,) atomic numbers.
        u_A: (N,) root-mean-square thermal displacement per axis.
        period_A: repeat along the beam; None for a single layer.
        lean_A: largest shift along the beam that was neglected at the supercell's edge.
        operations: plane-group symmetries that hold in three dimensions with the beam's direction kept; the first is
            the identity.
    """

    name: str
    unit_A: Float[NDArray[np.float64], "2 2"]
    cell_A: Float[NDArray[np.float64], "2 2"]
    multiple: Int[NDArray[np.int64], "2 2"]
    xy_A: Float[NDArray[np.float64], "N 2"]
    z_A: Float[NDArray[np.float64], "N"]
    numbers: Int[NDArray[np.int64], "N"]
    u_A: Float[NDArray[np.float64], "N"]
    period_A: float | None
    lean_A: float
    operations: tuple[PlaneOperation, ...]


def lone_stack(
    name: str,
    cell_A: Float[NDArray[np.float64], "2 2"],
    xyz_A: Float[NDArray[np.float64], "N 3"],
    numbers: Int[NDArray[np.int64], "N"],
    u_A: Float[NDArray[np.float64], "N"],
) -> Stack:
    """A stack that is its own lateral cell and does not repeat along the beam: a particle in vacuum, a film.

    Raises:
        SpecimenError: there is no atom, or a position or displacement is not finite.
    """
    if len(xyz_A) == 0 or not (np.isfinite(xyz_A).all() and np.isfinite(u_A).all()):
        raise SpecimenError(f"{name}: expected one atom or more, with finite positions and displacements")
    height = xyz_A[:, 2] - xyz_A[:, 2].min()
    whole = (PlaneOperation(np.eye(2), np.zeros(2)),)
    return Stack(name, cell_A, cell_A, np.eye(2, dtype=np.int64), xyz_A[:, :2], height, numbers, u_A, None, 0.0, whole)


def crystal_stack(
    atoms: Atoms,
    zone: tuple[int, int, int],
    *,
    u_A: Mapping[str, float] | None = None,
    strain: tuple[float, float, float] = (0.0, 0.0, 0.0),
    minimum_A: float = 8.0,
    name: str = "",
) -> Stack:
    """The stack whose projection is `project(atoms, zone)`, in the same frame and with the same origin.

    Args:
        atoms: crystal or layer.
        zone: zone axis [uvw].
        u_A: thermal displacement per axis by element; `DEFAULT_U_A` for elements not given.
        strain: homogeneous strain (exx, eyy, exy) in the projected plane.
        minimum_A: both supercell vectors are at least this long.
        name: for messages; the formula by default.

    Raises:
        SpecimenError: the zone axis does not exist, or `minimum_A` is not positive.
    """
    if not 0.0 < minimum_A <= 100.0:
        raise SpecimenError(f"supercell of {minimum_A} A: expected above 0 and up to 100")
    turned = orient(atoms, zone)
    projected = project(atoms, zone, u_A=u_A, name=name)
    turn = (projected.frame[:2] @ turned.info["frame"][:2].T).T
    exx, eyy, exy = strain
    stretch = np.eye(2) + np.array([[exx, exy], [exy, eyy]])
    lattice = np.array(turned.cell.array)
    lattice[:, :2] = lattice[:, :2] @ turn @ stretch
    xyz = np.array(turned.positions)
    xyz[:, :2] = xyz[:, :2] @ turn @ stretch
    layer = not bool(turned.pbc[2])
    unit = projected.cell_A @ stretch
    cell, lean = _supercell(lattice, layer, minimum_A)
    xy, z, index = _fill(cell, lattice, xyz, layer)
    numbers = turned.numbers.astype(np.int64)[index]
    return Stack(
        projected.name,
        unit,
        cell,
        np.rint(cell @ np.linalg.inv(unit)).astype(np.int64),
        xy,
        z,
        numbers,
        displacements_A(numbers, u_A),
        None if layer else float(lattice[2, 2]),
        lean,
        _operations(unit, lattice, xyz, turned.numbers, layer),
    )


def _supercell(lattice: NDArray[np.float64], layer: bool, minimum_A: float) -> tuple[NDArray[np.float64], float]:
    """Two lateral lattice vectors, long enough, nearly square, that lean little along the beam, and their lean."""
    reach = int(np.ceil(3.0 * minimum_A / np.linalg.norm(lattice[:2, :2], axis=1).min())) + 1
    steps = np.array([(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1) if (i, j) != (0, 0)])
    vectors = steps @ lattice[:2]
    length = np.linalg.norm(vectors[:, :2], axis=1)
    period = lattice[2, 2]
    lean = np.zeros(len(vectors)) if layer else vectors[:, 2] - period * np.rint(vectors[:, 2] / period)
    # Cheap vectors: short, and a degree of lean is worth a tenth of the length.
    price = length / minimum_A * (1.0 + 0.1 * np.rad2deg(np.abs(lean) / length))
    usable = np.flatnonzero((length >= minimum_A * (1.0 - 1e-9)) & (length <= 2.5 * minimum_A + 5.0))
    order = usable[np.argsort(price[usable], kind="stable")][:400]
    best, found = np.inf, (0, 0)
    for i, j in product(order.tolist(), repeat=2):
        a, b = vectors[i, :2], vectors[j, :2]
        area = a[0] * b[1] - a[1] * b[0]
        if area < 0.7 * length[i] * length[j]:
            continue
        # The area pays for the waves; both leans enter with their angle.
        cost = area / minimum_A**2 * (1.0 + 0.1 * np.rad2deg(abs(lean[i]) / length[i] + abs(lean[j]) / length[j]))
        cost *= 1.0 + 1e-3 * abs(a @ b) / (length[i] * length[j]) - 1e-6 * a[0] / length[i]
        if cost < best - 1e-12:
            best, found = cost, (i, j)
    i, j = found
    cell = vectors[[i, j], :2].copy()
    cell[np.abs(cell) < 1e-12] = 0.0
    return cell, float(max(abs(lean[i]), abs(lean[j])))


def _fill(
    cell: NDArray[np.float64], lattice: NDArray[np.float64], xyz: NDArray[np.float64], layer: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Atoms of the supercell: (xy, z, index of the atom in the primitive cell)."""
    inverse = np.linalg.inv(cell)
    count = int(np.rint(abs(np.linalg.det(cell) / np.linalg.det(lattice[:2, :2]))))
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)]) @ cell @ np.linalg.inv(lattice[:2, :2])
    low, high = np.floor(corners.min(0)).astype(int) - 1, np.ceil(corners.max(0)).astype(int) + 1
    steps = np.array([(i, j) for i in range(low[0], high[0] + 1) for j in range(low[1], high[1] + 1)])
    shift = steps @ lattice[:2]
    fractional = shift[:, :2] @ inverse
    home = ((fractional > -1e-6) & (fractional < 1.0 - 1e-6)).all(axis=1)
    shift = shift[home]
    if len(shift) != count:
        raise SpecimenError(f"supercell holds {len(shift)} lattice points, expected {count}")
    all_xyz = xyz[None] + shift[:, None]
    index = np.tile(np.arange(len(xyz)), count)
    flat = all_xyz.reshape(-1, 3)
    z = flat[:, 2] - xyz[:, 2].min() if layer else flat[:, 2] % lattice[2, 2]
    return flat[:, :2], z, index


def _operations(
    unit: NDArray[np.float64],
    lattice: NDArray[np.float64],
    xyz: NDArray[np.float64],
    numbers: NDArray[np.int64],
    layer: bool,
) -> tuple[PlaneOperation, ...]:
    """Rotations about the beam and mirrors along it, with any translation, that map the crystal on itself."""
    inverse = np.linalg.inv(lattice)
    metric = unit @ unit.T
    rarest = min(np.unique(numbers).tolist(), key=lambda n: int((numbers == n).sum()))
    start = int(np.flatnonzero(numbers == rarest)[0])
    found = []
    for entries in sorted(product((-1, 0, 1), repeat=4), key=lambda w: w != (1, 0, 0, 1)):
        w = np.array(entries).reshape(2, 2)
        if np.abs(w @ metric @ w.T - metric).max() > 1e-3:
            continue
        rotation = (np.linalg.inv(unit) @ w @ unit).T
        full = np.eye(3)
        full[:2, :2] = rotation
        mapped = lattice @ full.T @ inverse
        if np.abs(mapped - np.rint(mapped)).max() > 1e-3:
            continue
        rotated = xyz @ full.T
        for target in np.flatnonzero(numbers == rarest):
            shift = xyz[target] - rotated[start]
            if layer and abs(shift[2]) > _SAME_A:
                continue
            delta = ((rotated + shift)[:, None] - xyz[None]) @ inverse
            apart = np.linalg.norm((delta - np.rint(delta)) @ lattice, axis=-1)
            apart[numbers[:, None] != numbers[None]] = np.inf
            if apart.min(axis=1).max() < _SAME_A:
                found.append(PlaneOperation(rotation, shift[:2]))
                break
    return tuple(found)
