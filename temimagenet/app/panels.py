"""The dock's pages: controls, and the settings that they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from temimagenet.app.layers import COLOURS, map_name
from temimagenet.app.results import KINDS
from temimagenet.app.session import REFINEMENTS, Session, known_maps
from temimagenet.app.settings import DISCONNECT, MAP_METHOD, MOST_CLASSES, MOST_ITERATIONS, SCALES, Settings
from temimagenet.errors import ModelError
from temimagenet.micrographs.files import FORMATS
from temimagenet.micrographs.methods import METHODS
from temimagenet.models.zoo import TASKS

__all__ = ["AnalysePanel", "ColumnsPanel", "ImagePanel", "NetworkPanel", "SavePanel"]

_METHODS: Mapping[str, str] = {
    "auto": "automatic: network, then joint fit",
    "scan-aware": "scan-aware fit",
    "scan-aware-network": "network, then scan-aware fit",
    "network": "network alone",
    MAP_METHOD: "map and threshold, as AtomSegNet",
    "network-otsu": "map and Otsu's threshold",
    "gaussian": "Gaussian fit (counts)",
    "gaussian-ls": "Gaussian fit (least squares)",
    "otsu": "Otsu's threshold on the image",
    "faster-rcnn": "Faster R-CNN (a model file)",
}
_CANVAS_PX = 220
_NOTHING = "columns alone"
_REFINEMENTS: Mapping[str, str] = {
    "gaussian": "Gaussian fit (counts)", "gaussian-ls": "Gaussian fit (least squares)", "scan-aware": "scan-aware fit",
}  # fmt: skip


def _named(label: str) -> str:
    """A map's name with its task's."""
    task = map_name(label)
    return label if task == label else f"{task} ({label})"


def _tasks_first(labels: tuple[str, ...]) -> list[str]:
    """Labels, those of the five tasks first."""
    return sorted(labels, key=lambda label: label not in TASKS.values())


def _choice(entries: Mapping[str, str]) -> QComboBox:
    """A box of names with what they stand for as data."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    for value, name in entries.items():
        box.addItem(name, value)
    return box


def _choose(box: QComboBox, value: str) -> None:
    """Show a value in a box."""
    place = box.findData(value)
    if place >= 0:
        box.setCurrentIndex(place)


def _beside(*widgets: QWidget, alike: bool = False) -> QWidget:
    """Widgets in a row; the first takes the room, or all share it."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for number, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if alike or number == 0 else 0)
    return row


def _words() -> QLabel:
    """A label for a few lines, which can be copied."""
    label = QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def _form(box: QWidget) -> QFormLayout:
    """Labelled rows that make do with a narrow dock."""
    form = QFormLayout(box)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
    form.setContentsMargins(6, 4, 6, 4)
    form.setVerticalSpacing(4)
    return form


class ImagePanel(QGroupBox):
    """File, signal, frame and pixel size."""

    reopened = Signal(int, str)
    """Another signal or frame was chosen."""

    calibrated = Signal(str)
    """A pixel size was entered."""

    def __init__(self) -> None:
        super().__init__("Image")
        form = _form(self)
        self.open_button = QPushButton("Open…")
        self.path = QLabel("none")
        self.path.setWordWrap(True)
        form.addRow(self.open_button, self.path)
        self.signal = QComboBox()
        self.signal.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.frame = QSpinBox()
        self.frame.setKeyboardTracking(False)
        self.frame.setToolTip("Frame of a stack; the sum corrects no drift")
        form.addRow("Signal, frame", _beside(self.signal, self.frame))
        self.pixel_size = QLineEdit()
        self.pixel_size.setPlaceholderText("such as 13 pm")
        self.pixel_size.setToolTip(
            "Edge of a pixel: 13 pm, 0.13 (angstrom) or 0.013 nm. Another one drops maps and columns."
        )
        form.addRow("Pixel size", self.pixel_size)
        self.notes = QLabel()
        self.notes.setWordWrap(True)
        form.addRow(self.notes)
        self.signal.activated.connect(self._signal_chosen)
        self.frame.valueChanged.connect(self._chosen)
        self.pixel_size.editingFinished.connect(lambda: self.calibrated.emit(self.pixel_size.text().strip()))

    def _signal_chosen(self) -> None:
        """Another signal begins with its usual frame."""
        self.reopened.emit(self.signal.currentIndex(), "")

    def _chosen(self) -> None:
        """Tell what was chosen."""
        self.reopened.emit(self.signal.currentIndex(), "sum" if self.frame.value() < 0 else str(self.frame.value()))

    def show_session(self, session: Session) -> None:
        """Show where an image is from."""
        opened, micrograph = session.opened, session.micrograph
        for widget in (self.signal, self.frame, self.pixel_size):
            widget.blockSignals(True)
        self.path.setText(micrograph.path.name)
        self.path.setToolTip(str(opened.path))
        self.signal.clear()
        self.signal.addItems([str(signal) for signal in session.signals])
        self.signal.setCurrentIndex(opened.signal)
        frames = session.signals[opened.signal].frames
        self.frame.setSpecialValueText("sum" if frames > 1 else "")
        self.frame.setRange(-1 if frames > 1 else 0, frames - 1)
        # Frames may be told from the end.
        self.frame.setValue(-1 if opened.frame == "sum" else int(opened.frame or 0) % frames)
        self.frame.setEnabled(frames > 1)
        size = micrograph.pixel_size_A
        self.pixel_size.setText("" if size is None else f"{100.0 * size:.5g} pm")
        self.notes.setText("\n".join([micrograph.calibration, *micrograph.notes]))
        for widget in (self.signal, self.frame, self.pixel_size):
            widget.blockSignals(False)


class NetworkPanel(QGroupBox):
    """Model, maps and how the network sees the image."""

    def __init__(self) -> None:
        super().__init__("Network")
        form = _form(self)
        self.model = QComboBox()
        self.model.addItem("shipped with the package", "all")
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.file_button = QPushButton("File…")
        self.file_button.setToolTip("A model that `temimagenet train` or `adapt` wrote")
        form.addRow("Model", _beside(self.model, self.file_button))
        self.maps = QListWidget()
        self.maps.setToolTip("What the network draws")
        form.addRow("Maps", self.maps)
        self.device = QComboBox()
        self.device.addItems(_devices())
        self.scale = QComboBox()
        self.scale.addItems(list(SCALES))
        self.scale.setToolTip("What the network sees: automatic follows from the pixel size")
        form.addRow("Device, scale", _beside(self.device, self.scale))
        self.tiles = QSpinBox()
        self.tiles.setRange(256, 16384)
        self.tiles.setSingleStep(256)
        self.tiles.setSuffix(" px")
        self.tiles.setToolTip("Larger images are split into overlapping tiles of this edge and blended: less memory")
        self.iterations = QSpinBox()
        self.iterations.setRange(1, MOST_ITERATIONS)
        self.iterations.setToolTip("How often a map is drawn; from the second time on, of itself")
        form.addRow("Split above", self.tiles)
        form.addRow("Iterations", self.iterations)
        self.draw_button = QPushButton("Draw maps")
        form.addRow(self.draw_button)
        self.file_button.clicked.connect(self._browse)
        self.model.currentIndexChanged.connect(lambda: self._list_maps(self.chosen_maps()))
        self.show_settings(Settings())

    def _browse(self) -> None:
        """Ask for a file of weights."""
        name, _ = QFileDialog.getOpenFileName(self, "Model", "", "Weights (*.safetensors);;All files (*)")
        if name:
            self.take_model(name)

    def take_model(self, model: str) -> None:
        """Offer a model, and choose it."""
        if self.model.findData(model) < 0:
            self.model.addItem(Path(model).name, model)
        _choose(self.model, model)

    def _list_maps(self, chosen: tuple[str, ...]) -> None:
        """The maps that the model draws, those chosen ticked."""
        try:
            labels = known_maps(self.model.currentData())
        except ModelError as error:
            labels = ()
            self.maps.setToolTip(str(error))
        self.maps.clear()
        for label in _tasks_first(labels):
            item = QListWidgetItem(_named(label), self.maps)
            item.setData(Qt.ItemDataRole.UserRole, label)
            item.setCheckState(Qt.CheckState.Checked if label in chosen else Qt.CheckState.Unchecked)
        self.maps.setMaximumHeight(max(2, self.maps.count()) * max(18, self.maps.sizeHintForRow(0)) + 6)

    def chosen_maps(self) -> tuple[str, ...]:
        """Labels that are ticked."""
        items = [self.maps.item(number) for number in range(self.maps.count())]
        return tuple(
            item.data(Qt.ItemDataRole.UserRole) for item in items if item.checkState() == Qt.CheckState.Checked
        )

    def show_settings(self, settings: Settings) -> None:
        """Show settings."""
        self.take_model(settings.model)
        self._list_maps(settings.maps)
        self.device.setCurrentText(settings.device)
        self.scale.setCurrentText(settings.scale)
        self.tiles.setValue(settings.tile_px)
        self.iterations.setValue(settings.iterations)


def _devices() -> list[str]:
    """Where networks can work on this machine."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


class ColumnsPanel(QWidget):
    """How columns are found, edited and refined."""

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        finding = QGroupBox("Find")
        form = _form(finding)
        self.method = _choice({name: _METHODS.get(name, name) for name in (*METHODS, MAP_METHOD)})
        form.addRow("Method", self.method)
        self.map = _choice({label: _named(label) for label in TASKS.values()})
        self.disconnect_by = _choice({name: name for name in DISCONNECT})
        self.level = QSlider(Qt.Orientation.Horizontal)
        self.level.setRange(0, 20)
        self.level_told = QLabel("0 px")
        self.level.valueChanged.connect(lambda value: self.level_told.setText(f"{value} px"))
        self.level.setToolTip("Radius of the disc that the map is opened or eroded by: parts regions that touch")
        self.set_threshold = QCheckBox("Threshold")
        self.set_threshold.setToolTip("Otsu's threshold unless ticked")
        self.threshold = QDoubleSpinBox()
        self.threshold.setRange(1.0, 99.0)
        self.threshold.setDecimals(1)
        self.threshold.setValue(40.0)
        self.threshold.setSuffix(" %")
        self.threshold.setEnabled(False)
        self.set_threshold.toggled.connect(self.threshold.setEnabled)
        self.map_rows = QWidget()
        inner = _form(self.map_rows)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addRow("Map", self.map)
        inner.addRow("Disconnect", self.disconnect_by)
        inner.addRow("Level", _beside(self.level, self.level_told))
        inner.addRow(self.set_threshold, self.threshold)
        form.addRow(self.map_rows)
        self.find_button = QPushButton("Find columns")
        form.addRow(self.find_button)
        layout.addWidget(finding)
        editing = QGroupBox("Edit and refine")
        form = _form(editing)
        self.count = QLabel("no columns")
        self.count.setWordWrap(True)
        form.addRow(self.count)
        self.add_button, self.move_button = QPushButton("Add"), QPushButton("Select, drag")
        self.delete_button = QPushButton("Delete")
        self.add_button.setToolTip("Click where a column is")
        self.move_button.setToolTip("Click or draw a box to select, drag to move")
        self.delete_button.setToolTip("Take the selected points away")
        for button in (self.add_button, self.move_button):
            button.setCheckable(True)
        form.addRow(_beside(self.add_button, self.move_button, self.delete_button, alike=True))
        self.refinement = _choice({name: _REFINEMENTS[name] for name in REFINEMENTS})
        self.refine_button = QPushButton("Refine")
        self.refine_button.setToolTip("Fit the image, started from the points as they are")
        form.addRow(_beside(self.refinement, self.refine_button))
        self.colour = _choice({name: name for name in COLOURS})
        form.addRow("Colour by", self.colour)
        layout.addWidget(editing)
        layout.addStretch(1)
        self.method.currentIndexChanged.connect(self._method_chosen)
        self.show_settings(Settings())
        self._method_chosen()

    def _method_chosen(self) -> None:
        """Controls of the map are for one method alone."""
        self.map_rows.setVisible(self.method.currentData() == MAP_METHOD)

    def offer_maps(self, labels: tuple[str, ...]) -> None:
        """Maps that can be read: those that the model draws."""
        chosen = self.map.currentData()
        self.map.clear()
        for label in _tasks_first(labels):
            self.map.addItem(_named(label), label)
        _choose(self.map, chosen)

    def show_settings(self, settings: Settings) -> None:
        """Show settings."""
        _choose(self.method, settings.method)
        _choose(self.map, settings.map)
        _choose(self.disconnect_by, settings.disconnect)
        self.level.setValue(settings.level_px)
        self.set_threshold.setChecked(settings.threshold is not None)
        if settings.threshold is not None:
            self.threshold.setValue(100.0 * settings.threshold)


class AnalysePanel(QWidget):
    """Classes of intensity, lattice and strain: what is made of the columns, and what is shown of it.

    Args:
        canvas: where a quantity's histogram is drawn.
    """

    def __init__(self, canvas: QWidget) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        sorting = QGroupBox("Classes and lattice")
        form = _form(sorting)
        self.classes = QSpinBox()
        self.classes.setRange(0, MOST_CLASSES)
        self.classes.setSpecialValueText("automatic")
        self.classes.setToolTip(
            "Of intensity; automatic: the number of the least Bayesian information criterion, up to 6"
        )
        self.analyse_button = QPushButton("Analyse")
        self.analyse_button.setToolTip("Sort the sound columns by intensity and by place in the unit cell")
        form.addRow("Classes", _beside(self.classes, self.analyse_button))
        self.analysed = _words()
        form.addRow(self.analysed)
        layout.addWidget(sorting)
        straining = QGroupBox("Strain")
        form = _form(straining)
        self.reference = QLineEdit()
        self.reference.setPlaceholderText("whole image")
        self.reference.setToolTip(
            "What counts as unstrained: left,top,right,bottom in pixels, or nothing for the image's mean"
        )
        self.draw_button = QPushButton("Draw")
        self.draw_button.setCheckable(True)
        self.draw_button.setToolTip("Draw a rectangle over the columns that count as unstrained")
        form.addRow("Reference", _beside(self.reference, self.draw_button))
        self.strain_button = QPushButton("Map strain")
        form.addRow(self.strain_button)
        self.strained = _words()
        form.addRow(self.strained)
        layout.addWidget(straining)
        self.shown = _choice({"": _NOTHING})
        row = QWidget()
        _form(row).addRow("Show", self.shown)
        layout.addWidget(row)
        # It takes what room is left: what it had before counts for nothing.
        canvas.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
        canvas.setMinimumHeight(_CANVAS_PX)
        layout.addWidget(canvas, 1)

    def offer(self, names: Sequence[str], chosen: str) -> None:
        """What there is to show, and what is shown of it."""
        self.shown.blockSignals(True)
        self.shown.clear()
        for name in ("", *names):
            self.shown.addItem(name or _NOTHING, name)
        _choose(self.shown, chosen)
        self.shown.blockSignals(False)

    def show_settings(self, settings: Settings) -> None:
        """Show settings."""
        self.classes.setValue(settings.classes or 0)
        edges = settings.reference_px
        self.reference.setText("" if edges is None else ",".join(f"{edge:.7g}" for edge in edges))


class SavePanel(QWidget):
    """What is saved, and sessions."""

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        results = QGroupBox("Results")
        form = _form(results)
        self.kinds = {kind: QCheckBox(name) for kind, name in KINDS.items()}
        for box in self.kinds.values():
            box.setChecked(True)
            form.addRow(box)
        self.formats = {name: QCheckBox(name) for name in FORMATS}
        for name, box in self.formats.items():
            box.setChecked(name in ("csv", "mat"))
        form.addRow("Positions as", _beside(*self.formats.values(), alike=True))
        self.automatic = QCheckBox("after each run, in the folder of last time")
        self.automatic.setToolTip("Beside the image, in the folder `results`, before the first time")
        self.save_button = QPushButton("Save…")
        form.addRow(self.automatic)
        form.addRow(self.save_button)
        layout.addWidget(results)
        sessions = QGroupBox("Session")
        form = _form(sessions)
        self.save_session_button, self.open_session_button = QPushButton("Save session…"), QPushButton("Open session…")
        form.addRow(_beside(self.save_session_button, self.open_session_button, alike=True))
        self.revert_button = QPushButton("Revert to the image")
        form.addRow(self.revert_button)
        layout.addWidget(sessions)
        layout.addStretch(1)

    def chosen(self) -> tuple[list[str], list[str]]:
        """Kinds and formats that are ticked."""
        kinds = [kind for kind, box in self.kinds.items() if box.isChecked()]
        return kinds, [name for name, box in self.formats.items() if box.isChecked()]
