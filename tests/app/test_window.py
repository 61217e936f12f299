"""The app's dock in napari, on a display of its own: driven as a user would."""

import atexit
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed (extra `app`)")
if sys.platform.startswith("linux") and not shutil.which("Xvfb"):
    pytest.skip("no Xvfb to show a window in", allow_module_level=True)

SHAPE, STEP, SIZE = (72, 80), 16.0, 0.1
SPOTS = np.array([(x, y) for y in np.arange(12.3, 70, STEP) for x in np.arange(11.6, 76, STEP)])
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def display():
    """A display that nobody sees; that of the desktop where there is no Xvfb."""
    if not sys.platform.startswith("linux"):
        yield
        return
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1500x1000x24", "-nolisten", "tcp", "-terminate"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    # Qt's application lives as long as this process and dies with its display.
    atexit.register(server.terminate)
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()
    before = {name: os.environ.get(name) for name in ("DISPLAY", "QT_QPA_PLATFORM", "LIBGL_ALWAYS_SOFTWARE")}
    os.environ |= {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}
    # Other tests of this process shall draw into memory, although there is a window now.
    matplotlib.use("agg")
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def viewer(display, tmp_path_factory):
    """A window of napari, with settings of its own."""
    home = tmp_path_factory.mktemp("napari")
    os.environ["NAPARI_CONFIG"] = str(home / "settings.yaml")
    import napari

    window = napari.Viewer(show=True)
    yield window
    window.close()
    os.environ.pop("NAPARI_CONFIG")


@pytest.fixture
def widget(viewer):
    """The dock, fresh."""
    from temimagenet.app.widget import AtomsWidget

    viewer.layers.clear()
    dock = AtomsWidget(viewer)
    shown = viewer.window.add_dock_widget(dock, name="Atomic columns")
    yield dock
    wait(lambda: not dock.busy)
    viewer.window.remove_dock_widget(shown)


@pytest.fixture
def image(tmp_path):
    """A file with a lattice of spots, bright and faint by turns."""
    y, x = np.indices(SHAPE)
    heights = np.where(np.arange(len(SPOTS)) % 2, 2.0, 1.0)
    clean = sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18.0) for h, (a, b) in zip(heights, SPOTS, strict=True))
    counts = np.random.default_rng(0).poisson(20.0 + 200.0 * clean)
    np.save(tmp_path / "spots.npy", np.stack([counts, counts]).astype(np.float32))
    return tmp_path / "spots.npy"


def wait(condition):
    """Let the window work until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        QApplication.processEvents()
        time.sleep(0.01)


def opened(widget, image):
    """The dock with the image."""
    widget.open(image, frame="0", pixel_size_A=SIZE)
    wait(lambda: not widget.busy)
    return widget


def points(widget):
    from temimagenet.app.layers import points_layer

    return points_layer(widget.viewer)


def ticked(widget, *labels):
    """Tick maps by their labels, and no others."""
    from qtpy.QtCore import Qt

    for number in range(widget.network.maps.count()):
        item = widget.network.maps.item(number)
        wanted = item.data(Qt.ItemDataRole.UserRole) in labels
        item.setCheckState(Qt.CheckState.Checked if wanted else Qt.CheckState.Unchecked)


def method(widget, name):
    widget.columns.method.setCurrentIndex(widget.columns.method.findData(name))


def test_from_a_file_to_a_session_and_back(widget, image, tmp_path):
    opened(widget, image)
    assert widget.session.micrograph.pixel_size_A == SIZE
    base = widget.viewer.layers[0]
    np.testing.assert_allclose(base.scale, 0.01)
    assert {str(unit) for unit in base.units} == {"nanometer"}
    # Run: maps and columns.
    ticked(widget, "gaussianMask", "noNoiseUpinterpolation2x")
    method(widget, "map")
    widget.columns.set_threshold.setChecked(True)
    widget.columns.threshold.setValue(40.0)
    widget.run_button.click()
    assert widget.busy
    assert not widget.run_button.isEnabled()
    wait(lambda: not widget.busy)
    assert set(widget.session.maps) == {"gaussianMask", "noNoiseUpinterpolation2x"}
    fine = widget.viewer.layers["noNoiseUpinterpolation2x"]
    np.testing.assert_allclose(fine.scale, 0.005)
    assert fine.data.shape == (2 * SHAPE[0], 2 * SHAPE[1])
    layer = points(widget)
    assert len(layer.data) == len(SPOTS)
    np.testing.assert_allclose(layer.data[:, ::-1], widget.session.columns.xy_px)
    # Edit: a point deleted, one dragged, one added.
    layer.selected_data = {0}
    widget.columns.delete_button.click()
    moved = layer.data.copy()
    moved[0] += (0.8, -0.6)
    layer.data = moved
    widget.columns.add_button.click()
    assert str(layer.mode) == "add"
    layer.add([[SPOTS[0, 1] + 1.0, SPOTS[0, 0] - 1.0]])
    wait(lambda: len(widget.session.columns) == len(SPOTS) and "by hand" in widget.session.steps[-1])
    assert np.isnan(widget.session.columns.intensity).sum() == 2
    assert "2 to be refined" in widget.columns.count.text()
    yellow = (layer.border_color[:, :2] > 0.8).all(axis=1)
    assert np.flatnonzero(yellow).tolist() == [0, len(SPOTS) - 1]
    # Refine.
    widget.columns.refinement.setCurrentIndex(widget.columns.refinement.findData("gaussian"))
    widget.columns.refine_button.click()
    wait(lambda: not widget.busy)
    columns = widget.session.columns
    assert np.isfinite(columns.intensity).all()
    error = np.linalg.norm(SPOTS[:, None] - columns.xy_px[None], axis=2).min(axis=1)
    assert np.quantile(error, 0.9) < 0.2
    np.testing.assert_allclose(points(widget).data[:, ::-1], columns.xy_px)
    assert widget.canvas.figure.axes[0].patches
    # Save.
    widget.save(tmp_path / "out")
    wait(lambda: not widget.busy)
    assert {"spots_maps.mat", "spots_columns.csv", "spots_columns.png", "spots_gaussianMask.tif"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }
    widget.save_session(tmp_path / "mine")
    wait(lambda: not widget.busy)
    assert "mine.session.h5" in widget.status.text()
    # Reload, into a dock that was set otherwise.
    widget.saving.revert_button.click()
    assert len(points(widget).data) == 0
    method(widget, "auto")
    ticked(widget)
    widget.columns.set_threshold.setChecked(False)
    widget.open(tmp_path / "mine.session.h5")
    wait(lambda: not widget.busy)
    np.testing.assert_array_equal(widget.session.columns.xy_px, columns.xy_px)
    np.testing.assert_array_equal(points(widget).data[:, ::-1], columns.xy_px)
    assert {layer.name for layer in widget.viewer.layers} == {
        "spots.npy", "gaussianMask", "noNoiseUpinterpolation2x", "columns",
    }  # fmt: skip
    told = widget.settings()
    assert (told.method, told.threshold) == ("map", pytest.approx(0.4))
    assert set(told.maps) == {"gaussianMask", "noNoiseUpinterpolation2x"}


def test_signal_frame_and_pixel_size_can_be_changed(widget, image):
    widget.open(image)
    wait(lambda: not widget.busy)
    assert widget.session.opened.frame == "sum"
    assert widget.image.frame.text() == "sum"
    widget.columns.find_button.click()
    wait(lambda: not widget.busy)
    assert "enter it" in widget.status.text()
    widget.image.frame.setValue(1)
    wait(lambda: not widget.busy and widget.session.opened.frame == "1")
    widget.open(image, frame="-2")
    wait(lambda: not widget.busy)
    assert widget.image.frame.text() == "0"
    widget.image.pixel_size.setText("10 pm")
    widget.image.pixel_size.editingFinished.emit()
    assert widget.session.micrograph.pixel_size_A == pytest.approx(SIZE)
    np.testing.assert_allclose(widget.viewer.layers[0].scale, 0.01)
    widget.image.pixel_size.setText("wide")
    widget.image.pixel_size.editingFinished.emit()
    assert "expected a length" in widget.status.text()


def test_points_without_a_search_are_refined(widget, image):
    opened(widget, image)
    for x, y in SPOTS:
        points(widget).add([[y + 0.7, x - 0.5]])
    for name in ("scan-aware", "gaussian-ls"):
        widget.columns.refinement.setCurrentIndex(widget.columns.refinement.findData(name))
        widget.columns.refine_button.click()
        wait(lambda: not widget.busy)
        assert f"refined by {name}" in widget.status.text()
        error = np.linalg.norm(SPOTS[:, None] - widget.session.columns.xy_px[None], axis=2).min(axis=1)
        assert np.quantile(error, 0.9) < 0.2
    for colour in ("intensity", "standard error", "flags"):
        widget.columns.colour.setCurrentIndex(widget.columns.colour.findData(colour))
        assert len(np.unique(points(widget).face_color, axis=0)) == (
            1 if colour == "flags" else pytest.approx(15, abs=14)
        )


def test_columns_are_analysed_shown_and_edited(widget, image, tmp_path):
    opened(widget, image)
    panel = widget.analysis
    panel.analyse_button.click()
    wait(lambda: not widget.busy)
    assert "no columns yet" in widget.status.text()
    for x, y in SPOTS:
        points(widget).add([[y, x]])
    widget.columns.refine_button.click()
    wait(lambda: not widget.busy)
    panel.classes.setValue(2)
    panel.analyse_button.click()
    wait(lambda: not widget.busy)
    assert "class 1: " in panel.analysed.text()
    assert panel.shown.currentData() == "class"
    columns, label = widget.session.columns, widget.session.analysis.classes.label
    layer = widget.viewer.layers["class"]
    assert not layer.editable
    np.testing.assert_allclose(layer.data[:, ::-1], columns.xy_px)
    np.testing.assert_array_equal(layer.features["class"], np.where(label < 0, np.nan, label))
    assert len(np.unique(layer.face_color[label >= 0], axis=0)) == 2
    assert points(widget) is widget.viewer.layers.selection.active
    # A region that is drawn is written down; one that is written is framed.
    panel.draw_button.click()
    frame = widget.viewer.layers["reference"]
    assert str(frame.mode) == "add_rectangle"
    frame.add([[-0.5, -0.5], [60.0, 79.0]], shape_type="rectangle")
    wait(lambda: panel.reference.text() == "-0.5,-0.5,79.0,60.0")
    assert not panel.draw_button.isChecked()
    panel.reference.setText("-1,-1,80,73")
    panel.reference.editingFinished.emit()
    frame = widget.viewer.layers["reference"]
    np.testing.assert_allclose(frame.data[0].min(axis=0), -1.0)
    np.testing.assert_allclose(frame.data[0].max(axis=0), (73.0, 80.0))
    panel.strain_button.click()
    wait(lambda: not widget.busy)
    assert widget.session.strain.reference_px == (-1.0, -1.0, 80.0, 73.0)
    assert panel.shown.currentData() == "εxx / %"
    assert widget.quantity_canvas.figure.axes[0].get_xlabel() == "εxx / %"
    offered = [panel.shown.itemData(number) for number in range(panel.shown.count())]
    assert offered == ["", "class", "sublattice", "εxx / %", "εyy / %", "εxy / %", "rotation / °"]
    for name in ("sublattice", "εyy / %"):
        panel.shown.setCurrentIndex(panel.shown.findData(name))
        assert [layer.name for layer in widget.viewer.layers] == ["spots.npy", "columns", name, "reference"]
    layer = widget.viewer.layers["εyy / %"]
    np.testing.assert_allclose(layer.features["εyy / %"], 100.0 * widget.session.strain.eyy)
    assert len(layer.data) == len(layer.face_color) == columns.sound.sum()
    # Other colours of the columns change nothing of it.
    widget.columns.colour.setCurrentIndex(widget.columns.colour.findData("intensity"))
    assert [layer.name for layer in widget.viewer.layers] == ["spots.npy", "columns", "εyy / %", "reference"]
    # Saved, and taken up again.
    strain = widget.session.strain
    widget.save(tmp_path / "out")
    wait(lambda: not widget.busy)
    assert {"spots_strain.csv", "spots_analysis.csv"} <= {file.name for file in (tmp_path / "out").iterdir()}
    widget.save_session(tmp_path / "mine")
    wait(lambda: not widget.busy)
    panel.classes.setValue(0)
    panel.reference.setText("")
    widget.open(tmp_path / "mine.session.h5")
    wait(lambda: not widget.busy)
    np.testing.assert_array_equal(widget.session.strain.exx, strain.exx)
    assert [layer.name for layer in widget.viewer.layers] == ["spots.npy", "columns", "εyy / %", "reference"]
    assert (widget.settings().classes, widget.settings().reference_px) == (2, strain.reference_px)
    # A column that is taken away takes along what was told of all.
    points(widget).selected_data = {3}
    widget.columns.delete_button.click()
    wait(lambda: widget.session.analysis is None)
    assert [layer.name for layer in widget.viewer.layers] == ["spots.npy", "columns", "reference"]
    assert panel.shown.count() == 1
    assert panel.analysed.text() == panel.strained.text() == ""
    panel.reference.setText("5,5,1")
    panel.strain_button.click()
    assert "expected left,top,right,bottom" in widget.status.text()


def test_a_run_can_be_cancelled(widget, image):
    opened(widget, image)
    method(widget, "scan-aware")
    ticked(widget, "noNoise")
    before = widget.session
    widget.run_button.click()
    widget.cancel_button.click()
    wait(lambda: not widget.busy)
    assert "cancelled" in widget.status.text()
    assert widget.session is before
    widget.run_button.click()
    wait(lambda: not widget.busy)
    assert len(widget.session.columns)


def test_what_goes_wrong_is_told(widget, image, tmp_path):
    widget.run()
    assert "Open a micrograph first" in widget.status.text()
    widget.open(tmp_path / "nowhere.dm4")
    wait(lambda: not widget.busy)
    assert "no such file" in widget.status.text()
    opened(widget, image)
    method(widget, "faster-rcnn")
    widget.columns.find_button.click()
    wait(lambda: not widget.busy)
    assert "none is shipped" in widget.status.text()
    widget.network.take_model(str(image))
    assert widget.network.maps.count() == 0
    assert "not weights" in widget.status.text()


def test_results_are_saved_after_each_run_if_wanted(widget, image, tmp_path):
    opened(widget, image)
    method(widget, "otsu")
    ticked(widget)
    widget.saving.automatic.setChecked(True)
    widget.run_button.click()
    wait(lambda: not widget.busy)
    assert (tmp_path / "results" / "spots_columns.csv").is_file()


def test_napari_knows_the_plugin(viewer):
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(Path(__file__).parents[2] / "temimagenet" / "app" / "napari.yaml")
    assert manifest.contributions.widgets[0].command == "temimagenet.atoms"
    from importlib.metadata import entry_points

    assert "temimagenet" in entry_points(group="napari.manifest").names
    dock, widget = viewer.window.add_plugin_dock_widget("temimagenet", "Atomic columns")
    assert type(widget).__name__ == "AtomsWidget"
    viewer.window.remove_dock_widget(dock)


def test_the_command_opens_a_file_in_a_window(display, image, monkeypatch):
    import napari
    from typer.testing import CliRunner

    from temimagenet.cli import app

    shown = []

    def run():
        window = napari.current_viewer()
        wait(lambda: "columns" in window.layers)
        shown.extend([window.title, *(layer.name for layer in window.layers), *window.layers[0].scale])
        window.close()

    monkeypatch.setattr(napari, "run", run)
    result = CliRunner().invoke(app, ["app", str(image), "--pixel-size", "10pm", "--frame", "1"])
    assert result.exit_code == 0, result.output
    assert shown == ["TEMImageNet", "spots.npy", "columns", pytest.approx(0.01), pytest.approx(0.01)]


def test_without_a_display_or_a_file_the_command_says_so(monkeypatch, tmp_path):
    from temimagenet.app.launch import launch
    from temimagenet.errors import AppError

    with pytest.raises(AppError, match="no such file"):
        launch(tmp_path / "nothing.dm4")
    (tmp_path / "my.session.h5").touch()
    with pytest.raises(AppError, match="a session knows"):
        launch(tmp_path / "my.session.h5", pixel_size_A=0.1)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AppError, match="no display"):
        launch()
