"""Networks as localizers: maps of any fineness, files that change, dead pixels, settings that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from temimagenet.errors import LocalizeError
from temimagenet.localize import NetworkColumns, NetworkOtsu
from temimagenet.metrics import match
from temimagenet.models import AtomNet
from temimagenet.models.zoo import write_weights

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def silicon() -> NDArray[np.float64]:
    """A quarter of a real micrograph."""
    return np.asarray(Image.open(DATA / "si110_8.9pm.png").convert("L"), dtype=float)[:160, :160]


@pytest.mark.parametrize("name", ["noNoiseNoBackgroundUpinterpolation2x", "superresolution", "gaussianMask"])
def test_maps_of_any_fineness_give_positions_on_the_image(name: str) -> None:
    centres = np.stack(np.meshgrid(np.arange(20.3, 110.0, 25.0), np.arange(18.6, 110.0, 27.0)), axis=-1).reshape(-1, 2)
    y, x = np.indices((128, 128))
    image = 5.0 + sum(80.0 * np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 4.5**2) for a, b in centres)
    found = NetworkOtsu(map=name)(np.random.default_rng(0).poisson(image), 0.1)
    assert found.pixel_size_A == 0.1
    first, second = match(found.xy_px, centres, 0.1)
    assert len(first) == len(centres)
    away = found.xy_px[second] - centres[first]
    assert np.sqrt((away**2).mean()) < 0.3


def test_a_file_that_was_written_anew_is_read_anew(silicon: NDArray[np.float64], tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    network = AtomNet(widths=(8, 8), reach=3)
    counts = []
    for bias in (-20.0, 20.0):
        torch.nn.init.zeros_(network.columns.weight)
        torch.nn.init.constant_(network.columns.bias, bias)
        write_weights(network, path, {})
        counts.append(len(NetworkColumns(str(path))(silicon, 0.089)))
    assert counts[0] == 0 < counts[1]


@pytest.mark.parametrize(("surest", "number"), [(0.69, 0), (0.71, 2)])
def test_columns_none_of_which_is_sure_are_none(
    silicon: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch, surest: float, number: int
) -> None:
    told = NetworkColumns()(silicon, 0.089).select(np.arange(2))
    monkeypatch.setattr(NetworkColumns, "with_chances", lambda *image: (told, np.array([0.5, surest])))
    assert len(NetworkColumns()(silicon, 0.089)) == number


@pytest.mark.parametrize("value", [-1e12, -1e5, 1e12])
def test_dead_and_hot_pixels_spoil_nothing(silicon: NDArray[np.float64], value: float) -> None:
    spoilt = silicon.copy()
    spoilt[5, 80] = value
    whole, found = NetworkColumns()(silicon, 0.089), NetworkColumns()(spoilt, 0.089)
    assert len(match(found.xy_px, whole.xy_px, 0.089)[0]) >= len(whole) - 1
    assert len(found) <= len(whole) + 1


def test_settings_that_cannot_be_are_refused(silicon: NDArray[np.float64]) -> None:
    with pytest.raises(LocalizeError, match="centre"):
        NetworkOtsu(centre="middle")  # type: ignore[arg-type]
    with pytest.raises(LocalizeError, match="least chance"):
        NetworkColumns(least_chance="half")(silicon, 0.089)  # type: ignore[arg-type]
    with pytest.raises(LocalizeError, match="this network draws"):
        NetworkOtsu(map="nonesuch")(silicon, 0.089)
