"""Figures of the app: the histogram of intensities, and four panels side by side as AtomSegNet drew them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from temimagenet.analysis.strain import STRAIN_COLOURS, colour_limit
from temimagenet.app.analyse import CLASSES, SITES, quantities
from temimagenet.app.session import Session
from temimagenet.errors import AppError
from temimagenet.localize import FoundColumns
from temimagenet.micrographs.pictures import overlay_png, png, to_8bit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["four_panels", "plot_intensities", "plot_quantity"]

_GAP_PX = 4


def plot_intensities(columns: FoundColumns | None, axes: Axes | None = None) -> Figure:
    """Histogram of the intensities of sound columns: Z-contrast, and with it composition and thickness.

    Bins follow Freedman and Diaconis. A line shows how far one column's standard error (the median) reaches: classes
    nearer than that are not told apart.

    Args:
        columns: what was found; without any the axes say so.
        axes: where to draw; a new figure unless given.
    """
    from matplotlib.figure import Figure

    if axes is None:
        axes = Figure(figsize=(5.0, 3.2), layout="constrained").subplots()
    values = np.zeros(0) if columns is None else columns.intensity[columns.sound & np.isfinite(columns.intensity)]
    if columns is None or not len(values):
        axes.text(0.5, 0.5, "no column with an intensity", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return _figure(axes)
    axes.hist(values, bins=min(len(np.histogram_bin_edges(values, "fd")) - 1, 100) or 1, color="#2a6f97")
    middle = float(np.median(values))
    sigma = columns.intensity_sigma[columns.sound]
    sigma = sigma[np.isfinite(sigma)]
    spread = f"spread {100.0 * float(values.std()) / middle:.1f} %" if middle > 0.0 else f"spread {values.std():.3g}"
    if len(sigma):
        error = float(np.median(sigma))
        top = 1.04 * axes.get_ylim()[1]
        axes.plot([middle - error, middle + error], [top, top], color="#c1121f", lw=3, label="one column's error, ±1σ")
        axes.legend(frameon=False, fontsize="small")
        axes.set_ylim(0.0, 1.12 * top)
    axes.set_title(f"{len(values)} columns, median {middle:.4g}, {spread}", fontsize="medium")
    axes.set_xlabel("intensity above background, summed over pixels")
    axes.set_ylabel("columns")
    return _figure(axes)


def plot_quantity(session: Session, name: str, axes: Axes | None = None) -> Figure:
    """What is shown of an analysis, beside the image: intensities by class, the unit cell, or a histogram of strain.

    The bars of strain have the colours that its values have in the image, and so are its scale.

    Args:
        session: with what `quantities` lists.
        name: one of these; the axes say so where there is none of that name.
        axes: where to draw; a new figure unless given.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if axes is None:
        axes = Figure(figsize=(5.0, 3.2), layout="constrained").subplots()
    analysis, shown = session.analysis, quantities(session)
    if name not in shown:
        axes.text(0.5, 0.5, "nothing to show yet", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    elif name == CLASSES and analysis is not None and analysis.classes is not None:
        analysis.classes.plot_histogram(axes)
    elif name == SITES and analysis is not None and analysis.lattice is not None:
        analysis.lattice.plot_cell(axes)
    else:
        values = shown[name].values
        known, most = values[np.isfinite(values)], colour_limit(values)
        # What lies beyond the scale is counted in its last bars.
        count, edges = np.histogram(np.clip(known, -most, most), bins=41, range=(-most, most))
        places = 0.5 * (edges[1:] + edges[:-1])
        bars = colormaps[STRAIN_COLOURS](0.5 + 0.5 * places / most)
        axes.bar(places, count, width=edges[1] - edges[0], color=bars, edgecolor="0.6", linewidth=0.4)
        if len(known):
            axes.set_title(f"median {np.median(known):.3g}, standard deviation {known.std():.2g}", fontsize="medium")
        axes.set_xlabel(name)
        axes.set_ylabel("columns")
    return _figure(axes)


def _figure(axes: Axes) -> Figure:
    """The figure that axes lie in."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise AppError("axes without a figure cannot be drawn on")
    return figure


def four_panels(
    image: Float[NDArray[np.floating], "rows columns"],
    drawn: Float[NDArray[np.floating], "rows columns"],
    columns: FoundColumns,
) -> bytes:
    """Image and map, and below them both with the columns ringed, as one PNG file.

    Args:
        image: the micrograph.
        drawn: a map of it, on the same pixels.
        columns: its columns.
    """
    below = [_opened(overlay_png(values, columns)) for values in (image, drawn)]
    size = below[0].size
    above = [_opened(png(to_8bit(values))).convert("RGB").resize(size, Image.Resampling.BICUBIC)
             for values in (image, drawn)]  # fmt: skip
    sheet = Image.new("RGB", (2 * size[0] + _GAP_PX, 2 * size[1] + _GAP_PX), "white")
    for number, panel in enumerate([*above, *below]):
        down, across = divmod(number, 2)
        sheet.paste(panel, (across * (size[0] + _GAP_PX), down * (size[1] + _GAP_PX)))
    file = io.BytesIO()
    sheet.save(file, "png", compress_level=3)
    return file.getvalue()


def _opened(content: bytes) -> Image.Image:
    """A picture from a file's content."""
    return Image.open(io.BytesIO(content))
