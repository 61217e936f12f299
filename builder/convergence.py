"""Convergence of the multislice engine: what each setting changes, as a table for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from temimagenet.imaging.multislice import Accuracy, Series, beam_pairs, series, slices
from temimagenet.imaging.optics import CONDITIONS, Detector
from temimagenet.specimen import material
from temimagenet.specimen.stack import crystal_stack

__all__ = ["ENTRIES", "convergence_table"]

ENTRIES = (
    ("Pt", (1, 1, 0), 40.0, 8),
    ("SrTiO3", (0, 0, 1), 40.0, 8),
    ("Si", (1, 1, 0), 40.0, 8),
    ("LiCoO2", (0, 1, 0), 40.0, 8),
    ("DyScO3", (1, 1, 0), 16.0, 24),
)
"""Crystal, zone axis, thickness in angstrom and sweeps of what is left to chance; DyScO3 [110] has no symmetry but a
glide, and planes that merge."""

_PAIRED = Accuracy(least_sweeps=2, most_sweeps=2, most_thin_sweeps=0)


def convergence_table(out: Path, on_row: Callable[[str], None] = lambda row: None) -> Path:
    """Vary one setting at a time at 200 keV and 24 mrad, write a Markdown table.

    Grid and precision are compared on the same displacements, where nothing is left to chance; so are slices, unless
    planes merge; these and the supercell on their own displacements, where the difference must be held against both
    standard errors. A difference is the root mean square over the image, source included, over its mean.

    Args:
        out: the table's path.
        on_row: called with each finished row.

    Returns:
        The path.
    """
    lines = [
        "| specimen | setting | mean signal against the default | difference of the image | standard errors |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in ENTRIES:
        for row in rows(*entry):
            lines.append(row)
            on_row(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def rows(name: str, zone: tuple[int, int, int], thickness_A: float, sweeps: int) -> Iterator[str]:
    """One entry's rows."""
    warm = replace(_PAIRED, least_sweeps=sweeps, most_sweeps=sweeps)
    paired = _images(name, zone, thickness_A, _PAIRED)
    by_chance = _images(name, zone, thickness_A, warm)
    known = material(name)
    stack = crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name)
    merged = len(slices(stack, 1.0)) != len(slices(stack, 0.3))
    for label, change, seed in (
        ("band 1.05 instead of 1.3", {"band": 1.05}, None),
        ("band 1.6 instead of 1.3", {"band": 1.6}, None),
        ("slices of 0.3 A instead of 1 A", {"slice_A": 0.3}, 3 if merged else None),
        ("complex128", {"double": True}, None),
        ("supercell of 8 A instead of 5 A", {"supercell_A": 8.0}, 1),
        ("3 x 3 offsets a sweep instead of 2 x 2", {"offsets": 3}, 2),
    ):
        base = _PAIRED if seed is None else warm
        other = _images(name, zone, thickness_A, replace(base, **change), seed or 0)
        yield _row(name, zone, label, paired if seed is None else by_chance, other, random=seed is not None)


def _images(name: str, zone: tuple[int, int, int], thickness_A: float, accuracy: Accuracy, seed: int = 0) -> Series:
    """The image under condition 1."""
    known = material(name)
    stack = crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name, minimum_A=accuracy.supercell_A)
    optics = CONDITIONS[1]
    pairs = beam_pairs(
        stack, optics.energy_keV, optics.aperture_mrad, Detector(), [thickness_A], accuracy=accuracy, seed=seed
    )
    return series(pairs, optics)


def _row(name: str, zone: tuple[int, int, int], label: str, one: Series, other: Series, *, random: bool) -> str:
    """A row of the table."""
    source = CONDITIONS[1].source_size_A
    a, b = (table.image(float(table.thickness_A[0]), source).coefficients.numpy() for table in (one, other))
    delta = np.abs(b - a) ** 2
    difference = np.sqrt(delta[0] + 2.0 * delta[1:].sum()) / a[0].real
    errors = [float(table.error_of_image(source)[0]) for table in (one, other)]
    told = f"{100 * errors[0]:.1f} %, {100 * errors[1]:.1f} %" if random else ""
    what = f"{name} [{''.join(map(str, zone))}]"
    return f"| {what} | {label} | {b[0].real / a[0].real:.4f} | {100 * difference:.2f} % | {told} |"
