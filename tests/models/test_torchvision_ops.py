"""torchvision's operators written with PyTorch: overlaps by brute force, pooling of planes, gradients."""

from __future__ import annotations

import sys

import pytest
import torch

from temimagenet.errors import ModelError
from temimagenet.models.torchvision_ops import import_torchvision, nms, roi_align


def _boxes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = 40.0 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + 1.0 + 15.0 * torch.rand(count, 2, generator=generator)], dim=1), torch.rand(
        count, generator=generator
    )


def _overlap(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
def test_of_boxes_that_overlap_the_best_stays(threshold: float) -> None:
    boxes, scores = _boxes(200, seed=1)
    kept: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        mine = boxes[number].tolist()
        if all(_overlap(mine, boxes[other].tolist()) <= threshold for other in kept):
            kept.append(number)
    assert nms(boxes, scores, threshold).tolist() == kept
    assert 0 < len(kept) < 200


def test_no_boxes_and_equal_scores() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert nms(boxes, torch.ones(3), 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_of_a_plane_each_bin_has_the_value_at_its_centre(aligned: bool, ratio: int) -> None:
    """Bilinear samples of a plane are exact and lie evenly about the centre, whatever their number."""
    rows, columns, scale = 20, 30, 0.5
    y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    planes = torch.stack([x, y, 3.0 * x - 2.0 * y + 1.0])[None] * torch.tensor([1.0, -2.0])[:, None, None, None]
    rois = torch.tensor(
        [[1, 6.0, 8.0, 27.0, 33.0], [0, 4.0, 3.0, 9.0, 5.5], [1, 10.0, 12.0, 50.0, 30.0]], dtype=torch.float64
    )
    drawn = roi_align(planes, rois, scale, 4, 5, ratio, aligned)
    assert drawn.shape == (3, 3, 4, 5)
    for roi, bins in zip(rois, drawn, strict=True):
        first = roi[1:3] * scale - (0.5 if aligned else 0.0)
        size = (roi[3:5] - roi[1:3]) * scale
        across = first[0] + size[0] * (torch.arange(5).double() + 0.5) / 5
        down = first[1] + size[1] * (torch.arange(4).double() + 0.5) / 4
        sign = 1.0 if roi[0] == 0 else -2.0
        torch.testing.assert_close(bins[0], sign * across.expand(4, 5))
        torch.testing.assert_close(bins[1], sign * down[:, None].expand(4, 5))
        torch.testing.assert_close(bins[2], sign * (3.0 * across - 2.0 * down[:, None] + 1.0))


def test_samples_beyond_the_border() -> None:
    """Up to a pixel out they have the border's value, farther out they are 0."""
    ones = torch.ones(1, 1, 6, 6)
    rois = torch.tensor([[0, -4.0, 1.0, 4.0, 5.0]])
    # Centres of the bins lie at x = -3.5, -2.5, -1.5, -0.5, 0.5 ...
    torch.testing.assert_close(
        roi_align(ones, rois, 1.0, 1, 8, 1, False)[0, 0, 0], torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1])
    )


def test_gradients_are_those_of_finite_differences() -> None:
    features = torch.rand(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.3, 0.4, 4.1, 3.3], [1, 1.2, 0.1, 5.2, 4.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda part: roi_align(part, rois, 1.0, 2, 3, 2, True), (features,))
    assert roi_align(features, rois[:0], 1.0, 2, 3, 2, True).shape == (0, 2, 2, 3)


def test_torchvision_calls_them_where_its_own_are_missing() -> None:
    vision = import_torchvision()
    boxes, scores = _boxes(50, seed=2)
    assert vision.ops.nms(boxes, scores, 0.4).tolist() == nms(boxes, scores, 0.4).tolist()
    features = torch.rand(1, 3, 30, 30, requires_grad=True)
    rois = torch.cat([torch.zeros(50, 1), boxes], dim=1)
    theirs = vision.ops.roi_align(features, rois, (7, 7), 0.5, 2)
    torch.testing.assert_close(theirs, roi_align(features, rois, 0.5, 7, 7, 2, False))
    theirs.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0.0
    assert import_torchvision() is vision


def test_where_torchvision_is_missing_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModelError, match=r"pip install 'temimagenet\[baselines\]'"):
        import_torchvision()
