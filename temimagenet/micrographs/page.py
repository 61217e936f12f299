"""The report on one image: a single HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from temimagenet import __version__
from temimagenet.errors import LocalizeError
from temimagenet.localize.protocol import FoundColumns
from temimagenet.micrographs.analyses import strain_notes
from temimagenet.micrographs.files import flag_words
from temimagenet.micrographs.methods import Located
from temimagenet.micrographs.pictures import colours, overlay_svg, png, to_8bit
from temimagenet.micrographs.read import Micrograph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["page"]

_TITLES = {
    "noNoise": "Noise removed",
    "noNoiseNoBackgroundSuperresolution": "Superresolution",
}

_SHOWN_EDGE = 1024
"""Pictures in the page are binned to at most this: a page stays a few megabytes."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --text: light-dark(#1b1f24, #e6e8eb);
  --dim: light-dark(#59636e, #9aa4af); --paper: light-dark(#fff, #14171a); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 2rem 1.5rem 4rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--paper); }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; max-width: 75ch; }
.dim, figcaption { color: var(--dim); }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; list-style: none; }
.numbers li { background: var(--soft); border-radius: .5rem; padding: .6rem 1rem; min-width: 9rem; }
.numbers b { display: block; font-size: 1.35rem; font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; }
figure > img, figure > svg { width: 100%; height: auto; display: block; border-radius: .35rem; }
figure.plot > img { background: #fff; padding: .4rem; border: 1px solid var(--line); }
figcaption { font-size: .88rem; padding: .35rem 0; }
.wide { max-width: 860px; }
.bar { display: inline-block; width: 9rem; height: .7rem; vertical-align: middle; border-radius: .2rem; margin: 0 .4rem;
  background: linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
.note { border-left: 3px solid #d9a400; padding: .1rem .8rem; margin: .5rem 0; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; font-weight: 400; }
th { color: var(--dim); white-space: nowrap; }
circle:hover { stroke: #f00; stroke-width: 1; }
"""


def page(
    micrograph: Micrograph,
    found: Located,
    maps: Mapping[str, NDArray[np.float32]],
    model: str,
) -> str:
    """The report on an image.

    Args:
        micrograph: the image.
        found: its columns, and what found them.
        maps: what a network drew of it, by label.
        model: name of the network.

    Returns:
        HTML: pictures and style are in it, scripts are not needed.
    """
    columns = found.columns
    image, size = micrograph.image, columns.pixel_size_A
    rows, cols = image.shape
    name = escape(micrograph.path.name)
    sections = [
        f"<h1>{name}</h1>",
        f'<p class="dim">{escape(micrograph.title)} · {cols} × {rows} pixels of {100.0 * size:.4g} pm · '
        f"{0.1 * cols * size:.3g} × {0.1 * rows * size:.3g} nm</p>",
        _numbers(columns),
        *(f'<p class="note">{escape(note)}</p>' for note in (*micrograph.notes, *found.notes)),
        "<h2>Columns by intensity</h2>",
        _columns(image, columns),
        "<h2>Image and maps</h2>",
        '<div class="grid">',
        _figure(image, "Image as read"),
        *(_figure(values, f"{_TITLES.get(label, label)} (network)") for label, values in maps.items()),
        "</div>",
        "<h2>Distributions</h2>",
        _distributions(image, columns),
        "<h2>Classes of intensity</h2>",
        _told_or_why(lambda: _classes(columns)),
        "<h2>Lattice and sublattices</h2>",
        _told_or_why(lambda: _sublattices(columns)),
        "<h2>Neighbours</h2>",
        _told_or_why(lambda: _neighbours(columns)),
        "<h2>Lattice precision</h2>",
        _told_or_why(lambda: _lattice(columns)),
        "<h2>Strain</h2>",
        _told_or_why(lambda: _strain(columns)),
        "<h2>How this was made</h2>",
        _table(
            {
                "File": str(micrograph.path), "Signal": micrograph.title,
                "Pixel size": f"{size:.6g} Å ({micrograph.calibration})", "Method": found.method,
                "Network of maps": model,
                **{str(key).replace("_", " ").capitalize(): value for key, value in micrograph.facts.items()},
                "Versions": f"temimagenet {__version__}, torch {torch.__version__}, numpy {np.__version__}, "
                f"Python {platform.python_version()}",
                "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            }
        ),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{name} – columns</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _numbers(columns: FoundColumns) -> str:
    """The numbers at the top."""
    sound = columns.sound
    sigma = columns.sigma_pm[sound]
    told = [(f"{len(columns)}", "columns"), (f"{int((~sound).sum())}", "of them flagged")]
    for axis, across in enumerate("xy"):
        known = sigma[np.isfinite(sigma[:, axis]), axis]
        told.append((f"{np.median(known):.2f} pm" if len(known) else "–", f"standard error of {across}, median"))
    return '<ul class="numbers">' + "".join(f"<li><b>{value}</b>{label}</li>" for value, label in told) + "</ul>"


def _columns(image: NDArray[np.floating], columns: FoundColumns) -> str:
    """The image with its columns coloured by intensity, numbers under the pointer, and a key."""
    labels = [
        f"{number}: x {x:.2f}, y {y:.2f} px · intensity {intensity:.4g} · {flag_words(int(flag))}"
        for number, ((x, y), intensity, flag) in enumerate(
            zip(columns.xy_px, columns.intensity, columns.flags, strict=True)
        )
    ]
    known = columns.intensity[np.isfinite(columns.intensity)]
    key = "intensities are not known by this method"
    if len(known):
        low, high = np.quantile(known, (0.02, 0.98))
        key = (
            f"intensity above background: {_short(low)}<span class='bar'></span>{_short(high)} (2nd to 98th percentile)"
        )
    picture = overlay_svg(image, columns, colours(columns.intensity), labels)
    told = f"{key}; ringed red where flagged; point at a column for its numbers"
    return f'<figure class="wide">{picture}<figcaption>{told}</figcaption></figure>'


def _short(value: float) -> str:
    """A number in few characters."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.3g}"


def _figure(image: NDArray[np.floating], caption: str) -> str:
    """A picture, binned where it is large."""
    step = -(-max(image.shape) // _SHOWN_EDGE)
    rows, cols = (edge // step for edge in image.shape)
    shown = image[: rows * step, : cols * step].reshape(rows, step, cols, step).mean(axis=(1, 3))
    data = base64.b64encode(png(to_8bit(shown))).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _distributions(image: NDArray[np.floating], columns: FoundColumns) -> str:
    """Histograms of pixels, intensities and standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 2.9), layout="constrained")
    pixels, intensities, errors = figure.subplots(1, 3)
    _histogram(pixels, image.ravel(), "value of a pixel", "pixels")
    _histogram(intensities, columns.intensity, "intensity of a column", "columns")
    sigma = columns.sigma_pm[columns.sound]
    high = float(np.nanquantile(sigma, 0.98)) if np.isfinite(sigma).any() else 1.0
    bins = list(np.linspace(0.0, 1.05 * high, 41))
    for axis, across in enumerate("xy"):
        known = sigma[np.isfinite(sigma[:, axis]), axis]
        errors.hist(known, bins=bins, histtype="step", label=across)
    errors.set_xlabel("standard error / pm")
    errors.set_ylabel("sound columns")
    errors.legend(frameon=False)
    return _plot(figure, "Pixels, columns and their errors; the far ends are left out.")


def _histogram(axes: Axes, values: NDArray[np.floating], label: str, counted: str) -> None:
    """A histogram of all but the outermost half per cent."""
    known = values[np.isfinite(values)]
    if len(known):
        low, high = np.quantile(known, (0.005, 0.995))
        axes.hist(known, bins=60, range=(float(low), float(max(high, low + 1e-12))), color="0.6")
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(label)
    axes.set_ylabel(counted)


def _told_or_why(part: Callable[[], str]) -> str:
    """A part of the page, or why there is none."""
    try:
        return part()
    except LocalizeError as error:
        return f"<p>Not measured: {escape(str(error))}.</p>"


def _classes(columns: FoundColumns) -> str:
    """Classes of intensity."""
    from temimagenet.analysis import intensity_classes

    classes = intensity_classes(columns)
    told = {
        f"class {number}": f"{_short(classes.mean[number])} ± {_short(classes.mean_sigma[number])}; spread "
        f"{_short(classes.spread[number])}; {int((classes.label == number).sum())} columns"
        for number in range(len(classes))
    }
    return (
        f"<p>A mixture of normal distributions, each column seen through its own standard error; of 1 to "
        f"{len(classes.bic)} classes {len(classes)} have the least Bayesian information criterion. About "
        f"{100 * classes.confused:.2g} % of the columns are expected in a wrong class.</p>"
        + _table(told)
        + f'<div class="wide">{_plot(classes.plot(), "Columns by class.")}</div>'
    )


def _sublattices(columns: FoundColumns) -> str:
    """The fitted lattice and its sites."""
    from temimagenet.analysis import fit_lattice

    lattice = fit_lattice(columns)
    told = {
        name: f"{length:.2f} ± {error:.2f} pm"
        for name, length, error in zip("ab", lattice.lengths_pm, lattice.lengths_sigma_pm, strict=True)
    }
    told["angle"] = f"{lattice.angle_deg:.2f}°"
    for number, (a, b) in enumerate(lattice.site_position):
        intensity = lattice.site_intensity[number]
        told[f"site {number}"] = f"({a:.3f}, {b:.3f}); {int((lattice.site == number).sum())} columns" + (
            f" of median intensity {_short(intensity)}" if np.isfinite(intensity) else ""
        )
    return (
        "<p>One lattice fitted to all sound columns; sites in parts of a and b, the brightest at the origin. Where the "
        "image is strained, displacements grow from its middle.</p>"
        + _table(told)
        + f'<div class="wide">{_plot(lattice.plot(), "Sublattices, and all columns folded into one cell.")}</div>'
    )


def _neighbours(columns: FoundColumns) -> str:
    """Distances to neighbours."""
    from temimagenet.analysis import nearest_neighbours

    near = nearest_neighbours(columns)
    return f'<div class="wide">{_plot(near.plot(), "Distances and vectors to the four nearest columns.")}</div>'


def _strain(columns: FoundColumns) -> str:
    """Strain against the image's mean."""
    from temimagenet.analysis import measure_strain

    caption = "Strain and rotation against the mean of the image; temimagenet strain --reference takes a region."
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in strain_notes(columns))
    return f'{notes}<div class="wide">{_plot(measure_strain(columns).plot(), caption)}</div>'


def _lattice(columns: FoundColumns) -> str:
    """How evenly columns are spaced."""
    from temimagenet.precision.lattice import lattice_precision

    lattice = lattice_precision(columns)
    told = {
        f"along {name}": f"{part.mean_pm:.1f} pm apart; spread {part.sigma_pm:.1f} pm "
        f"[{part.interval_pm[0]:.1f}, {part.interval_pm[1]:.1f}], {part.column_sigma_pm:.1f} pm a column; "
        f"{len(part.length_pm)} pairs, {part.outliers} left out"
        for name, part in (("a", lattice.a), ("b", lattice.b))
    }
    told["angle"] = f"{lattice.angle_deg:.2f}°"
    return (
        "<p>Separations of neighbouring equivalent columns, along the two shortest vectors of the lattice; their "
        "spread holds errors, scan noise and what the specimen itself is uneven by.</p>"
        + _table(told)
        + f'<div class="wide">{_plot(lattice.plot(), "Separations along a and b.")}</div>'
    )


def _plot(figure: object, caption: str) -> str:
    """A figure of Matplotlib, as a picture in the page."""
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    file = io.BytesIO()
    # Thousands of points are smaller as a picture.
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure class="plot"><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(rows: Mapping[str, object]) -> str:
    """Names and values."""
    lines = (f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>" for key, value in rows.items())
    return f"<table>{''.join(lines)}</table>"
