"""The shipped weights on small fixed cases: columns found, images cleaned, nothing seen where nothing is."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from temimagenet.errors import LocalizeError
from temimagenet.labels import LABELS, POINTS
from temimagenet.localize import NetworkColumns, NetworkOtsu, ScanAware, fit_scan_aware
from temimagenet.metrics import psnr
from temimagenet.micrographs import methods
from temimagenet.micrographs.methods import choose_method
from temimagenet.models import TASKS, load_model
from temimagenet.precision import evaluate
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import render

DATA = Path(__file__).resolve().parents[1] / "data"


def test_all_weights_together_are_small_and_every_task_loads() -> None:
    folder = resources.files("temimagenet") / "data" / "weights"
    assert sum(Path(str(item)).stat().st_size for item in folder.iterdir()) < 30e6
    for task, label in TASKS.items():
        assert load_model(task).maps == (label,)
    assert set(load_model("all").maps) == {name for name in LABELS if name not in POINTS}
    assert load_model("all").facts["settings"]["recipe"] == "training"


def test_columns_at_20_dB_are_found_and_their_errors_known() -> None:
    record = evaluate(NetworkColumns(), ["pt110-scan-0.10A", "pt110-displaced-20pm"], images=2)
    scores = record.scores["pt110-scan-0.10A"]
    assert scores["recall"].value > 0.99
    assert scores["precision"].value > 0.99
    assert scores["rmse_pm"].value < 3.5
    assert 0.5 < scores["z_sd"].value < 2.0
    assert record.response is not None
    assert record.response.value > 0.9


def test_the_papers_route_finds_them_too() -> None:
    scores = evaluate(NetworkOtsu(), ["pt110-20dB"], images=1).scores["pt110-20dB"]
    assert scores["recall"].value > 0.95
    assert scores["precision"].value > 0.95


def test_a_network_starts_the_best_fit() -> None:
    scores = evaluate(ScanAware(NetworkColumns()), ["pt110-scan-0.10A"], images=1).scores["pt110-scan-0.10A"]
    assert scores["recall"].value > 0.95
    assert scores["rmse_pm"].value < 2.0


@pytest.fixture(scope="module")
def noisy() -> list[tuple[NDArray[np.float64], float, NDArray[np.float64]]]:
    """Images of 15 dB with scan noise, their pixel sizes, and what they would be without either."""
    recipe = load_recipe("v1")
    specs = [replace(sample_spec(recipe, index), psnr_dB=15.0, field_of_view_A=30.0) for index in (0, 40, 61, 83)]
    made = []
    for sample in render(specs, ("noNoise",)):
        counts = sample.dose_e_per_A2 * sample.pixel_size_A**2
        made.append((sample.image.double().numpy(), sample.pixel_size_A, sample.labels["noNoise"].numpy() * counts))
    return made


def test_images_are_cleaned(noisy: list[tuple[NDArray[np.float64], float, NDArray[np.float64]]]) -> None:
    model = load_model("denoise")
    gains = []
    for image, pixel, clean in noisy:
        drawn = model.predict(image, pixel).maps["noNoise"]
        gains.append(psnr(drawn, clean) - psnr(image, clean))
    assert min(gains) > 8.0


def test_next_to_nothing_is_found_where_nothing_is() -> None:
    """Shot noise on smooth backgrounds: fewer than one false column in ten images."""
    rng = np.random.default_rng(0)
    y, x = np.indices((256, 256))
    found = 0
    for level in (3.0, 10.0, 30.0, 300.0):
        for shape in (np.ones((256, 256)), 0.5 + x / 256.0, 1.0 + 0.5 * np.sin(x / 40.0) * np.cos(y / 50.0)):
            found += len(NetworkColumns()(rng.poisson(level * shape).astype(float), 0.1))
    assert found <= 1


def test_the_dumbbells_of_a_micrograph_are_found() -> None:
    """Against 364 columns that were fitted and looked at one by one; the border is left out."""
    image = np.asarray(Image.open(DATA / "si110_8.9pm.png").convert("L"), dtype=float)
    true = np.loadtxt(DATA / "si110_columns.csv", delimiter=",", skiprows=1)
    found = NetworkColumns()(image, 0.089).xy_px
    inside = found[((found > 14) & (found < 497)).all(axis=1)]
    missed = int((KDTree(found).query(true)[0] > 5.0).sum())
    false = int((KDTree(true).query(inside)[0] > 5.0).sum())
    assert missed <= 2
    assert false <= 2


def _as_jpeg(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """An image after it was saved with losses."""
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "jpeg", quality=30)
    return np.asarray(Image.open(file), dtype=float)


@pytest.mark.parametrize("worn", [lambda image: image, lambda image: gaussian_filter(image, 3.0), _as_jpeg])
def test_a_smoothed_micrograph_is_located(worn: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    """The gold boundary, whose noise was smoothed, as it is, smoothed more and saved again: 690 columns were marked."""
    image = worn(np.asarray(Image.open(DATA / "gold_grain_boundary.png").convert("L"), dtype=float))
    true = np.loadtxt(DATA / "gold_grain_boundary_columns.csv", delimiter=",", skiprows=1)
    columns = choose_method("auto")(image, 0.13)
    found = columns.xy_px
    inner = [points[((points > 9) & (points < 502)).all(axis=1)] for points in (true, found)]
    assert (KDTree(found).query(inner[0])[0] > 5.0).sum() <= 2
    assert (KDTree(true).query(inner[1])[0] > 5.0).sum() <= 2


def test_more_columns_than_pixels_can_show_are_an_error() -> None:
    """A pixel size ten times too large."""
    image = np.asarray(Image.open(DATA / "si110_8.9pm.png").convert("L"), dtype=float)[:128, :128]
    with pytest.raises(LocalizeError, match="more than these can show: is the pixel size right, 89 pm"):
        choose_method("auto")(image, 0.89)


def test_a_fit_that_loses_what_is_certain_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on streaks and clipped areas, which end in a fit of a few columns."""
    image = np.asarray(Image.open(DATA / "si110_8.9pm.png").convert("L"), dtype=float)[:256, :256]

    def astray(*given: Any, **options: Any) -> Any:
        fit = fit_scan_aware(*given, **options)
        return replace(fit, columns=fit.columns.select(np.arange(3)))

    monkeypatch.setattr(methods, "fit_scan_aware", astray)
    with pytest.warns(UserWarning, match="not fitted: a fit kept 3 of"):
        columns = choose_method("auto")(image, 0.089)
    assert len(columns) > 80
