"""`launch`: the app in a window of its own."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from temimagenet.app.store import is_session
from temimagenet.errors import AppError

__all__ = ["launch"]


def launch(
    path: str | Path | None = None, *, signal: int | str | None = None, frame: str | None = None,
    pixel_size_A: float | None = None,
) -> None:  # fmt: skip
    """Open napari with the app's dock, and return when its window is closed.

    Args:
        path: an image or a session to open; none unless given.
        signal: number or title of an image's signal, as in `open_image`.
        frame: its frame.
        pixel_size_A: its pixel size; the file's own unless given.

    Raises:
        AppError: napari or Qt is not installed, there is no display, no such file, or it is a session, which knows
            its signal, frame and pixel size.
    """
    if path is not None and not Path(path).is_file():
        raise AppError(f"{path}: no such file")
    if path is not None and is_session(path) and (signal, frame, pixel_size_A) != (None, None, None):
        raise AppError(f"{path}: a session knows its signal, frame and pixel size; give none")
    if sys.platform.startswith("linux") and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    ):
        raise AppError("no display: the app needs a desktop; `temimagenet locate` works without")
    try:
        napari = import_module("napari")
        # Windows of Qt open only where its modules are found.
        import_module("qtpy.QtWidgets")
    except ImportError as error:
        raise AppError(f"the app needs napari and Qt ({error}): pip install 'temimagenet[app]'") from error
    from temimagenet.app.widget import AtomsWidget

    viewer = napari.Viewer(title="TEMImageNet")
    widget = AtomsWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Atomic columns", area="right")
    if path is not None:
        widget.open(path, signal=signal, frame=frame, pixel_size_A=pixel_size_A)
    napari.run()
