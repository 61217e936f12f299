"""`adapt`: the shipped network taught a little more of one's own crystal, and what that brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from temimagenet.metrics import psnr
from temimagenet.models.examples import Examples
from temimagenet.models.predict import load_model
from temimagenet.models.train import TrainSettings, count_hits, examples_to_judge_by, read_positions, train
from temimagenet.models.unet import AtomNet, UNet

__all__ = ["Adapted", "Judgement", "adapt", "adapt_settings", "judge"]


@dataclass(frozen=True)
class Judgement:
    """How a network does on rendered images that it did not learn from.

    Attributes:
        images: number of images.
        columns: true columns inside them.
        recall: share of these that it tells.
        precision: share of what it tells that is true.
        rmse_pm: root-mean-square error per axis of what is right.
        denoised_dB: mean peak signal-to-noise ratio of the drawn `noNoise` against the true one.
        seen_dB: the same of the images themselves.
    """

    images: int
    columns: int
    recall: float
    precision: float
    rmse_pm: float
    denoised_dB: float
    seen_dB: float


@dataclass(frozen=True)
class Adapted:
    """An adapted network.

    Attributes:
        weights: its file.
        before: how the shipped network did.
        after: how this one does on the same images.
    """

    weights: Path
    before: Judgement
    after: Judgement


def adapt_settings(
    structure: str | Path,
    zone: str = "[001]",
    *,
    pixel_size_A: float = 0.0,
    optics: Sequence[float] = (),
    steps: int = 150,
    start_from: str = "atomnet",
    **changes: Any,
) -> TrainSettings:
    """Settings of a short training on one crystal.

    Args:
        structure: CIF file.
        zone: zone axis along the beam, such as "[110]".
        pixel_size_A: pixel size of one's images; fields of 18 to 45 A where 0.
        optics: energy in keV, aperture in mrad, source size in angstrom; the conditions of `v1` where empty.
        steps: steps of eight examples.
        start_from: weights to begin with.
        changes: other fields of `TrainSettings`.
    """
    return TrainSettings(
        recipe=str(structure), zone=zone, pixel_size_A=pixel_size_A, optics=tuple(optics), steps=steps,
        start_from=start_from, round_steps=max(1, min(50, steps)), learning_rate=3e-4, **changes,
    )  # fmt: skip


def judge(network: AtomNet | UNet, examples: Examples) -> Judgement:
    """Run a network over examples and count."""
    counted: list[dict[str, float]] = []
    drawn_dB: list[float] = []
    seen_dB: list[float] = []
    for number in range(len(examples)):
        example = examples[number]
        with torch.inference_mode():
            answer = network(example.image)
        if "noNoise" in answer:
            truth = example.maps["noNoise"].numpy()
            drawn_dB.append(psnr(answer["noNoise"].float().numpy(), truth))
            seen_dB.append(psnr(example.image.numpy(), truth))
        if "columns" in answer:
            counted.append(count_hits([read_positions(answer["columns"][0], example.pixel_size_A)], example))
    right, true, found, squares = (
        sum(row[key] for row in counted) for key in ("right", "true", "found", "squares_pm2")
    )
    nan = float("nan")
    return Judgement(
        len(examples), int(true), right / true if true else nan, right / found if found else nan,
        float(np.sqrt(squares / right)) if right else nan,
        float(np.nanmean(drawn_dB)) if drawn_dB else nan, float(np.nanmean(seen_dB)) if seen_dB else nan,
    )  # fmt: skip


def adapt(settings: TrainSettings, out: str | Path, *, images: int = 24, resume: bool = False, **how: Any) -> Adapted:
    """Train on one crystal, and judge the network before and after on the same rendered images.

    Args:
        settings: of `adapt_settings`.
        out: folder of the run (`train`).
        images: how many to judge by.
        resume: go on from the last checkpoint in `out`.
        how: device, devices, nodes, progress of `train`.

    Raises:
        ModelError, RecipeError, SpecimenError: as `train`.
    """
    examples = examples_to_judge_by(settings, images)
    before = judge(load_model(settings.start_from).network, examples)
    weights = train(settings, out, resume=resume, **how)
    return Adapted(weights, before, judge(load_model(weights).network, examples))
