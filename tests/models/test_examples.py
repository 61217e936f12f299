"""Examples: the same number is the same example; crops, mirrors and units keep labels on the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from temimagenet import TEMImageNet, load_recipe
from temimagenet.errors import DatasetError
from temimagenet.models import FINE_MAPS, PLAIN_MAPS
from temimagenet.models.columns import CELL
from temimagenet.models.examples import ExampleBatch, Examples, _carbon, _worn, batched, from_library, on_the_fly
from temimagenet.recipe import Recipe

MAPS = PLAIN_MAPS + FINE_MAPS


@pytest.fixture(scope="module")
def examples(recipe: Recipe) -> Examples:
    """Two dozen of the tiny recipe."""
    return Examples(on_the_fly(recipe, MAPS), MAPS, 48, seed=3, start=100, count=24)


def test_an_example_depends_on_its_number_alone(recipe: Recipe, examples: Examples) -> None:
    later = Examples(on_the_fly(recipe, MAPS), MAPS, 48, seed=3, start=105, count=4)
    torch.testing.assert_close(later[2].image, examples[7].image, rtol=0.0, atol=0.0)
    other = Examples(on_the_fly(recipe, MAPS), MAPS, 48, seed=4, start=105, count=4)
    assert not torch.equal(other[2].image, examples[7].image)
    with pytest.raises(IndexError):
        examples[24]


def test_labels_stay_on_the_image_whatever_was_cut_and_mirrored(recipe: Recipe) -> None:
    """Columns have the peaks of the Gaussian map; pixel (2 i, 2 j) of the fine image is pixel (i, j)."""
    examples = Examples(on_the_fly(recipe, MAPS), MAPS, 48, seed=3, start=100, count=24, worn=False)
    batch = batched([examples[number] for number in range(24)])
    fine, plain = batch.maps[FINE_MAPS[0]], batch.maps["noBackgroundnoNoise"]
    torch.testing.assert_close(fine[..., ::2, ::2], plain, rtol=1e-4, atol=1e-4)
    xy = batch.columns[:, :2] * CELL + (CELL - 1) / 2.0
    pixel = xy.round().long()
    inside = ((pixel >= 1) & (pixel < 47)).all(dim=1)
    height = batch.maps["gaussianMask"][batch.owner[inside], 0, pixel[inside, 1], pixel[inside, 0]]
    size = batch.pixel_size_A[batch.owner[inside]]
    # The farthest corner of a pixel is half its diagonal away; other columns only add.
    least = torch.exp(-0.5 * (0.5**0.5 * size / 0.0849) ** 2)
    assert (height >= 0.99 * least).all()
    assert inside.sum() > 200


@pytest.mark.parametrize("carbon", [0.0, 1.0])
def test_some_examples_are_empty(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, carbon: float) -> None:
    monkeypatch.setattr("temimagenet.models.examples._EMPTY", 1.0)
    monkeypatch.setattr("temimagenet.models.examples._CARBON", carbon)
    monkeypatch.setattr("temimagenet.models.examples._worn", lambda image, *_: (image, 0.0))
    example = Examples(on_the_fly(recipe, MAPS), MAPS, 64, seed=3, start=7, count=1)[0]
    assert len(example.columns) == 0
    for name, drawn in example.maps.items():
        if name.startswith("noNoise") and "NoBackground" not in name:
            # The background alone, on the level of the image.
            assert abs(float(drawn.mean() - example.image.mean())) < 0.2
        else:
            assert float(drawn.abs().max()) == 0.0
    torch.testing.assert_close(example.maps["noNoiseUpinterpolation2x"][..., ::2, ::2], example.maps["noNoise"])


def test_carbon_is_rough_as_far_as_the_probe_sees(recipe: Recipe) -> None:
    """Its mean is 1, and nothing of it is finer than the probe's cut-off, 2 alpha / lambda."""
    sample = on_the_fly(recipe, ())(3)
    film = _carbon((256, 256), sample, np.random.default_rng(0)).double().numpy()
    assert film.mean() == pytest.approx(1.0, abs=0.01)
    frequency = np.fft.fftfreq(256, sample.pixel_size_A / 2.0)
    k = np.hypot(frequency[:, None], frequency)
    cutoff = 2e-3 * sample.spec.optics.aperture_mrad / sample.spec.optics.wavelength_A
    power = np.abs(np.fft.fft2(film - film.mean())) ** 2
    assert power[k > 1.02 * cutoff].sum() < 1e-6 * power.sum()
    assert power[(k > 0.2 * cutoff)].sum() > 0.02 * power.sum()


@pytest.mark.parametrize("pixel_size_A", [0.06, 0.1, 0.2])
@pytest.mark.parametrize("shape", [(64, 64), (63, 50)])
def test_worn_images_keep_their_columns_where_they_were(pixel_size_A: float, shape: tuple[int, int]) -> None:
    """Over many wears of one image the spot stays where it is, whatever the pixel and the shape."""
    y, x = np.indices(shape)
    spot = 20.0 + 500.0 * np.exp(-0.5 * ((x - 24.3) ** 2 + (y - 30.6) ** 2) / (0.5 / pixel_size_A) ** 2)
    total = np.zeros(shape)
    for seed in range(200):
        worn, _ = _worn(spot, pixel_size_A, np.random.default_rng(seed))
        assert worn.shape == shape
        total += np.clip(worn, 0.0, 600.0) / 200.0
    # Symmetric about the spot.
    window = total[31 - 12 : 31 + 12, 24 - 12 : 24 + 13] - np.median(total)
    row, column = np.indices(window.shape)
    assert abs((window * row).sum() / window.sum() - (30.6 - 19)) < 0.3
    assert abs((window * column).sum() / window.sum() - (24.3 - 12)) < 0.3


def test_clean_labels_are_as_wide_as_what_is_seen(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth the image by more than its spots: the clean image follows, the columns' own maps do not."""
    names = ("noNoise", "noNoiseUpinterpolation2x", "gaussianMask")

    def drawn(smoothed_px: float) -> ExampleBatch:
        def wear(image: NDArray[np.float64], *_: object) -> tuple[NDArray[np.float64], float]:
            return gaussian_filter(image, smoothed_px), smoothed_px

        monkeypatch.setattr("temimagenet.models.examples._worn", wear)
        monkeypatch.setattr("temimagenet.models.examples._EMPTY", 0.0)
        return Examples(on_the_fly(recipe, names), names, 64, seed=3, start=9, count=1)[0]

    sharp, smooth = drawn(0.0), drawn(4.0)
    assert torch.equal(sharp.maps["gaussianMask"], smooth.maps["gaussianMask"])
    clean = smooth.maps["noNoise"]
    assert float((smooth.image - clean).std()) < 0.6 * float((smooth.image - sharp.maps["noNoise"]).std())
    fine = smooth.maps["noNoiseUpinterpolation2x"][..., ::2, ::2]
    torch.testing.assert_close(fine[..., 8:-8, 8:-8], clean[..., 8:-8, 8:-8], rtol=0.02, atol=0.02)


def test_an_image_is_its_clean_label_plus_noise(recipe: Recipe) -> None:
    """In the network's units, image and label of unworn examples differ by noise of mean zero alone."""
    plain = Examples(on_the_fly(recipe, ("noNoise",)), ("noNoise",), 64, seed=5, start=0, count=12, worn=False)
    for number in range(12):
        example = plain[number]
        rest = (example.image - example.maps["noNoise"]).numpy()
        # Scan noise moves rows, it adds nothing on the whole.
        assert abs(rest.mean()) < 5.0 * rest.std() / np.sqrt(rest.size) + 0.02


def test_signals_are_the_columns_of_the_clean_image() -> None:
    """A column's signal is the integral of its spot: on the whole, of the image without background."""
    recipe = load_recipe("training")
    plain = Examples(on_the_fly(recipe, ("noBackgroundnoNoise",)), ("noBackgroundnoNoise",), 256, 5, 0, 40, worn=False)
    ratios = []
    for number in range(40):
        example = plain[number]
        area = float(example.pixel_size_A) ** 2
        if len(example.columns) > 60:
            ratios.append(float(example.columns[:, 2].sum() / example.maps["noBackgroundnoNoise"].sum() / area))
    assert len(ratios) > 10
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)


def test_a_library_is_passed_through_whole_each_turn(library: Path) -> None:
    data = TEMImageNet(library, split="train", labels=("gaussianMask",))
    source = from_library(data, seed=1)
    first = [source(number).id for number in range(len(data))]
    second = [source(number + len(data)).id for number in range(len(data))]
    assert sorted(first) == sorted(second) == sorted(data.catalogue["id"])
    assert first != second


def test_a_split_that_never_comes_is_an_error(recipe: Recipe) -> None:
    with pytest.raises(DatasetError, match="none of 200 samples"):
        on_the_fly(recipe, ("gaussianMask",), split="nonesuch")(0)
