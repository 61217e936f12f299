"""Which columns a network finds, and what it finds where there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from rich.progress import track
from scipy.spatial import KDTree
from scipy.special import ndtr

from builder.validation.images import (
    BACKGROUNDS,
    CARBON,
    Truth,
    carbon_image,
    empty_image,
    group_of,
    limits_of,
    resolvable,
    truth_of,
    with_noise,
)
from builder.validation.report import Claim, Table, spread
from temimagenet.atlas import FIGURE_7
from temimagenet.errors import LocalizeError
from temimagenet.labels import MAPS
from temimagenet.localize import Localizer
from temimagenet.metrics import match
from temimagenet.recipe import DRAWN_OPTICS, Recipe, SampleSpec
from temimagenet.render import Sample, render

__all__ = [
    "ASKED_RECALL",
    "Faintness",
    "Finder",
    "Tally",
    "Verdict",
    "aberrated_sample",
    "aberrated_truth",
    "by_localizer",
    "count_false",
    "detection_claims",
    "detection_table",
    "faintness_table",
    "false_claims",
    "false_table",
    "judge",
    "tally_entries",
]

ASKED_RECALL: Mapping[float, float] = {20.0: 0.99, 10.0: 0.95}
"""Recall and precision asked at a peak signal-to-noise ratio in dB."""

_MOST_FALSE = 0.1

_SIGNIFICANCES = (0.0, 3.0, 4.0, 6.0, 10.0, 20.0, np.inf)

_IDEAL = 3.5
"""Significance above which an ideal observer calls a column: noise behind a filter of the spot's width then makes less
than one maximum for each hundred columns of these images (by its Euler characteristic: Worsley, Adv. Appl. Probab. 26
(1994) 13)."""


@dataclass(frozen=True)
class Tally:
    """Columns counted.

    Attributes:
        asked: resolvable columns clear of the border.
        hit: how many of them were found.
        false: found columns clear of the border that are none.
        left_out: columns clear of the border that are not resolvable.
        excused: found columns that stand for those.
    """

    asked: int = 0
    hit: int = 0
    false: int = 0
    left_out: int = 0
    excused: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.asked + other.asked, self.hit + other.hit, self.false + other.false,
            self.left_out + other.left_out, self.excused + other.excused,
        )  # fmt: skip

    @property
    def recall(self) -> float:
        """Share of the columns asked for that were found; nan where none was."""
        return self.hit / self.asked if self.asked else float("nan")

    @property
    def precision(self) -> float:
        """Share of true ones among what was found; nan where nothing was asked for or found."""
        found = self.hit + self.false
        return self.hit / found if found else float("nan")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of each column.

    Attributes:
        asked: (K,) true columns that count.
        hit: (K,) those of them that were found.
        left_out: (K,) true columns clear of the border that are not resolvable.
        false: (N,) found columns that are none.
        excused: (N,) found columns that stand for unresolved ones.
    """

    asked: Bool[NDArray[np.bool_], "K"]
    hit: Bool[NDArray[np.bool_], "K"]
    left_out: Bool[NDArray[np.bool_], "K"]
    false: Bool[NDArray[np.bool_], "N"]
    excused: Bool[NDArray[np.bool_], "N"]

    @property
    def tally(self) -> Tally:
        """The numbers."""
        parts = (self.asked, self.hit, self.false, self.left_out, self.excused)
        return Tally(*(int(part.sum()) for part in parts))


@dataclass(frozen=True, eq=False)
class Faintness:
    """Columns asked for, how far they stand above the noise, and whether they were found.

    Attributes:
        significance: (K,) their intensities over the bounds of these.
        hit: (K,) which were found.
    """

    significance: Float[NDArray[np.float64], "K"]
    hit: Bool[NDArray[np.bool_], "K"]


def judge(found_px: Float[NDArray[np.float64], "N 2"], truth: Truth) -> Verdict:
    """Hold found columns against true ones.

    All columns are paired by `metrics.match`: within half the distance to the nearest true column, at most 0.5 A. Of
    found ones without a partner those are excused whose nearest true column, within a spot's radius, is unresolved.
    """
    true_index, found_index = match(found_px, truth.xy_px, truth.pixel_size_A)
    inner, found_inner = truth.clear_of_border(truth.xy_px), truth.clear_of_border(found_px)
    asked, left_out = truth.asked & inner, ~truth.asked & inner
    paired = np.zeros(len(truth.xy_px), dtype=np.bool_)
    paired[true_index] = True
    spare = np.ones(len(found_px), dtype=np.bool_)
    spare[found_index] = False
    unresolved = np.zeros(len(found_px), dtype=np.bool_)
    unresolved[found_index] = left_out[true_index]
    if len(truth.xy_px) and spare.any():
        away, nearest = KDTree(truth.xy_px).query(found_px[spare])
        unresolved[spare] = ~truth.asked[nearest] & (away <= truth.radius_px)
    return Verdict(asked, asked & paired, left_out, spare & found_inner & ~unresolved, unresolved & found_inner)


Finder: TypeAlias = 'Callable[[NDArray[np.floating], float], Float[NDArray[np.float64], "N 2"]]'
"""Positions (x, y) in pixels of the columns in an image of a pixel size."""


def by_localizer(localizer: Localizer) -> Finder:
    """What a localizer finds; nothing where it fails."""

    def find(image: NDArray[np.floating], pixel_size_A: float) -> Float[NDArray[np.float64], "N 2"]:
        try:
            return localizer(image.astype(np.float64), pixel_size_A).xy_px
        except LocalizeError:
            return np.zeros((0, 2))

    return find


def tally_entries(
    find: Finder, specs: Mapping[str, Sequence[SampleSpec]], psnr_dB: float, folder: Path
) -> tuple[dict[str, Tally], Faintness]:
    """Columns of each entry's images, redrawn at one signal-to-noise ratio; and all of them by their significance.

    Args:
        find: what finds them.
        specs: images by entry.
        psnr_dB: peak signal-to-noise ratio.
        folder: where bounds are remembered.
    """
    tallies = {}
    significances, hits = [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]
    for name, of_entry in track(specs.items(), description=f"detection at {psnr_dB:g} dB"):
        total = Tally()
        for spec in of_entry:
            sample = render([with_noise(spec, psnr_dB)], ())[0]
            limits = limits_of(sample, folder)
            truth = truth_of(sample, resolvable(sample.columns.xy_A, limits.xy_A))
            verdict = judge(find(sample.image.numpy(), sample.pixel_size_A), truth)
            total += verdict.tally
            significances.append(limits.significance[verdict.asked])
            hits.append(verdict.hit[verdict.asked])
        tallies[name] = total
    return tallies, Faintness(np.concatenate(significances), np.concatenate(hits))


def _over(tally: Tally) -> str:
    """What a claim was measured over, in words."""
    return f"{tally.asked:,} columns; {tally.left_out:,} unresolved left out"


def detection_claims(tallies: Mapping[str, Tally], recipe: Recipe, psnr_dB: float) -> tuple[Claim, ...]:
    """Recall and precision over all entries seen in training, and over those held out."""
    least = ASKED_RECALL[psnr_dB]
    heldout = {entry.name for entry in recipe.entries if entry.heldout}
    claims = []
    for what, names in (("entries of training", set(tallies) - heldout), ("held-out entries", set(tallies) & heldout)):
        total = sum((tallies[name] for name in sorted(names)), Tally())
        if names:
            claims += [
                Claim(f"Recall, {what}, {psnr_dB:g} dB", total.recall, least, over=_over(total)),
                Claim(f"Precision, {what}, {psnr_dB:g} dB", total.precision, least, over=_over(total)),
            ]
    for measure in ("recall", "precision"):
        known = {name: getattr(tally, measure) for name, tally in tallies.items() if tally.asked}
        if known:
            worst = min(known, key=lambda name: np.nan_to_num(known[name]))
            what = f"{measure.capitalize()}, worst entry, {psnr_dB:g} dB"
            claims.append(Claim(what, float(known[worst]), least, over=f"{worst}: {_over(tallies[worst])}"))
    return tuple(claims)


def detection_table(by_psnr: Mapping[float, Mapping[str, Tally]], recipe: Recipe) -> Table:
    """All entries at all signal-to-noise ratios."""
    head: tuple[str, ...] = ("Entry", "Group")
    for psnr_dB in by_psnr:
        at = f"{psnr_dB:g} dB"
        head += (f"Recall, {at}", f"Precision, {at}", f"Asked for, {at}", f"Left out, {at}", f"False, {at}")
    rows = []
    for entry in recipe.entries:
        row: tuple[str | float, ...] = (entry.name, group_of(entry))
        for tallies in by_psnr.values():
            t = tallies[entry.name]
            row += (t.recall, t.precision, t.asked, t.left_out, t.false)
        rows.append(row)
    return Table("Detection by entry.", head, tuple(rows), (0, 0, *(3, 3, 0, 0, 0) * len(by_psnr)))


def faintness_table(by_psnr: Mapping[float, Faintness]) -> Table:
    """Recall by how far columns stand above the noise, and that of an ideal observer who knows no lattice."""
    head: tuple[str, ...] = ("Intensity over its bound",)
    for psnr_dB in by_psnr:
        head += (f"Recall, {psnr_dB:g} dB", f"Ideal observer, {psnr_dB:g} dB", f"Columns, {psnr_dB:g} dB")
    rows = []
    for low, high in (*pairwise(_SIGNIFICANCES), (0.0, np.inf)):
        named = f"{low:g} to {high:g}" if high < np.inf else f"over {low:g}" if low else "all"
        row: tuple[str | float, ...] = (named,)
        for faintness in by_psnr.values():
            within = (faintness.significance >= low) & (faintness.significance < high)
            ideal = ndtr(faintness.significance[within] - _IDEAL)
            told = (faintness.hit[within].mean(), ideal.mean()) if within.any() else (np.nan, np.nan)
            row += (*(float(value) for value in told), int(within.sum()))
        rows.append(row)
    return Table("Recall by significance.", head, tuple(rows), (0, *(3, 3, 0) * len(by_psnr)))


def count_false(find: Finder, number: int) -> dict[str, list[int]]:
    """Columns found in `number` images of each kind that hold none."""
    counts: dict[str, list[int]] = {kind: [] for kind in (*BACKGROUNDS, CARBON)}
    for index in track(range(number), description="images without columns"):
        for kind in BACKGROUNDS:
            counts[kind].append(len(find(*empty_image(kind, index))))
        counts[CARBON].append(len(find(*carbon_image(index))))
    return counts


def false_claims(counts: Mapping[str, Sequence[int]]) -> tuple[Claim, ...]:
    """False columns an image on bare backgrounds and on amorphous carbon."""
    bare = [number for kind in BACKGROUNDS for number in counts[kind]]
    carbon = counts[CARBON]
    return tuple(
        Claim(f"False columns an image, {what}", spread(found).mean, most=_MOST_FALSE, over=f"{len(found)} images")
        for what, found in (("bare backgrounds", bare), (CARBON, carbon))
    )


def false_table(counts: Mapping[str, Sequence[int]]) -> Table:
    """The same by kind."""
    rows = []
    for kind, found in counts.items():
        told = spread(found)
        rows.append((kind, told.mean, told.deviation, max(found), told.count))
    head = ("Background", "False columns an image", "Standard deviation", "Most in one image", "Images")
    return Table("Columns found where there are none, 256 × 256 pixels.", head, tuple(rows), (0, 2, 2, 0, 0))


def aberrated_sample(spec: SampleSpec) -> Sample:
    """The multislice image of SrTiO3 [001], 100 A thick, under the aberrated probe of Fig. 7 of Lin et al. (2021).

    Args:
        spec: an image of SrTiO3 [001], whose place, rotation and seeds are taken.
    """
    specimen = replace(spec.specimen, thickness_A=100.0)
    turned = replace(spec, specimen=specimen, optics=FIGURE_7, condition=DRAWN_OPTICS, field_of_view_A=20.0)
    return render([with_noise(turned, 20.0)], MAPS, engine="multislice")[0]


def aberrated_truth(sample: Sample, kinds: Sequence[str] = ("Sr", "TiO")) -> Truth:
    """Its columns; those of some kinds are asked for. There is no bound of a multislice image."""
    wanted = [number for number, kind in enumerate(sample.columns.kinds) if kind in kinds]
    return truth_of(sample, np.isin(sample.columns.kind, wanted))
