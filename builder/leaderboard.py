"""The leaderboard: rows, tables and plots from records of the precision benchmark."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from temimagenet.precision.records import Result
from temimagenet.precision.scores import ALL, METRICS, RESPONSE_RANGE, bootstrap, chance_limit, worst_group

__all__ = ["HEADLINE", "INK", "Row", "leaderboard_facts", "leaderboard_text", "rows", "svg_element"]

HEADLINE = "pt110-particle"
"""The case whose numbers stand in the first table: the paper's."""

INK = "#010203"
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
    "#56b4e9", "#9a5fc0", "#8c6d31", "#c2185b", "#6f7d8a",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


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
        images: least and largest number of images of a case.
        worst: case, group, recall and error in pm of the group that fares worst.
        speed: found columns that count per second, over all images.
        doubts: why the method is shown but not ranked; empty for one that is ranked.
    """

    record: Record
    response: Estimate
    scores: Mapping[str, Estimate] | None
    share: float
    cases: int
    images: tuple[int, int]
    worst: tuple[str, str, float, float] | None
    speed: Estimate
    doubts: tuple[str, ...]


def rows(records: Iterable[Record]) -> list[Row]:
    """Lines of the first table, best first: most cases, then the largest share.

    Methods that are not ranked come last. A record without response gets no line.
    """
    made = []
    for record in records:
        if record.response is None or not math.isfinite(record.response.value):
            continue
        scores = record.scored()
        counts = [len(results) for results in record.cases.values()]
        shares = [_share(s) for case, s in scores.items() if CASES[case].has_bound]
        worst = []
        for case, results in record.cases.items():
            found = worst_group([r.tallies for r in results]) if CASES[case].has_bound else None
            if found is not None:
                name, told = found
                yields = told["recall"] * np.nan_to_num(told["efficiency"], posinf=math.inf)
                worst.append((yields, (case, name, told["recall"], told["rmse_pm"])))
        made.append(
            Row(
                record,
                record.response,
                scores.get(HEADLINE),
                float(np.mean(shares)) if shares and record.bounds else math.nan,
                len(record.cases),
                (min(counts), max(counts)),
                min(worst)[1] if worst and record.bounds else None,
                bootstrap([r.tallies[ALL] for r in record.results])["columns_per_s"],
                tuple(_doubts(record, record.response)),
            )
        )
    return sorted(made, key=lambda row: (bool(row.doubts), -row.cases, -np.nan_to_num(row.share), row.record.method))


def _share(scores: Mapping[str, Estimate]) -> float:
    """Recall times efficiency; 0 where nothing was found."""
    return float(np.nan_to_num(scores["recall"].value * scores["efficiency"].value, posinf=math.inf))


def _doubts(record: Record, response: Estimate) -> Iterator[str]:
    """Why a method's share of information is not to be compared with others'."""
    least, most = RESPONSE_RANGE
    if not least <= response.low <= response.high <= most:
        yield f"its response, {_brief(response)}, is not shown to lie between {least:g} and {most:g}"
    if not record.bounds:
        yield "its record was made without bounds"
    for case, lacking in record.gaps.items():
        yield f"incomplete: images {', '.join(map(str, lacking))} of {case} lack"
    parts = {case: [r.tallies[ALL] for r in results] for case, results in record.cases.items()}
    parts["all cases together"] = [tally for tallies in parts.values() for tally in tallies]
    told = [
        f"{_brief(efficiency)} in {case} (chance gives {limit:.3g} at most)"
        for case, tallies in parts.items()
        for name, relative in (("efficiency", False), ("efficiency_relative", True))
        if (efficiency := bootstrap(tallies)[name]).value > (limit := chance_limit(tallies, relative=relative))
        # The interval of a single image is not known.
        and not efficiency.low <= 1.0
    ]
    if told:
        more = f" and {len(told) - 1} more" if len(told) > 1 else ""
        yield f"implausible: an efficiency of {told[0]}{more}, errors smaller than the images allow"


def leaderboard_text(records: Sequence[Record], absent: Mapping[str, str] | None = None) -> str:
    """The leaderboard as plain text: the first table, then errors of every case.

    Args:
        records: what to show.
        absent: methods that were not run, and why.
    """
    head = (
        "rank",
        "method",
        "response",
        "share",
        "sigma x",
        "sigma y",
        "efficiency",
        "recall",
        "z",
        "columns/s",
        "errors",
        "cases x images",
        "worst group",
    )
    lines = [f"headline case {HEADLINE}; sigma in pm; [95 % interval over images]", ""]
    table: list[tuple[str, ...]] = [head]
    made = rows(records)
    for rank, row in enumerate(made, 1):
        s = row.scores
        told = [
            f"{_brief(s['sigma_x_pm'])}", f"{_brief(s['sigma_y_pm'])}", f"{_brief(s['efficiency'])}",
            f"{s['recall'].value:.2f}", f"{s['z_sd'].value:.2f}",
        ] if s else ["-"] * 5  # fmt: skip
        worst = f"{row.worst[0]}: {row.worst[1]}, recall {row.worst[2]:.2f}" if row.worst else "-"
        speed = f"{row.speed.value:.0f}"
        place = "-" if row.doubts else str(rank)
        size = f"{row.cases} x {_span(row.images)}"
        end = (speed, str(row.record.errors), size, worst)
        table.append((place, row.record.method, _brief(row.response), f"{row.share:.2f}", *told, *end))
    table += [("", name, why, *[""] * (len(head) - 3)) for name, why in (absent or {}).items()]
    lines += _aligned(table)
    lines += [f"first error: {record.method}: {_first_error(record.results)}" for record in records if record.errors]
    lines += [f"not ranked: {row.record.method}: {'; '.join(row.doubts)}" for row in made if row.doubts]
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


def _first_error(results: Iterable[Result]) -> str:
    """The first error of a method, shortened; "" without any."""
    told = next((f"{r.case}, image {r.index}: {r.error}" for r in results if r.error), "")
    return _visible(textwrap.shorten(told, 300))


def _visible(text: str) -> str:
    """A text from outside with whatever cannot be printed or encoded written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _span(numbers: tuple[int, int]) -> str:
    """Least and largest, or the one number that both are."""
    least, most = numbers
    return str(least) if least == most else f"{least} to {most}"


def _figure(value: float) -> str:
    """Two decimals, or a dash."""
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _brief(e: Estimate) -> str:
    """Value and interval in three figures."""
    if math.isnan(e.value):
        return "-"
    return f"{e.value:.3g}" + ("" if math.isnan(e.low) else f" [{e.low:.3g}, {e.high:.3g}]")


def leaderboard_facts(folder: Path | None, *, check: bool = False) -> dict[str, Any]:
    """What the page's template needs.

    Args:
        folder: folder of records; None or an empty one gives a page that says so.
        check: draw the true columns anew and leave out records whose scores do not hold.
    """
    records, left_out = read_records(folder) if folder is not None else ([], [])
    left_out = [_visible(text.removeprefix(f"{folder}/")) for text in left_out]
    kept = []
    for record in records:
        told = f"{record.method} ({record.version})"
        if record.case_set_version != CASE_SET_VERSION:
            left_out.append(f"{told}: made for case set {record.case_set_version}, this is {CASE_SET_VERSION}")
        elif record.response is None:
            left_out.append(f"{told}: no response was measured; run one of the cases with displaced columns")
        elif math.isnan(record.response.value):
            left_out.append(
                f"{told}: nothing was found where columns are displaced; {record.errors} images with errors"
            )
        elif check and (differences := verify(record)):
            left_out.append(f"{told}: its scores do not hold, {len(differences)} differences; {differences[0]}")
        else:
            kept.append(record)
    made = rows(kept)
    ordered = [row.record for row in made]
    plots = [
        _plot(
            ordered, DOSE_LADDER, "dose", "Precision against dose", "Peak signal-to-noise ratio (dB)",
            "Pt [110] without scan noise",
        ),
        _plot(
            ordered, SCAN_LADDER, "scan-noise", "Precision against scan noise",
            "rms row displacement per axis (Å)", "Pt [110] at 20 dB, rows displaced at random in x and y",
        ),
    ] if ordered else []  # fmt: skip
    return {
        "case_set": CASE_SET_VERSION,
        "headline": CASES[HEADLINE],
        "rows": made,
        "machines": sorted({_machine(row.record) for row in made}),
        "left_out": left_out,
        "checked": check,
        "all_cases": CASES,
        "case_tables": _case_tables(made),
        "response_range": RESPONSE_RANGE,
        "metric_names": METRICS,
        "plots": [plot for plot in plots if plot["svg"]],
        "not_drawn": [plot["title"] for plot in plots if not plot["svg"]],
    }  # fmt: skip


def _machine(record: Record) -> str:
    """What speeds were measured on."""
    threads = record.machine.get("threads", "unknown")
    return f"{record.machine['cpu']} (threads: {threads})"


def _case_tables(made: Sequence[Row]) -> list[dict[str, Any]]:
    """A table of each case: methods with metrics, worst group, and the paired difference from the best.

    Methods that are not ranked come last.
    """
    tables = []
    for case in CASES.values():
        here = [row for row in made if case.name in row.record.cases]
        if not here:
            continue
        mine = [row.record for row in here]
        scores = [record.scored()[case.name] for record in mine]

        def rank(s: Mapping[str, Estimate], bounded: bool = case.has_bound) -> float:
            if bounded and not math.isnan(s["efficiency"].value):
                return _share(s)
            return -s["rmse_pm"].value / s["recall"].value if s["recall"].value > 0.0 else -math.inf

        doubted = [bool(row.doubts) for row in here]
        order = [i for _, _, i in sorted((doubted[i], -rank(s), i) for i, s in enumerate(scores))]
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
                    "ranked": not doubted[i],
                    "scores": scores[i],
                    "worst": worst_group(images),
                    "images": len(images),
                    "errors": sum(bool(r.error) for r in record.cases[case.name]),
                    "first_error": _first_error(record.cases[case.name]),
                    "difference": paired["rmse_pm"] if paired else None,
                }
            )
        tables.append({"case": case, "bound": scores[0]["bound_pm"].value, "lines": lines})
    return tables


def _plot(
    records: Sequence[Record], ladder: Mapping[float, str], key: str, title: str, x_label: str, what: str
) -> dict[str, Any]:
    """Error against a ladder of cases with the bound drawn in, as SVG in the page's own ink; "" without any error."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    bound: dict[float, float] = {}
    told: list[str] = []
    drawn: list[tuple[Any, str]] = []
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
        line = axes.errorbar(
            at, values, np.maximum(spread, 0.0), capsize=2, lw=1.3, ms=5,
            color=_COLOURS[number % len(_COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
        )  # fmt: skip
        drawn.append((line, record.method))
        told.append(f"{record.method}: " + ", ".join(f"{v:.2f} pm at {x:g}" for x, v in zip(at, values, strict=True)))
    if not drawn:
        return {"key": key, "title": title, "what": what, "svg": ""}
    if bound:
        rungs = sorted(bound)
        drawn.insert(0, (axes.plot(rungs, [bound[v] for v in rungs], color=INK, ls="--", lw=1.6)[0], "bound"))
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
    handles, names = zip(*drawn, strict=True)
    figure.set_figheight(4.2 + 0.2 * math.ceil(len(names) / 2))
    legend = figure.legend(
        handles, ["x" * len(name) for name in names],
        loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9,
    )  # fmt: skip
    # Set afterwards: labels that begin with "_" would be left out, and "$" begins a formula.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    return {
        "key": key,
        "title": title,
        "what": what,
        "svg": svg_element(figure, key, f"{title}: {what}", "; ".join(told)),
    }


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

    def own(tag: re.Match[str]) -> str:
        """Several figures share a page, so their ids must not meet; names between tags stay as they are."""
        told = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{key}-", tag[0])
        return told.replace(INK, "currentColor").replace("DejaVu Sans', 'Bitstream Vera Sans', ", "system-ui', ")

    text = re.sub(r"<[^>]*>", own, text)
    head, body = text.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    label = f'role="img" aria-labelledby="{key}-title {key}-desc"'
    names = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    return Markup(f"{head} {label}>{names}{body}")
