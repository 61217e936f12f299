"""What napari shows of a session: the image, a layer for each map, and the columns as points to edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from napari.layers import Points, Shapes
from napari.viewer import Viewer
from numpy.typing import NDArray

from temimagenet.app.analyse import Quantity
from temimagenet.app.session import Session
from temimagenet.localize import FoundColumns
from temimagenet.micrographs.pictures import colours, ring_px
from temimagenet.models.unet import FINE_MAPS
from temimagenet.models.zoo import TASKS

__all__ = [
    "COLOURS",
    "clear",
    "colour_points",
    "map_name",
    "points_layer",
    "points_xy",
    "region_layer",
    "region_px",
    "show_columns",
    "show_image",
    "show_maps",
    "show_quantity",
    "show_region",
]

COLOURS = ("flags", "intensity", "standard error")
"""What points can be coloured by."""

_ROLE = "temimagenet"
"""Key in a layer's metadata that tells what the app drew it for."""

_REACH = 2.8
"""Diameter of a quantity's discs over the radius of a ring: they nearly touch, and cover the rings."""

_SOUND, _DOUBTFUL, _BY_HAND = "#19d3f3", "#ff5c5c", "#ffd166"
_COLOURMAPS = {"noNoiseNoBackgroundSuperresolution": "inferno"}


def map_name(label: str) -> str:
    """What a map's layer is called: by its task, where it has one."""
    return next((task for task, drawn in TASKS.items() if drawn == label), label)


def _placed(session: Session, fold: int = 1) -> dict[str, Any]:
    """Scale and units of a layer with so many pixels along one of the image; their first pixels share a centre."""
    size = session.micrograph.pixel_size_A
    step, unit = (1.0, "pixel") if size is None else (0.1 * size, "nm")
    return {"scale": (step / fold, step / fold), "units": (unit, unit)}


def _layers(viewer: Viewer, role: str) -> list[Any]:
    """Layers that the app drew for something."""
    return [layer for layer in viewer.layers if layer.metadata.get(_ROLE) == role]


def clear(viewer: Viewer, *roles: str) -> None:
    """Take the app's layers away: of "image", "map", "columns", "quantity" and "region" those named."""
    for role in roles:
        for layer in _layers(viewer, role):
            viewer.layers.remove(layer)


def show_image(viewer: Viewer, session: Session) -> None:
    """The image alone, with a scale bar."""
    clear(viewer, "region", "quantity", "columns", "map", "image")
    image = session.micrograph.image
    low, high = (float(edge) for edge in np.quantile(image, (0.001, 0.999)))
    limits = (low, high) if low < high else (float(image.min()), float(image.max()) + 1.0)
    viewer.add_image(
        image, name=session.micrograph.path.name, contrast_limits=limits, metadata={_ROLE: "image"}, **_placed(session)
    )  # fmt: skip
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.reset_view()


def show_maps(viewer: Viewer, session: Session) -> None:
    """A layer for each map above the image; the last one is seen first."""
    hidden = {layer.name for layer in _layers(viewer, "map") if not layer.visible}
    old = {layer.name for layer in _layers(viewer, "map")}
    clear(viewer, "map")
    place = len(_layers(viewer, "image"))
    for label, values in session.maps.items():
        low, high = (0.0, 1.0) if "Mask" in label else (float(edge) for edge in np.quantile(values, (0.001, 0.999)))
        layer = viewer.add_image(
            values, name=map_name(label), contrast_limits=(low, max(high, low + 1e-12)), metadata={_ROLE: "map"},
            colormap=_COLOURMAPS.get(label, "gray"), **_placed(session, 2 if label in FINE_MAPS else 1),
        )  # fmt: skip
        layer.visible = layer.name not in hidden if old else label == list(session.maps)[-1]
        viewer.layers.move(viewer.layers.index(layer), place)
        place += 1


def points_layer(viewer: Viewer) -> Points | None:
    """The layer of columns, if there is one."""
    found = _layers(viewer, "columns")
    return found[0] if found else None


def points_xy(layer: Points) -> Float[NDArray[np.float64], "N 2"]:
    """Positions (x, y) of a layer's points in pixels of the image."""
    return np.asarray(layer.data, dtype=np.float64).reshape(-1, 2)[:, ::-1].copy()


def show_columns(viewer: Viewer, session: Session, colour: str) -> Points:
    """The columns as points; an empty layer to place them in where there are none.

    Args:
        viewer: where to draw.
        session: with the image that is shown.
        colour: one of `COLOURS`.
    """
    clear(viewer, "columns")
    columns = (
        session.columns if session.columns is not None else FoundColumns.none(session.micrograph.pixel_size_A or 1)
    )
    layer = viewer.add_points(
        columns.xy_px[:, ::-1].copy(), ndim=2, name="columns", size=2.0 * ring_px(columns),
        border_width=0.18, metadata={_ROLE: "columns"}, **_placed(session),
    )  # fmt: skip
    # What is told of columns lies above them.
    viewer.layers.move(len(viewer.layers) - 1, len(_layers(viewer, "image")) + len(_layers(viewer, "map")))
    colour_points(layer, columns, colour)
    # What is placed from now on is told by its colour.
    layer.selected_data = set()
    layer.current_face_color = "transparent"
    layer.current_border_color = _BY_HAND
    layer.current_size = 2.0 * ring_px(columns)
    return layer


def colour_points(layer: Points, columns: FoundColumns, colour: str) -> None:
    """Colour points: rings by soundness, or discs by a value, dark blue for low to yellow for high."""
    if not len(columns):
        return
    flagged = np.where(columns.sound, _SOUND, _DOUBTFUL)
    measured = np.isfinite(columns.intensity)
    if colour == "flags":
        layer.face_color = "transparent"
        layer.border_color = np.where(measured, flagged, _BY_HAND).tolist()
    else:
        values = columns.intensity if colour == "intensity" else columns.sigma_pm.max(axis=1)
        layer.face_color = colours(values)
        layer.border_color = np.where(columns.sound, "transparent", _DOUBTFUL).tolist()


def show_quantity(viewer: Viewer, session: Session, quantity: Quantity | None) -> None:
    """A quantity as coloured discs above the columns, its values told under the pointer; none takes them away.

    It is one layer whatever the quantity: napari takes a third of a second to remove one.

    Args:
        viewer: where to draw.
        session: whose columns it is of.
        quantity: what is shown.
    """
    if quantity is None or session.columns is None:
        clear(viewer, "quantity")
        return
    places, features = quantity.xy_px[:, ::-1].copy(), {quantity.name: quantity.values}
    size = _REACH * ring_px(session.columns)
    old = _layers(viewer, "quantity")
    if old:
        layer = old[0]
        layer.data, layer.features, layer.size = places, features, size
        layer.face_color, layer.name = quantity.colours, quantity.name
        return
    active = viewer.layers.selection.active
    layer = viewer.add_points(
        places, ndim=2, name=quantity.name, size=size, border_width=0.0, face_color=quantity.colours,
        features=features, metadata={_ROLE: "quantity"}, **_placed(session),
    )  # fmt: skip
    layer.editable = False
    # The frame of the reference region lies on it.
    frame = region_layer(viewer)
    if frame is not None:
        viewer.layers.move(viewer.layers.index(frame), len(viewer.layers))
    viewer.layers.selection.active = active


def show_region(
    viewer: Viewer, session: Session, edges_px: tuple[float, float, float, float] | None, changed: Callable[[], None]
) -> Shapes:
    """The reference region of strain as a frame; an empty layer to draw it in where there is none.

    Args:
        viewer: where to draw.
        session: whose image it is a region of.
        edges_px: left, top, right and bottom.
        changed: called when a frame is drawn, moved or taken away with the pointer.
    """
    layer = region_layer(viewer)
    if layer is None:
        active = viewer.layers.selection.active
        layer = viewer.add_shapes(
            ndim=2, name="reference", face_color="transparent", edge_color=_BY_HAND, edge_width=2.0, opacity=1.0,
            metadata={_ROLE: "region"}, **_placed(session),
        )  # fmt: skip
        layer.events.data.connect(lambda _: changed())
        viewer.layers.selection.active = active
    layer.mode = "pan_zoom"
    with layer.events.data.blocker():
        layer.data = []
        if edges_px is not None:
            layer.add(np.reshape(edges_px, (2, 2))[:, ::-1], shape_type="rectangle")
    return layer


def region_layer(viewer: Viewer) -> Shapes | None:
    """The layer of the reference region, if there is one."""
    found = _layers(viewer, "region")
    return found[0] if found else None


def region_px(layer: Shapes) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of what was drawn last in a layer, in pixels; None where nothing was."""
    if not len(layer.data):
        return None
    corners = np.asarray(layer.data[-1], dtype=np.float64)[:, ::-1]
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
