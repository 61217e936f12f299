"""Other people's methods as localizers, for comparison only: atomap and Picasso, where they are installed."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from temimagenet.localize import Flag, FoundColumns

__all__ = ["BASELINES", "Atomap", "PicassoMLE"]

SMOOTHING_A = 0.25
SEPARATION_A = 0.6
FAINTEST = 0.12
"""Starts: maxima of the image smoothed by a Gaussian, this far apart, above this share of its range."""


def _found(xy: np.ndarray, sigma: np.ndarray, shape: tuple[int, int], pixel_size_A: float) -> FoundColumns:
    """Positions as the protocol wants them; what left the image or is no number is flagged."""
    lost = ~np.isfinite(xy).all(axis=1) | (xy < -0.5).any(axis=1) | (xy >= np.array(shape[::-1]) - 0.5).any(axis=1)
    sigma = np.where(np.isfinite(sigma) & (sigma > 0.0), sigma, np.nan)
    blank = np.full(len(xy), np.nan)
    return FoundColumns(xy, sigma, blank, blank, blank, np.where(lost, int(Flag.STRAYED), 0), pixel_size_A)


@dataclass(frozen=True)
class Atomap:
    """atomap (Nord et al., Adv. Struct. Chem. Imaging 3 (2017) 9): `get_atom_positions` and `Sublattice` refinement.

    Attributes:
        centre_of_mass: refinements by centre of mass.
        gaussian: refinements by elliptic two-dimensional Gaussians.
        percent_to_nn: radius of the mask of the Gaussian fits in distances to the nearest neighbour; atomap's own
            default is 0.4.
    """

    centre_of_mass: int = 1
    gaussian: int = 1
    percent_to_nn: float = 0.4
    package = "atomap"

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"atomap ({self.centre_of_mass} + {self.gaussian}, mask {self.percent_to_nn:g})"

    def __call__(self, image: np.ndarray, pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image."""
        import atomap.api as atomap
        import hyperspy.api as hs

        smooth = gaussian_filter(image, SMOOTHING_A / pixel_size_A)
        with contextlib.redirect_stdout(io.StringIO()):
            start = atomap.get_atom_positions(
                hs.signals.Signal2D(smooth - smooth.min()),
                separation=max(2, round(SEPARATION_A / pixel_size_A)),
                threshold_rel=FAINTEST,
            )
            sublattice = atomap.Sublattice(np.asarray(start, dtype=float), image)
            sublattice.find_nearest_neighbors()
            for _ in range(self.centre_of_mass):
                sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
            for _ in range(self.gaussian):
                sublattice.refine_atom_positions_using_2d_gaussian(
                    percent_to_nn=self.percent_to_nn, show_progressbar=False
                )
        xy = np.stack([np.asarray(sublattice.x_position), np.asarray(sublattice.y_position)], axis=1)
        return _found(xy, np.full(xy.shape, np.nan), image.shape, pixel_size_A)


@dataclass(frozen=True)
class PicassoMLE:
    """Picasso (Schnitzbauer et al., Nat. Protoc. 12 (2017) 1198): maximum likelihood of one round Gaussian a box.

    Attributes:
        half_box_A: half edge of a box.
    """

    half_box_A: float = 0.8
    package = "picasso"

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"Picasso MLE (box {2 * self.half_box_A:g} A)"

    def __call__(self, image: np.ndarray, pixel_size_A: float) -> FoundColumns:
        """Find the columns of one image."""
        from picasso.gaussmle import gaussmle

        smooth = gaussian_filter(image, SMOOTHING_A / pixel_size_A)
        level = smooth.min() + FAINTEST * np.ptp(smooth)
        top = (smooth == maximum_filter(smooth, round(2.0 * SEPARATION_A / pixel_size_A) | 1)) & (smooth > level)
        half = round(self.half_box_A / pixel_size_A)
        rows, columns = np.nonzero(top[half : image.shape[0] - half, half : image.shape[1] - half])
        steps = np.arange(2 * half + 1)
        boxes = image[rows[:, None, None] + steps[:, None], columns[:, None, None] + steps].astype(np.float32)
        theta, variance, _, iterations = gaussmle(boxes, 1e-3, 200, method="sigma")
        found = _found(
            theta[:, :2].astype(np.float64) + np.stack([columns, rows], axis=1),
            np.sqrt(variance[:, :2].astype(np.float64)),
            image.shape,
            pixel_size_A,
        )
        found.flags[iterations >= 200] |= int(Flag.NOT_CONVERGED)
        return found


def installed(baseline: Atomap | PicassoMLE) -> bool:
    """Whether the package that a baseline calls can be imported."""
    return find_spec(baseline.package) is not None


BASELINES = (Atomap(), Atomap(2, 2, 0.5), PicassoMLE())
"""atomap as its documentation has it and at the best setting tried, and Picasso."""
