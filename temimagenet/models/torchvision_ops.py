"""torchvision imported where its compiled operators cannot be loaded: `nms` and `roi_align` written with PyTorch."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from temimagenet.errors import ModelError

__all__ = ["import_torchvision", "nms", "roi_align"]

_NAMESPACE = "torchvision"
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_ALIGN = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor"
)

_defined: list[torch.library.Library] = []
"""Operators live as long as the library object that defined them."""


def nms(dets: Float[Tensor, "N 4"], scores: Float[Tensor, "N"], iou_threshold: float) -> Int[Tensor, "K"]:
    """Boxes that overlap no better one: the best stays, all that overlap it too much go, then the next best.

    Args:
        dets: (left, top, right, bottom) of each box.
        scores: the more the better; of equals the first.
        iou_threshold: boxes go where intersection over union exceeds this.

    Returns:
        Indices of those that stay, the best first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    left, top, right, bottom = dets[order].detach().float().numpy(force=True).T
    area = (right - left) * (bottom - top)
    gone = np.zeros(len(area), dtype=bool)
    for best in range(len(area)):
        if gone[best]:
            continue
        rest = slice(best + 1, None)
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        gone[rest] |= shared > iou_threshold * (area[best] + area[rest] - shared)
    return order[torch.from_numpy(~gone).to(order.device)]


def roi_align(
    input: Float[Tensor, "B C H W"],
    rois: Float[Tensor, "K 5"],
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "K C h w"]:
    """Features of each box on a grid of bins: means of bilinear samples (He et al., Mask R-CNN, ICCV 2017).

    Differentiable in the features and in the boxes. Samples more than a pixel beyond the features are 0; nearer ones
    take the border's value.

    Args:
        input: features of a batch.
        rois: image of the batch, left, top, right and bottom of each box.
        spatial_scale: pixels of the features per unit of the boxes.
        pooled_height, pooled_width: number of bins.
        sampling_ratio: samples along an edge of a bin; one per pixel of the features where 0 or less.
        aligned: whether pixel centres lie at half-integers; else at integers, and boxes are a pixel wide at least.
    """
    half = 0.5 if aligned else 0.0
    first = rois[:, 1:3] * spatial_scale - half
    size = rois[:, 3:5] * spatial_scale - half - first
    if not aligned:
        size = size.clamp_min(1.0)
    bins = size / size.new_tensor([pooled_width, pooled_height])
    samples = bins.detach().ceil().clamp_min(1.0) if sampling_ratio <= 0 else torch.full_like(bins, sampling_ratio)
    kinds, kind = torch.unique(torch.cat([rois[:, :1], samples], dim=1).long(), dim=0, return_inverse=True)
    rows, columns = input.shape[-2:]
    pooled = [input.new_zeros((0, input.shape[1], pooled_height, pooled_width))]
    places = [kind.new_zeros(0)]
    for number, (image, across, down) in enumerate(kinds.tolist()):
        mine = torch.nonzero(kind == number)[:, 0]
        x, y = (
            first[mine, axis, None] + bins[mine, axis, None] * (torch.arange(count * part).to(rois) + 0.5) / part
            for axis, count, part in ((0, pooled_width, across), (1, pooled_height, down))
        )
        inside = ((y >= -1.0) & (y <= rows))[:, :, None] & ((x >= -1.0) & (x <= columns))[:, None, :]
        across_all, down_all = (
            (2.0 * place / max(length - 1, 1) - 1.0).expand(inside.shape)
            for place, length in ((x[:, None, :], columns), (y[:, :, None], rows))
        )
        # The bins of all boxes of one image lie below each other.
        grid = torch.stack([across_all, down_all], dim=-1).flatten(0, 1)[None]
        drawn = functional.grid_sample(
            input[image : image + 1], grid.to(input.dtype), padding_mode="border", align_corners=True
        )
        means = functional.avg_pool2d(drawn * inside.flatten(0, 1), (down, across))[0]
        pooled.append(means.reshape(len(means), len(mine), pooled_height, pooled_width).transpose(0, 1))
        places.append(mine)
    return torch.cat(pooled)[torch.argsort(torch.cat(places))]


def _define() -> None:
    """Put the operators where torchvision looks for them; `qnms` only has to be there when it is imported."""
    if _defined:
        return
    library = torch.library.Library(_NAMESPACE, "FRAGMENT")
    for schema in (f"nms{_BOXES}", f"qnms{_BOXES}", _ALIGN):
        library.define(schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    _defined.append(library)


def import_torchvision() -> ModuleType:
    """torchvision, with `nms` and `roi_align` of this module where its own compiled ones cannot be loaded.

    They are compiled for one build of PyTorch, and another (of the CPU, say) has no use for them.

    Raises:
        ModelError: torchvision is not installed, or cannot be imported for another reason.
    """
    try:
        try:
            import torchvision
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            _define()
            import torchvision
    except ImportError as error:
        raise ModelError("Faster R-CNN needs torchvision: pip install 'temimagenet[baselines]'") from error
    except RuntimeError as error:
        raise ModelError(f"torchvision cannot be imported ({error}): install the one made for this PyTorch") from error
    if not torchvision.extension._has_ops():
        _define()
        # Both ask this before they call an operator.
        for name in ("torchvision.extension", "torchvision.ops.roi_align"):
            sys.modules[name]._has_ops = lambda: True  # type: ignore[attr-defined]
    return torchvision  # type: ignore[no-any-return]
