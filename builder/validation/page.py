"""The validation page: parts of a report with plots, and its pictures copied into the site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from builder.leaderboard import INK, svg_element
from builder.ledger import Ledger
from builder.validation.report import Part, Picture, Table, read_part
from temimagenet.errors import PrecisionError

__all__ = ["ORDER", "validation_facts"]

ORDER = (
    "detection", "located", "false-columns", "denoising", "intensity", "multislice", "micrographs", "held-out", "speed",
)  # fmt: skip
"""Names of the parts, in the order of the page."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def validation_facts(folder: Path | None, ledger: Ledger) -> dict[str, Any]:
    """What the page's template needs; pictures are copied into the site's `validation/`.

    Args:
        folder: folder of the results; None gives a page that says that there are none.
        ledger: writes the pictures that are not there already.

    Raises:
        PrecisionError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise PrecisionError(f"no folder {folder}: expected results of python -m builder validate")
    parts = [] if folder is None else [part for name in ORDER if (part := read_part(folder / f"{name}.json"))]
    sections = []
    for part in parts:
        assert folder is not None
        asked = [claim for claim in part.claims if claim.asked != "–"]
        sections.append(
            {
                "part": part,
                "asked": len(asked),
                "met": sum(claim.met for claim in asked),
                "plots": _plots(part),
                "groups": _copied(part.pictures, folder / "pictures", ledger),
            }
        )
    origins = {tuple(sorted(part.origin.items())) for part in parts}
    return {
        "sections": sections,
        "origin": parts[0].origin if parts else None,
        "mixed": len(origins) > 1,
        "missing": [name for name in ORDER if name not in {part.name for part in parts}] if parts else [],
    }


def _copied(pictures: Sequence[Picture], source: Path, ledger: Ledger) -> dict[str, list[Picture]]:
    """Pictures by their title, copied into the site; those whose file is gone are left out."""
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        if (source / picture.file).is_file():
            ledger.write("validation", f"validation/{picture.file}", (source / picture.file).read_bytes())
            groups.setdefault(picture.title, []).append(picture)
    return groups


def _plots(part: Part) -> list[dict[str, Any]]:
    """The plots of a part, as SVG in the page's own ink."""
    drawn = {"detection": _detection_plot, "denoising": _denoising_plot, "intensity": _intensity_plot}
    if part.name not in drawn or not part.tables:
        return []
    figure, caption = drawn[part.name](part.tables[0])
    for axes in figure.axes:
        axes.tick_params(which="both", colors=INK)
        axes.xaxis.label.set_color(INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
    return [{"caption": caption, "svg": svg_element(figure, f"plot-{part.name}", part.title, caption)}]


def _names(table: Table) -> list[str]:
    """The first column of a table."""
    return [str(row[0]) for row in table.rows]


def _numbers(table: Table, at: int) -> NDArray[np.float64]:
    """Column number `at` of a table."""
    return np.array([row[at] for row in table.rows], dtype=np.float64)


def _labelled(axes: Axes, names: Sequence[str]) -> NDArray[np.int64]:
    """One line for each name, the first on top."""
    place = np.arange(len(names))
    axes.set_yticks(place, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return place


def _detection_plot(table: Table) -> tuple[Figure, str]:
    """Recall and precision of every entry."""
    figure = Figure(figsize=(6.8, 0.24 * len(table.rows) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    place = _labelled(axes, _names(table))
    at = [head.removeprefix("Recall, ") for head in table.head if head.startswith("Recall, ")]
    for number, psnr in enumerate(at):
        for measure, marker, filled in (("Recall", "o", True), ("Precision", "D", False)):
            axes.plot(
                # A little apart, so that equal values do not hide each other.
                _numbers(table, table.head.index(f"{measure}, {psnr}")), place + 0.3 * (number - (len(at) - 1) / 2),
                marker, ls="", ms=5,
                color=_COLOURS[number], mfc=None if filled else "none", label=f"{measure}, {psnr}",
            )  # fmt: skip
    axes.set(xlabel="share of columns", xlim=(-0.02, 1.02))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return figure, "Recall and precision of every entry."


def _denoising_plot(table: Table) -> tuple[Figure, str]:
    """PSNR of every method."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axes = figure.add_subplot()
    names = _names(table)
    place = _labelled(axes, names)
    values, deviation = (_numbers(table, at) for at in (1, 2))
    colours = [_COLOURS[1] if name.startswith("network") else _COLOURS[0] for name in names]
    axes.barh(
        place, values, xerr=np.nan_to_num(deviation), color=colours, height=0.6, error_kw={"ecolor": INK, "lw": 1}
    )
    axes.set(xlabel="PSNR against the clean image (dB)")
    told = ", ".join(f"{name} {value:.1f}" for name, value in zip(names, values, strict=True))
    return figure, f"PSNR in dB, mean and standard deviation over images: {told}."


def _intensity_plot(table: Table) -> tuple[Figure, str]:
    """Slopes by group, with what was asked as a band."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    place = _labelled(axes, _names(table))
    axes.axvspan(0.97, 1.03, color=_COLOURS[2], alpha=0.25, lw=0)
    slopes = [at for at, title in enumerate(table.head) if title.startswith("Slope, ")]
    for number, at in enumerate(slopes):
        name = table.head[at].removeprefix("Slope, ")
        axes.errorbar(
            _numbers(table, at), place + 0.2 * (number - 0.5 * (len(slopes) - 1)), fmt="oDs"[number],
            xerr=np.nan_to_num(_numbers(table, at + 1)), color=_COLOURS[number], capsize=2,
            ms=5, lw=1.2, label=name,
        )  # fmt: skip
    axes.set(xlabel="slope of drawn on true intensities")
    figure.legend(loc="outside upper center", ncols=len(slopes), frameon=False, labelcolor=INK, fontsize=9)
    return figure, "Slopes by group; bars are standard deviations over images, the band is what was asked."
