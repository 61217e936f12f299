"""Faster R-CNN as a localizer: centres are positions, cut boxes are flagged, what is missing is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from temimagenet.errors import LocalizeError
from temimagenet.localize import FasterRCNN, Flag
from temimagenet.localize.faster_rcnn import _network
from temimagenet.models import UNet
from temimagenet.models.faster_rcnn import Boxes, ColumnRCNN
from temimagenet.models.zoo import write_weights

IMAGE = np.random.default_rng(0).poisson(20.0, (48, 64)).astype(float)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network that has learnt nothing."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_weights(ColumnRCNN(width=16, head=32), path, {})
    return str(path)


def test_centres_are_positions_and_cut_boxes_are_flagged(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xy = np.array([[20.0, 20.0], [3.0, 20.0], [20.0, 44.0]])
    told = Boxes(xy, np.full((3, 2), 8.0), np.array([0.9, 0.8, 0.7]))
    monkeypatch.setattr(ColumnRCNN, "find", lambda *_: [told])
    found = FasterRCNN(weights)(IMAGE, 0.1)
    np.testing.assert_allclose(found.xy_px, xy)
    assert found.flags.tolist() == [Flag.SOUND, Flag.CUT, Flag.CUT]
    assert np.isnan(found.sigma_px).all()
    assert np.isnan(found.intensity).all()
    assert np.isnan(found.width_px).all()
    assert found.pixel_size_A == 0.1


def test_weights_from_a_file_and_a_score_that_nothing_reaches(weights: str) -> None:
    method = FasterRCNN(weights, least_score=0.999)
    assert method.name == "Faster R-CNN (score 0.999)"
    assert len(method(IMAGE, 0.1)) == 0


def test_what_cannot_be_used_is_told(weights: str, tmp_path: Path) -> None:
    with pytest.raises(LocalizeError, match=r"no Faster R-CNN is shipped"):
        FasterRCNN(str(tmp_path / "none.safetensors"))(IMAGE, 0.1)
    write_weights(UNet(("noNoise",), width=4, depth=2), tmp_path / "unet.safetensors", {})
    with pytest.raises(LocalizeError, match="weights of another network"):
        FasterRCNN(str(tmp_path / "unet.safetensors"))(IMAGE, 0.1)
    with pytest.raises(LocalizeError, match="least score 0"):
        FasterRCNN(weights, least_score=0.0)(IMAGE, 0.1)
    with pytest.raises(LocalizeError):
        FasterRCNN(weights)(np.ones((8, 8)), 0.1)


def test_without_torchvision_the_error_says_what_to_install(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _network.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(LocalizeError, match=r"pip install 'temimagenet\[baselines\]'"):
        FasterRCNN(weights)(IMAGE, 0.1)
