"""Images that networks are validated on, and what is true of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.spatial import KDTree

from temimagenet import __version__
from temimagenet.imaging.background import BackgroundKind, draw_background, evaluate_background
from temimagenet.imaging.optics import CONDITIONS
from temimagenet.imaging.scan import ScanNoise
from temimagenet.labels import Columns
from temimagenet.recipe import Entry, Recipe, SampleSpec, sample_spec, spec_to_json
from temimagenet.render import Sample, sample_bound
from temimagenet.specimen import material

__all__ = [
    "BACKGROUNDS",
    "CARBON",
    "ROWS_APART",
    "Limits",
    "Truth",
    "carbon_image",
    "empty_image",
    "group_of",
    "limits_of",
    "remembered",
    "resolvable",
    "truth_of",
    "unseen_specs",
    "with_noise",
]

ROWS_APART = ScanNoise(0.2, None)
"""Scan noise of 0.2 A rms per axis, alike in all rows."""

BACKGROUNDS: tuple[BackgroundKind, ...] = ("constant", "ramp", "nonlinear", "film")

CARBON = "amorphous carbon"

_LARGEST_BOUND_A = 0.25
_SHARE_OF_SEPARATION = 1.0 / 3.0

_CARBON_PER_A3 = 0.1
"""Atoms in amorphous carbon of 2 g/cm^3."""


def unseen_specs(recipe: Recipe, number: int) -> dict[str, list[SampleSpec]]:
    """The first samples of each entry that are not of the split "train"."""
    specs: dict[str, list[SampleSpec]] = {entry.name: [] for entry in recipe.entries}
    for index in count():
        spec = sample_spec(recipe, index)
        if spec.split != "train" and len(specs[spec.entry]) < number:
            specs[spec.entry].append(spec)
            if all(len(of_entry) == number for of_entry in specs.values()):
                break
    return specs


def group_of(entry: Entry) -> str:
    """The kind of specimen that results are gathered by."""
    if entry.heldout:
        return "held out"
    if entry.kind == "crystal":
        return "layers" if entry.material and material(entry.material).morphology == "layer" else "crystals"
    return {"particle": "particles", "amorphous": "amorphous sheets", "random": "random specimens"}[entry.kind]


@dataclass(frozen=True, eq=False)
class Truth:
    """Columns of an image, and which of them a method is asked to find.

    Attributes:
        xy_px: (K, 2) positions of all columns, those just outside the image included.
        asked: (K,) which of them are resolvable.
        pixel_size_A: pixel size.
        radius_px: radius of a column's spot: columns nearer to the border are left out.
        shape: rows and columns of the image.
    """

    xy_px: Float[NDArray[np.float64], "K 2"]
    asked: Bool[NDArray[np.bool_], "K"]
    pixel_size_A: float
    radius_px: float
    shape: tuple[int, int]

    def clear_of_border(self, xy_px: Float[NDArray[np.float64], "N 2"]) -> Bool[NDArray[np.bool_], "N"]:
        """Which positions lie at least a spot's radius inside the image."""
        far = np.array(self.shape[::-1]) - 0.5 - self.radius_px
        inside: NDArray[np.bool_] = np.all((xy_px >= self.radius_px - 0.5) & (xy_px < far), axis=1)
        return inside


def resolvable(
    xy_A: Float[NDArray[np.float64], "K 2"], bound_A: Float[NDArray[np.float64], "K 2"]
) -> Bool[NDArray[np.bool_], "K"]:
    """Columns whose bound is below 25 pm and below a third of the distance to the nearest other column.

    Args:
        xy_A: positions of all columns.
        bound_A: smallest standard deviations of x and y, of which the rms per axis counts; nan or infinite is not
            resolvable.
    """
    apart = np.full(len(xy_A), np.inf) if len(xy_A) < 2 else np.asarray(KDTree(xy_A).query(xy_A, k=2)[0])[:, 1]
    rms: NDArray[np.float64] = np.sqrt((bound_A**2).mean(axis=1))
    return np.less(rms, np.minimum(_LARGEST_BOUND_A, _SHARE_OF_SEPARATION * apart))


def remembered(folder: Path, name: str, spec: SampleSpec, make: Callable[[], Any]) -> Any:
    """What follows from an image alone, whatever the network: made once and kept in a folder as JSON.

    Args:
        folder: where it is kept; made if missing.
        name: what it is.
        spec: the image.
        make: makes it, as JSON.
    """
    digest = hashlib.sha256(f"{name} {__version__} {spec_to_json(spec)}".encode()).hexdigest()
    path = folder / f"{digest[:24]}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    value = make()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(value), encoding="utf-8")
    unfinished.replace(path)
    return value


@dataclass(frozen=True, eq=False)
class Limits:
    """What an image can tell of all its columns at best; nan outside the image.

    Attributes:
        xy_A: (K, 2) smallest standard deviations of x and y in angstrom.
        significance: (K,) intensities over their smallest standard deviations, all else unknown: how far above the
            noise an ideal observer sees each column.
    """

    xy_A: Float[NDArray[np.float64], "K 2"]
    significance: Float[NDArray[np.float64], "K"]


def limits_of(sample: Sample, folder: Path) -> Limits:
    """The bounds of all columns; remembered in a folder.

    A sample without a bound, such as one without columns, has nan throughout.
    """

    def make() -> list[list[float]]:
        bound = sample_bound(sample)
        return [] if bound is None else np.column_stack([bound.xy_A, bound.intensity]).tolist()

    known = np.array(remembered(folder, "bounds", sample.spec, make), dtype=np.float64).reshape(-1, 3)
    values = np.full((len(sample.columns), 3), np.nan)
    if len(known):
        values[sample.columns.inside((sample.spec.image_size,) * 2)] = known
    return Limits(values[:, :2], 1.0 / values[:, 2])


def truth_of(sample: Sample, asked: Bool[NDArray[np.bool_], "K"]) -> Truth:
    """The columns of a sample, of which some are asked for."""
    columns: Columns = sample.columns
    shape = (sample.spec.image_size,) * 2
    return Truth(columns.xy_px, asked, sample.pixel_size_A, sample.radius_A / sample.pixel_size_A, shape)


def with_noise(spec: SampleSpec, psnr_dB: float) -> SampleSpec:
    """The same image at a peak signal-to-noise ratio, rows displaced by 0.2 A rms per axis."""
    return replace(spec, psnr_dB=psnr_dB, scan_noise=ROWS_APART)


def _drawn_counts(intensity: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Poisson counts of an intensity, on average 2 to 200 a pixel."""
    mean = np.exp(rng.uniform(np.log(2.0), np.log(200.0)))
    return np.asarray(rng.poisson(intensity * (mean / intensity.mean())), np.float64)


def empty_image(kind: BackgroundKind, number: int, edge_px: int = 256) -> tuple[NDArray[np.float64], float]:
    """Image `number` of a background without columns, in counts, and its pixel size of 0.06 to 0.2 A."""
    rng = np.random.Generator(np.random.Philox(key=[BACKGROUNDS.index(kind), number]))
    pixel_size_A = float(rng.uniform(0.06, 0.2))
    background = evaluate_background(draw_background(kind, 1.0, rng), (edge_px, edge_px)).double().numpy()
    return _drawn_counts(background, rng), pixel_size_A


def carbon_image(number: int, edge_px: int = 256) -> tuple[NDArray[np.float64], float]:
    """Image `number` of an amorphous carbon film of 20 to 200 A, in counts, and its pixel size of 0.06 to 0.2 A.

    Atoms lie anywhere in the plane, 2 to 20 an A^2: too many for one to be a column. The probe is one of `CONDITIONS`.
    """
    rng = np.random.Generator(np.random.Philox(key=[len(BACKGROUNDS), number]))
    pixel_size_A, thickness_A = float(rng.uniform(0.06, 0.2)), float(rng.uniform(20.0, 200.0))
    optics = CONDITIONS[int(rng.choice(sorted(CONDITIONS)))]
    atoms = rng.poisson(_CARBON_PER_A3 * thickness_A * pixel_size_A**2, (edge_px, edge_px))
    frequency = np.fft.fftfreq(edge_px, pixel_size_A)
    transfer = optics.otf(np.hypot(frequency[:, None], frequency))
    intensity = np.fft.ifft2(np.fft.fft2(atoms) * transfer).real
    return _drawn_counts(np.maximum(intensity, 0.0), rng), pixel_size_A
