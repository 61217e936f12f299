"""The dock in napari: shows a session, hands its verbs to a thread, and shows what comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.qt.threading import create_worker
from napari.viewer import Viewer
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from temimagenet.app import layers
from temimagenet.app.analyse import CLASSES, SITES, analyse, map_strain, quantities, tell
from temimagenet.app.figures import plot_intensities, plot_quantity
from temimagenet.app.panels import AnalysePanel, ColumnsPanel, ImagePanel, NetworkPanel, SavePanel
from temimagenet.app.results import save_results
from temimagenet.app.session import (
    Session,
    calibrate,
    draw_maps,
    edit_columns,
    find_columns,
    known_maps,
    open_image,
    refine_columns,
    revert,
    run,
)
from temimagenet.app.settings import Settings
from temimagenet.app.store import SESSION_SUFFIX, is_session, load_session, save_session
from temimagenet.errors import ModelError, TEMImageNetError
from temimagenet.micrographs.analyses import parse_region
from temimagenet.micrographs.read import SUFFIXES
from temimagenet.micrographs.units import parse_length
from temimagenet.progress import watched

__all__ = ["AtomsWidget"]

T = TypeVar("T")

_EDITS_MS = 60
"""Edits are taken over when none came for so long: dragging tells of each step."""


class _CancelledError(Exception):
    """The user wants no more of it."""


class AtomsWidget(QWidget):
    """The dock "Atomic columns".

    Args:
        napari_viewer: the viewer that it belongs to.
    """

    progressed = Signal(str, int, int)
    """What is done, parts of it done, and of how many; sent from the thread that works."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.session: Session | None = None
        self.folder: Path | None = None
        self.busy = False
        self._stop = threading.Event()
        self._edits = QTimer(self)
        self._edits.setSingleShot(True)
        self._edits.setInterval(_EDITS_MS)
        self._edits.timeout.connect(self.take_edits)
        self._regions = QTimer(self)
        self._regions.setSingleShot(True)
        self._regions.setInterval(_EDITS_MS)
        self._regions.timeout.connect(self._take_region)
        self._analysed: tuple[object, object] = (None, None)
        self.image, self.network, self.columns, self.saving = ImagePanel(), NetworkPanel(), ColumnsPanel(), SavePanel()
        self.canvas = FigureCanvasQTAgg(plot_intensities(None))
        self.quantity_canvas = FigureCanvasQTAgg(Figure(layout="constrained"))
        self.analysis = AnalysePanel(self.quantity_canvas)
        self.tabs = QTabWidget()
        first = QWidget()
        stack = QVBoxLayout(first)
        stack.setContentsMargins(0, 0, 0, 0)
        stack.addWidget(self.image)
        stack.addWidget(self.network)
        stack.addStretch(1)
        for page, name in ((first, "Image"), (self.columns, "Columns"), (self.canvas, "Intensities"),
                           (self.analysis, "Analyse"), (self.saving, "Save")):  # fmt: skip
            scroll = QScrollArea()
            scroll.setWidgetResizable(True)
            scroll.setWidget(page)
            self.tabs.addTab(scroll, name)
        self.run_button, self.cancel_button = QPushButton("Run: maps and columns"), QPushButton("Cancel")
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.status = QLabel("Open a micrograph, or drop its file here.")
        self.status.setWordWrap(True)
        self.status.setMinimumHeight(34)
        row = QHBoxLayout()
        row.addWidget(self.run_button, 1)
        row.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addWidget(self.tabs, 1)
        layout.addLayout(row)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        self.setMinimumWidth(360)
        self.setAcceptDrops(True)
        self._connect()
        self._offer_maps()
        self._enable()

    def _connect(self) -> None:
        """Tie controls to what they do."""
        self.progressed.connect(self._show_progress)
        self.image.open_button.clicked.connect(self._browse)
        self.image.reopened.connect(self._reopen)
        self.image.calibrated.connect(self._calibrate)
        self.network.model.currentIndexChanged.connect(self._offer_maps)
        self.network.draw_button.clicked.connect(lambda: self._start("drawing maps", draw_maps, self._take_results))
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.columns.find_button.clicked.connect(
            lambda: self._start("finding columns", find_columns, self._take_results)
        )
        self.columns.refine_button.clicked.connect(self.refine)
        self.columns.add_button.clicked.connect(lambda on: self._mode("add" if on else "pan_zoom"))
        self.columns.move_button.clicked.connect(lambda on: self._mode("select" if on else "pan_zoom"))
        self.columns.delete_button.clicked.connect(self._delete)
        self.columns.colour.currentIndexChanged.connect(self._recolour)
        self.analysis.analyse_button.clicked.connect(lambda: self._start("analysing", analyse, self._take_analysis))
        self.analysis.strain_button.clicked.connect(
            lambda: self._start("mapping strain", map_strain, self._take_analysis)
        )
        self.analysis.draw_button.clicked.connect(self._draw_region)
        self.analysis.reference.editingFinished.connect(self._frame_region)
        self.analysis.shown.currentIndexChanged.connect(self._show_quantity)
        self.saving.save_button.clicked.connect(self._browse_folder)
        self.saving.save_session_button.clicked.connect(self._browse_session)
        self.saving.open_session_button.clicked.connect(self._browse)
        self.saving.revert_button.clicked.connect(self._revert)

    # What the controls say.

    def settings(self) -> Settings:
        """Settings as the controls stand.

        Raises:
            AppError: a value that cannot be.
            MicrographError: a reference region that is none.
        """
        network, columns, analysis = self.network, self.columns, self.analysis
        return Settings(
            model=network.model.currentData(), maps=network.chosen_maps(), device=network.device.currentText(),
            scale=network.scale.currentText(), tile_px=network.tiles.value(), iterations=network.iterations.value(),
            method=columns.method.currentData(), map=columns.map.currentData() or Settings.map,
            disconnect=columns.disconnect_by.currentData(), level_px=columns.level.value(),
            threshold=columns.threshold.value() / 100.0 if columns.set_threshold.isChecked() else None,
            classes=analysis.classes.value() or None, reference_px=parse_region(analysis.reference.text()),
        )  # fmt: skip

    def _offer_maps(self) -> None:
        """What the chosen model draws can be read by a threshold."""
        try:
            self.columns.offer_maps(known_maps(self.network.model.currentData()))
        except ModelError as error:
            self._tell(str(error), wrong=True)

    # Opening.

    def open(
        self, path: str | Path, *, signal: int | str | None = None, frame: str | None = None,
        pixel_size_A: float | None = None,
    ) -> None:  # fmt: skip
        """Open an image or a session, in the thread."""
        file = Path(path)
        if is_session(file):
            self._work(f"opening {file.name}", lambda: load_session(file), self._take_session)
        else:
            self._work(
                f"opening {file.name}",
                lambda: open_image(file, signal=signal, frame=frame, pixel_size_A=pixel_size_A),
                self._take_image,
            )

    def _browse(self) -> None:
        """Ask for a file."""
        images = " ".join(f"*{suffix}" for suffix in SUFFIXES)
        name, _ = QFileDialog.getOpenFileName(
            self, "Open", "", f"Micrographs and sessions ({images} *{SESSION_SUFFIX});;All files (*)"
        )
        if name:
            self.open(name)

    def _reopen(self, signal: int, frame: str) -> None:
        """Another signal or frame of the same file."""
        if self.session is not None:
            told = self.session.opened
            self.open(told.path, signal=signal, frame=frame or None, pixel_size_A=told.pixel_size_A)

    def _calibrate(self, text: str) -> None:
        """A pixel size that was entered."""
        if self.session is None or not text or self.busy:
            return
        try:
            size = parse_length(text)
            known = self.session.micrograph.pixel_size_A
            # The text is rounded.
            if known is None or abs(size / known - 1.0) > 1e-4:
                self._take_image(calibrate(self.session, size))
        except TEMImageNetError as error:
            self._tell(str(error), wrong=True)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Files may be dropped."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open the first file that is dropped."""
        files = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if files and not self.busy:
            self.open(files[0])

    def _take_image(self, session: Session) -> None:
        """Show a session from its image on."""
        before, self.session = self.session, session
        self.image.show_session(session)
        layers.show_image(self.viewer, session)
        if before is None or before.opened.path != session.opened.path:
            # A region of another image is none of this one.
            self.analysis.show_settings(session.settings)
        layers.show_maps(self.viewer, session)
        self._show_points(session)
        self._frame_region()
        rows, cols = session.micrograph.image.shape
        self._tell(f"{session.micrograph.path.name}: {rows} x {cols} pixels")

    def _take_session(self, session: Session) -> None:
        """Show a session that was saved, with its settings."""
        self.network.show_settings(session.settings)
        self._offer_maps()
        self.columns.show_settings(session.settings)
        self.analysis.show_settings(session.settings)
        self._take_image(session)
        self._tell(f"session taken up: {session.steps[-1]}" if session.steps else "session taken up")

    # Working.

    def run(self) -> None:
        """Draw the maps and find the columns; then save, if that is wanted."""
        self._start("running", run, self._take_and_save if self.saving.automatic.isChecked() else self._take_results)

    def refine(self) -> None:
        """Fit from the points as they are."""
        how = self.columns.refinement.currentData()
        session = self.take_edits()
        if session is not None:
            self._work("refining", lambda: refine_columns(session, how), self._take_results)

    def _start(
        self, what: str, verb: Callable[[Session, Settings], Session], take: Callable[[Session], None]
    ) -> None:  # fmt: skip
        """Do something with the session and the settings, then take the session that it gives."""
        session = self.take_edits()
        if session is None:
            self._tell("Open a micrograph first.", wrong=True)
            return
        try:
            settings = self.settings()
        except TEMImageNetError as error:
            self._tell(str(error), wrong=True)
            return
        self._work(what, lambda: verb(session, settings), take)

    def cancel(self) -> None:
        """End the job between two of its parts."""
        if self.busy:
            self._stop.set()
            self._tell("cancelling after this part…")

    def _work(self, what: str, job: Callable[[], T], take: Callable[[T], None]) -> None:
        """Do a job in a thread, then take what it gives."""
        if self.busy:
            return
        self.busy = True
        self._stop.clear()
        self._tell(f"{what}…")
        self._enable()

        def watcher(part: str, done: int, total: int) -> None:
            if self._stop.is_set():
                raise _CancelledError
            self.progressed.emit(part, done, total)

        def work() -> T:
            with watched(watcher):
                return job()

        def returned(result: T) -> None:
            self.busy = False
            try:
                take(result)
            except TEMImageNetError as error:
                self._tell(str(error), wrong=True)
            self._enable()

        def errored(error: BaseException) -> None:
            self.busy = False
            self._enable()
            if isinstance(error, _CancelledError):
                self._tell("cancelled; nothing changed")
            elif isinstance(error, TEMImageNetError):
                self._tell(str(error), wrong=True)
            elif isinstance(error, MemoryError):
                self._tell("not enough memory: crop or bin the image, or take smaller tiles", wrong=True)
            else:
                self._tell(f"unexpected {type(error).__name__}: {error} (please report it)", wrong=True)
            if self.session is not None:
                # A signal or frame that could not be opened is no longer chosen.
                self.image.show_session(self.session)

        create_worker(work, _connect={"returned": returned, "errored": errored})

    def _take_results(self, session: Session) -> None:
        """Show maps and columns of a session whose image is shown; maps that are shown already stay as they are."""
        before, self.session = self.session, session
        if before is None or session.maps is not before.maps:
            layers.show_maps(self.viewer, session)
        self._show_points(session)
        self._tell(session.steps[-1])

    def _take_and_save(self, session: Session) -> None:
        """The same, and save it."""
        self._take_results(session)
        self.save(self.folder or session.opened.path.parent / "results")

    def _show_points(self, session: Session) -> None:
        """The layer of columns, their count and histogram."""
        layer = layers.show_columns(self.viewer, session, self.columns.colour.currentData())
        layer.events.data.connect(lambda _: self._edits.start())
        layer.events.mode.connect(self._show_mode)
        self.viewer.layers.selection.active = layer
        self._show_mode()
        self._show_numbers()

    def _show_numbers(self) -> None:
        """Count of columns and histogram of intensities."""
        columns = None if self.session is None else self.session.columns
        if columns is None or not len(columns):
            self.columns.count.setText("no columns; place them by hand, or find them")
        else:
            unmeasured = int((columns.intensity != columns.intensity).sum())
            told = f"{len(columns)} columns, {int((~columns.sound).sum())} flagged"
            self.columns.count.setText(f"{told}, {unmeasured} to be refined" if unmeasured else told)
        self.canvas.figure.clear()
        plot_intensities(columns, self.canvas.figure.subplots())
        self.canvas.draw_idle()
        self._show_analysis()

    # Analysing.

    def _take_analysis(self, session: Session) -> None:
        """Show what was made of the columns of a session that is shown."""
        before, self.session = self.session, session
        new = [CLASSES, SITES]
        if before is not None and session.strain is not before.strain and session.strain is not None:
            new = list(session.strain.shown)
        self._show_analysis(new)
        self._tell(session.steps[-1])

    def _show_analysis(self, new: Sequence[str] = ()) -> None:
        """What was made of the columns: in words, and one of it on the image and as a histogram.

        Args:
            new: what has just been made; one of it is shown.
        """
        session = self.session
        made = (None, None) if session is None else (session.analysis, session.strain)
        if session is None or all(now is was for now, was in zip(made, self._analysed, strict=True)):
            return
        self._analysed = made
        for label, text in zip((self.analysis.analysed, self.analysis.strained), tell(session), strict=True):
            label.setText(text)
        shown = quantities(session)
        wanted = [name for name in new or shown if name in shown]
        chosen = self.analysis.shown.currentData()
        chosen = chosen if chosen in wanted else next(iter(wanted), "")
        self.analysis.offer(list(shown), chosen)
        self._show_quantity()

    def _show_quantity(self) -> None:
        """The chosen quantity on the image, and its histogram."""
        name = self.analysis.shown.currentData()
        if self.session is not None:
            layers.show_quantity(self.viewer, self.session, quantities(self.session).get(name))
        self.quantity_canvas.figure.clear()
        if self.session is not None and name:
            plot_quantity(self.session, name, self.quantity_canvas.figure.subplots())
        self.quantity_canvas.draw_idle()

    def _draw_region(self, on: bool) -> None:
        """Draw the reference region with the pointer, or do so no more."""
        if self.session is None:
            self.analysis.draw_button.setChecked(False)
            self._tell("Open a micrograph first.", wrong=True)
        elif on:
            layer = layers.show_region(self.viewer, self.session, None, self._regions.start)
            self.viewer.layers.selection.active = layer
            layer.mode = "add_rectangle"
        else:
            self._frame_region()

    def _take_region(self) -> None:
        """Take over a region that was drawn or moved, when the pointer has let it go."""
        layer = layers.region_layer(self.viewer)
        if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._regions.start()
        elif layer is not None and (edges := layers.region_px(layer)) is not None:
            self.analysis.reference.setText(",".join(f"{edge:.1f}" for edge in edges))
            self._frame_region()

    def _frame_region(self) -> None:
        """Show the reference region as it is written."""
        self.analysis.draw_button.setChecked(False)
        if self.session is None:
            return
        try:
            edges = parse_region(self.analysis.reference.text())
        except TEMImageNetError as error:
            self._tell(str(error), wrong=True)
            edges = None
        if edges is None:
            layers.clear(self.viewer, "region")
        else:
            layers.show_region(self.viewer, self.session, edges, self._regions.start)
        self.viewer.layers.selection.active = layers.points_layer(self.viewer)

    # Editing.

    def take_edits(self) -> Session | None:
        """Take over what was edited in the layer of points, and give the session."""
        layer = layers.points_layer(self.viewer)
        if self.session is None or layer is None or self.busy:
            return self.session
        try:
            edited = edit_columns(self.session, layers.points_xy(layer))
        except TEMImageNetError as error:
            self._tell(str(error), wrong=True)
            return self.session
        if edited is not self.session:
            self.session = edited
            if edited.columns is not None and len(edited.columns) == len(layer.data):
                layers.colour_points(layer, edited.columns, self.columns.colour.currentData())
            self._show_numbers()
            self._tell(edited.steps[-1])
        return self.session

    def _mode(self, mode: str) -> None:
        """Add points, or select and drag them, with the pointer."""
        layer = layers.points_layer(self.viewer)
        if layer is not None:
            self.viewer.layers.selection.active = layer
            layer.mode = mode
        self._show_mode()

    def _show_mode(self, event: Any = None) -> None:
        """Buttons show what the pointer does, however that was chosen."""
        layer = layers.points_layer(self.viewer)
        mode = "pan_zoom" if layer is None else str(layer.mode)
        self.columns.add_button.setChecked(mode == "add")
        self.columns.move_button.setChecked(mode == "select")

    def _delete(self) -> None:
        """Take the selected points away."""
        layer = layers.points_layer(self.viewer)
        if layer is not None and not self.busy:
            layer.remove_selected()

    def _recolour(self) -> None:
        """Colour the points by something else."""
        session = self.take_edits()
        if session is not None and not self.busy:
            self._show_points(session)

    # Saving.

    def save(self, folder: str | Path) -> None:
        """Write the results that are ticked into a folder."""
        session = self.take_edits()
        if session is None:
            return
        self.folder = Path(folder)
        kinds, formats = self.saving.chosen()
        self._work(
            "saving",
            lambda: save_results(session, folder, kinds, formats),
            lambda files: self._tell(f"{len(files)} files in {folder}"),
        )

    def save_session(self, path: str | Path) -> None:
        """Write the session."""
        session = self.take_edits()
        if session is not None:
            self._work(
                "saving", lambda: save_session(session, path), lambda file: self._tell(f"session in {file}")
            )  # fmt: skip

    def _browse_folder(self) -> None:
        """Ask where to save the results."""
        name = QFileDialog.getExistingDirectory(self, "Save results in", str(self.folder or ""))
        if name:
            self.save(name)

    def _browse_session(self) -> None:
        """Ask where to save the session."""
        usual = "" if self.session is None else str(self.session.opened.path.with_suffix(SESSION_SUFFIX))
        name, _ = QFileDialog.getSaveFileName(self, "Save session", usual, f"Sessions (*{SESSION_SUFFIX})")
        if name:
            self.save_session(name)

    def _revert(self) -> None:
        """Show the image alone."""
        if self.session is not None and not self.busy:
            self._take_results(revert(self.session))

    # Telling.

    def _enable(self) -> None:
        """Controls that can be used now."""
        here = self.session is not None
        for part in (self.image, self.network, self.columns, self.analysis, self.saving):
            part.setEnabled(not self.busy)
        self.run_button.setEnabled(here and not self.busy)
        for button in (self.network.draw_button, self.columns.find_button, self.columns.refine_button,
                       self.analysis.analyse_button, self.analysis.strain_button, self.saving.save_button,
                       self.saving.save_session_button):  # fmt: skip
            button.setEnabled(here and not self.busy)
        self.cancel_button.setEnabled(self.busy)
        self.bar.setRange(0, 0 if self.busy else 1)
        self.bar.setFormat("")
        layer = layers.points_layer(self.viewer)
        if layer is not None:
            layer.editable = not self.busy

    def _show_progress(self, part: str, done: int, total: int) -> None:
        """The bar; one part alone has no share to show."""
        if self.busy:
            self.bar.setRange(0, total if total > 1 else 0)
            self.bar.setValue(done)
            self.bar.setFormat(f"{part}: %v of %m" if total > 1 else part)

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        """The line at the bottom."""
        self.status.setText(text)
        self.status.setStyleSheet("color: #ff7b72" if wrong else "")
