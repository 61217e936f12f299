"""What networks see: levels that come back, grids whose positions are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from temimagenet.errors import ModelError
from temimagenet.labels import LABELS, POINTS
from temimagenet.models.inputs import choose_grid, levels, normalise, to_image_unit, to_network_unit

MAPS = [name for name in LABELS if name not in POINTS]


def test_gain_and_offset_do_not_matter() -> None:
    image = np.random.default_rng(0).gamma(3.0, size=(40, 50))
    seen, scale = normalise(image)
    other, _ = normalise(-7.0 + 300.0 * image)
    np.testing.assert_allclose(seen, other, atol=1e-5)
    assert abs(seen.mean()) < 1e-5
    assert seen.std() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(scale.mean + scale.deviation * seen, image, atol=1e-5)


def test_a_hot_pixel_does_not_blind() -> None:
    image = np.random.default_rng(1).normal(100.0, 10.0, (64, 64))
    hot = image.copy()
    hot[5, 6] = 1e6
    assert levels(hot).deviation == pytest.approx(levels(image).deviation, rel=0.05)


def test_constant_images_are_refused() -> None:
    with pytest.raises(ModelError, match="every pixel is 3"):
        levels(np.full((8, 8), 3.0))


@pytest.mark.parametrize("name", MAPS)
def test_units_there_and_back(name: str) -> None:
    truth = torch.rand(4, 5)
    scale = levels(np.random.default_rng(2).normal(50.0, 4.0, (9, 9)))
    torch.testing.assert_close(to_image_unit(name, to_network_unit(name, truth, scale), scale), truth)


@pytest.mark.parametrize(("pixel", "step"), [(0.1, 1.0), (0.08, 2.0), (0.06, 2.0), (0.02, 6.0), (0.05, 2.0)])
def test_fine_pixels_are_binned_by_whole_numbers(pixel: float, step: float) -> None:
    grid = choose_grid((120, 130), pixel)
    assert grid.step_px == step
    assert 0.085 <= grid.pixel_size_A <= 0.2
    image = np.random.default_rng(3).random((120, 130))
    assert grid.resample(image).shape == grid.shape


@pytest.mark.parametrize("pixel", [0.02, 0.05, 0.1, 0.3, 0.41])
def test_a_spot_is_where_it_was(pixel: float) -> None:
    """The centre of a spot on the network's grid, mapped back, is the spot's, to a hundredth of the larger pixel."""
    y, x = np.indices((90, 96))
    true = np.array([[41.3, 52.7]])
    width = max(0.2 / pixel, 1.5)
    image = np.exp(-((x - true[0, 0]) ** 2 + (y - true[0, 1]) ** 2) / (2.0 * width**2))
    grid = choose_grid(image.shape, pixel)
    seen = grid.resample(image)
    v, u = np.indices(seen.shape)
    near = seen > 0.01
    centre = np.array([[(u[near] * seen[near]).sum(), (v[near] * seen[near]).sum()]]) / seen[near].sum()
    np.testing.assert_allclose(grid.to_image_px(centre), true, atol=0.01 * max(1.0, grid.step_px))
    assert seen.sum() * grid.step_px**2 == pytest.approx(image.sum(), rel=1e-3)


@pytest.mark.parametrize("pixel", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("finer", [1, 2])
def test_drawn_maps_come_back_to_the_image(pixel: float, finer: int) -> None:
    """A plane drawn on the grid is the same plane on the image."""
    shape = (60, 80)
    grid = choose_grid(shape, pixel)
    v, u = (np.arange(finer * count) / finer for count in grid.shape)
    xy = grid.to_image_px(np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2))
    drawn = (xy[:, 0] + 2.0 * xy[:, 1]).reshape(finer * grid.shape[0], finer * grid.shape[1]).astype(np.float32)
    back = grid.restore(drawn, shape)
    y, x = (np.arange(finer * count) / finer for count in shape)
    expected = x[None, :] + 2.0 * y[:, None]
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(back[inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize(("pixel", "told"), [(0.0, "positive"), (-1.0, "positive"), (2.0, "not resolved"),
                                             (1e-4, "less than half an angstrom")])  # fmt: skip
def test_pixel_sizes_that_cannot_be_are_refused(pixel: float, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        choose_grid((128, 128), pixel)


def test_a_grid_too_large_is_refused() -> None:
    """An image of a microscope's largest camera whose pixels are said to be ten times as large as they are."""
    with pytest.raises(ModelError, match="4096 x 4096 would be seen on 34133 x 34133"):
        choose_grid((4096, 4096), 1.0)
