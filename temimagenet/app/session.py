"""`Session`: a micrograph and what was made of it so far; verbs take one and give the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from temimagenet.analysis import StrainMap
from temimagenet.app.settings import MAP_METHOD, SCALES, Disconnect, Settings
from temimagenet.device import check_device
from temimagenet.errors import AppError, MicrographError
from temimagenet.localize import (
    FoundColumns,
    Localizer,
    OtsuCentroid,
    fit_gaussians,
    fit_scan_aware,
)
from temimagenet.localize.detect import spot_width_px
from temimagenet.localize.network import read_map
from temimagenet.micrographs.analyses import Analysis
from temimagenet.micrographs.methods import MOST_JOINT, choose_method, locate, uses_network
from temimagenet.micrographs.read import Micrograph, Signal, choose_signal, list_signals, read_micrograph
from temimagenet.models.faster_rcnn import ColumnRCNN
from temimagenet.models.predict import Model, recall_model
from temimagenet.models.unet import FINE_MAPS
from temimagenet.models.zoo import load_network, written
from temimagenet.progress import report

__all__ = [
    "REFINEMENTS",
    "Opened",
    "Refinement",
    "Session",
    "calibrate",
    "default_choice",
    "digest",
    "disconnected",
    "draw_maps",
    "edit_columns",
    "find_columns",
    "known_maps",
    "open_image",
    "refine_columns",
    "revert",
    "run",
]

Map: TypeAlias = 'Float[NDArray[np.float32], "rows columns"]'

Refinement = Literal["gaussian", "gaussian-ls", "scan-aware"]
REFINEMENTS: tuple[Refinement, ...] = get_args(Refinement)
"""Fits that start from columns: Gaussians by Poisson likelihood or least squares, and the scan-aware fit."""


@dataclass(frozen=True)
class Opened:
    """How an image was opened, so that it can be opened again.

    Attributes:
        path: the file.
        sha256: of its bytes, in hexadecimal.
        signal: number of the signal in the file.
        frame: number of the frame, or "sum"; None of a single image.
        pixel_size_A: what the user told; None for the file's own.
    """

    path: Path
    sha256: str
    signal: int
    frame: str | None
    pixel_size_A: float | None


@dataclass(frozen=True, eq=False)
class Session:
    """A micrograph, the settings, and what was made of it.

    Attributes:
        micrograph: the image.
        opened: where it is from.
        settings: those of the last run.
        maps: what the network drew, by label; the fine ones twice as large as the image.
        columns: what was found, as edited and refined since; None before anything was.
        analysis: their classes, lattice and neighbours; None before they were sorted, and when they are others.
        strain: strain by them; likewise.
        steps: what was done, in words, in order.
        signals: all that the image's file holds.
    """

    micrograph: Micrograph
    opened: Opened
    settings: Settings = field(default_factory=Settings)
    maps: Mapping[str, Map] = field(default_factory=dict)
    columns: FoundColumns | None = None
    analysis: Analysis | None = None
    strain: StrainMap | None = None
    steps: tuple[str, ...] = ()
    signals: tuple[Signal, ...] = ()

    @property
    def pixel_size_A(self) -> float:
        """The pixel size in angstrom.

        Raises:
            AppError: it is not known, or columns cannot be seen with such pixels.
        """
        try:
            return self.micrograph.calibrated()
        except MicrographError as error:
            if self.micrograph.pixel_size_A is None:
                raise AppError(f"no pixel size ({self.micrograph.calibration}): enter it, such as 13 pm") from error
            raise AppError(
                f"pixels of {self.micrograph.pixel_size_A:g} A do not resolve columns: correct it"
            ) from error

    def did(self, step: str, **changes: Any) -> Session:
        """The next session, after one more step; what followed from columns goes with them."""
        if "columns" in changes:
            changes |= {"analysis": None, "strain": None}
        return replace(self, steps=(*self.steps, step), **changes)


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        AppError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AppError(f"{path} cannot be read ({error.strerror or error})") from error


def default_choice(signals: Sequence[Signal]) -> tuple[int, str | None]:
    """The signal to show first, and its frame: an annular dark-field image if there is one, and the sum of a stack.

    Raises:
        AppError: no signal holds an image.
    """
    usable = [number for number, signal in enumerate(signals) if not signal.refused]
    if not usable:
        raise AppError(f"no image in the file; it holds {'; '.join(map(str, signals))}")
    annular = [number for number in usable if "haadf" in signals[number].title.lower()]
    chosen = (annular or usable)[0]
    return chosen, "sum" if signals[chosen].frames > 1 else None


def open_image(
    path: str | Path, *, signal: int | str | None = None, frame: str | None = None, pixel_size_A: float | None = None
) -> Session:
    """Begin a session with an image.

    Args:
        path: any file that `read_micrograph` reads.
        signal: its number in the file, or a part of its title; chosen by `default_choice` unless given.
        frame: number of a frame, or "sum"; likewise.
        pixel_size_A: the file's own unless given.

    Raises:
        MicrographError: the file cannot be read.
        AppError: it holds no image.
    """
    file = Path(path)
    signals = list_signals(file)
    if isinstance(signal, str):
        signal = signals.index(choose_signal(signals, signal)[0])
    if signal is None:
        signal, usual = default_choice(signals)
        frame = usual if frame is None else frame
    elif frame is None and 0 <= signal < len(signals) and signals[signal].frames > 1:
        frame = "sum"
    micrograph = read_micrograph(file, signal=signal, frame=frame, pixel_size_A=pixel_size_A)
    opened = Opened(file.resolve(), digest(file), signal, frame, pixel_size_A)
    return Session(micrograph, opened, steps=(f"opened {file.name}, {micrograph.title}",), signals=tuple(signals))


def calibrate(session: Session, pixel_size_A: float) -> Session:
    """Another pixel size: maps and columns, which depend on it, are dropped.

    Raises:
        AppError: not a positive length.
    """
    if not 0.0 < pixel_size_A < np.inf:
        raise AppError(f"pixel size {pixel_size_A} A: expected a positive length")
    micrograph = replace(session.micrograph, pixel_size_A=pixel_size_A, calibration="given by the user")
    opened = replace(session.opened, pixel_size_A=pixel_size_A)
    return session.did(
        f"pixel size {pixel_size_A:g} A", micrograph=micrograph, opened=opened, maps={}, columns=None
    )  # fmt: skip


def known_maps(model: str) -> tuple[str, ...]:
    """Labels that a model draws; none of a Faster R-CNN.

    Raises:
        ModelError: there is no such model, or its file is damaged.
    """
    return _known_maps(model, written(model))


@lru_cache(maxsize=16)
def _known_maps(model: str, written: int) -> tuple[str, ...]:
    """Labels of a model as its file was at a time."""
    network, _ = load_network(model)
    return () if isinstance(network, ColumnRCNN) else network.maps


def run(session: Session, settings: Settings) -> Session:
    """Draw the maps and find the columns.

    Raises:
        TEMImageNetError: whatever `draw_maps` or `find_columns` cannot do.
    """
    if settings.maps:
        session = draw_maps(session, settings)
    return find_columns(session, settings)


def draw_maps(session: Session, settings: Settings) -> Session:
    """Draw the maps of the settings; others that were drawn before are dropped.

    Raises:
        AppError: no map is wanted, or no pixel size is known.
        ModelError: no such model, or a map that it does not draw.
        DeviceError: no such device.
    """
    if not settings.maps:
        raise AppError("no map is chosen")
    size = session.pixel_size_A
    check_device(settings.device)
    drawn = _drawn(recall_model(settings.model), session.micrograph.image, size, settings, settings.maps)
    told = f"maps {', '.join(drawn)} by {settings.model}, scale {settings.scale}, {settings.iterations} times"
    return session.did(told, maps=drawn, settings=settings)


def _drawn(
    model: Model, image: Float[NDArray[np.floating], "rows columns"], size: float, settings: Settings,
    labels: Sequence[str],
) -> dict[str, Map]:  # fmt: skip
    """Maps of an image; after the first time each is drawn of itself."""
    how: dict[str, Any] = {
        "scale": SCALES[settings.scale], "tile_px": settings.tile_px, "device": settings.device
    }  # fmt: skip
    maps = dict(model.predict(image, size, labels, **how).maps)
    for _ in range(settings.iterations - 1):
        for label, values in maps.items():
            # Pixel (2 i, 2 j) of a fine map lies on pixel (i, j).
            seen = values[::2, ::2] if label in FINE_MAPS else values
            if seen.min() < seen.max():
                maps[label] = model.predict(seen, size, [label], **how).maps[label]
    return maps


def disconnected(values: Map, how: Disconnect, level_px: int) -> Map:
    """A map opened or eroded by a disc, which parts regions that touch.

    Args:
        values: the map.
        how: "opening", "erosion" or "none".
        level_px: radius of the disc in pixels of the map; 0 changes nothing.
    """
    if how == "none" or level_px == 0:
        return values
    y, x = np.ogrid[-level_px : level_px + 1, -level_px : level_px + 1]
    disc = x**2 + y**2 <= level_px**2
    change = ndimage.grey_opening if how == "opening" else ndimage.grey_erosion
    return np.asarray(change(values, footprint=disc, mode="nearest"), dtype=np.float32)


def find_columns(session: Session, settings: Settings) -> Session:
    """Find the columns by the method of the settings; those of before are dropped.

    `MAP_METHOD` reads the map that was drawn, and draws it where it was not.

    Raises:
        AppError: no pixel size is known.
        LocalizeError: the image cannot be used.
        ModelError: no such model, or a map that it does not draw.
        DeviceError: no such device.
    """
    size = session.pixel_size_A
    check_device(settings.device)
    if settings.method == MAP_METHOD:
        return _from_map(session, settings, size)
    method: Localizer = choose_method(
        settings.method, _own_model(settings), settings.device, scale=SCALES[settings.scale], tile_px=settings.tile_px
    )
    report(method.name, 0, 1)
    found = locate(method, session.micrograph)
    told = " ".join((f"{len(found.columns)} columns by {found.method}.", *found.notes)).removesuffix(".")
    return session.did(told, columns=found.columns, settings=settings)


def _own_model(settings: Settings) -> str:
    """What `choose_method` is told of the model: nothing where there is none, or the shipped one."""
    return settings.model if uses_network(settings.method) and settings.model != "all" else ""


def _from_map(session: Session, settings: Settings, size: float) -> Session:
    """Columns by the map's regions."""
    maps = session.maps
    if settings.map not in maps:
        image = session.micrograph.image
        maps = {**maps, **_drawn(recall_model(settings.model), image, size, settings, [settings.map])}
    fold = 2 if settings.map in FINE_MAPS else 1
    parted = disconnected(maps[settings.map], settings.disconnect, settings.level_px * fold)
    reader = OtsuCentroid(centre="intensity", least_area_A2=0.01, threshold=settings.threshold)
    columns = read_map(parted, settings.map, size, reader)
    told = (
        f"{len(columns)} columns by the map {settings.map}, {settings.disconnect} {settings.level_px} px, {reader.name}"
    )
    return session.did(told, maps=maps, columns=columns, settings=settings)


def edit_columns(session: Session, xy_px: Float[NDArray[np.floating], "N 2"]) -> Session:
    """The columns where a user left them: those that stayed keep what is known of them, all else is unknown.

    Args:
        session: with columns or without.
        xy_px: positions (x, y) in pixels, in any order; new ones beside the image are dropped.

    Returns:
        The session itself where nothing changed.
    """
    places = np.asarray(xy_px, dtype=np.float64).reshape(-1, 2)
    old = FoundColumns.none(session.pixel_size_A) if session.columns is None and len(places) else session.columns
    if old is None:
        return session
    taken = np.full(len(places), -1)
    if len(old) and len(places):
        distance, index = (np.asarray(told) for told in KDTree(old.xy_px).query(places))
        taken = np.where(distance <= 1e-6, index, -1)
        # Of two points on one place the second is new.
        first = np.zeros(len(places), dtype=bool)
        first[np.unique(taken, return_index=True)[1]] = True
        taken[~first] = -1
    inside = (taken >= 0) | _on(session, places)
    places, taken = places[inside], taken[inside]
    kept = taken >= 0
    if len(places) == len(old) and kept.all() and (taken == np.arange(len(old))).all():
        return session

    def carried(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of columns that stayed; nan of the others."""
        told = np.full((len(places), *values.shape[1:]), np.nan)
        told[kept] = values[taken[kept]]
        return told

    flags = np.zeros(len(places), dtype=np.int64)
    flags[kept] = old.flags[taken[kept]]
    columns = FoundColumns(
        places, carried(old.sigma_px), carried(old.intensity), carried(old.intensity_sigma), carried(old.width_px),
        flags, old.pixel_size_A,
    )  # fmt: skip
    new, gone = int((~kept).sum()), len(old) - int(kept.sum())
    told = f"by hand: {new} columns placed, {gone} taken away"
    # Edits in a row are one step.
    steps = session.steps
    if steps and steps[-1].startswith("by hand: "):
        placed, taken_away = (int(word) for word in steps[-1].replace("by hand: ", "").split() if word.isdigit())
        told, steps = f"by hand: {placed + new} columns placed, {taken_away + gone} taken away", steps[:-1]
    return replace(session, steps=steps).did(told, columns=columns)


def _on(session: Session, xy_px: Float[NDArray[np.float64], "N 2"]) -> NDArray[np.bool_]:
    """(N,) which positions lie on the image."""
    rows, cols = session.micrograph.image.shape
    return np.asarray(np.all((xy_px >= -0.5) & (xy_px <= np.array([cols, rows]) - 0.5), axis=1))


def refine_columns(session: Session, how: Refinement) -> Session:
    """Fit the image anew, started from the columns as they are; those beside the image are dropped.

    Raises:
        AppError: no columns, no pixel size, an unknown fit, or too many columns for a joint one.
        LocalizeError: the image cannot be used; negative pixels with "gaussian".
    """
    columns, size = session.columns, session.pixel_size_A
    if how not in REFINEMENTS:
        raise AppError(f"fit {how!r}: expected one of {', '.join(REFINEMENTS)}")
    start = np.zeros((0, 2)) if columns is None else columns.xy_px[_on(session, columns.xy_px)]
    if columns is None or not len(start):
        raise AppError("no columns to start from: find some, or place them by hand")
    image = session.micrograph.image.astype(np.float64)
    known = columns.width_px[np.isfinite(columns.width_px) & columns.sound]
    width = float(np.median(known)) if len(known) else spot_width_px(image, size)
    # Spots of a map are as wide as the map draws them, and an image may show none that stand out.
    width = width if np.isfinite(width) and width >= 0.3 else max(0.3, 0.4 / size)
    if how == "scan-aware":
        if len(start) > MOST_JOINT:
            raise AppError(f"{len(start)} columns: more than {MOST_JOINT} are not fitted jointly; use Gaussians")
        fitted = fit_scan_aware(image, size, start, width).columns
    else:
        estimator: Literal["poisson", "least-squares"] = "poisson" if how == "gaussian" else "least-squares"
        fitted = fit_gaussians(image, size, start, width, estimator=estimator)
    return session.did(f"{len(fitted)} columns refined by {how}", columns=fitted)


def revert(session: Session) -> Session:
    """The image alone, as it was opened, with the settings kept."""
    return session.did("reverted", maps={}, columns=None)
