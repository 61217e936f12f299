"""Convergence of the multislice engine: what each setting changes, as a table for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from temimagenet.imaging.multislice import Accuracy, BeamPairs, Series, beam_pairs, series, slices
from temimagenet.imaging.optics import CONDITIONS, Detector, source_envelope
from temimagenet.specimen import material
from temimagenet.specimen.stack import Stack, crystal_stack

__all__ = ["ENTRIES", "convergence_table", "rows", "sliced_pairs"]

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
_MERGED = replace(_PAIRED, least_sweeps=8, most_sweeps=8)


def convergence_table(out: Path, on_row: Callable[[str], None] = lambda row: None) -> Path:
    """Vary one setting at a time at 200 keV and 24 mrad, write a Markdown table.

    Grid, slices and precision are compared on the same displacements of the same atoms. Where planes merge both go
    through whole repeats from one first slice, and the difference comes with its own standard error. Supercell and
    offsets are compared on other displacements, and the difference must be held against both standard errors. A
    difference is the root mean square over the image, source included, over its mean.

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
    paired = _image(_pairs(name, zone, thickness_A, _PAIRED))
    by_chance = _image(_pairs(name, zone, thickness_A, warm))
    what = f"{name} [{''.join(map(str, zone))}]"
    for label, change, seed in (
        ("band 1.05 instead of 1.3", {"band": 1.05}, None),
        ("band 1.6 instead of 1.3", {"band": 1.6}, None),
        ("slices of 0.3 A instead of 1 A", {"slice_A": 0.3}, None),
        ("complex128", {"double": True}, None),
        ("supercell of 8 A instead of 5 A", {"supercell_A": 8.0}, 1),
        ("3 x 3 offsets a sweep instead of 2 x 2", {"offsets": 3}, 2),
    ):
        if "slice_A" in change and _planes_merge(name, zone, change["slice_A"]):
            one, other = sliced_pairs(name, zone, thickness_A, replace(_MERGED, **change))
            difference = _image(replace(one, values=other.values - one.values))
            mean = float(_image(one).coefficients[0, 0].real)
            told = f"{100 * _rms(difference.variance[0] ** 0.5, difference) / mean:.2f} % of the difference"
            yield _row(what, label, _image(one), _image(other), told)
            continue
        base = _PAIRED if seed is None else warm
        found = _image(_pairs(name, zone, thickness_A, replace(base, **change), seed or 0))
        default = paired if seed is None else by_chance
        errors = [float(table.error_of_image(CONDITIONS[1].source_size_A)[0]) for table in (default, found)]
        told = "" if seed is None else f"{100 * errors[0]:.1f} %, {100 * errors[1]:.1f} %"
        yield _row(what, label, default, found, told)


def sliced_pairs(
    name: str, zone: tuple[int, int, int], thickness_A: float, accuracy: Accuracy
) -> tuple[BeamPairs, BeamPairs]:
    """Beam pairs by the default slices and by `accuracy`'s, on the same displacements of the same atoms.

    Slices are filled in the order of height, and displacements are drawn in that order: two plans that begin with the
    same atom and end after the same whole repeats draw the same ones for every coset.
    """
    period = cast(float, _stack(name, zone, accuracy.supercell_A).period_A)
    whole = max(1, round(thickness_A / period)) * period
    coarse = replace(accuracy, slice_A=Accuracy().slice_A)
    one, other = (_pairs(name, zone, whole, choice, start=0.0) for choice in (coarse, accuracy))
    return one, other


def _planes_merge(name: str, zone: tuple[int, int, int], slice_A: float) -> bool:
    """Whether thinner slices are others."""
    stack = _stack(name, zone, Accuracy().supercell_A)
    return len(slices(stack, Accuracy().slice_A)) != len(slices(stack, slice_A))


def _stack(name: str, zone: tuple[int, int, int], supercell_A: float) -> Stack:
    """A crystal of the registry."""
    known = material(name)
    return crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name, minimum_A=supercell_A)


def _pairs(
    name: str,
    zone: tuple[int, int, int],
    thickness_A: float,
    accuracy: Accuracy,
    seed: int = 0,
    start: float | None = None,
) -> BeamPairs:
    """Beam pairs for condition 1."""
    optics, stack = CONDITIONS[1], _stack(name, zone, accuracy.supercell_A)
    return beam_pairs(
        stack,
        optics.energy_keV,
        optics.aperture_mrad,
        Detector(),
        [thickness_A],
        accuracy=accuracy,
        seed=seed,
        start=start,
    )


def _image(pairs: BeamPairs) -> Series:
    """The image under condition 1."""
    return series(pairs, CONDITIONS[1])


def _rms(amplitude: NDArray[np.float64], table: Series) -> float:
    """Root mean square over the image of a series whose coefficients have this size, source included."""
    q = np.linalg.norm(table.hk @ np.linalg.inv(table.cell_A).T, axis=1)
    twice = np.where((table.hk == 0).all(axis=1), 1.0, 2.0)
    return float(np.sqrt(twice @ (amplitude * source_envelope(CONDITIONS[1].source_size_A, q)) ** 2))


def _row(what: str, label: str, one: Series, other: Series, told: str) -> str:
    """A row of the table."""
    a, b = one.coefficients[0], other.coefficients[0]
    difference = _rms(np.abs(b - a), one) / a[0].real
    return f"| {what} | {label} | {b[0].real / a[0].real:.4f} | {100 * difference:.2f} % | {told} |"
