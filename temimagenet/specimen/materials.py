"""The registry of materials: lattices, atomic positions and thermal displacements, each with its source."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ase import Atoms
from ase.build import bulk, graphene, mx2
from ase.spacegroup import crystal

from temimagenet.errors import SpecimenError

__all__ = ["DEFAULT_U_A", "MATERIALS", "Material", "material"]

DEFAULT_U_A = 0.08
"""Thermal displacement per axis of an element whose value is not known: B = 0.5 A^2, usual at room temperature."""

# Peng's B at 280 K is scaled by 300 / 280, as a crystal far above its Debye temperature would.
_PENG = "Peng, Ren, Dudarev & Whelan, Acta Cryst. A52 (1996) 456"
_TYPICAL = "typical of room-temperature refinements of its structure type; not a measurement on this compound"


@dataclass(frozen=True)
class Material:
    """A crystal or single layer of the library.

    Attributes:
        name: key in `MATERIALS`.
        formula: chemical formula.
        space_group: Hermann-Mauguin symbol of the setting used, in which zone axes are given.
        morphology: "bulk" or "layer".
        citation: source of lattice parameters and positions.
        u_A: root-mean-square thermal displacement per axis at room temperature by element, in angstrom.
        u_source: source of `u_A`.
        build: makes the conventional cell.
    """

    name: str
    formula: str
    space_group: str
    morphology: Literal["bulk", "layer"]
    citation: str
    u_A: Mapping[str, float]
    u_source: str
    build: Callable[[], Atoms]

    def atoms(self) -> Atoms:
        """The conventional cell as ASE `Atoms`, in angstrom; a layer is not periodic along z."""
        return self.build()


def _cell(
    symbols: str, sites: list[tuple[float, float, float]], group: int, cell: list[float], setting: int = 1
) -> Callable[[], Atoms]:
    """A builder of a crystal from its space group and asymmetric unit."""
    return lambda: crystal(symbols, sites, spacegroup=group, cellpar=cell, setting=setting, onduplicates="error")


def _layer(atoms: Atoms) -> Atoms:
    """A single layer in a box with vacuum."""
    atoms.center(vacuum=10.0, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


_ALL = (
    Material(
        "Pt", "Pt", "Fm-3m", "bulk",
        "Arblaster, Platinum Metals Rev. 41 (1997) 12: a = 3.9236 A at 293 K",
        {"Pt": 0.0695}, _PENG + ", B = 0.356 A^2 at 280 K scaled", lambda: bulk("Pt", "fcc", a=3.9236, cubic=True),
    ),
    Material(
        "Au", "Au", "Fm-3m", "bulk",
        "Maeland & Flanagan, Can. J. Phys. 42 (1964) 2364: a = 4.0783 A",
        {"Au": 0.0897}, _PENG + ", B = 0.593 A^2 at 280 K scaled", lambda: bulk("Au", "fcc", a=4.0783, cubic=True),
    ),
    Material(
        "W", "W", "Im-3m", "bulk",
        "Parrish, Acta Cryst. 13 (1960) 838: a = 3.1652 A",
        {"W": 0.0455}, _PENG + ", B = 0.153 A^2 at 280 K scaled", lambda: bulk("W", "bcc", a=3.1652, cubic=True),
    ),
    Material(
        "Si", "Si", "Fd-3m", "bulk",
        "CODATA 2018 lattice parameter of silicon, a = 5.431020511 A",
        {"Si": 0.0793}, _PENG + ", B = 0.463 A^2 at 280 K scaled",
        lambda: bulk("Si", "diamond", a=5.431020511, cubic=True),
    ),
    Material(
        "NiO", "NiO", "Fm-3m", "bulk", "Sasaki, Fujino & Takeuchi, Proc. Jpn Acad. B55 (1979) 43: a = 4.178 A",
        {"Ni": 0.0724, "O": 0.0879},
        "Sasaki, Fujino & Takeuchi, Proc. Jpn Acad. B55 (1979) 43: B = 0.414 (Ni), 0.61 A^2 (O)",
        lambda: bulk("NiO", "rocksalt", a=4.178, cubic=True),
    ),
    Material(
        "SrTiO3", "SrTiO3", "Pm-3m", "bulk", "Okazaki & Kawaminami, Mater. Res. Bull. 8 (1973) 545: a = 3.905 A",
        {"Sr": 0.0887, "Ti": 0.0746, "O": 0.0963}, "Abramov et al., Acta Cryst. B51 (1995) 942",
        _cell("SrTiO", [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], 221, [3.905] * 3 + [90] * 3),
    ),
    Material(
        "DyScO3", "DyScO3", "Pbnm", "bulk",
        "cell: Velickov, Kahlenberg, Bertram & Bernhagen, Z. Kristallogr. 222 (2007) 466;"
        " positions as usually tabulated, checked by bond lengths only",
        {"Dy": 0.075, "Sc": 0.070, "O": 0.085}, _TYPICAL,
        lambda: _dyscandate(),
    ),
    Material(
        "TiO2", "TiO2", "P4_2/mnm", "bulk",
        "Abrahams & Bernstein, J. Chem. Phys. 55 (1971) 3206: a = 4.59366, c = 2.95868 A, x = 0.30479",
        {"Ti": 0.078, "O": 0.068}, "Howard, Sabine & Dickson, Acta Cryst. B47 (1991) 462",
        _cell("TiO", [(0, 0, 0), (0.30479, 0.30479, 0)], 136, [4.593659, 4.593659, 2.958682, 90, 90, 90]),
    ),
    Material(
        "LiCoO2", "LiCoO2", "R-3m (hexagonal axes)", "bulk",
        "Akimoto, Gotoh & Oosawa, J. Solid State Chem. 141 (1998) 298: a = 2.8161, c = 14.0536 A",
        {"Li": 0.110, "Co": 0.060, "O": 0.075}, _TYPICAL,
        _cell("LiCoO", [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2604)], 166, [2.8161, 2.8161, 14.0536, 90, 90, 120]),
    ),
    Material(
        "graphene", "C", "P6/mmm (layer)", "layer", "Trucano & Chen, Nature 258 (1975) 136: a = 2.464 A of graphite",
        {"C": 0.0557}, "Trucano & Chen, Nature 258 (1975) 136: U = 0.0031 A^2 in the plane of graphite",
        lambda: _layer(graphene("C2", a=2.464)),
    ),
    Material(
        "MoS2", "MoS2", "P-6m2 (layer)", "layer",
        "Bronsema, de Boer & Jellinek, Z. Anorg. Allg. Chem. 540 (1986) 15: a = 3.1601 A, S 1.586 A off the Mo plane",
        {"Mo": 0.069, "S": 0.062},
        "Schoenfeld, Huang & Moss, Acta Cryst. B39 (1983) 404: U in the plane of 3R-MoS2, 0.0048 (Mo), 0.0038 A^2 (S)",
        lambda: _layer(mx2("MoS2", a=3.1601, thickness=3.172)),
    ),
    Material(
        "Co3O4", "Co3O4", "Fd-3m (origin 2)", "bulk",
        "Will, Masciocchi, Parrish & Hart, Z. Kristallogr. 190 (1987) 277: a = 8.0821 A, u = 0.2631",
        {"Co": 0.065, "O": 0.075}, _TYPICAL,
        _cell("CoCoO", [(0.125,) * 3, (0.5,) * 3, (0.2631,) * 3], 227, [8.0821] * 3 + [90] * 3, setting=2),
    ),
    Material(
        "GaN", "GaN", "P6_3mc", "bulk",
        "Schulz & Thiemann, Solid State Commun. 23 (1977) 815: a = 3.190, c = 5.189 A, u = 0.377",
        {"Ga": 0.0580, "N": 0.0611},
        "computed, not measured: Schowalter, Rosenauer, Titantah & Lamoen, Acta Cryst. A65 (2009) 227, mean over axes",
        _cell("GaN", [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.377)], 186, [3.190, 3.190, 5.189, 90, 90, 120]),
    ),
    Material(
        "CaF2", "CaF2", "Fm-3m", "bulk", "Batchelder & Simmons, J. Chem. Phys. 41 (1964) 2324: a = 5.463 A",
        {"Ca": 0.0855, "F": 0.0987},
        "computed, not measured: phonons of mp-2741 (Kyoto phonon database; Togo & Tanaka, Scr. Mater. 108 (2015) 1) at"
        " 293 K by NCrystal 4.4.6",
        _cell("CaF", [(0, 0, 0), (0.25, 0.25, 0.25)], 225, [5.463] * 3 + [90] * 3),
    ),
)  # fmt: skip


def _dyscandate() -> Atoms:
    """DyScO3 in Pbnm: the eight operations written out, since the standard setting of group 62 is Pnma."""
    a, b, c = 5.443, 5.717, 7.901
    unit = {
        "Dy": [(-0.0171, 0.0607, 0.25)],
        "Sc": [(0.5, 0.0, 0.0)],
        "O": [(0.1193, 0.4463, 0.25), (-0.3068, 0.3047, 0.0611)],
    }
    symbols, positions = [], []
    for symbol, sites in unit.items():
        for x, y, z in sites:
            images = [
                (x, y, z), (-x, -y, -z), (-x, -y, z + 0.5), (x, y, 0.5 - z),
                (0.5 + x, 0.5 - y, -z), (0.5 - x, 0.5 + y, z), (0.5 - x, 0.5 + y, 0.5 - z), (0.5 + x, 0.5 - y, 0.5 + z),
            ]  # fmt: skip
            distinct = {tuple(round(v % 1.0, 9) % 1.0 for v in image) for image in images}
            symbols += [symbol] * len(distinct)
            positions += sorted(distinct)
    return Atoms(symbols, scaled_positions=positions, cell=[a, b, c], pbc=True)


MATERIALS: Mapping[str, Material] = {item.name: item for item in _ALL}
"""All materials by name. LiCoO2's zone axes are in hexagonal axes: [010] shows the layers edge on."""


def material(name: str) -> Material:
    """A material of the registry.

    Raises:
        SpecimenError: no such material; the message lists those there are and the nearest name.
    """
    if name in MATERIALS:
        return MATERIALS[name]
    near = difflib.get_close_matches(name, MATERIALS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise SpecimenError(f"unknown material {name!r}{hint}: expected one of {', '.join(MATERIALS)}, or a CIF file")
