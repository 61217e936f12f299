"""The leaderboard: rows, tables and plots from records of the precision benchmark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from temimagenet.precision import CASE_SET_VERSION, CASES, Estimate, Record, compare, read_records, verify
from temimagenet.precision.cases import DOSE_LADDER, SCAN_LADDER
from temimagenet.precision.scores import ALL, METRICS, bootstrap, worst_group

__all__ = ["HEADLINE", "INK", "Row", "leaderboard_facts", "leaderboard_text", "rows", "svg_element"]

HEADLINE = "pt110-particle"
"""The case whose numbers stand in the first table: the paper's."""

INK = "#010203"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Row:
    """A method's line in the first table.

    Attributes:
        record: where it is from.
        response: slope of measured against true displacement.
        scores: metrics with intervals of the headline case; None where it was not run.
        share: mean over the cases with a bound of recall times efficiency: the part of the images' information that the
            method brings home.
        cases: how many cases it was run on.
        images: how many images in all.
        worst: case, group, recall and error in pm of the group that fares worst.
        speed: columns per second over all images.
    """

    record: Record
    response: Estimate
    scores: Mapping[str, Estimate] | None
    share: float
    cases: int
    images: int
    worst: tuple[str, str, float, float] | None
    speed: Estimate


def rows(records: Iterable[Record]) -> list[Row]:
    """Lines of the first table, best first: most cases, then the largest share. A record without response gets none."""
    made = []
    for record in records:
        if record.response is None or not math.isfinite(record.response.value):
            continue
        scores = record.scored()
        shares = [_share(s) for case, s in scores.items() if CASES[case].has_bound]
        worst = []
        for case, results in record.cases.items():
            found = worst_group([r.tallies for r in results]) if CASES[case].has_bound else None
            if found is not None:
                name, told = found
                yields = told["recall"] * np.nan_to_num(told["efficiency"])
                worst.append((yields, (case, name, told["recall"], told["rmse_pm"])))
        made.append(
            Row(
                record,
                record.response,
                scores.get(HEADLINE),
                float(np.mean(shares)) if shares and record.bounds else math.nan,
                len(record.cases),
                len(record.results),
                min(worst)[1] if worst and record.bounds else None,
                bootstrap([r.tallies[ALL] for r in record.results])["columns_per_s"],
            )
        )
    return sorted(made, key=lambda row: (-row.cases, -np.nan_to_num(row.share), row.record.method))


def _share(scores: Mapping[str, Estimate]) -> float:
    """Recall times efficiency; 0 where nothing was found."""
    return float(np.nan_to_num(scores["recall"].value * scores["efficiency"].value))


def leaderboard_text(records: Sequence[Record], absent: Mapping[str, str] | None = None) -> str:
    """The leaderboard as plain text: the first table, then errors of every case.

    Args:
        records: what to show.
        absent: methods that were not run, and why.
    """
    head = (
        "method",
        "response",
        "share",
        "sigma x",
        "sigma y",
        "efficiency",
        "recall",
        "z",
        "columns/s",
        "worst group",
    )
    lines = [f"headline case {HEADLINE}; sigma in pm; [95 % interval over images]", ""]
    table: list[tuple[str, ...]] = [head]
    for row in rows(records):
        s = row.scores
        told = [
            f"{_brief(s['sigma_x_pm'])}", f"{_brief(s['sigma_y_pm'])}", f"{_brief(s['efficiency'])}",
            f"{s['recall'].value:.2f}", f"{s['z_sd'].value:.2f}",
        ] if s else ["-"] * 5  # fmt: skip
        worst = f"{row.worst[0]}: {row.worst[1]}, recall {row.worst[2]:.2f}" if row.worst else "-"
        speed = f"{row.speed.value:.0f}"
        table.append((row.record.method, _brief(row.response), f"{row.share:.2f}", *told, speed, worst))
    table += [(name, why, *[""] * (len(head) - 2)) for name, why in (absent or {}).items()]
    lines += _aligned(table)
    lines += ["", "RMSE per axis in pm [interval], recall, calibration (- without errors), by case:", ""]
    by_case: list[tuple[str, ...]] = [("case", "bound", *(record.method for record in records))]
    scored = [record.scored() for record in records]
    for case in CASES:
        if any(case in scores for scores in scored):
            bounds = [scores[case]["bound_pm"].value for scores in scored if case in scores]
            cells = [
                f"{_brief(s[case]['rmse_pm'])} {s[case]['recall'].value:.2f} {_figure(s[case]['z_sd'].value)}"
                if case in s
                else "-"
                for s in scored
            ]
            by_case.append((case, f"{bounds[0]:.2f}", *cells))
    return "\n".join([*lines, *_aligned(by_case)])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _figure(value: float) -> str:
    """Two decimals, or a dash."""
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _brief(e: Estimate) -> str:
    """Value and interval in three figures."""
    if not math.isfinite(e.value):
        return "-"
    return f"{e.value:.3g}" + (f" [{e.low:.3g}, {e.high:.3g}]" if math.isfinite(e.low) else "")


def leaderboard_facts(folder: Path | None, *, check: bool = False) -> dict[str, Any]:
    """What the page's template needs.

    Args:
        folder: folder of records; None or an empty one gives a page that says so.
        check: draw the true columns anew and leave out records whose scores do not hold.
    """
    records, left_out = read_records(folder) if folder is not None else ([], [])
    left_out = [text.removeprefix(f"{folder}/") for text in left_out]
    kept = []
    for record in records:
        told = f"{record.method} ({record.version})"
        if record.case_set_version != CASE_SET_VERSION:
            left_out.append(f"{told}: made for case set {record.case_set_version}, this is {CASE_SET_VERSION}")
        elif record.response is None:
            left_out.append(f"{told}: no response was measured; run one of the cases with displaced columns")
        elif check and (differences := verify(record)):
            left_out.append(f"{told}: its scores do not hold, {len(differences)} differences; {differences[0]}")
        else:
            kept.append(record)
    made = rows(kept)
    ordered = [row.record for row in made]
    return {
        "case_set": CASE_SET_VERSION,
        "headline": CASES[HEADLINE],
        "rows": made,
        "left_out": left_out,
        "checked": check,
        "all_cases": CASES,
        "case_tables": _case_tables(ordered),
        "metric_names": METRICS,
        "plots": [
            _plot(
                ordered, DOSE_LADDER, "dose", "Precision against dose", "Peak signal-to-noise ratio (dB)",
                "Pt [110] without scan noise",
            ),
            _plot(
                ordered, SCAN_LADDER, "scan-noise", "Precision against scan noise",
                "rms row displacement per axis (Å)", "Pt [110] at 20 dB, rows displaced at random in x and y",
            ),
        ] if ordered else [],
    }  # fmt: skip


def _case_tables(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A table of each case: methods with metrics, worst group, and the paired difference from the best."""
    tables = []
    for case in CASES.values():
        mine = [record for record in records if case.name in record.cases]
        if not mine:
            continue
        scores = [record.scored()[case.name] for record in mine]

        def rank(s: Mapping[str, Estimate], bounded: bool = case.has_bound) -> float:
            if bounded and math.isfinite(s["efficiency"].value):
                return _share(s)
            return -s["rmse_pm"].value / s["recall"].value if s["recall"].value > 0.0 else -math.inf

        order = sorted(range(len(mine)), key=lambda i: -rank(scores[i]))
        best = mine[order[0]]
        lines = []
        for i in order:
            record = mine[i]
            images = [r.tallies for r in record.cases[case.name]]
            shared = {r.index for r in record.cases[case.name]} & {r.index for r in best.cases[case.name]}
            paired = compare(record, best)[case.name] if record is not best and shared else None
            lines.append(
                {
                    "method": record.method,
                    "scores": scores[i],
                    "worst": worst_group(images),
                    "images": len(images),
                    "given_up": sum(bool(r.error) for r in record.cases[case.name]),
                    "difference": paired["rmse_pm"] if paired else None,
                }
            )
        tables.append({"case": case, "bound": scores[0]["bound_pm"].value, "lines": lines})
    return tables


def _plot(
    records: Sequence[Record], ladder: Mapping[float, str], key: str, title: str, x_label: str, what: str
) -> dict[str, Any]:
    """Error against a ladder of cases with the bound drawn in, as SVG in the page's own ink."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    bound: dict[float, float] = {}
    told = []
    for number, record in enumerate(records):
        scores = record.scored()
        at = [x for x, case in ladder.items() if case in scores]
        for x in at:
            if math.isfinite(value := scores[ladder[x]]["bound_pm"].value):
                bound.setdefault(x, value)
        at = [x for x in at if math.isfinite(scores[ladder[x]]["rmse_pm"].value)]
        if not at:
            continue
        errors = [scores[ladder[x]]["rmse_pm"] for x in at]
        values = np.array([e.value for e in errors])
        spread = np.nan_to_num([[e.value - e.low for e in errors], [e.high - e.value for e in errors]])
        axes.errorbar(
            at, values, np.maximum(spread, 0.0), label=record.method, capsize=2, lw=1.3, ms=5,
            color=_COLOURS[number % len(_COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
        )  # fmt: skip
        told.append(f"{record.method}: " + ", ".join(f"{v:.2f} pm at {x:g}" for x, v in zip(at, values, strict=True)))
    if bound:
        rungs = sorted(bound)
        axes.plot(rungs, [bound[v] for v in rungs], color=INK, ls="--", lw=1.6, label="bound")
        told.append("bound: " + ", ".join(f"{bound[v]:.2f} pm at {v:g}" for v in rungs))
    axes.set(xlabel=x_label, ylabel="RMSE per axis (pm)", yscale="log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else ""))
    axes.tick_params(which="both", colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in ("left", "bottom"):
        axes.spines[spine].set_color(INK)
    if told:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    svg = svg_element(figure, key, f"{title}: {what}", "; ".join(told))
    return {"key": key, "title": title, "what": what, "svg": svg}


def svg_element(figure: Figure, key: str, title: str, description: str) -> Markup:
    """A figure as an SVG element with title and description; its ink is the page's text colour."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.family": "sans-serif"}):
        figure.set_facecolor("none")
        for axes in figure.axes:
            axes.set_facecolor("none")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Several figures share a page: their ids must not meet.
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{key}-", text)
    text = text.replace(INK, "currentColor").replace("DejaVu Sans', 'Bitstream Vera Sans', ", "system-ui', ")
    head, body = text.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    label = f'role="img" aria-labelledby="{key}-title {key}-desc"'
    names = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    return Markup(f"{head} {label}>{names}{body}")
