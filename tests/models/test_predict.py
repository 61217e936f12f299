"""Prediction: any size, tiles, pixel sizes, units and bad input; the shipped weights on fixed cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temimagenet.errors import LocalizeError, ModelError
from temimagenet.models import FINE_MAPS, PLAIN_MAPS, AtomNet, Model


class _Echo(nn.Module):
    """Draws what it sees, also twice as fine, and tells of a column in every cell whose first pixel is bright."""

    maps = PLAIN_MAPS + FINE_MAPS
    multiple = 16

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
        cell = image[..., ::2, ::2]
        raw = torch.zeros(1, 7, *cell.shape[-2:])
        raw[:, 0] = torch.where(cell[:, 0] > 5.0, 9.0, -9.0)
        return dict.fromkeys(PLAIN_MAPS, image) | dict.fromkeys(FINE_MAPS, fine) | {"columns": raw}


@pytest.fixture
def echo() -> Model:
    return Model(_Echo(), PLAIN_MAPS + FINE_MAPS, {})  # type: ignore[arg-type]


@pytest.fixture
def image() -> NDArray[np.float64]:
    values = np.random.default_rng(0).normal(100.0, 10.0, (600, 500))
    values[4:600:40, 6:500:60] = 200.0
    return values


def test_tiles_join_without_a_seam(echo: Model, image: NDArray[np.float64]) -> None:
    whole = echo.predict(image, 0.1)
    tiled = echo.predict(image, 0.1, tile_px=256)
    for name, drawn in whole.maps.items():
        np.testing.assert_allclose(tiled.maps[name], drawn, rtol=1e-4, atol=1e-3)
    assert whole.columns is not None
    assert tiled.columns is not None
    np.testing.assert_array_equal(tiled.columns.xy_px, whole.columns.xy_px)


def test_images_come_back_in_their_own_unit(echo: Model, image: NDArray[np.float64]) -> None:
    drawn = echo.predict(image, 0.1, "noNoise").maps["noNoise"]
    np.testing.assert_allclose(drawn, image, rtol=1e-3)
    masks = echo.predict(image, 0.1, "circularMask").maps["circularMask"]
    assert masks.min() == 0.0
    assert masks.max() == 1.0


def test_columns_are_where_the_bright_pixels_are(echo: Model, image: NDArray[np.float64]) -> None:
    found = echo.predict(image, 0.1, ()).columns
    assert found is not None
    expected = {(x + 0.5, y + 0.5) for y in range(4, 600, 40) for x in range(6, 500, 60)}
    assert set(map(tuple, found.xy_px.tolist())) == expected
    assert (found.chance > 0.99).all()


@pytest.mark.parametrize("pixel", [0.03, 0.1, 0.25])
def test_maps_have_the_size_of_the_image_at_any_pixel_size(echo: Model, pixel: float) -> None:
    image = np.random.default_rng(1).normal(100.0, 10.0, (121, 90))
    drawn = echo.predict(image, pixel).maps
    for name in PLAIN_MAPS:
        assert drawn[name].shape == (121, 90)
    for name in FINE_MAPS:
        assert drawn[name].shape == (242, 180)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: np.zeros((9, 9, 3)), "two dimensions"),
        (lambda: np.full((64, 64), np.nan), "nan"),
        (lambda: np.ones((64, 64)), "constant"),
    ],
)
def test_images_that_cannot_be_used_are_refused(echo: Model, make: Callable[[], Any], told: str) -> None:
    with pytest.raises(LocalizeError, match=told):
        echo.predict(make(), 0.1)


def test_what_cannot_be_asked_is_refused(echo: Model, image: NDArray[np.float64]) -> None:
    with pytest.raises(ModelError, match="this network draws circularMask"):
        echo.predict(image, 0.1, "position")
    with pytest.raises(ModelError, match="tiles of 64"):
        echo.predict(image, 0.1, tile_px=64)
    with pytest.raises(ModelError, match="least chance 0"):
        echo.predict(image, 0.1, least_chance=0.0)


def test_a_real_network_is_the_same_by_tiles_away_from_their_borders() -> None:
    torch.manual_seed(1)
    model = Model(AtomNet(widths=(8, 8), reach=3).eval(), ("noNoise",), {})
    image = np.random.default_rng(2).normal(100.0, 10.0, (400, 400))
    whole = model.predict(image, 0.1).maps["noNoise"]
    tiled = model.predict(image, 0.1, tile_px=256).maps["noNoise"]
    np.testing.assert_allclose(tiled, whole, atol=0.02 * whole.std() + 0.3)
