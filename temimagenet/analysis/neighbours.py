"""`nearest_neighbours`: vectors and distances from each column to those around it, with standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree

from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import FoundColumns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Neighbours", "nearest_neighbours"]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The K nearest sound columns of each of N columns, nearest first.

    Rows are those of the columns that were given. A flagged column has none, and is nobody's neighbour.

    Attributes:
        neighbour: (N, K) their numbers; -1 where there is none.
        vector_px: (N, K, 2) from the column to them (x, y) in pixels; nan where there is none.
        distance_pm: (N, K) lengths of these vectors.
        sigma_pm: (N, K) standard errors of the lengths, from those of both positions taken as independent; nan where
            unknown. Scan noise that both share is no error of a distance along x, so these are rather too large.
        enclosed: (N,) columns all of whose neighbours lie nearer than the edge of what was found: others may miss
            one beyond the image.
        pixel_size_A: pixel size.
    """

    neighbour: Int[NDArray[np.int64], "N K"]
    vector_px: Float[NDArray[np.float64], "N K 2"]
    distance_pm: Float[NDArray[np.float64], "N K"]
    sigma_pm: Float[NDArray[np.float64], "N K"]
    enclosed: Bool[NDArray[np.bool_], "N"]
    pixel_size_A: float

    def plot(self) -> Figure:
        """Histograms of the distances by rank, and the vectors' ends around a column at the middle."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 4.2), layout="constrained")
        distances, vectors = figure.subplots(1, 2, width_ratios=(1.4, 1.0))
        chosen = self.enclosed if self.enclosed.any() else np.isfinite(self.distance_pm).all(axis=1)
        shown = self.distance_pm[chosen]
        first = shown[:, 0]
        bins = list(np.histogram_bin_edges(shown.ravel(), bins=60))
        if shown.shape[1] > 1:
            distances.hist(shown.ravel(), bins=bins, color="0.8", label=f"{shown.shape[1]} nearest")
        distances.hist(first, bins=bins, color="#21618c", label="nearest")
        distances.set_title(f"nearest: median {np.median(first):.1f} pm, standard deviation {first.std():.1f} pm")
        distances.set_xlabel("distance / pm")
        distances.set_ylabel("pairs")
        distances.legend(frameon=False)
        ends = self.pixel_size_A * self.vector_px[chosen].reshape(-1, 2)
        vectors.scatter(*ends.T, s=5, alpha=0.4, color="#21618c", lw=0)
        vectors.plot(0.0, 0.0, "+", color="0.2")
        vectors.set_aspect("equal")
        vectors.invert_yaxis()
        vectors.set_xlabel("x to the neighbour / Å")
        vectors.set_ylabel("y / Å")
        return figure


def nearest_neighbours(columns: FoundColumns, count: int = 4) -> Neighbours:
    """Find the nearest columns of each.

    Args:
        columns: what a localizer found; flagged columns are left out.
        count: how many of each.

    Raises:
        LocalizeError: fewer than one is asked for, or no more sound columns than that are there.
    """
    if count < 1:
        raise LocalizeError(f"{count} neighbours: expected 1 or more")
    sound = np.flatnonzero(columns.sound)
    if len(sound) <= count:
        raise LocalizeError(f"{len(sound)} sound columns: {count} neighbours of each need {count + 1} or more")
    xy, sigma = columns.xy_px[sound], columns.sigma_px[sound]
    tree = KDTree(xy)
    near = np.asarray(tree.query(xy, k=count + 1)[1], dtype=np.int64)
    # Of columns on one another either may come first.
    own = np.arange(len(xy))[:, None]
    order = np.argsort(near != own, axis=1, kind="stable")
    near = np.take_along_axis(near, order, axis=1)[:, 1:]
    apart = xy[near] - xy[:, None]
    length = np.linalg.norm(apart, axis=-1)
    along = apart / np.where(length > 0.0, length, 1.0)[..., None]
    error = np.sqrt((along**2 * (sigma[near] ** 2 + sigma[:, None] ** 2)).sum(axis=-1))
    edge = np.minimum(xy - xy.min(axis=0), xy.max(axis=0) - xy).min(axis=1)
    pm = 100.0 * columns.pixel_size_A
    neighbour = np.full((len(columns), count), -1, dtype=np.int64)
    vector = np.full((len(columns), count, 2), np.nan)
    distance, spread = np.full((len(columns), count), np.nan), np.full((len(columns), count), np.nan)
    enclosed = np.zeros(len(columns), dtype=bool)
    neighbour[sound], vector[sound] = sound[near], apart
    distance[sound], spread[sound] = pm * length, pm * error
    enclosed[sound] = length[:, -1] <= edge
    return Neighbours(neighbour, vector, distance, spread, enclosed, columns.pixel_size_A)
