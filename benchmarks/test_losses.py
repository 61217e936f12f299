"""What the losses do to false and missed columns: the paper's network, small, on one stream of examples.

`pytest benchmarks/test_losses.py -s` prints the table; some ten minutes of a core. TEMIMAGENET_LOSS_STEPS changes its
length.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from temimagenet.localize import OtsuCentroid
from temimagenet.metrics import match
from temimagenet.models import load_network
from temimagenet.models.columns import CELL
from temimagenet.models.losses import MapLoss
from temimagenet.models.train import TrainSettings, examples_to_judge_by, train

STEPS = int(os.environ.get("TEMIMAGENET_LOSS_STEPS", "600"))
SEEDS = (1, 2)
IMAGES = 60

SETTINGS = TrainSettings(
    network="unet", maps=("gaussianMask",), width=16, depth=3, crop=128, batch=4, steps=STEPS, round_steps=STEPS,
    learning_rate=1e-3, weight_decay=0.0,
)  # fmt: skip


def _counts(weights: Path) -> np.ndarray:
    """(images, 3) columns found right, false and missed on images that were not learnt from."""
    network, _ = load_network(weights)
    examples = examples_to_judge_by(SETTINGS, IMAGES)
    rows = []
    for number in range(IMAGES):
        example = examples[number]
        with torch.inference_mode():
            drawn = network(example.image)["gaussianMask"][0, 0].double().numpy()
        pixel = float(example.pixel_size_A)
        truth = example.columns[:, :2].numpy() * CELL + (CELL - 1) / 2.0
        found = np.zeros((0, 2))
        # Below a tenth of a column's peak a map holds none, and Otsu's threshold would part noise.
        if drawn.max() > 0.1:
            found = OtsuCentroid(centre="intensity", least_area_A2=0.01)(drawn, pixel).xy_px
        right = len(match(found, truth, pixel)[0])
        rows.append((right, len(found) - right, len(truth) - right))
    return np.array(rows)


def test_losses(tmp_path: Path) -> None:
    """Each loss, each seed, the same examples in the same order."""
    print(f"\n\nU-Net of width 16 and depth 3, {STEPS} steps of 4 examples; {IMAGES} images, seeds {SEEDS}\n")
    print(f"{'loss':8}{'right':>16}{'false':>16}{'missed':>16}   an image, +- standard error")
    false = {}
    for loss in get_args(MapLoss):
        counts = []
        for seed in SEEDS:
            settings = replace(SETTINGS, loss=loss, seed=seed)
            weights = train(settings, tmp_path / f"{loss}-{seed}", device="cpu", devices=1, progress=False)
            counts.append(_counts(weights))
        whole = np.concatenate(counts)
        error = whole.std(axis=0, ddof=1) / np.sqrt(len(whole))
        print(f"{loss:8}" + "".join(f"{m:9.2f} +-{e:5.2f}" for m, e in zip(whole.mean(axis=0), error, strict=True)))
        false[loss] = float(whole[:, 1].mean())
    assert false["chi10"] < false["mse"]
