"""Pictures of images, maps and columns: 8-bit PNG, overlays as PNG and SVG, TIFF with a pixel size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tifffile
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from temimagenet.localize.protocol import FoundColumns

__all__ = ["colours", "overlay_png", "overlay_svg", "png", "scale_bar", "tiff", "to_8bit"]

Array: TypeAlias = 'Float[NDArray[np.floating], "rows columns"]'

_SOUND, _DOUBTFUL = "#19d3f3", "#ff5c5c"
_SHADE = 0.5
"""How dark it is behind the scale bar: columns there must still show."""

_LEAST_EDGE = 1024
"""Overlays of smaller images are enlarged to about this edge: circles of a few pixels are no circles."""

_MOST_EDGE = 4096

_COMPRESS = 3
"""Noisy pictures get no smaller with the usual 6, which takes three times as long."""

# Anchors of the colour map viridis (CC0), dark to bright.
_VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64)


def to_8bit(image: Array, span: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Grey levels of an image.

    Args:
        image: any values, finite.
        span: what is shown black and white; all but a thousandth at either end unless given.
    """
    low, high = span or (float(edge) for edge in np.quantile(image, (0.001, 0.999)))
    scaled = (image - low) / max(high - low, 1e-30)
    grey: NDArray[np.uint8] = np.rint(255.0 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)
    return grey


def png(grey: NDArray[np.uint8]) -> bytes:
    """An 8-bit picture, grey or (rows, columns, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "png", compress_level=_COMPRESS)
    return file.getvalue()


def tiff(image: Array, pixel_size_A: float) -> bytes:
    """Values as a float32 TIFF file whose pixel size, in nm, ImageJ, Fiji and RosettaSciIO understand."""
    file = io.BytesIO()
    per_nm = 10.0 / pixel_size_A
    tifffile.imwrite(
        file, image.astype(np.float32), imagej=True, resolution=(per_nm, per_nm), metadata={"unit": "nm"}
    )  # fmt: skip
    return file.getvalue()


def colours(values: Float[NDArray[np.float64], "N"]) -> list[str]:
    """A colour for each value, from dark blue for the 2nd to yellow for the 98th percentile; grey where it is nan."""
    if not np.isfinite(values).any():
        return ["#bbbbbb"] * len(values)
    low, high = np.nanquantile(values, (0.02, 0.98))
    place = np.clip((values - low) / max(high - low, 1e-30), 0.0, 1.0) * (len(_VIRIDIS) - 1)
    mixed = [np.interp(np.nan_to_num(place), np.arange(len(_VIRIDIS)), _VIRIDIS[:, channel]) for channel in range(3)]
    return [
        f"#{int(r):02x}{int(g):02x}{int(b):02x}" if known else "#bbbbbb"
        for r, g, b, known in zip(*mixed, np.isfinite(values), strict=True)
    ]


def overlay_png(image: Array, columns: FoundColumns) -> bytes:
    """The image with a ring around each column, red where it is flagged, and a scale bar, as a PNG file."""
    rows, cols = image.shape
    fold = max(1, min(-(-_LEAST_EDGE // max(rows, cols)), _MOST_EDGE // max(rows, cols)))
    shrink = max(1, -(-max(rows, cols) // _MOST_EDGE))
    picture = Image.fromarray(to_8bit(image)).convert("RGB")
    # Rings are drawn twice as fine, then averaged: smooth edges.
    scale = 2.0 * fold / shrink
    picture = picture.resize((round(scale * cols), round(scale * rows)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    radius = ring_px(columns) * scale
    width = max(2, round(min(0.25 * radius, 5.0)))
    for (x, y), sound in zip((columns.xy_px + 0.5) * scale, columns.sound, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, outline=_SOUND if sound else _DOUBTFUL, width=width)
    length, label = scale_bar(cols, columns.pixel_size_A)
    unit = 0.01 * picture.height
    left, bottom = 2.5 * unit, picture.height - 2.5 * unit
    right = left + length * scale
    edges = (left - unit, bottom - 6.5 * unit, max(right, left + 9 * unit) + unit, bottom + unit)
    box = (round(edges[0]), round(edges[1]), round(edges[2]), round(edges[3]))
    below = picture.crop(box)
    picture.paste(Image.blend(below, Image.new("RGB", below.size), _SHADE), box)
    draw.rectangle((left, bottom - unit, right, bottom), fill="#ffffff")
    draw.text((left, bottom - 2 * unit), label, fill="#ffffff", font_size=3.5 * unit, anchor="ls")
    small = picture.resize((round(0.5 * picture.width), round(0.5 * picture.height)), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "png", compress_level=_COMPRESS)
    return file.getvalue()


def overlay_svg(
    image: Array, columns: FoundColumns, fills: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> str:
    """The image with a ring around each column as one SVG, in pixels of the image; the image is inside it.

    Args:
        image: the image.
        columns: its columns.
        fills: a colour for each column, drawn as a disc, ringed red where flagged; rings alone unless given.
        labels: a text for each column, shown under the pointer.
    """
    rows, cols = image.shape
    picture = base64.b64encode(png(to_8bit(image))).decode()
    radius = ring_px(columns) * (1.0 if fills is None else 0.75)
    length, label = scale_bar(cols, columns.pixel_size_A)
    unit = 0.01 * rows
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {cols} {rows}">',
        f'<image width="{cols}" height="{rows}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{picture}"/>',
        f'<g fill="none" stroke-width="{0.15 * radius:.2f}">' if fills is None else "<g>",
    ]
    for number, ((x, y), sound) in enumerate(zip(columns.xy_px + 0.5, columns.sound, strict=True)):
        if fills is None:
            colour = f'stroke="{_SOUND if sound else _DOUBTFUL}"'
        else:
            colour = f'fill="{fills[number]}"' + (
                "" if sound else f' stroke="{_DOUBTFUL}" stroke-width="{radius / 3:.2f}"'
            )
        title = f"<title>{labels[number]}</title>" if labels else ""
        lines.append(f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{radius:.2f}" {colour}>{title}</circle>')
    lines += [
        "</g>",
        f'<g transform="translate({2.5 * unit:.2f} {rows - 2.5 * unit:.2f})" fill="#fff">',
        f'<rect x="{-unit:.2f}" y="{-6.5 * unit:.2f}" width="{max(length, 9 * unit) + 2 * unit:.2f}" '
        f'height="{7.5 * unit:.2f}" fill="#000" fill-opacity="{_SHADE}"/>',
        f'<rect y="{-unit:.2f}" width="{length:.2f}" height="{unit:.2f}"/>',
        f'<text y="{-2 * unit:.2f}" font-family="sans-serif" font-size="{3.5 * unit:.2f}">{label}</text>',
        "</g></svg>",
    ]
    return "\n".join(lines)


def ring_px(columns: FoundColumns) -> float:
    """Radius of a ring that does not touch its neighbours': a third of the usual distance, at most 0.8 A."""
    from scipy.spatial import KDTree

    largest = 0.8 / columns.pixel_size_A
    if len(columns) < 2:
        return largest
    nearest = np.asarray(KDTree(columns.xy_px).query(columns.xy_px, k=2)[0])[:, 1]
    return float(np.clip(0.35 * np.median(nearest), 1.0, largest))


def scale_bar(columns: int, pixel_size_A: float) -> tuple[float, str]:
    """Length in pixels and label of a scale bar of a round length, about a fifth of the image."""
    fifth = 0.2 * columns * pixel_size_A
    power = 10.0 ** np.floor(np.log10(fifth))
    length = float(max(step for step in (1.0, 2.0, 5.0) if step * power <= fifth) * power)
    return length / pixel_size_A, f"{length / 10.0:g} nm" if length >= 1.0 else f"{100.0 * length:g} pm"
