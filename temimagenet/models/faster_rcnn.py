"""Faster R-CNN, a baseline of Lin et al. (2021): a box around each column, by torchvision (extra `baselines`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from temimagenet.device import check_device
from temimagenet.errors import ModelError
from temimagenet.imaging.detector import check_image
from temimagenet.models.inputs import choose_grid, normalise
from temimagenet.models.torchvision_ops import import_torchvision, nms

__all__ = ["Boxes", "ColumnRCNN", "find_boxes"]

_FINER = 2
"""Images are enlarged so many times: columns of five pixels still cover some cells of the finest features."""

_BORDER_PX = 16
"""Zeros around an image, so that boxes may reach beyond it and their centres stay on the columns."""

_LEVELS = {"3": ("0", 24), "6": ("1", 40), "12": ("2", 112)}
"""Layers of MobileNet V3 that the pyramid begins with (steps of 4, 8 and 16), their names and channels."""

_ANCHORS = ((10, 14), (20, 28), (40, 56), (80, 112))
"""Edges of the anchors on each level, in pixels of the enlarged image; columns are squares of 10 to 100."""

_OVERLAP = 0.5
"""Of two boxes with more than this in common (intersection over union) one goes: closer than 2 r / 3."""

_MOST = 3000
"""Columns and proposals of a tile at most."""

_LEAST_PROPOSED = 0.05
"""Proposals of a lower score are dropped, so that what is judged later is of the kind that was learnt from."""

_CORE_PX, _MARGIN_PX = 256, 32
"""A tile tells of the columns in its core; it sees a margin around it."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes found in an image.

    Attributes:
        xy_px: (N, 2) their centres (x, y) in pixels, pixel centres at integers.
        size_px: (N, 2) their widths and heights.
        score: (N,) from 0 to 1, how sure the network is.
    """

    xy_px: Float[NDArray[np.float64], "N 2"]
    size_px: Float[NDArray[np.float64], "N 2"]
    score: Float[NDArray[np.float64], "N"]


class ColumnRCNN(nn.Module):
    """torchvision's Faster R-CNN with one class, the column, whose box is a square of side 2 r.

    The backbone is MobileNet V3 with a feature pyramid from steps of 4 pixels on, since columns are small and many;
    it begins far earlier than in torchvision's own `fasterrcnn_mobilenet_v3_large_fpn`. All boxes are pooled from the
    finest level. A ResNet-50 takes twenty times the operations (4.1 against 0.2 billion on 224 x 224 pixels).

    Args:
        width: channels of the pyramid.
        head: width of the two layers that judge a box.

    Raises:
        ModelError: torchvision is not there.
    """

    maps: tuple[str, ...] = ()

    def __init__(self, width: int = 128, head: int = 512) -> None:
        super().__init__()
        import_torchvision()
        from torchvision.models import mobilenet_v3_large
        from torchvision.models.detection import FasterRCNN
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.backbone_utils import BackboneWithFPN
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.ops import MultiScaleRoIAlign

        self.settings = {"width": width, "head": head}
        layers = mobilenet_v3_large(weights=None, norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1)).features
        names = {layer: name for layer, (name, _) in _LEVELS.items()}
        pyramid = BackboneWithFPN(layers, names, [channels for _, channels in _LEVELS.values()], width)
        pooling = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
        self.detector = FasterRCNN(
            pyramid, image_mean=[0.0] * 3, image_std=[1.0] * 3,
            rpn_anchor_generator=AnchorGenerator(_ANCHORS, ((1.0,),) * len(_ANCHORS)), rpn_fg_iou_thresh=0.5,
            rpn_score_thresh=_LEAST_PROPOSED,
            rpn_pre_nms_top_n_train=1000, rpn_post_nms_top_n_train=1000,
            rpn_pre_nms_top_n_test=_MOST, rpn_post_nms_top_n_test=_MOST,
            box_roi_pool=pooling, box_head=TwoMLPHead(width * 7 * 7, head), box_predictor=FastRCNNPredictor(head, 2),
            box_batch_size_per_image=256, box_detections_per_img=_MOST, box_nms_thresh=_OVERLAP,
        )  # fmt: skip

        # torchvision would bring every image to a shorter edge of 800 pixels.
        self.detector.transform.resize = _as_it_is

    def begin_with_imagenet(self) -> bool:
        """Fill the backbone with torchvision's weights of ImageNet; it stays random, with a warning, without network.

        Returns:
            Whether they could be had.
        """
        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large

        try:
            learnt = mobilenet_v3_large(weights=MobileNet_V3_Large_Weights.IMAGENET1K_V2).features.state_dict()
        except (OSError, RuntimeError) as error:
            warnings.warn(f"weights of ImageNet cannot be had ({error}): the backbone begins at random", stacklevel=2)
            return False
        body = self.detector.backbone.body
        body.load_state_dict({key: learnt[key] for key in body.state_dict()})
        return True

    def losses(
        self, image: Float[Tensor, "B 1 rows columns"], xy_px: Sequence[Float[Tensor, "N 2"]], radius_px: Tensor
    ) -> dict[str, Tensor]:
        """The four losses of Faster R-CNN, in training and in evaluation.

        Anchors and proposals to learn from are drawn with PyTorch's own generator.

        Args:
            image: images of mean 0 and standard deviation 1.
            xy_px: columns of each image.
            radius_px: (B,) radii r of their columns.
        """
        targets = []
        for places, radius in zip(xy_px, radius_px, strict=True):
            centre = _FINER * (places.float() + 0.5 + _BORDER_PX)
            reach = _FINER * radius
            targets.append(
                {
                    "boxes": torch.cat([centre - reach, centre + reach], dim=1),
                    "labels": torch.ones(len(places), dtype=torch.long, device=image.device),
                }
            )
        inner = self.detector
        inner.rpn.train()
        inner.roi_heads.train()
        try:
            # Half precision is too coarse for coordinates.
            with torch.autocast(image.device.type, enabled=False):
                seen, targets = inner.transform(list(_enlarged(image)), targets)
                features = inner.backbone(seen.tensors)
                proposals, first = inner.rpn(seen, features, targets)
                _, second = inner.roi_heads(features, proposals, seen.image_sizes, targets)
        finally:
            inner.rpn.train(self.training)
            inner.roi_heads.train(self.training)
        return {**first, **second}

    @torch.no_grad()
    def find(self, image: Float[Tensor, "B 1 rows columns"], least_score: float = 0.5) -> list[Boxes]:
        """Boxes of each image, the surest first.

        Args:
            image: images of mean 0 and standard deviation 1.
            least_score: boxes of a lower score are left out.
        """
        was = self.training
        self.eval()
        with torch.autocast(image.device.type, enabled=False):
            answers = self.detector(list(_enlarged(image)))
        self.train(was)
        found = []
        for answer in answers:
            score = answer["scores"].double().numpy(force=True)
            sides = answer["boxes"].double().numpy(force=True)[score >= least_score] / _FINER
            found.append(
                Boxes(
                    (sides[:, :2] + sides[:, 2:]) / 2.0 - 0.5 - _BORDER_PX, sides[:, 2:] - sides[:, :2],
                    score[score >= least_score],
                )
            )  # fmt: skip
        return found


def _as_it_is(image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
    """An image and its boxes, not resized."""
    return image, target


def _enlarged(image: Float[Tensor, "B 1 rows columns"]) -> Float[Tensor, "B 3 finer_rows finer_columns"]:
    """What the backbone sees: zeros around the image, finer pixels, three channels alike."""
    wide = functional.pad(image.float(), (_BORDER_PX,) * 4)
    return functional.interpolate(wide, scale_factor=_FINER, mode="bilinear").expand(-1, 3, -1, -1)


def find_boxes(
    network: ColumnRCNN,
    image: ArrayLike,
    pixel_size_A: float,
    *,
    least_score: float = 0.5,
    device: torch.device | str = "cpu",
) -> Boxes:
    """Boxes of the columns of an image of any size, tile by tile.

    Pixels outside the range of the training are binned or interpolated first.

    Args:
        network: a trained network.
        image: (rows, columns) intensities in any unit.
        pixel_size_A: pixel size.
        least_score: boxes of a lower score are left out.
        device: where to work.

    Raises:
        LocalizeError: not an image that can be used (`check_image`).
        ModelError: a constant image, or a pixel size or score out of range.
    """
    if not 0.0 < least_score <= 1.0:
        raise ModelError(f"least score {least_score}: expected above 0, at most 1")
    values = check_image(image, pixel_size_A)
    grid = choose_grid((values.shape[0], values.shape[1]), pixel_size_A)
    seen = torch.from_numpy(normalise(grid.resample(values))[0]).to(check_device(device))
    network = network.to(seen.device)
    parts = []
    for top, bottom in _cores(seen.shape[0]):
        for left, right in _cores(seen.shape[1]):
            y, x = max(top - _MARGIN_PX, 0), max(left - _MARGIN_PX, 0)
            tile = seen[y : bottom + _MARGIN_PX, x : right + _MARGIN_PX]
            boxes = network.find(tile[None, None], least_score)[0]
            xy = boxes.xy_px + np.array([x, y])
            # A pixel more than the core: what two tiles tell of goes below, what lies between them is not lost.
            mine = ((xy > np.array([left, top]) - 1.5) & (xy < np.array([right, bottom]) + 0.5)).all(axis=1)
            parts.append(np.column_stack([xy, boxes.size_px, boxes.score])[mine])
    told = np.concatenate(parts)
    corners = np.concatenate([told[:, :2] - told[:, 2:4] / 2.0, told[:, :2] + told[:, 2:4] / 2.0], axis=1)
    told = told[nms(torch.from_numpy(corners), torch.from_numpy(told[:, 4]), _OVERLAP).numpy()]
    xy = grid.to_image_px(told[:, :2])
    inside = ((xy >= -0.5) & (xy < np.array(values.shape[::-1]) - 0.5)).all(axis=1)
    return Boxes(xy[inside], told[inside, 2:4] * grid.step_px, told[inside, 4])


def _cores(length: int) -> list[tuple[int, int]]:
    """Parts of about equal length along one axis."""
    edges = np.linspace(0, length, -(-length // _CORE_PX) + 1).round().astype(int).tolist()
    return list(pairwise(edges))
