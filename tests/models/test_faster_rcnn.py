"""Faster R-CNN: boxes lie where the columns are, tiles join, training goes on where it stopped, weights come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from temimagenet.errors import ModelError
from temimagenet.models import load_model, load_network
from temimagenet.models.faster_rcnn import Boxes, ColumnRCNN, find_boxes
from temimagenet.models.inputs import normalise
from temimagenet.models.train import TrainSettings, settings_for, train

SMALL = {"width": 16, "head": 32}
TINY = TrainSettings(
    network="faster-rcnn", maps=(), recipe="demo", crop=32, batch=2, steps=4, round_steps=2, workers=0,
    precision="32-true",
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> ColumnRCNN:
    """A small one of random weights."""
    torch.manual_seed(1)
    return ColumnRCNN(**SMALL)


def _bright_pixels(image: Tensor, least_score: float) -> list[Boxes]:
    """What a perfect network finds in an image of single bright pixels."""
    y, x = np.nonzero(image[0, 0].numpy() > 3.0)
    xy = np.stack([x, y], axis=1).astype(float)
    return [Boxes(xy, np.full(xy.shape, 6.0), np.full(len(xy), 0.9))]


def _dots(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An image of bright pixels ten apart, and their places."""
    image = np.zeros((rows, columns))
    image[3::10, 5::10] = 1.0
    y, x = np.nonzero(image)
    return image, np.stack([x, y], axis=1).astype(float)


def test_tiles_tell_of_every_column_once(network: ColumnRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "find", _bright_pixels)
    for shape in ((40, 90), (257, 300), (523, 610)):
        image, places = _dots(*shape)
        found = find_boxes(network, image, 0.1).xy_px
        assert len(found) == len(places)
        np.testing.assert_allclose(found[np.lexsort(found.T)], places[np.lexsort(places.T)])


def test_fine_pixels_are_binned_and_places_come_back(network: ColumnRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "find", _bright_pixels)
    image, places = _dots(60, 80)
    found = find_boxes(network, np.kron(image, np.ones((4, 4))), 0.03)
    np.testing.assert_allclose(found.xy_px[np.lexsort(found.xy_px.T)], 4.0 * places[np.lexsort(places.T)] + 1.5)
    np.testing.assert_allclose(found.size_px, 24.0)


def test_losses_are_the_same_four_in_training_and_evaluation(network: ColumnRCNN) -> None:
    """An image without columns has losses, too; a network in evaluation stays so."""
    image = torch.randn(2, 1, 40, 48)
    places = [torch.tensor([[10.0, 10.0], [0.0, 39.0]]), torch.zeros(0, 2)]
    for training in (True, False):
        network.train(training)
        parts = network.losses(image, places, torch.tensor([5.0, 6.0]))
        assert set(parts) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
        assert all(bool(torch.isfinite(value)) for value in parts.values())
        assert all(part.training == training for part in network.modules())


def test_an_overfitted_network_finds_the_columns() -> None:
    """Nine spots learnt by heart: the losses fall, each is found once, to half a pixel on the mean."""
    torch.manual_seed(0)
    y, x = np.mgrid[:64, :64]
    places = np.array([(12.0 + 18 * i + 2 * (j % 2), 13.0 + 18 * j) for i in range(3) for j in range(3)])
    image = np.sum([np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 9.0) for a, b in places], axis=0)
    seen, truth = torch.from_numpy(normalise(image)[0])[None, None], [torch.from_numpy(places)]
    network = ColumnRCNN(width=32, head=64).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, 120)
    course = []
    for _ in range(120):
        loss = torch.stack(list(network.losses(seen, truth, torch.tensor([7.0])).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        course.append(loss.item())
    assert np.mean(course[-10:]) < 0.3 * np.mean(course[:3])
    found = find_boxes(network, image, 0.1)
    assert len(found.xy_px) == len(places)
    error = np.linalg.norm(found.xy_px[:, None] - places, axis=2).min(axis=1)
    assert error.mean() < 0.5
    np.testing.assert_allclose(found.size_px, 14.0, atol=3.0)


@pytest.fixture
def few_to_judge_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two examples and a small network, to be quick."""
    monkeypatch.setattr("temimagenet.models.train._VALIDATION", 2)
    monkeypatch.setattr("temimagenet.models.train._network_settings", lambda settings: SMALL)


@pytest.mark.usefixtures("few_to_judge_by")
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    how = {"device": "cpu", "devices": 1, "progress": False}
    weights = train(TINY, tmp_path / "whole", **how)  # type: ignore[arg-type]
    assert not train(TINY, tmp_path / "parts", most_rounds=1, **how).exists()  # type: ignore[arg-type]
    again = train(TINY, tmp_path / "parts", resume=True, **how)  # type: ignore[arg-type]
    first, second = (load_network(path)[0] for path in (weights, again))
    assert isinstance(first, ColumnRCNN)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0.0, atol=0.0)
    card = (tmp_path / "whole" / "model_card.md").read_text(encoding="utf-8")
    assert "| validation loss_box_reg |" in card
    assert "| recall |" in card
    with pytest.raises(ModelError, match="draws no maps"):
        load_model(weights)


def test_settings_draw_no_maps_and_without_network_the_backbone_stays_random(
    network: ColumnRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings_for("faster-rcnn").maps == ()
    assert settings_for("fast", network="faster-rcnn").maps == ()

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.warns(UserWarning, match="backbone begins at random"):
        assert not network.begin_with_imagenet()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])
