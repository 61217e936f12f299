"""Amorphous graphene: a planar continuous random network of threefold carbon, annealed by bond switching."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import KDTree, Voronoi

from temimagenet.errors import SpecimenError
from temimagenet.specimen.materials import material
from temimagenet.specimen.specimen import Specimen
from temimagenet.specimen.stack import Stack, lone_stack

__all__ = [
    "SHIPPED_SHEETS",
    "AmorphousSheet",
    "amorphous_graphene",
    "ring_sizes",
    "sheet_of",
    "sheet_specimen",
    "sheet_stack",
    "shipped_sheet",
]

SHIPPED_SHEETS = 8
"""Number of sheets in the package, of seeds 0 to 7 and about 60 A."""

BOND_A = 1.42
"""Bond length of graphene in angstrom."""

_GRAPHENE_DENSITY = 4.0 / (3.0 * np.sqrt(3.0) * BOND_A**2)
_BEND = 0.2
_TEMPERATURE = 0.09
_RADIUS = 4
HEXAGONS = 0.5
"""Share of six-membered rings at which annealing ends."""


@dataclass(frozen=True, eq=False)
class AmorphousSheet:
    """A periodic sheet of threefold carbon.

    Attributes:
        xy_A: (N, 2) positions in angstrom.
        cell_A: edge of the square periodic cell.
        neighbours: (N, 3) bonded atoms.
        seed: what it was grown from.
    """

    xy_A: Float[NDArray[np.float64], "N 2"]
    cell_A: float
    neighbours: Int[NDArray[np.int64], "N 3"]
    seed: int

    def bonds_A(self) -> Float[NDArray[np.float64], "N 3 2"]:
        """Vectors from each atom to its three neighbours, by the shortest way round the cell."""
        return _vectors(self.xy_A, self.neighbours, np.arange(len(self.xy_A)), self.cell_A)


def amorphous_graphene(
    cell_A: float, seed: int, *, hexagons: float = HEXAGONS, on_step: Callable[[float], None] = lambda share: None
) -> AmorphousSheet:
    """Grow a periodic amorphous sheet.

    A random threefold network (the Voronoi edges of random points that keep a distance) is annealed by bond switches
    (Wooten, Winer & Weaire, Phys. Rev. Lett. 54 (1985) 1392) under a planar Keating energy (Phys. Rev. 145 (1966)
    637): a switch with local relaxation is kept by Metropolis' rule unless it makes a ring of four. Annealing ends
    when all rings have 5 to 8 atoms and the share of hexagons reaches that of published networks; then cell and
    atoms are relaxed to zero pressure. Kapko, Drabold & Thorpe (Phys. Status Solidi B 247 (2010) 1197), Kumar, Wilson
    & Thorpe (J. Phys.: Condens. Matter 24 (2012) 485003) and Van Tuan et al. (Phys. Rev. B 86 (2012) 121408) describe
    such networks with about half hexagons and a quarter each of pentagons and heptagons.

    Args:
        cell_A: edge of the cell before the last relaxation, 12 A or more; it changes by a few percent.
        seed: source of randomness.
        hexagons: share of hexagons at which to stop.
        on_step: called now and then with the share reached, for a progress bar.

    Raises:
        SpecimenError: the cell is too small, or annealing stalls.
    """
    if not 12.0 <= cell_A <= 400.0:
        raise SpecimenError(f"amorphous sheet of {cell_A} A: expected 12 to 400")
    rng = np.random.default_rng(seed)
    xy, bonded = _random_network(cell_A, rng)
    xy = _relax_all(xy, bonded, cell_A)
    atoms = len(xy)
    for attempt in range(400 * atoms):
        if attempt % atoms == 0:
            xy = _relax_all(xy, bonded, cell_A)
        if attempt % max(atoms // 20, 1) == 0:
            sizes = ring_sizes(xy, bonded, cell_A)
            share = float(np.mean(sizes == 6))
            on_step(share)
            if share >= hexagons and sizes.min() >= 5 and sizes.max() <= 8:
                break
        _try_switch(xy, bonded, cell_A, rng)
    else:
        raise SpecimenError(f"annealing stalled at {share:.2f} hexagons; try another seed")
    xy, cell_A = _relax_cell(xy, bonded, cell_A)
    return AmorphousSheet(xy % cell_A, cell_A, bonded, seed)


def ring_sizes(
    xy_A: Float[NDArray[np.float64], "N 2"], neighbours: Int[NDArray[np.int64], "N 3"], cell_A: float
) -> Int[NDArray[np.int64], "R"]:
    """Number of atoms around every face of a planar network; their mean is 6 on a periodic sheet (Euler).

    Each bond is followed from atom to atom, always taking the next bond clockwise, until the walk closes.
    """
    vectors = _vectors(xy_A, neighbours, np.arange(len(xy_A)), cell_A)
    order = np.argsort(np.arctan2(vectors[..., 1], vectors[..., 0]), axis=1)
    around = np.take_along_axis(neighbours, order, axis=1).tolist()
    follow = {
        (atom, came): nearby[(nearby.index(came) + 1) % 3] for atom, nearby in enumerate(around) for came in nearby
    }
    unused = {(a, b) for a, nearby in enumerate(around) for b in nearby}
    sizes = []
    while unused:
        start = step = unused.pop()
        size = 1
        while (step := (step[1], follow[(step[1], step[0])])) != start:
            unused.discard(step)
            size += 1
        sizes.append(size)
    return np.array(sizes)


@cache
def shipped_sheet(number: int) -> AmorphousSheet:
    """One of the sheets that come with the package.

    Raises:
        SpecimenError: there is no such sheet.
    """
    if not 0 <= number < SHIPPED_SHEETS:
        raise SpecimenError(f"amorphous sheet {number}: the package holds 0 to {SHIPPED_SHEETS - 1}")
    with (
        (resources.files("temimagenet") / "data" / "amorphous_graphene.npz").open("rb") as file,
        np.load(file) as data,
    ):
        return AmorphousSheet(
            data[f"xy_{number}"].astype(np.float64),
            float(data["cell_A"][number]),
            data[f"neighbours_{number}"].astype(np.int64),
            int(data["seed"][number]),
        )


def sheet_of(realisation: int) -> AmorphousSheet:
    """The shipped sheet that a sample of this realisation shows: they are taken in turn."""
    return shipped_sheet(realisation % SHIPPED_SHEETS)


def sheet_stack(sheet: AmorphousSheet) -> Stack:
    """A sheet in three dimensions, as multislice needs it: all atoms in one plane."""
    atoms = len(sheet.xy_A)
    flat = sheet_specimen(sheet)
    xyz = np.column_stack([sheet.xy_A, np.zeros(atoms)])
    return lone_stack(flat.name, np.eye(2) * sheet.cell_A, xyz, flat.numbers, flat.u_A)


def sheet_specimen(sheet: AmorphousSheet) -> Specimen:
    """A sheet as a specimen: every atom is a column of one carbon atom."""
    atoms = len(sheet.xy_A)
    return Specimen(
        "amorphous graphene",
        np.eye(2) * sheet.cell_A,
        sheet.xy_A,
        np.full(atoms, 6, dtype=np.int64),
        np.ones(atoms),
        np.full(atoms, material("graphene").u_A["C"]),
        np.arange(atoms, dtype=np.int64),
    )


def _vectors(
    xy: NDArray[np.float64], bonded: NDArray[np.int64], centres: NDArray[np.int64], cell: float
) -> NDArray[np.float64]:
    """(C, 3, 2) vectors from centre atoms to their neighbours."""
    delta = xy[bonded[centres]] - xy[centres][:, None]
    shortest: NDArray[np.float64] = delta - cell * np.rint(delta / cell)
    return shortest


def _energy(
    xy: NDArray[np.float64], bonded: NDArray[np.int64], centres: NDArray[np.int64], cell: float
) -> tuple[float, NDArray[np.float64], float]:
    """Keating energy around some atoms, its gradient with respect to all atoms, and its virial sum v . dE/dv.

    Per atom, in units of the stretching constant times d^2: half of 3/16 (v^2/d^2 - 1)^2 for each bond and
    3/8 beta (v_a . v_b / d^2 + 1/2)^2 for each angle; zero in perfect graphene.
    """
    v = _vectors(xy, bonded, centres, cell) / BOND_A
    stretch = (v**2).sum(axis=-1) - 1.0
    pair = np.roll(v, -1, axis=1)
    bend = (v * pair).sum(axis=-1) + 0.5
    energy = 3.0 / 32.0 * (stretch**2).sum() + 3.0 / 8.0 * _BEND * (bend**2).sum()
    slope = 3.0 / 8.0 * stretch[..., None] * v
    slope += 0.75 * _BEND * (bend[..., None] * pair + np.roll(bend[..., None] * v, 1, axis=1))
    slope /= BOND_A
    target = bonded[centres].ravel()
    gradient = np.empty_like(xy)
    for axis in (0, 1):
        pushed = np.bincount(target, slope[..., axis].ravel(), len(xy))
        gradient[:, axis] = pushed - np.bincount(centres, slope[..., axis].sum(axis=1), len(xy))
    return float(energy), gradient, float((slope * v).sum() * BOND_A)


def _relax(
    xy: NDArray[np.float64],
    bonded: NDArray[np.int64],
    cell: float,
    movable: NDArray[np.int64],
    centres: NDArray[np.int64],
    steps: int,
) -> tuple[float, NDArray[np.float64]]:
    """Minimise the energy around `centres` over the positions of `movable` atoms."""
    work = xy.copy()

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        work[movable] = flat.reshape(-1, 2)
        energy, gradient, _ = _energy(work, bonded, centres, cell)
        return energy, gradient[movable].ravel()

    result = minimize(objective, xy[movable].ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    work[movable] = result.x.reshape(-1, 2)
    return float(result.fun), work


def _relax_all(xy: NDArray[np.float64], bonded: NDArray[np.int64], cell: float) -> NDArray[np.float64]:
    """Relax every atom in a fixed cell."""
    everyone = np.arange(len(xy))
    return _relax(xy, bonded, cell, everyone, everyone, 300)[1]


def _relax_cell(xy: NDArray[np.float64], bonded: NDArray[np.int64], cell: float) -> tuple[NDArray[np.float64], float]:
    """Relax atoms and the cell's edge together."""
    everyone = np.arange(len(xy))

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale = float(np.exp(flat[-1]))
        energy, gradient, virial = _energy(flat[:-1].reshape(-1, 2) * scale, bonded, everyone, cell * scale)
        return energy, np.append(gradient.ravel() * scale, virial)

    result = minimize(
        objective,
        np.append(xy.ravel(), 0.0),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 3000, "ftol": 1e-14, "gtol": 1e-8},
    )
    scale = float(np.exp(result.x[-1]))
    return result.x[:-1].reshape(-1, 2) * scale, cell * scale


def _try_switch(xy: NDArray[np.float64], bonded: NDArray[np.int64], cell: float, rng: np.random.Generator) -> None:
    """Switch one random bond, relax around it, and keep the change in place by Metropolis' rule."""
    i = int(rng.integers(len(xy)))
    j = int(bonded[i, rng.integers(3)])
    axis = _vectors(xy, bonded, np.array([i]), cell)[0][list(bonded[i]).index(j)]
    left = _on_left(xy, bonded, i, j, axis, cell)
    right = _on_left(xy, bonded, j, i, axis, cell)
    # One neighbour of i and one of j on opposite sides trade places, which turns the bond and keeps the net planar.
    side = bool(rng.integers(2))
    from_i = [atom for atom, on_left in left if on_left == side]
    from_j = [atom for atom, on_left in right if on_left != side]
    luck = rng.random()
    if len(from_i) != 1 or len(from_j) != 1:
        return
    b, c = from_i[0], from_j[0]
    if b == c or c in bonded[i] or b in bonded[j]:
        return
    changed = ((i, b, c), (j, c, b), (b, i, j), (c, j, i))
    movable = _nearby(bonded, (i, j, b, c), _RADIUS)
    centres = np.unique(np.concatenate([movable, bonded[movable].ravel()]))
    before = _energy(xy, bonded, centres, cell)[0]
    for atom, old, new in changed:
        bonded[atom, list(bonded[atom]).index(old)] = new
    small = _in_square(bonded, i, c) or _in_square(bonded, j, b)
    after, relaxed = (np.inf, xy) if small else _relax(xy, bonded, cell, movable, centres, 60)
    if luck < np.exp(min(0.0, (before - after) / (_TEMPERATURE * 0.25))):
        xy[:] = relaxed
        return
    for atom, old, new in changed:
        bonded[atom, list(bonded[atom]).index(new)] = old


def _in_square(bonded: NDArray[np.int64], a: int, b: int) -> bool:
    """Whether the bond a-b is part of a ring of three or four."""
    beyond_a, beyond_b = set(bonded[a].tolist()) - {b}, set(bonded[b].tolist()) - {a}
    return bool(beyond_a & beyond_b) or any(beyond_b & set(bonded[n].tolist()) for n in beyond_a)


def _on_left(
    xy: NDArray[np.float64], bonded: NDArray[np.int64], atom: int, other: int, axis: NDArray[np.float64], cell: float
) -> list[tuple[int, bool]]:
    """The two neighbours of an atom but `other`, and whether each is left of the bond's axis."""
    vectors = _vectors(xy, bonded, np.array([atom]), cell)[0]
    return [
        (int(n), bool(axis[0] * v[1] - axis[1] * v[0] > 0.0))
        for n, v in zip(bonded[atom], vectors, strict=True)
        if n != other
    ]


def _nearby(bonded: NDArray[np.int64], start: Sequence[int], shells: int) -> NDArray[np.int64]:
    """Atoms within some bonds of the start atoms."""
    found = np.unique(np.asarray(start))
    for _ in range(shells - 1):
        found = np.unique(np.concatenate([found, bonded[found].ravel()]))
    return found


def _random_network(cell: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A periodic threefold network: Voronoi edges of random points no closer than 0.7 of their mean spacing."""
    faces = round(0.5 * _GRAPHENE_DENSITY * cell**2)
    apart = 0.7 * cell / np.sqrt(faces)
    points = np.empty((0, 2))
    while len(points) < faces:
        new = rng.random((1, 2)) * cell
        delta = points - new
        delta -= cell * np.rint(delta / cell)
        if not len(points) or (delta**2).sum(axis=1).min() > apart**2:
            points = np.concatenate([points, new])
    tiles = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) * cell
    diagram = Voronoi((points[None] + tiles[:, None]).reshape(-1, 2))
    vertices = diagram.vertices
    inside = np.flatnonzero(((vertices >= 0.0) & (vertices < cell)).all(axis=1))
    number = np.full(len(vertices), -1)
    tree = KDTree(vertices[inside], boxsize=np.array([cell, cell]))
    ridges = np.array([ridge for ridge in diagram.ridge_vertices if -1 not in ridge])
    ridges = ridges[np.isin(ridges, inside).any(axis=1)]
    used = np.unique(ridges)
    number[used] = tree.query(vertices[used] % cell)[1]
    partners: list[set[int]] = [set() for _ in inside]
    for a, b in number[ridges].tolist():
        partners[a].add(b)
        partners[b].add(a)
    if any(len(nearby) != 3 for nearby in partners):
        return _random_network(cell, rng)
    return vertices[inside], np.array([sorted(nearby) for nearby in partners], dtype=np.int64)


def _main() -> None:
    """Grow the sheets that the package ships."""
    from rich.progress import Progress

    parser = argparse.ArgumentParser(description="Grow amorphous graphene sheets into one NPZ file.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheets", type=int, default=SHIPPED_SHEETS)
    parser.add_argument("--cell", type=float, default=60.0, help="edge of the cell in angstrom")
    options = parser.parse_args()
    data: dict[str, NDArray[np.generic]] = {}
    cells = []
    with Progress() as progress:
        for seed in range(options.sheets):
            bar = progress.add_task(f"sheet {seed}", total=HEXAGONS)
            sheet = amorphous_graphene(
                options.cell,
                seed,
                on_step=lambda share, bar=bar: progress.update(bar, completed=share),  # type: ignore[misc]
            )
            data[f"xy_{seed}"] = sheet.xy_A.astype(np.float32)
            data[f"neighbours_{seed}"] = sheet.neighbours.astype(np.int16)
            cells.append(sheet.cell_A)
    np.savez_compressed(
        options.out,
        cell_A=np.array(cells),
        seed=np.arange(options.sheets),
        **data,  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    _main()
