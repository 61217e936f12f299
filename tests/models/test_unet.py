"""The networks: shapes at any size, what reaches what, and settings that are refused."""

from __future__ import annotations

import pytest
import torch

from temimagenet.errors import ModelError
from temimagenet.models import FINE_MAPS, PLAIN_MAPS, AtomNet, UNet


@pytest.fixture(scope="module")
def small() -> AtomNet:
    """A narrow network with settled normalisation."""
    torch.manual_seed(0)
    return AtomNet(widths=(8, 8, 12), reach=5).eval()


@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (5, 130)])
def test_every_output_has_the_size_of_the_image_or_twice(small: AtomNet, shape: tuple[int, int]) -> None:
    answer = small(torch.randn(2, 1, *shape))
    rows, columns = shape
    for name in PLAIN_MAPS:
        assert answer[name].shape == (2, 1, rows, columns)
    for name in FINE_MAPS:
        assert answer[name].shape == (2, 1, 2 * rows, 2 * columns)
    assert answer["columns"].shape == (2, 7, -(-rows // 2), -(-columns // 2))


def test_the_papers_network_at_any_size_and_with_fine_maps() -> None:
    network = UNet(("gaussianMask", FINE_MAPS[0]), width=4, depth=3)
    answer = network(torch.randn(1, 1, 45, 62))
    assert answer["gaussianMask"].shape == (1, 1, 45, 62)
    assert answer[FINE_MAPS[0]].shape == (1, 1, 90, 124)
    assert set(answer) == {"gaussianMask", FINE_MAPS[0]}


def test_the_papers_network_has_the_parameters_of_its_drawing() -> None:
    # Two 3 x 3 convolutions a level, 64 to 1024 channels: Ronneberger et al. (2015) count 31.0 million.
    assert sum(p.numel() for p in UNet("gaussianMask").parameters()) == pytest.approx(31.03e6, rel=1e-3)


def test_rows_are_told_by_columns_far_along_them_only(small: AtomNet) -> None:
    """The long convolutions reach along rows: a change far to the side is felt, one as far above is not."""
    network = AtomNet(widths=(8, 8), reach=31).eval()
    image = torch.zeros(1, 1, 256, 256)
    base = network(image)["gaussianMask"]
    beside, above = image.clone(), image.clone()
    beside[0, 0, 128, 128 + 80] = 100.0
    above[0, 0, 128 - 80, 128] = 100.0
    assert (network(beside)["gaussianMask"] - base)[0, 0, 128, 128] != 0.0
    assert (network(above)["gaussianMask"] - base)[0, 0, 128, 128] == 0.0


@pytest.mark.parametrize("maps", ["nothing", (), ("noNoise", "noNoise")])
def test_maps_that_there_are_not_are_refused(maps: str | tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="expected different ones of circularMask"):
        AtomNet(maps)
    with pytest.raises(ModelError, match="expected different ones of circularMask"):
        UNet(maps)


def test_builds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelError, match="odd reach"):
        AtomNet(reach=4)
    with pytest.raises(ModelError, match="depth 0"):
        UNet(depth=0)
