"""`measure_strain`: how the lattice around each column is stretched, sheared and turned against a reference region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.spatial import KDTree

from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import FoundColumns
from temimagenet.precision.lattice import lattice_pairs, lattice_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STRAIN_COLOURS", "StrainMap", "colour_limit", "measure_strain"]

STRAIN_COLOURS = "RdBu_r"
"""Matplotlib's colour map of strain: blue for shorter, red for longer than the reference, white for alike."""

_MOST = 0.1
"""More is no strain of the reference's lattice but another grain's, or a wrong neighbour."""


@dataclass(frozen=True, eq=False)
class StrainMap:
    """Strain at each sound column, in the image's axes: x along rows, y downwards.

    The deformation gradient F takes the reference's lattice to the one around the column; F = R U with a rotation R,
    and the strain is U - 1. Values are nan where too few neighbours were found, or where strain
    exceeds a tenth: another grain, or wrong neighbours.

    Attributes:
        xy_px: (N, 2) positions in pixels.
        exx: (N,) stretch along x; 0.01 is one per cent.
        eyy: (N,) stretch along y.
        exy: (N,) shear, half the change of the angle between x and y in radians.
        rotation_deg: (N,) rotation, from x towards y: clockwise as an image is shown.
        reference: (N,) columns of the reference region.
        vectors_px: (2, 2) its lattice vectors a and b, a row each.
        pixel_size_A: pixel size.
        reference_px: left, top, right and bottom of that region in pixels; None for the whole image.
    """

    xy_px: Float[NDArray[np.float64], "N 2"]
    exx: Float[NDArray[np.float64], "N"]
    eyy: Float[NDArray[np.float64], "N"]
    exy: Float[NDArray[np.float64], "N"]
    rotation_deg: Float[NDArray[np.float64], "N"]
    reference: Bool[NDArray[np.bool_], "N"]
    vectors_px: Float[NDArray[np.float64], "2 2"]
    pixel_size_A: float
    reference_px: tuple[float, float, float, float] | None = None

    @property
    def shown(self) -> dict[str, Float[NDArray[np.float64], "N"]]:
        """The four quantities as they are shown, by name and unit: strain in per cent, rotation in degrees."""
        return {
            "εxx / %": 100.0 * self.exx, "εyy / %": 100.0 * self.eyy, "εxy / %": 100.0 * self.exy,
            "rotation / °": self.rotation_deg,
        }  # fmt: skip

    def plot(self) -> Figure:
        """Maps of the four quantities; columns of the reference are ringed."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 9.0), layout="compressed")
        xy = 0.1 * self.pixel_size_A * self.xy_px
        for axes, (label, values) in zip(figure.subplots(2, 2).flat, self.shown.items(), strict=True):
            most = colour_limit(values)
            edges = ["0.3" if inside else "none" for inside in self.reference]
            points = axes.scatter(
                *xy.T, c=values, cmap=STRAIN_COLOURS, vmin=-most, vmax=most, s=22, edgecolors=edges, lw=0.6
            )
            figure.colorbar(points, ax=axes, label=label)
            axes.set_aspect("equal")
            axes.invert_yaxis()
            axes.set_xlabel("x / nm")
            axes.set_ylabel("y / nm")
        return figure


def colour_limit(values: Float[NDArray[np.float64], "N"]) -> float:
    """Half the span of a diverging colour scale about zero: within it lie 98 % of the values; 1 where none is known."""
    known = np.abs(values[np.isfinite(values)])
    return float(np.quantile(known, 0.98)) or 1.0 if len(known) else 1.0


def measure_strain(
    columns: FoundColumns,
    reference_px: tuple[float, float, float, float] | None = None,
    *,
    reach: float = 1.5,
) -> StrainMap:
    """Measure strain column by column against the lattice of a region of the same image.

    The lattice vectors a and b are the mean separations of equivalent neighbours in the region (`lattice_precision`).
    Neighbours at a, b, a + b and a - b, either way, tell F of a column by least squares; those of all columns within
    a reach count alike, so noise falls and sharp changes are drawn out over it. Sublattices are no trouble: a lattice
    vector takes every column to one of its own kind.

    Args:
        columns: what a localizer found; flagged columns are left out.
        reference_px: left, top, right and bottom of the region in pixels; the whole image unless given: strain is then
            that against the image's mean.
        reach: neighbourhood that is averaged over, in lengths of the longer lattice vector; 0 for each column alone.

    Raises:
        LocalizeError: too few columns in the region, or no lattice.
    """
    if not 0.0 <= reach < np.inf:
        raise LocalizeError(f"reach {reach}: expected 0 or more")
    xy = columns.xy_px[columns.sound]
    inside: NDArray[np.bool_] = np.ones(len(xy), dtype=bool)
    if reference_px is not None:
        low, high = np.array(reference_px[:2]), np.array(reference_px[2:])
        if not (low < high).all():
            raise LocalizeError(f"reference {reference_px}: expected left, top, right, bottom in pixels")
        inside = np.all((xy >= low) & (xy <= high), axis=1)
    try:
        lattice = lattice_precision(xy[inside], columns.pixel_size_A)
    except LocalizeError as error:
        if reference_px is None:
            raise
        raise LocalizeError(f"reference {','.join(f'{edge:g}' for edge in reference_px)}: {error}") from error
    a, b = lattice.a.vector_px, lattice.b.vector_px
    tree = KDTree(xy)
    # Of F V = D: D V^T and V V^T, summed over a column's neighbours.
    apart, square = np.zeros((len(xy), 2, 2)), np.zeros((len(xy), 2, 2))
    for vector in (a, b, a + b, a - b):
        start, end = lattice_pairs(xy, tree, vector)
        found = (xy[end] - xy[start])[:, :, None] * vector
        for column in (start, end):
            np.add.at(apart, column, found)
            np.add.at(square, column, np.outer(vector, vector))
    if reach > 0.0:
        near = tree.query_pairs(reach * max(np.linalg.norm(a), np.linalg.norm(b)), output_type="ndarray")
        own = apart.copy(), square.copy()
        for here, there in (near.T, near.T[::-1]):
            np.add.at(apart, here, own[0][there])
            np.add.at(square, here, own[1][there])
    known = np.linalg.det(square) > 0.1 * np.linalg.norm(np.outer(a, a)) * np.linalg.norm(np.outer(b, b))
    gradient = np.full((len(xy), 2, 2), np.nan)
    gradient[known] = apart[known] @ np.linalg.inv(square[known])
    angle = np.arctan2(gradient[:, 1, 0] - gradient[:, 0, 1], gradient[:, 0, 0] + gradient[:, 1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    back = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    stretch = back @ gradient
    far = ~(np.abs(stretch - np.eye(2)).max(axis=(1, 2)) <= _MOST)
    stretch[far], angle[far] = np.nan, np.nan
    return StrainMap(
        xy, stretch[:, 0, 0] - 1.0, stretch[:, 1, 1] - 1.0, 0.5 * (stretch[:, 0, 1] + stretch[:, 1, 0]),
        np.degrees(angle), inside, np.stack([a, b]), columns.pixel_size_A, reference_px,
    )  # fmt: skip
