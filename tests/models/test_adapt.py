"""Adapting to a crystal: what is rendered, what is judged, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import nn

from temimagenet.errors import ModelError, RecipeError
from temimagenet.models import AtomNet
from temimagenet.models.adapt import adapt, adapt_settings, judge
from temimagenet.models.train import examples_to_judge_by
from temimagenet.models.zoo import write_weights


@pytest.fixture(scope="module")
def copper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crystal that the library has not."""
    path = tmp_path_factory.mktemp("cif") / "copper.cif"
    bulk("Cu", "fcc", a=3.615, cubic=True).write(path)
    return path


def test_the_examples_are_of_the_crystal_at_ones_pixel_size(copper: Path) -> None:
    settings = adapt_settings(copper, "[110]", pixel_size_A=0.03, optics=(300, 25, 0.8))
    examples = examples_to_judge_by(settings, 3)
    for number in range(3):
        # Pixels of 0.03 A are binned by four before a network sees them.
        assert float(examples[number].pixel_size_A) == pytest.approx(0.12, rel=0.11)
        assert examples[number].image.shape == (1, 1, 256, 256)
        # {110} columns of copper: two in a rectangle of 2.556 A x 3.615 A.
        field = (256 * float(examples[number].pixel_size_A)) ** 2
        assert len(examples[number].columns) == pytest.approx(2 * field / (2.556 * 3.615), rel=0.1)


def test_judging_counts_columns_and_decibels(copper: Path) -> None:
    class Oracle(nn.Module):
        """Tells the first column alone, where it is, and draws the image as it is."""

        def __init__(self) -> None:
            super().__init__()
            self.truth = torch.zeros(0, 3)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            raw = torch.full((1, 7, 128, 128), -9.0)
            x, y = (float(v) for v in self.truth[0, :2])
            raw[0, 0, round(y), round(x)] = 9.0
            for channel, offset in ((1, x - round(x)), (2, y - round(y))):
                raw[0, channel] = 2.0 * np.arctanh(offset / 2.0)
            return {"noNoise": image, "columns": raw}

    examples = examples_to_judge_by(adapt_settings(copper, "[110]"), 1)
    oracle = Oracle()
    oracle.truth = examples[0].columns[
        ((examples[0].columns[:, :2] > 2) & (examples[0].columns[:, :2] < 125)).all(dim=1)
    ]
    told = judge(oracle, examples)  # type: ignore[arg-type]
    assert told.precision == 1.0
    assert told.recall == pytest.approx(1.0 / len(examples[0].columns))
    assert told.rmse_pm < 0.1
    assert told.denoised_dB == told.seen_dB


def test_a_short_run_tells_before_and_after(copper: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    write_weights(AtomNet(), start, {})
    settings = adapt_settings(
        copper, "[110]", steps=4, start_from=str(start), crop=64, batch=1, workers=0, precision="32-true"
    )
    done = adapt(settings, tmp_path / "run", images=2, device="cpu", devices=1, progress=False)
    assert done.weights.is_file()
    assert done.before.images == done.after.images == 2
    assert done.before.columns == done.after.columns > 100
    assert done.before.denoised_dB != done.after.denoised_dB
    assert done.before.seen_dB == done.after.seen_dB


def test_what_cannot_be_adapted_to_is_refused(copper: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected energy in keV"):
        adapt(adapt_settings(copper, optics=(200, 24)), tmp_path / "run")
    with pytest.raises(RecipeError, match="nonesuch"):
        adapt(adapt_settings(tmp_path / "nonesuch.cif"), tmp_path / "run")
