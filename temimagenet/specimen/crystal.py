"""Crystals along a zone axis: reading, orienting and projecting any periodic structure to atomic columns."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial import KDTree
from scipy.spatial.distance import squareform

from temimagenet.errors import SpecimenError
from temimagenet.specimen.materials import DEFAULT_U_A
from temimagenet.specimen.specimen import Specimen

__all__ = [
    "MERGE_TOLERANCE_A",
    "ProjectedCrystal",
    "defective",
    "displacements_A",
    "equivalent_zones",
    "orient",
    "parse_zone",
    "project",
    "read_structure",
    "strained",
    "structure_from_text",
]

MERGE_TOLERANCE_A = 0.4
"""Sites closer than this make one column. Half the finest probe's resolution: it joins the displaced atoms of one
DyScO3 row and never two columns that an image could show apart."""

MOST_ATOMS = 4000
"""A unit cell of more atoms is refused: finding its columns compares all pairs."""

_SAME_SITE_A = 1e-3
_SYMMETRY_A = 1e-2
_MOST_SYMMETRIC = 200


def structure_from_text(text: str) -> Atoms:
    """A periodic structure from the text of a CIF.

    Raises:
        SpecimenError: the text does not parse, holds no atoms or no cell, or a site is partly occupied.
    """
    return _checked(lambda: ase.io.read(io.StringIO(text), format="cif"), "CIF")


def read_structure(path: str | Path) -> Atoms:
    """A periodic structure from a file: CIF or any format that ASE reads.

    Raises:
        SpecimenError: no such file, it does not parse, holds no atoms or no cell, or a site is partly occupied.
    """
    if not Path(path).is_file():
        raise SpecimenError(f"no structure file {path}")
    return _checked(lambda: ase.io.read(path), str(path))


def _checked(read: Callable[[], object], where: str) -> Atoms:
    """Run a reader; everything it can trip over becomes one error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = read()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else "it ends early or is of another format"
        raise SpecimenError(f"{where}: not a structure that can be read ({reason})") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise SpecimenError(f"{where}: holds no atoms")
    if abs(atoms.cell.volume) < 1e-6 or not np.isfinite(atoms.positions).all():
        raise SpecimenError(f"{where}: holds no unit cell with volume, expected a crystal")
    occupancy = atoms.info.get("occupancy", {})
    for site in occupancy.values():
        if abs(sum(site.values()) - 1.0) > 1e-3 or len(site) > 1:
            shares = ", ".join(f"{symbol} {share:g}" for symbol, share in site.items())
            raise SpecimenError(
                f"{where}: a site is partly or mixedly occupied ({shares}); "
                "give an ordered structure, such as a supercell"
            )
    if len(atoms) > MOST_ATOMS:
        raise SpecimenError(f"{where}: {len(atoms)} atoms, expected a unit cell of at most {MOST_ATOMS}")
    if 0 in atoms.numbers:
        raise SpecimenError(f"{where}: holds an atom of unknown element")
    if tuple(atoms.pbc) not in ((True, True, True), (True, True, False)):
        periodic = ", ".join(axis for axis, on in zip("abc", atoms.pbc, strict=True) if on) or "none"
        raise SpecimenError(
            f"{where}: periodic along {periodic}, expected a crystal (a, b, c) or a layer (a, b); set pbc in the file"
        )
    return atoms


_MOST_INDEX = 99
"""Of a zone axis: cells along higher ones have more atoms than a memory."""


def parse_zone(zone: str | Sequence[int]) -> tuple[int, int, int]:
    """A zone axis [uvw] from "[110]", "110", "[1-10]", "1 -1 0", "1,-1,0" or three integers, by its smallest integers.

    Raises:
        SpecimenError: not three integers, or [000].
    """
    if isinstance(zone, str):
        body = zone.strip().strip("[]<>()").strip()
        parts = re.split(r"[\s,]+", body) if re.search(r"[\s,]", body) else re.findall(r"[-+]?\d", body)
        compact = "".join(parts) == re.sub(r"[\s,]", "", body)
        values: list[object] = [int(p) if re.fullmatch(r"[-+]?\d+", p) else p for p in parts] if compact else [zone]
    else:
        values = list(zone) if isinstance(zone, Sequence | np.ndarray) else [zone]
    if len(values) != 3 or not all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values):
        raise SpecimenError(f"zone axis {zone!r}: expected three integers [uvw], such as '[110]' or '1 -1 0'")
    u, v, w = (int(value) for value in values)  # type: ignore[call-overload]
    if max(abs(u), abs(v), abs(w)) > _MOST_INDEX:
        raise SpecimenError(f"zone axis {zone!r}: expected indices up to {_MOST_INDEX}")
    if (u, v, w) == (0, 0, 0):
        raise SpecimenError("zone axis [000] does not exist: at least one index must differ from 0")
    divisor = int(np.gcd.reduce([u, v, w]))
    return u // divisor, v // divisor, w // divisor


def equivalent_zones(atoms: Atoms, zone: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
    """Other zone axes that a crystal's symmetry turns [uvw] into, mirrors included: their images differ in axes only.

    Told of conventional or reduced cells of up to 200 atoms; of others, and of layers, none.
    """
    if not atoms.pbc.all() or len(atoms) > _MOST_SYMMETRIC:
        return ()
    cell, place, numbers = atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers
    metric = cell @ cell.T
    steps = np.array(list(np.ndindex(3, 3, 3))) - 1
    norms = np.einsum("ni,ij,nj->n", steps, metric, steps)
    alike = [steps[np.abs(norms - metric[i, i]) < 1e-3] for i in range(3)]
    rarest = min(np.unique(numbers).tolist(), key=lambda n: int((numbers == n).sum()))
    targets = np.flatnonzero(numbers == rarest)
    found = set()
    for rows in product(*alike):
        turn = np.array(rows)
        if np.abs(turn @ metric @ turn.T - metric).max() > 1e-3:
            continue
        turned = place @ turn
        for target in targets:
            delta = (turned + place[target] - turned[targets[0]])[:, None] - place[None]
            apart = np.linalg.norm((delta - np.rint(delta)) @ cell, axis=-1)
            apart[numbers[:, None] != numbers[None]] = np.inf
            if apart.min(axis=1).max() < _SYMMETRY_A:
                found.add(tuple(int(v) for v in np.array(zone) @ turn))
                break
    return tuple(sorted((u, v, w) for u, v, w in found - {zone}))


def orient(atoms: Atoms, zone: tuple[int, int, int]) -> Atoms:
    """The primitive cell turned so that the direct-lattice direction [uvw] is along z, the beam.

    The third cell vector is the repeat (0, 0, T) along the beam. The first two may lean along z; projected, they are
    the shortest vectors of the projected lattice, the first along x. `info["frame"]` of the result holds the (3, 3)
    rotation: its rows are the new x, y and z in the old axes.

    Args:
        atoms: a crystal (periodic in three directions) or a layer (periodic in x and y).
        zone: [uvw] in the axes of `atoms`.

    Raises:
        SpecimenError: a layer has no zone axis but its normal [001].
    """
    layer = not bool(atoms.pbc[2])
    zone = parse_zone(zone)
    if layer and zone != (0, 0, 1):
        raise SpecimenError(
            f"zone axis [{''.join(map(str, zone))}] does not exist for the single layer "
            f"{atoms.get_chemical_formula()}: only its normal [001] does"
        )
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    direction = np.asarray(zone) @ cell
    if layer:
        if np.abs(cell[:2] @ cell[2]).max() > 1e-3 * np.linalg.norm(cell[2]):
            raise SpecimenError(
                f"layer {atoms.get_chemical_formula()}: expected its third cell vector normal to the layer"
            )
        basis, chosen = cell, np.arange(len(atoms))
        steps = np.array([0, 0, 1])
    else:
        fractional = atoms.get_scaled_positions(wrap=True)
        basis, chosen = _primitive(cell, fractional, atoms.numbers)
        basis = np.asarray(minkowski_reduce(basis)[0])
        steps = np.rint(direction @ np.linalg.inv(basis)).astype(int)
        steps //= np.gcd.reduce(steps)
    vectors = _complete(steps) @ basis
    beam = vectors[2] / np.linalg.norm(vectors[2])
    lateral = _gauss(vectors[:2], beam)
    lateral -= np.rint(lateral @ vectors[2] / (vectors[2] @ vectors[2]))[:, None] * vectors[2]
    x = lateral[0] - (lateral[0] @ beam) * beam
    x /= np.linalg.norm(x)
    y = np.cross(beam, x)
    if lateral[1] @ y < 0.0:
        lateral[1] = -lateral[1]
    frame = np.stack([x, y, beam])
    new_cell = np.concatenate([lateral, vectors[2:]]) @ frame.T
    new_cell[np.abs(new_cell) < 1e-12] = 0.0
    turned = Atoms(
        numbers=atoms.numbers[chosen],
        positions=atoms.positions[chosen] @ frame.T,
        cell=new_cell,
        pbc=atoms.pbc,
        info={"frame": frame},
    )
    turned.wrap(pbc=(True, True, not layer))
    return turned


@dataclass(frozen=True, eq=False)
class ProjectedCrystal:
    """A crystal projected along a zone axis, per angstrom of thickness, or a layer as it is.

    Attributes:
        name: what it is.
        cell_A: (2, 2) primitive lattice of the projection, rows are the vectors, reduced, the first along x.
        xy_A: (N, 2) sites.
        numbers: (N,) atomic numbers.
        amount: (N,) atoms per angstrom of thickness, or atoms for a layer.
        u_A: (N,) thermal displacement per axis.
        column: (N,) column of each site.
        layer: whether it is a single layer.
        frame: (3, 3) rotation, its rows the projection's x and y and the beam in the axes of the crystal's own cell.
    """

    name: str
    cell_A: Float[NDArray[np.float64], "2 2"]
    xy_A: Float[NDArray[np.float64], "N 2"]
    numbers: Int[NDArray[np.int64], "N"]
    amount: Float[NDArray[np.float64], "N"]
    u_A: Float[NDArray[np.float64], "N"]
    column: Int[NDArray[np.int64], "N"]
    layer: bool
    frame: Float[NDArray[np.float64], "3 3"]

    def slab(self, thickness_A: float) -> Specimen:
        """A crystal of uniform thickness in angstrom; the ends of a column may hold part of an atom on average.

        Raises:
            SpecimenError: the thickness is not positive, or this is a single layer.
        """
        if self.layer:
            raise SpecimenError(f"{self.name} is a single layer: it has no thickness to choose")
        if not 0.0 < thickness_A < np.inf:
            raise SpecimenError(f"{self.name}: thickness {thickness_A} A, expected a positive length")
        return self._specimen(self.amount * thickness_A)

    def sheet(self) -> Specimen:
        """The single layer.

        Raises:
            SpecimenError: this is a bulk crystal, which needs a thickness.
        """
        if not self.layer:
            raise SpecimenError(f"{self.name} is a bulk crystal: choose a thickness with slab()")
        return self._specimen(self.amount)

    def _specimen(self, atoms: NDArray[np.float64]) -> Specimen:
        """With these numbers of atoms."""
        return Specimen(self.name, self.cell_A, self.xy_A, self.numbers, atoms, self.u_A, self.column)


def project(
    atoms: Atoms,
    zone: tuple[int, int, int],
    *,
    u_A: Mapping[str, float] | None = None,
    merge_tolerance_A: float = MERGE_TOLERANCE_A,
    name: str = "",
) -> ProjectedCrystal:
    """Project a crystal along [uvw] to the primitive lattice of its projection.

    Args:
        atoms: crystal or layer.
        zone: zone axis in the axes of `atoms`.
        u_A: thermal displacement per axis by element; `DEFAULT_U_A` for elements not given.
        merge_tolerance_A: all sites of a column are closer than this to each other.
        name: for messages; the formula by default.

    Raises:
        SpecimenError: the zone axis does not exist.
    """
    turned = orient(atoms, zone)
    layer = not bool(turned.pbc[2])
    cell = np.array(turned.cell.array[:2, :2])
    xy = turned.positions[:, :2]
    numbers = turned.numbers.astype(np.int64)
    apart = _distances(xy, cell)
    apart[numbers[:, None] != numbers[None, :]] = 10.0 + apart.max()
    site = _clusters(apart, _SAME_SITE_A, "single")
    first = np.unique(site, return_index=True)[1]
    count = np.bincount(site)
    xy, numbers = xy[first], numbers[first]
    # A projection may repeat more finely than the lattice: reduce by what maps equal sites on equal sites.
    cell, chosen = _primitive(cell, xy @ np.linalg.inv(cell) % 1.0, numbers * 1000 + count)
    lateral = _gauss(cell, None)
    if np.linalg.det(lateral) < 0.0:
        lateral[1] = -lateral[1]
    angle = np.arctan2(lateral[0, 1], lateral[0, 0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lateral = lateral @ turn
    lateral[np.abs(lateral) < 1e-12] = 0.0
    placed = xy[chosen] @ turn
    placed = (placed @ np.linalg.inv(lateral) % 1.0) @ lateral
    amount = count[chosen] / (1.0 if layer else float(turned.cell.array[2, 2]))
    u = displacements_A(numbers[chosen], u_A)
    column = _clusters(_distances(placed, lateral), merge_tolerance_A, "complete")
    placed = _gathered(placed, lateral, column)
    label = name or atoms.get_chemical_formula(empirical=True)
    title = f"{label} [{''.join(map(str, parse_zone(zone)))}]"
    frame = turned.info["frame"].copy()
    frame[:2] = turn.T @ frame[:2]
    return ProjectedCrystal(title, lateral, placed, numbers[chosen], amount.astype(float), u, column, layer, frame)


def displacements_A(
    numbers: Int[NDArray[np.int64], "N"], u_A: Mapping[str, float] | None
) -> Float[NDArray[np.float64], "N"]:
    """Thermal displacement per axis of each atom from a table by element; `DEFAULT_U_A` for elements not in it."""
    known = u_A or {}
    return np.array([known.get(chemical_symbols[z], DEFAULT_U_A) for z in numbers.tolist()])


def strained(specimen: Specimen, exx: float, eyy: float, exy: float) -> Specimen:
    """A specimen under homogeneous strain in the projected plane: r -> (1 + e) r."""
    stretch = np.eye(2) + np.array([[exx, exy], [exy, eyy]])
    cell = None if specimen.cell_A is None else specimen.cell_A @ stretch
    return replace(specimen, name=f"{specimen.name}, strained", cell_A=cell, xy_A=specimen.xy_A @ stretch)


def defective(
    specimen: Specimen,
    repeat: tuple[int, int],
    vacancy_fraction: float,
    displacement_A: float,
    rng: np.random.Generator,
) -> Specimen:
    """A supercell in which some columns have lost part of their atoms and all are a little out of place.

    A layer loses whole atoms, and a column that has none left is no column.

    Args:
        specimen: periodic.
        repeat: cells along the two lattice vectors.
        vacancy_fraction: chance of a column to be thinned, by an even draw from nothing left to all but nothing lost.
        displacement_A: standard deviation per axis of a column's static displacement.
        rng: source of randomness.

    Raises:
        SpecimenError: the specimen is finite.
    """
    if specimen.cell_A is None:
        raise SpecimenError(f"{specimen.name} is finite: defects are drawn in a periodic crystal")
    n1, n2 = np.meshgrid(np.arange(repeat[0]), np.arange(repeat[1]), indexing="ij")
    shifts = np.stack([n1.ravel(), n2.ravel()], axis=1) @ specimen.cell_A
    cells, columns = len(shifts), int(specimen.column.max()) + 1
    home = _gathered(specimen.xy_A, specimen.cell_A, specimen.column)
    column = (np.arange(cells)[:, None] * columns + specimen.column).ravel()
    left = np.where(rng.random(cells * columns) < vacancy_fraction, rng.random(cells * columns), 1.0)
    atoms = np.tile(specimen.atoms, cells) * left[column]
    if specimen.is_layer:
        atoms = np.floor(atoms)
    there = atoms > 0.0
    moved = rng.normal(scale=displacement_A, size=(cells * columns, 2)) if displacement_A else np.zeros((1, 2))
    xy = (home[None] + shifts[:, None]).reshape(-1, 2)
    return Specimen(
        f"{specimen.name}, defective",
        specimen.cell_A * np.array(repeat)[:, None],
        (xy + (moved[column] if displacement_A else 0.0))[there],
        np.tile(specimen.numbers, cells)[there],
        atoms[there],
        np.tile(specimen.u_A, cells)[there],
        np.unique(column[there], return_inverse=True)[1].astype(np.int64),
    )


def _distances(xy: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, N) distances to the nearest image in a periodic reduced cell."""
    delta = (xy[:, None] - xy[None]) @ np.linalg.inv(cell)
    delta -= np.rint(delta)
    around = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    images = (delta[:, :, None, :] + around) @ cell
    nearest: NDArray[np.float64] = np.sqrt((images**2).sum(axis=-1)).min(axis=-1)
    return nearest


def _gathered(xy: NDArray[np.float64], cell: NDArray[np.float64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sites at their images nearest to the first site of their column, so that no column spans the cell's edge."""
    first = np.unique(column, return_index=True)[1]
    delta = (xy - xy[first][column]) @ np.linalg.inv(cell)
    together: NDArray[np.float64] = xy - np.rint(delta) @ cell
    return together


def _clusters(apart: NDArray[np.float64], tolerance: float, method: Literal["single", "complete"]) -> NDArray[np.int64]:
    """Cluster index 0..K-1 of each item, numbered by first appearance."""
    if len(apart) == 1:
        return np.zeros(1, dtype=np.int64)
    tree = linkage(squareform((apart + apart.T) / 2.0, checks=False), method)
    _, first, inverse = np.unique(fcluster(tree, tolerance, "distance"), return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    numbered: NDArray[np.int64] = order[inverse]
    return numbered


def _primitive(
    cell: NDArray[np.float64], fractional: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Primitive lattice of a set of labelled points in d dimensions, and the points of one primitive cell.

    Near-symmetries can look like translations one by one and still be no group: then a stricter tolerance is tried,
    and at last the cell is left as it is, so that no atom is ever lost.
    """
    for tolerance in (_SYMMETRY_A, _SYMMETRY_A / 10.0, _SYMMETRY_A / 100.0):
        basis, kept, order = _reduced(cell, fractional, labels, tolerance)
        shrunk = abs(np.linalg.det(cell)) / abs(np.linalg.det(basis))
        if len(kept) * order == len(labels) and abs(shrunk - order) < 1e-6 * order:
            return basis, kept
    return cell, np.arange(len(labels))


def _reduced(
    cell: NDArray[np.float64], fractional: NDArray[np.float64], labels: NDArray[np.int64], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Lattice with the translations that hold within a tolerance, the points kept, and how many translations."""
    d = len(cell)
    values, counts = np.unique(labels, return_counts=True)
    rare = np.flatnonzero(labels == values[np.argmin(counts)])
    tree = KDTree(fractional % 1.0 % 1.0, boxsize=np.ones(d))
    translations = [np.zeros(d)]
    images = [np.arange(len(labels))]
    for other in rare[1:]:
        shift = fractional[other] - fractional[rare[0]]
        image = _permutation(fractional, shift, cell, labels, tree, tolerance)
        if image is not None:
            translations.append(shift)
            images.append(image)
    order = len(translations)
    if order == 1:
        return cell, np.arange(len(labels)), 1
    # A group of `order` translations has coordinates in multiples of 1 / order.
    generators = np.rint(np.concatenate([np.eye(d), np.array(translations)]) * order).astype(int)
    basis = _row_hermite(generators)[:d] / order @ cell
    kept = np.flatnonzero(np.min(images, axis=0) == np.arange(len(labels)))
    return basis, kept, order


def _permutation(
    fractional: NDArray[np.float64],
    shift: NDArray[np.float64],
    cell: NDArray[np.float64],
    labels: NDArray[np.int64],
    tree: KDTree,
    tolerance: float,
) -> NDArray[np.int64] | None:
    """Where a translation takes every point, or None if it is no symmetry within a tolerance in angstrom."""
    moved = fractional + shift
    # Most are refused by their first few points.
    for some in (slice(0, 4), slice(None)):
        image: NDArray[np.int64] = np.asarray(tree.query(moved[some] % 1.0 % 1.0)[1], dtype=np.int64)
        delta = moved[some] - fractional[image]
        apart = np.linalg.norm((delta - np.rint(delta)) @ cell, axis=-1)
        if (apart > tolerance).any() or (labels[some] != labels[image]).any():
            return None
    return image if len(np.unique(image)) == len(image) else None


def _row_hermite(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integer rows reduced to an upper-triangular basis of the lattice they span."""
    rows = rows.copy()
    top = 0
    for column in range(rows.shape[1]):
        while True:
            filled = np.flatnonzero(rows[top:, column]) + top
            if len(filled) == 0:
                break
            pivot = filled[np.argmin(np.abs(rows[filled, column]))]
            rows[[top, pivot]] = rows[[pivot, top]]
            others = np.arange(top + 1, len(rows))
            rows[others] -= (rows[others, column] // rows[top, column])[:, None] * rows[top]
            if not rows[others, column].any():
                top += 1
                break
    return rows


def _complete(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """A unimodular integer matrix whose last row is the given primitive row."""
    row = row.copy()
    transform = np.eye(3, dtype=int)
    while np.count_nonzero(row) > 1:
        order = np.argsort(np.where(row == 0, np.iinfo(int).max, np.abs(row)))
        small, other = order[0], order[1]
        factor = row[other] // row[small]
        row[other] -= factor * row[small]
        transform[:, other] -= factor * transform[:, small]
    last = int(np.flatnonzero(row)[0])
    transform[:, [last, 2]] = transform[:, [2, last]]
    transform[:, 2] *= int(row[last])
    return np.rint(np.linalg.inv(transform)).astype(np.int64)


def _gauss(vectors: NDArray[np.float64], beam: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Two lattice vectors combined so that their projections along `beam` are the shortest (Gauss-Lagrange)."""
    a, b = vectors[0].copy(), vectors[1].copy()

    def flat(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return v if beam is None else v - (v @ beam) * beam

    while True:
        if flat(a) @ flat(a) > (flat(b) @ flat(b)) * (1.0 + 1e-9):
            a, b = b, a
        factor = np.rint(flat(a) @ flat(b) / (flat(a) @ flat(a)) * (1.0 - 1e-9))
        if factor == 0.0:
            return np.stack([a, b])
        b = b - factor * a
