"""`Specimen`: what the beam meets, as atoms projected along the beam and grouped into atomic columns."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from numpy.typing import NDArray

from temimagenet.errors import SpecimenError

__all__ = ["Specimen"]


@dataclass(frozen=True, eq=False)
class Specimen:
    """Atoms projected along the beam ("sites"), grouped into atomic columns.

    A site is a set of like atoms at one projected position. A column is a group of sites that the eye
    sees as one spot (Ti and O of SrTiO3 [001], say): sites make the image, columns make the labels. Vacuum has none.

    Attributes:
        name: what it is, for people ("SrTiO3 [110]").
        cell_A: (2, 2) projected lattice, rows are the vectors (x, y) in angstrom; None if finite in vacuum.
        xy_A: (N, 2) projected site positions in angstrom.
        numbers: (N,) atomic numbers.
        atoms: (N,) number of atoms that each site stacks along the beam; need not be whole for a slab.
        u_A: (N,) root-mean-square thermal displacement per axis in angstrom.
        column: (N,) index of the column that each site belongs to, 0..K-1, every index used.
    """

    name: str
    cell_A: Float[NDArray[np.float64], "2 2"] | None
    xy_A: Float[NDArray[np.float64], "N 2"]
    numbers: Int[NDArray[np.int64], "N"]
    atoms: Float[NDArray[np.float64], "N"]
    u_A: Float[NDArray[np.float64], "N"]
    column: Int[NDArray[np.int64], "N"]

    def __post_init__(self) -> None:
        """Raise `SpecimenError` where the arrays do not describe one specimen."""
        n = len(self.xy_A)
        for field in ("numbers", "atoms", "u_A", "column"):
            if len(getattr(self, field)) != n:
                found = len(getattr(self, field))
                raise SpecimenError(f"specimen {self.name!r}: {field} has {found} entries for {n} sites")
        if set(np.unique(self.column).tolist()) != set(range(int(self.column.max(initial=-1)) + 1)):
            raise SpecimenError(f"specimen {self.name!r}: column indices are not 0..K-1 without gaps")

    @cached_property
    def column_xy_A(self) -> Float[NDArray[np.float64], "K 2"]:
        """Column centres in angstrom: the mean of the sites, weighted by atoms times Z^2 (Rutherford).

        In a periodic specimen the sites of a column are taken at their images nearest to its first site.
        """
        first = np.unique(self.column, return_index=True)[1]
        delta = self.xy_A - self.xy_A[first][self.column]
        if self.cell_A is not None:
            fractional = delta @ np.linalg.inv(self.cell_A)
            delta = (fractional - np.round(fractional)) @ self.cell_A
        weight = self.atoms * self.numbers.astype(float) ** 2
        total = np.bincount(self.column, weight)
        shift = np.stack([np.bincount(self.column, weight * delta[:, axis]) for axis in (0, 1)], axis=1)
        centres: NDArray[np.float64] = self.xy_A[first] + shift / total[:, None]
        return centres

    @property
    def is_layer(self) -> bool:
        """Whether it is periodic and every site holds one to four whole atoms: a single layer, not a slab."""
        return self.cell_A is not None and self.atoms.max(initial=0.0) <= 4.0 and bool(np.all(self.atoms % 1.0 == 0.0))

    @cached_property
    def column_kinds(self) -> tuple[str, ...]:
        """Elements of each column by falling Z ("TiO", "Dy"), with their number in a layer, where it is few ("S2")."""
        few = self.is_layer
        if not few and len(self.numbers) == len(self.column_xy_A):
            return tuple(chemical_symbols[z] for z in self.numbers[np.argsort(self.column)].tolist())
        amounts: list[dict[int, float]] = [defaultdict(float) for _ in range(len(self.column_xy_A))]
        for k, z, atoms in zip(self.column.tolist(), self.numbers.tolist(), self.atoms.tolist(), strict=True):
            amounts[k][z] += atoms
        return tuple(
            "".join(
                chemical_symbols[z] + (f"{amount[z]:.0f}" if few and amount[z] > 1 else "")
                for z in sorted(amount, reverse=True)
            )
            for amount in amounts
        )
