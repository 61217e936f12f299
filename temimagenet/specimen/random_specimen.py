"""Random specimens beyond any library: crystals of arbitrary lattice and motif, with defects, edges and boundaries.

They are projections: no crystal in three dimensions stands behind them. Numbers without a source are choices, made so
that what a microscope may meet lies inside what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree

from temimagenet.errors import SpecimenError
from temimagenet.specimen.specimen import Specimen

__all__ = ["MIN_SEPARATION_A", "RANDOM_CENTRE_A", "RANDOM_RADIUS_A", "SPACING_RANGE_A", "random_specimen"]

RANDOM_RADIUS_A = 50.0
"""Columns fill a disc of this radius about the origin: a field of 51.2 A turned by any angle, with 8 A on each side."""

RANDOM_CENTRE_A = 1.5
"""How far the centre of a field may lie from the origin along each axis."""

MIN_SEPARATION_A = 0.6
"""No two columns are closer: below the dumbbell of 0.78 A of Si [112], which the best microscopes just resolve."""

SPACING_RANGE_A = (0.8, 10.0)
"""Spacings that can be asked for."""

_DUMBBELL_A = (0.7, 1.6)
_BEAM_SPACING_A = (2.0, 6.0)
_THICKNESS_A = (20.0, 200.0)
_THERMAL_A = (0.04, 0.12)
_DISPLACEMENT_A = (0.05, 0.30)
_LEAST_Z_RATIO = 0.1
"""Lightest over heaviest element of a specimen: an atom of Z^1.7 then scatters at least 2 % of the brightest. What
nobody can see beside a heavy neighbour teaches little; oxygen beside strontium has 7 %."""

_SPECIES_SHARES = (0.2, 0.4, 0.4)
"""How many crystals are of one, two and three elements."""


@dataclass(frozen=True, eq=False)
class _Sites:
    """Columns of one element each: (N, 2) positions in angstrom, atomic numbers, atoms, thermal displacements."""

    xy_A: Float[NDArray[np.float64], "N 2"]
    numbers: Int[NDArray[np.int64], "N"]
    atoms: Float[NDArray[np.float64], "N"]
    u_A: Float[NDArray[np.float64], "N"]

    @property
    def brightness(self) -> Float[NDArray[np.float64], "N"]:
        """What they scatter, roughly: atoms times Z^1.7."""
        bright: NDArray[np.float64] = self.atoms * self.numbers**1.7
        return bright

    def picked(self, which: NDArray[np.bool_]) -> _Sites:
        """Some of them."""
        return _Sites(self.xy_A[which], self.numbers[which], self.atoms[which], self.u_A[which])

    def joined(self, other: _Sites) -> _Sites:
        """These and then the others."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("xy_A", "numbers", "atoms", "u_A"))
        return _Sites(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class _Crystal:
    """A lattice (rows of `cell_A` are vectors) with a motif of columns, and the least distance between two of them."""

    cell_A: Float[NDArray[np.float64], "2 2"]
    motif: _Sites
    nearest_A: float
    layer: bool


def random_specimen(seed: int, spacing_A: float) -> Specimen:
    """A random finite specimen around the origin, a pure function of its arguments.

    Crystals have one of the five Bravais lattices of the plane, 1 to 6 columns in a cell on special or general
    positions, dumbbells of 0.7 to 1.6 A, elements from B to U, 20 to 200 A of thickness or one to three atoms, and
    thermal displacements of 0.04 to 0.12 A (B = 0.13 to 1.1 A^2; Peng et al., Acta Cryst. A52 (1996) 456, list 0.04 to
    0.13 A for elements at room temperature). Of 100 specimens 55 are crystals that fill the field, 15 bicrystals, 15
    particles and edges in vacuum, 11 disordered sheets, 4 nothing at all. Most crystals are strained slowly, displaced
    by 5 to 30 pm column by column, thicker here than there; some lack columns, hold foreign ones or bear adatoms.

    Args:
        seed: 0 or more.
        spacing_A: least distance between the columns of a perfect crystal or sheet, dumbbells taken as one.

    Returns:
        A finite specimen within `RANDOM_RADIUS_A` of the origin, each site a column; it may hold none.

    Raises:
        SpecimenError: the spacing is out of range.
    """
    if not SPACING_RANGE_A[0] <= spacing_A <= SPACING_RANGE_A[1]:
        low, high = SPACING_RANGE_A
        raise SpecimenError(f"column spacing {spacing_A} A of a random specimen: expected {low:g} to {high:g}")
    rng = np.random.Generator(np.random.Philox(seed))
    kind = rng.choice(["crystal", "bicrystal", "particle", "sheet", "vacuum"], p=[0.55, 0.15, 0.15, 0.11, 0.04])
    if kind == "vacuum":
        none = np.zeros(0)
        sites = _Sites(np.zeros((0, 2)), none.astype(np.int64), none, none)
    elif kind == "sheet":
        sites = _disordered(spacing_A, rng)
    else:
        crystal = _crystal(spacing_A, bool(rng.random() < 0.25), rng)
        sites = _bicrystal(crystal, spacing_A, rng) if kind == "bicrystal" else _tiled(crystal, rng.random(2) * 10.0)
        sites = _imperfect(sites, crystal.layer, rng)
        if kind == "particle":
            sites = _cut(sites, crystal.layer, rng)
        sites = _with_adatoms(sites, rng)
    sites = _apart(sites, MIN_SEPARATION_A)
    column = np.arange(len(sites.xy_A), dtype=np.int64)
    return Specimen(f"random {kind}", None, sites.xy_A, sites.numbers, sites.atoms, sites.u_A, column)


def _between(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """An even draw between two bounds."""
    return float(rng.uniform(*bounds))


def _turn(angle: float) -> NDArray[np.float64]:
    """The matrix that turns row vectors by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _lattice(rng: np.random.Generator) -> NDArray[np.float64]:
    """A primitive cell of unit area, in a random direction, of one of the five Bravais lattices."""
    ratio, degrees = (
        (rng.uniform(1.0, 1.8), rng.uniform(65.0, 115.0)),
        (rng.uniform(1.0, 2.0), 90.0),
        (1.0, rng.uniform(55.0, 125.0)),
        (1.0, 90.0),
        (1.0, 120.0),
    )[rng.integers(5)]
    angle = np.deg2rad(degrees)
    cell = np.array([[1.0, 0.0], [ratio * np.cos(angle), ratio * np.sin(angle)]]) / np.sqrt(ratio * np.sin(angle))
    turned: NDArray[np.float64] = cell @ _turn(rng.uniform(0.0, 2.0 * np.pi))
    return turned


def _nearest(fractional: NDArray[np.float64], cell: NDArray[np.float64]) -> float:
    """Least distance between any two points of a periodic set."""
    around = np.array([(i, j) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)])
    delta = (fractional[:, None, None] - fractional[None, :, None] + around) @ cell
    apart = np.linalg.norm(delta, axis=-1)
    return float(apart[apart > 1e-9].min())


def _crystal(spacing_A: float, layer: bool, rng: np.random.Generator) -> _Crystal:
    """A random slab or layer whose columns, dumbbells taken as one, are `spacing_A` apart or more."""
    cell = _lattice(rng)
    groups = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.35, 0.25, 0.16, 0.12, 0.06, 0.06]))
    # Columns of real crystals mostly sit at simple fractions of the cell.
    fractions = int(rng.choice([2, 3, 4, 6])) if rng.random() < 0.5 else 0
    tries = rng.integers(fractions, size=(60, 2)) / fractions if fractions else rng.random((60, 2))
    spots = np.zeros((1, 2))
    for place in tries:
        if len(spots) == groups:
            break
        delta = spots - place
        if np.linalg.norm((delta - np.rint(delta)) @ cell, axis=1).min() > 0.6 / np.sqrt(groups):
            spots = np.concatenate([spots, place[None]])
    cell = cell * (spacing_A / _nearest(spots, cell))
    owner = np.arange(len(spots))
    if spacing_A >= 2.0 and len(spots) <= 3 and rng.random() < 0.35:
        length = _between(rng, (_DUMBBELL_A[0], min(_DUMBBELL_A[1], spacing_A - 1.0)))
        arm = 0.5 * length * np.array([1.0, 0.0]) @ _turn(rng.uniform(0.0, 2.0 * np.pi)) @ np.linalg.inv(cell)
        spots, owner = np.concatenate([spots - arm, spots + arm]), np.tile(owner, 2)
        if rng.random() < 0.5:
            owner = np.arange(len(spots))
    species = _species(int(rng.choice([1, 2, 3], p=_SPECIES_SHARES)), rng)
    kind = rng.integers(len(species), size=len(spots))[owner]
    if layer:
        atoms = rng.choice([1.0, 2.0, 3.0], p=[0.7, 0.25, 0.05], size=len(spots))[owner]
    else:
        along = rng.uniform(*_BEAM_SPACING_A, size=len(spots) if rng.random() < 0.5 else 1)
        atoms = (_between(rng, _THICKNESS_A) / along)[owner if len(along) > 1 else np.zeros(len(spots), dtype=int)]
    u = rng.uniform(*_THERMAL_A, size=len(species))
    motif = _Sites(spots @ cell, species[kind], atoms, u[kind])
    return _Crystal(cell, motif, _nearest(spots, cell), layer)


def _species(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,) atomic numbers of 5 to 92: the first even in Z, the others even in log Z, light ones not too light."""
    numbers = np.concatenate([rng.uniform(12.0, 84.0, 1), np.exp(rng.uniform(np.log(5.0), np.log(92.0), count - 1))])
    least = int(np.ceil(_LEAST_Z_RATIO * numbers.max()))
    species: NDArray[np.int64] = np.maximum(np.rint(numbers).astype(np.int64), max(least, 5))
    return species


def _tiled(crystal: _Crystal, origin_A: NDArray[np.float64]) -> _Sites:
    """The crystal over the whole disc, with its first column at a point."""
    inverse = np.linalg.inv(crystal.cell_A)
    reach = (RANDOM_RADIUS_A + float(np.abs(origin_A).sum())) * np.linalg.norm(inverse, axis=0)
    n1, n2 = np.meshgrid(*(np.arange(-np.ceil(r) - 1, np.ceil(r) + 2) for r in reach), indexing="ij")
    shifts = np.stack([n1.ravel(), n2.ravel()], axis=1) @ crystal.cell_A + origin_A
    motif = crystal.motif
    xy = (shifts[:, None] + motif.xy_A - motif.xy_A[0]).reshape(-1, 2)
    inside = (xy**2).sum(axis=1) < RANDOM_RADIUS_A**2
    index = np.tile(np.arange(len(motif.xy_A)), len(shifts))[inside]
    return _Sites(xy[inside], motif.numbers[index], motif.atoms[index], motif.u_A[index])


def _bicrystal(crystal: _Crystal, spacing_A: float, rng: np.random.Generator) -> _Sites:
    """Two crystals that meet at a line near the origin: twins, two grains of one crystal, or two different crystals."""
    line = crystal.cell_A[0] / np.linalg.norm(crystal.cell_A[0])
    kind = rng.random()
    gap = 0.0
    if kind < 0.3:
        mirror = 2.0 * np.outer(line, line) - np.eye(2)
        other = _moved(crystal, mirror)
    else:
        gap = _between(rng, (0.0, 0.6)) * spacing_A
        line = np.array([1.0, 0.0]) @ _turn(rng.uniform(0.0, 2.0 * np.pi))
        other = _moved(crystal, _turn(np.deg2rad(_between(rng, (3.0, 90.0)))))
        if kind > 0.8:
            # Alike in thickness and within ten times in brightness: both can be seen.
            other = _crystal(spacing_A, crystal.layer, rng)
            while not 0.1 < other.motif.brightness.max() / crystal.motif.brightness.max() < 10.0:
                other = _crystal(spacing_A, crystal.layer, rng)
    normal = np.array([-line[1], line[0]])
    point = normal * rng.uniform(-12.0, 12.0)
    first = _tiled(crystal, point)
    second = _tiled(other, point if kind < 0.3 else point + rng.normal(size=2) * spacing_A)
    first = first.picked((first.xy_A - point) @ normal <= 1e-6)
    second = second.picked((second.xy_A - point) @ normal > max(gap, 1e-6))
    return _apart(first.joined(second), 0.8 * min(crystal.nearest_A, other.nearest_A))


def _moved(crystal: _Crystal, matrix: NDArray[np.float64]) -> _Crystal:
    """A crystal turned or mirrored."""
    return replace(
        crystal,
        cell_A=crystal.cell_A @ matrix,
        motif=replace(crystal.motif, xy_A=crystal.motif.xy_A @ matrix),
    )


def _imperfect(sites: _Sites, layer: bool, rng: np.random.Generator) -> _Sites:
    """Slow strain, displaced columns, uneven thickness, lost columns, foreign columns: each of them by chance."""
    xy, numbers, atoms, u = sites.xy_A, sites.numbers.copy(), sites.atoms.copy(), sites.u_A.copy()
    count = len(xy)
    if rng.random() < 0.5:
        xy = xy @ (np.eye(2) + rng.normal(scale=0.01, size=(2, 2)))
        for _ in range(int(rng.integers(0, 3))):
            # A transverse or longitudinal wave: its slope, the local shear or strain, stays below 4 %.
            length = _between(rng, (20.0, 80.0))
            along, moved = (np.array([1.0, 0.0]) @ _turn(a) for a in rng.uniform(0.0, 2.0 * np.pi, 2))
            height = _between(rng, (0.0, 0.02)) * length / (2.0 * np.pi)
            xy = xy + height * np.sin(2.0 * np.pi * (xy @ along / length + rng.random()))[:, None] * moved
    if rng.random() < 0.8:
        xy = xy + rng.normal(scale=_between(rng, _DISPLACEMENT_A), size=(count, 2))
    if not layer and rng.random() < 0.6:
        wedge = xy @ rng.normal(scale=0.006, size=2)
        atoms *= np.clip(1.0 + wedge + rng.normal(scale=_between(rng, (0.0, 0.1)), size=count), 0.2, 2.0)
    if rng.random() < 0.35:
        foreign = rng.random(count) < _between(rng, (0.01, 0.2))
        number = int(np.clip(numbers.max() * np.exp(rng.uniform(np.log(0.3), np.log(3.0))), 5.0, 92.0))
        numbers[foreign], u[foreign] = number, _between(rng, _THERMAL_A)
    if not layer and rng.random() < 0.25:
        thinned = rng.random(count) < _between(rng, (0.02, 0.15))
        atoms[thinned] *= rng.uniform(0.2, 1.0, int(thinned.sum()))
    lost = rng.random(count) < (_between(rng, (0.005, 0.15)) if rng.random() < 0.4 else 0.0)
    if not layer:
        # Whole atoms, where there are few of them at all.
        atoms = np.maximum(np.rint(atoms), 1.0)
    return _Sites(xy, numbers, atoms, u).picked(~lost)


def _cut(sites: _Sites, layer: bool, rng: np.random.Generator) -> _Sites:
    """What lies inside a random outline of straight facets: an edge, a strip or a particle, thinner to the rim."""
    facets = int(rng.choice([1, 2, 3, 4, 5, 6, 8], p=[0.25, 0.1, 0.05, 0.1, 0.15, 0.25, 0.1]))
    size = _between(rng, (7.0, 22.0)) if facets > 2 else _between(rng, (-6.0, 14.0))
    angle = rng.uniform(0.0, 2.0 * np.pi) + 2.0 * np.pi * (np.arange(facets) + rng.uniform(-0.2, 0.2, facets)) / facets
    distance = size * rng.uniform(0.75, 1.25, facets)
    centre = rng.uniform(-8.0, 8.0, 2) if facets > 2 else np.zeros(2)
    depth = (distance - (sites.xy_A - centre) @ np.stack([np.cos(angle), np.sin(angle)])).min(axis=1)
    inside = depth > 0.0
    kept, depth = sites.picked(inside), depth[inside]
    if layer:
        return kept
    slope = _between(rng, (3.0, 40.0))
    return replace(kept, atoms=np.maximum(np.rint(kept.atoms * np.minimum(1.0, (depth + 0.5) / slope)), 1.0))


def _with_adatoms(sites: _Sites, rng: np.random.Generator) -> _Sites:
    """Lone columns anywhere, off the lattice, no thicker than the rest, in one specimen of four."""
    if rng.random() > 0.25 or len(sites.xy_A) == 0:
        return sites
    # As bright as a tenth of the brightest column or more: what is far dimmer nobody could see beside it.
    bright = float(sites.brightness.max())
    xy = rng.uniform(-RANDOM_RADIUS_A, RANDOM_RADIUS_A, size=(int(rng.integers(5, 150)), 2))
    xy = xy[(xy**2).sum(axis=1) < RANDOM_RADIUS_A**2]
    number = int(rng.integers(6, 84))
    atoms = np.rint(rng.uniform(0.1, 0.6, len(xy)) * bright / number**1.7).clip(1.0, sites.atoms.max())
    extra = _Sites(xy, np.full(len(xy), number), atoms, np.full(len(xy), _between(rng, _THERMAL_A)))
    # Kept clear of the columns, so that what is seen stays what is told.
    clear = np.asarray(KDTree(sites.xy_A).query(xy)[0]) > 1.0
    return _apart(sites.joined(extra.picked(clear)), MIN_SEPARATION_A)


def _disordered(spacing_A: float, rng: np.random.Generator) -> _Sites:
    """Columns thrown at random, each kept if none kept before is closer than the spacing, dense or sparse."""
    side = 2.0 * RANDOM_RADIUS_A
    # Random sequential addition; three throws a spacing squared come close to its jammed 0.547 of the area (Feder,
    # J. Theor. Biol. 87 (1980) 237).
    thrown = int(_between(rng, (0.1, 3.0)) * side**2 / spacing_A**2)
    xy = rng.uniform(-RANDOM_RADIUS_A, RANDOM_RADIUS_A, size=(thrown, 2))
    xy = xy[(xy**2).sum(axis=1) < RANDOM_RADIUS_A**2]
    xy = xy[_first_come(xy, spacing_A)]
    species = _species(int(rng.choice([1, 2, 3], p=_SPECIES_SHARES)), rng)
    kind = rng.integers(len(species), size=len(xy))
    most = int(rng.choice([1, 3, 30]))
    atoms = rng.integers((most + 1) // 2, most + 1, size=len(xy)).astype(float)
    return _Sites(xy, species[kind], atoms, rng.uniform(*_THERMAL_A, size=len(species))[kind])


def _apart(sites: _Sites, least_A: float) -> _Sites:
    """Without the later of any two columns that are closer than a distance."""
    return sites.picked(_first_come(sites.xy_A, least_A)) if len(sites.xy_A) else sites


def _first_come(xy_A: NDArray[np.float64], least_A: float) -> NDArray[np.bool_]:
    """Which points are kept if each is taken in turn unless one already taken is closer than a distance."""
    pairs = KDTree(xy_A).query_pairs(least_A, output_type="ndarray")
    kept = np.zeros(len(xy_A), dtype=bool)
    waiting = np.ones(len(xy_A), dtype=bool)
    while waiting.any():
        # Those that wait for nobody before them; then whoever is too close to these goes.
        taken = waiting.copy()
        taken[pairs[:, 1]] = False
        kept |= taken
        waiting &= ~taken
        waiting[pairs[taken[pairs[:, 0]], 1]] = False
        pairs = pairs[waiting[pairs].all(axis=1)]
    return kept
