"""Pictures of a report: maps beside their truth, and positions on an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from builder.validation.report import Picture
from temimagenet.models import Model
from temimagenet.render import Sample

__all__ = ["MARKS", "grey", "micrograph_pictures", "sample_pictures", "save", "side_by_side", "with_marks"]

MARKS = {"found": "#ff5a36", "missed": "#f2c230", "false": "#39c5f3"}
"""Colours of rings around found columns, missed ones and false ones."""

_GAP_PX = 4
_LEAST_EDGE_PX = 512

_Values: TypeAlias = 'Float[NDArray[np.floating], "rows columns"]'


def _limits(values: _Values) -> tuple[float, float]:
    """Black and white of a map: all but its outermost 0.5 %; its range where that leaves nothing."""
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def grey(values: _Values, limits: tuple[float, float] | None = None) -> Image.Image:
    """A map in grey; one of twice the size is averaged down.

    Args:
        values: the map.
        limits: values of black and white; the map's own unless given.
    """
    low, high = limits or _limits(values)
    part = np.clip((np.asarray(values, np.float64) - low) / ((high - low) or 1.0), 0.0, 1.0)
    return Image.fromarray(np.rint(255.0 * part).astype(np.uint8))


def side_by_side(drawn: _Values, truth: _Values, edge_px: int) -> Image.Image:
    """A drawn map left of the true one, both in the truth's greys, each of a height in pixels."""
    limits = _limits(truth)
    both = Image.new("L", (2 * edge_px + _GAP_PX, edge_px), 128)
    for number, values in enumerate((drawn, truth)):
        part = grey(values, limits).resize((edge_px, edge_px), Image.Resampling.BOX)
        both.paste(part, (number * (edge_px + _GAP_PX), 0))
    return both


def with_marks(values: _Values, marks: dict[str, Float[NDArray[np.float64], "N 2"]]) -> Image.Image:
    """An image with a ring around each position.

    Args:
        values: the image.
        marks: positions (x, y) in pixels by what they are: a key of `MARKS`.
    """
    scale = -(-_LEAST_EDGE_PX // max(values.shape))
    picture = grey(values).convert("RGB")
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for what, positions in marks.items():
        radius = 3.5 if what == "found" else 6.5
        for x, y in (positions + 0.5) * scale - 0.5:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=MARKS[what], width=1)
    return picture


def save(picture: Image.Image, folder: Path, name: str, title: str, caption: str, alt: str) -> Picture:
    """Write a picture as WebP."""
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.webp", "WEBP", quality=80, method=4)
    return Picture(f"{name}.webp", title, caption, alt, picture.width, picture.height)


def sample_pictures(
    model: Model,
    sample: Sample,
    marks: dict[str, Float[NDArray[np.float64], "N 2"]],
    folder: Path,
    name: str,
    title: str,
    maps: Sequence[str] | None = None,
) -> tuple[Picture, ...]:
    """A rendered image, positions on it, and its maps beside their truth.

    Args:
        model: the network.
        sample: the image, with all labels of the maps.
        marks: positions as `with_marks` takes them.
        folder: where pictures are written.
        name: beginning of the files' names.
        title: what it shows.
        maps: which maps; the model's own unless given.
    """
    image = sample.image.numpy()
    counts = sample.dose_e_per_A2 * sample.pixel_size_A**2
    drawn = model.predict(image, sample.pixel_size_A, maps).maps
    told = ", ".join(f"{len(positions)} {what}" for what, positions in marks.items())
    made = [
        save(
            with_marks(image, marks), folder, f"{name}-positions", title, f"image with columns: {told}",
            f"Noisy image of {title} with rings around columns: {told}",
        )
    ]  # fmt: skip
    for key, values in drawn.items():
        truth = sample.labels[key].numpy() * (1.0 if "Mask" in key else counts)
        both = side_by_side(values, truth, sample.spec.image_size)
        alt = f"{title}: map {key} as the network draws it, left, and as it truly is, right"
        made.append(save(both, folder, f"{name}-{key}", title, f"{key}: drawn, true", alt))
    return tuple(made)


def micrograph_pictures(
    model: Model, image: _Values, pixel_size_A: float, folder: Path, name: str, title: str
) -> tuple[Picture, ...]:
    """A micrograph, the columns that a network finds, and every map that it draws."""
    predicted = model.predict(image, pixel_size_A)
    assert predicted.columns is not None
    found = predicted.columns.xy_px
    made = [
        save(grey(image), folder, f"{name}-image", title, "micrograph", f"Micrograph: {title}"),
        save(
            with_marks(image, {"found": found}), folder, f"{name}-positions", title, f"{len(found)} columns found",
            f"Micrograph of {title} with rings around {len(found)} columns",
        ),
    ]  # fmt: skip
    for key, values in predicted.maps.items():
        picture = grey(values).resize((image.shape[1], image.shape[0]), Image.Resampling.BOX)
        made.append(save(picture, folder, f"{name}-{key}", title, key, f"Map {key} drawn of the micrograph {title}"))
    return tuple(made)
