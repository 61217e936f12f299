"""What is in a library, as plots: bars and histograms of its catalogue, drawn as SVG in the page's own colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

from builder.browse_index import MOST_WORDS, rounded
from temimagenet.specimen.amorphous import SHIPPED_SHEETS, ring_sizes, sheet_of

__all__ = ["SPLITS", "Plot", "Section", "library_plots"]

SPLITS = {"train": "Train", "test": "Test", "heldout": "Held out"}
_WIDTH = 440
_ROW = 24
_LABEL = 112
_END = 52
_PLOT_TOP, _PLOT_LEFT, _PLOT_HIGH = 12, 64, 170
_FRAME = 72
_BINS = 22
_TICKS = 6
_ROWS_TALL = 10


@dataclass(frozen=True)
class Plot:
    """One plot and its numbers.

    Attributes:
        key: for the page's anchors and ids.
        title: what it shows.
        note: how to read it.
        svg: the picture.
        head: headings of the numbers.
        rows: the numbers, as text.
        links: address of the browse page that shows each row's samples; empty if there is none.
    """

    key: str
    title: str
    note: str
    svg: Markup
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    links: tuple[str, ...] = ()

    @property
    def height(self) -> float:
        """Height of the picture with heading and frame, in its own units."""
        return _FRAME + float(self.svg.partition('viewBox="0 0 ')[2].partition('"')[0].split()[1])

    @property
    def tall(self) -> bool:
        """Whether the picture is as high as several others."""
        return bool(self.links) and len(self.rows) > _ROWS_TALL

    @property
    def empty(self) -> bool:
        """Whether no sample has a value."""
        return all(row[1] == "0" for row in self.rows)


@dataclass(frozen=True)
class Section:
    """Plots under one heading.

    Attributes:
        title: the heading.
        plots: of what is known.
        absent: titles of plots that would show nothing.
    """

    title: str
    plots: tuple[Plot, ...]
    absent: tuple[str, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """How many of the plots after it each plot stands beside: 1 but for tall ones."""
        spans = []
        for at, plot in enumerate(self.plots):
            beside, left = 0, plot.height if plot.tall else 0.0
            for other in self.plots[at + 1 :]:
                if left < other.height / 2:
                    break
                beside, left = beside + 1, left - other.height
            spans.append(max(beside, 1))
        return tuple(spans)


def _section(title: str, *plots: Plot) -> Section:
    """A section of the plots that show something."""
    shown = tuple(plot for plot in plots if not plot.empty)
    return Section(title, shown, tuple(plot.title for plot in plots if plot.empty))


def library_plots(catalogue: pd.DataFrame) -> tuple[Section, ...]:
    """All plots of a library's catalogue; what is not known of any sample is told by name."""
    optics = {}
    for condition, group in catalogue.groupby("condition"):
        alike = group[["energy_keV", "aperture_mrad"]].drop_duplicates()
        energy, aperture = alike.iloc[0]
        told = f"{energy:g} keV, {aperture:g} mrad" if len(alike) == 1 else "various"
        optics[str(condition)] = f"{condition}: {told}"
    by_size = "Most frequent first."
    known = catalogue[catalogue["morphology"] != "unknown"]
    return (
        _section(
            "What was imaged",
            _bars(catalogue, "material", "Material", by_size, by_count=True),
            _bars(
                known,
                "zone",
                "Zone axis",
                "Amorphous films and random specimens have none.",
                by_count=True,
                missing="none",
            ),
            _bars(catalogue, "morphology", "Morphology", by_size, by_count=True),
            _bars(catalogue, "split", "Split", "Held out: structures that training never sees."),
            *([_rings(catalogue)] if (catalogue["morphology"] == "amorphous").any() else []),
        ),
        _section(
            "How it was imaged",
            _bars(catalogue, "condition", "Condition", "Beam energy and aperture.", names=optics),
            _bars(catalogue, "engine", "Engine", "A specimen may have an image by each."),
            _either(catalogue, "field_of_view_A", "Field of view", "Å", "Edge of the image."),
            _either(catalogue, "rotation_deg", "Rotation", "°", "Of the specimen against the fast scan."),
            _bars(catalogue, "background", "Background", by_size, by_count=True),
            _bars(catalogue, "scan_modulation", "Scan noise", "How its strength changes in time.", by_count=True),
        ),
        _section(
            "What is in the images",
            _histogram(catalogue, "psnr_dB", "Peak signal-to-noise ratio", "dB"),
            _histogram(catalogue, "dose_e_per_A2", "Dose", "e/Å²", logarithmic=True),
            _histogram(catalogue, "columns", "Atomic columns an image", "columns", whole=True),
            _histogram(catalogue, "scan_sigma_A", "Scan jitter", "Å, rms"),
            _pixel_sizes(catalogue),
            _histogram(catalogue, "background_level", "Background level", "of the clean peak"),
            *(
                [_histogram(catalogue, "crlb_median_pm", "Bound of a column, median", "pm", logarithmic=True)]
                if "crlb_median_pm" in catalogue
                else []
            ),
        ),
    )


def _rings(catalogue: pd.DataFrame) -> Plot:
    """Ring statistics: sizes of the rings of carbon in the amorphous sheets that a library shows."""
    amorphous = catalogue[catalogue["morphology"] == "amorphous"]
    numbers = amorphous["realisation"].astype(int) % SHIPPED_SHEETS
    shown = {split: sorted(set(numbers[amorphous["split"] == split])) for split in SPLITS}
    sheets = {number: sheet_of(number) for number in sorted(set(numbers))}
    sizes = {number: ring_sizes(sheet.xy_A, sheet.neighbours, sheet.cell_A) for number, sheet in sheets.items()}
    every = np.concatenate([sizes[number] for numbers in shown.values() for number in numbers])
    atoms = range(int(every.min()), int(every.max()) + 1)
    counts = [[sum(int((sizes[n] == size).sum()) for n in shown[split]) for split in SPLITS] for size in atoms]
    labels = [f"{size} atoms" for size in atoms]
    told = ", ".join(f"{label} {sum(row):,}" for label, row in zip(labels, counts, strict=True))
    return Plot(
        key="rings",
        title="Rings of the amorphous sheets",
        note=f"Atoms around each ring of {len(sheets)} sheet{'s' if len(sheets) != 1 else ''}, each counted once a "
        f"split; mean {every.mean():.3g}.",
        svg=_bar_picture("rings", "Rings of the amorphous sheets by number of atoms", told, labels, counts),
        head=("Ring", "Rings", "Share", *SPLITS.values()),
        rows=tuple(
            (label, f"{sum(row):,}", f"{100.0 * sum(row) / len(every):.1f} %", *(f"{count:,}" for count in row))
            for label, row in zip(labels, counts, strict=True)
        ),
    )


def _pixel_sizes(catalogue: pd.DataFrame) -> Plot:
    """Bars of few pixel sizes, a histogram of many."""
    if rounded(catalogue["pixel_size_A"]).nunique() > _BINS:
        return _histogram(catalogue, "pixel_size_A", "Pixel size", "Å")
    return _bars(catalogue, "pixel_size_A", "Pixel size (Å)", "Edge of a pixel.")


def _either(catalogue: pd.DataFrame, field: str, title: str, unit: str, note: str) -> Plot:
    """Bars of few values, as the browse page offers them, a histogram of many."""
    if rounded(catalogue[field]).nunique() > MOST_WORDS:
        return _histogram(catalogue, field, title, unit)
    return _bars(catalogue, field, f"{title} ({unit})", note)


def _bars(
    catalogue: pd.DataFrame,
    field: str,
    title: str,
    note: str,
    *,
    by_count: bool = False,
    missing: str = "",
    names: dict[str, str] | None = None,
) -> Plot:
    """Samples of each value of a column, parted by split.

    Args:
        catalogue: a row a sample.
        field: the column.
        title: what it is.
        note: how to read it.
        by_count: the most frequent first, instead of ordered by value.
        missing: what an empty value is called; such samples are left out without it.
        names: what values are called.
    """
    counts = pd.crosstab(rounded(catalogue[field]), catalogue["split"]).reindex(columns=list(SPLITS), fill_value=0)
    if field == "split":
        counts = counts.reindex(list(SPLITS), fill_value=0)
    elif by_count:
        counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    texts = [f"{value:.12g}" if isinstance(value, float) else str(value) for value in counts.index]
    table = counts.to_numpy()
    kept = [(text, row) for text, row in zip(texts, table, strict=True) if text or missing]
    known = (names or {}) | ({"": missing} if missing else {}) | (SPLITS if field == "split" else {})
    labels = [known.get(text, text) for text, _ in kept]
    numbers = [[int(count) for count in row] for _, row in kept]
    total = max(len(catalogue), 1)
    rows = tuple(
        (label, f"{sum(row):,}", f"{100.0 * sum(row) / total:.1f} %", *(f"{count:,}" for count in row))
        for label, row in zip(labels, numbers, strict=True)
    )
    told = ", ".join(f"{label} {sum(row):,}" for label, row in zip(labels, numbers, strict=True))
    browsable = field not in ("scan_modulation", "pixel_size_A")
    return Plot(
        key=f"by-{field}".replace("_", "-"),
        title=title,
        note=note,
        svg=_bar_picture(f"by-{field}".replace("_", "-"), f"{title}: samples", told, labels, numbers),
        head=(title, "Samples", "Share", *SPLITS.values()),
        rows=rows,
        links=tuple(f"browse.html?{urlencode({field: text})}" if text and browsable else "" for text, _ in kept),
    )


def _bar_picture(key: str, title: str, told: str, labels: Sequence[str], numbers: Sequence[Sequence[int]]) -> Markup:
    """Horizontal bars, one below another, each parted into the splits."""
    left = min(max([_LABEL, *(round(7.3 * len(label)) + 10 for label in labels)]), _WIDTH // 2)
    scale = (_WIDTH - left - _END) / max([1, *(sum(row) for row in numbers)])
    parts = []
    for at, (label, row) in enumerate(zip(labels, numbers, strict=True)):
        y, x = at * _ROW, float(left)
        parts.append(f'<text class="label" x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>')
        for split, count in zip(SPLITS, row, strict=True):
            if count:
                told_here = escape(f"{label}, {SPLITS[split].lower()}: {count:,}")
                parts.append(
                    f'<rect class="{split}" x="{x:.1f}" y="{y + 4}" width="{count * scale:.1f}" height="{_ROW - 8}">'
                    f"<title>{told_here}</title></rect>"
                )
            x += count * scale
        parts.append(f'<text class="number" x="{x + 6:.1f}" y="{y + 16}">{sum(row):,}</text>')
    return _svg(key, title, told, max(len(labels), 1) * _ROW, parts)


def _histogram(
    catalogue: pd.DataFrame, field: str, title: str, unit: str, *, logarithmic: bool = False, whole: bool = False
) -> Plot:
    """How many samples have a value in each interval.

    Args:
        catalogue: a row a sample.
        field: the column.
        title: what it is.
        unit: of the values.
        logarithmic: intervals of equal ratio; for positive values.
        whole: values are whole numbers.
    """
    every = catalogue[field].to_numpy(np.float64, na_value=math.nan)
    kept = np.isfinite(every) & ((every > 0.0) if logarithmic else True)
    values = every[kept]
    key = f"of-{field}".replace("_", "-")
    edges = _edges(values, logarithmic, whole)
    parts = catalogue["split"].to_numpy()[kept]
    counts = np.stack([np.histogram(values[parts == split], edges)[0] for split in SPLITS], axis=1)
    spans = [f"{_figure(a)} to {_figure(b)}" for a, b in itertools.pairwise(edges)]
    if len(values):
        low, middle, high = np.percentile(values, (0, 50, 100))
        told = f"from {_figure(low)} to {_figure(high)} {unit}, median {_figure(middle)}"
        note = f"{told[0].upper()}{told[1:]}."
    else:
        middle, told, note = math.nan, "no values", "No values."
    named = f"{title} ({unit})" if unit not in title.lower() else title
    return Plot(
        key=key,
        title=named,
        note=f"{note} On a logarithmic scale." if logarithmic and len(values) else note,
        svg=_histogram_picture(key, f"Histogram of {title.lower()}", told, named, edges, counts, middle, logarithmic),
        head=(f"{title} ({unit})", "Samples", *SPLITS.values()),
        rows=tuple(
            (span, f"{sum(row):,}", *(f"{count:,}" for count in row))
            for span, row in zip(spans, counts.tolist(), strict=True)
        ),
    )


def _edges(values: NDArray[np.float64], logarithmic: bool, whole: bool) -> NDArray[np.float64]:
    """Round edges of some twenty intervals."""
    if not len(values):
        return np.array([1.0, 10.0])
    low, high = (np.log10(v) if logarithmic else v for v in (values.min(), values.max()))
    span = max(high - low, abs(low) * 1e-6, 1e-9)
    step = _round_step(span / _BINS)
    if logarithmic:
        step = max(1.0 / round(max(1.0 / step, 1.0)), 0.05) if step < 1.0 else float(math.ceil(step))
    if whole and not logarithmic:
        step = max(step, 1.0)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1
    edges = step * np.arange(first, last + 1)
    return np.asarray(10.0**edges if logarithmic else edges)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return float(next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= least * (1.0 - 1e-9)))


def _histogram_picture(
    key: str,
    title: str,
    told: str,
    named: str,
    edges: NDArray[np.float64],
    counts: NDArray[np.intp],
    middle: float,
    logarithmic: bool,
) -> Markup:
    """Standing bars, parted into the splits, over an axis with round numbers, and a mark at the median."""
    place = np.log10 if logarithmic else np.asarray
    low, high = float(place(edges[0])), float(place(edges[-1]))
    wide = _WIDTH - _PLOT_LEFT - 12
    most = int(counts.sum(axis=1).max(initial=1)) or 1
    rung = max(_round_step(most / 4), 1.0)
    tall = rung * math.ceil(most / rung)
    floor = _PLOT_TOP + _PLOT_HIGH

    def at(value: float) -> float:
        return _PLOT_LEFT + wide * (float(place(value)) - low) / (high - low)

    parts = []
    for level in np.arange(0.0, tall + rung / 2, rung):
        y = floor - _PLOT_HIGH * level / tall
        parts.append(f'<path class="grid" d="M{_PLOT_LEFT} {y:.1f}h{wide}"/>')
        parts.append(f'<text class="tick" x="{_PLOT_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{level:,.0f}</text>')
    for start, stop, row in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        x, width, y = at(start), at(stop) - at(start), float(floor)
        for split, count in zip(SPLITS, row, strict=True):
            if count:
                height = _PLOT_HIGH * count / tall
                y -= height
                parts.append(
                    f'<rect class="{split}" x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(width - 1, 1):.1f}" '
                    f'height="{height:.1f}"><title>{_figure(start)} to {_figure(stop)}, {SPLITS[split].lower()}: '
                    f"{count:,}</title></rect>"
                )
    if math.isfinite(middle):
        parts.append(f'<path class="median" d="M{at(middle):.1f} {_PLOT_TOP}v{_PLOT_HIGH}"/>')
    for value in _ticks(low, high, logarithmic):
        anchor = "middle" if at(value) < _WIDTH - 24 else "end"
        parts.append(f'<path class="axis" d="M{at(value):.1f} {floor}v4"/>')
        parts.append(
            f'<text class="tick" x="{at(value):.1f}" y="{floor + 18}" text-anchor="{anchor}">{_figure(value)}</text>'
        )
    half, middle_x = _PLOT_TOP + _PLOT_HIGH / 2, _PLOT_LEFT + wide / 2
    upright = f'x="14" y="{half:g}" transform="rotate(-90 14 {half:g})"'
    parts.append(f'<text class="tick" {upright} text-anchor="middle">samples</text>')
    below = f'x="{middle_x:g}" y="{floor + 38}"'
    parts.append(f'<text class="tick" {below} text-anchor="middle">{escape(named)}</text>')
    return _svg(key, title, told, floor + 46, parts)


def _ticks(low: float, high: float, logarithmic: bool) -> Iterable[float]:
    """Round values along an axis, whose ends are logarithms for a logarithmic one."""
    if logarithmic and high - low > 1.5:
        powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1, math.ceil((high - low) / _TICKS))
        return [10.0**power for power in powers]
    if logarithmic:
        low, high = 10.0**low, 10.0**high
    step = _round_step((high - low) / _TICKS)
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _figure(value: float) -> str:
    """A number of three digits for reading; large ones as powers of ten."""
    if abs(value) >= 1e5:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        digits = f"{value / 10.0**power:.2g}"
        raised = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"10{raised}" if digits == "1" else f"{digits} × 10{raised}"
    return f"{float(f'{value:.3g}'):,.6g}" if value else "0"


def _svg(key: str, title: str, told: str, height: float, parts: Sequence[str]) -> Markup:
    """An SVG element with a title and a description."""
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(told)}</desc>'
        f"{''.join(parts)}</svg>"
    )
