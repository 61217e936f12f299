"""Training: settings, a run that learns, one that is killed and goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from temimagenet.errors import ModelError, RecipeError
from temimagenet.models import load_network
from temimagenet.models.train import PRESETS, TrainSettings, settings_for, train

TINY = TrainSettings(
    network="unet", maps=("gaussianMask",), width=4, depth=2, recipe="demo", crop=32, batch=2, steps=6, round_steps=2,
    workers=0, precision="32-true",
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_to_judge_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four examples, to be quick."""
    monkeypatch.setattr("temimagenet.models.train._VALIDATION", 4)


def _run(settings: TrainSettings, out: Path, **how: object) -> Path:
    return train(settings, out, device="cpu", devices=1, progress=False, **how)  # type: ignore[arg-type]


def test_a_run_leaves_weights_logs_and_a_card(tmp_path: Path) -> None:
    weights = _run(TINY, tmp_path / "run")
    network, facts = load_network(weights)
    assert network.maps == ("gaussianMask",)
    assert facts["settings"]["recipe"] == "demo"
    card = (tmp_path / "run" / "model_card.md").read_text(encoding="utf-8")
    assert "| seed | 1 |" in card
    assert "| step | 6 |" in card
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    assert list((tmp_path / "run" / "logs").rglob("metrics.csv"))
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents*"))


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    whole, _ = load_network(_run(TINY, tmp_path / "whole"))
    first = _run(TINY, tmp_path / "parts", most_rounds=1)
    assert not first.exists()
    second, _ = load_network(_run(TINY, tmp_path / "parts", resume=True))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0.0, atol=0.0)


def test_an_old_run_is_not_written_over(tmp_path: Path) -> None:
    _run(TINY, tmp_path / "run", most_rounds=1)
    with pytest.raises(ModelError, match="holds a run already"):
        _run(TINY, tmp_path / "run")
    with pytest.raises(ModelError, match=r"begun with other settings \(batch, seed\)"):
        _run(replace(TINY, seed=2, batch=3), tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", [b"", b"PK not a checkpoint"])
def test_a_damaged_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(content)
    with pytest.raises(ModelError, match=r"last.ckpt: no checkpoint of a run, or damaged"):
        _run(TINY, tmp_path / "run", resume=True)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ModelError, match="no folder that a run can be written to"):
            _run(TINY, out)


def test_the_loss_falls(tmp_path: Path) -> None:
    settings = replace(TINY, network="atomnet", maps=("gaussianMask", "noNoise"), steps=30, round_steps=10)
    _run(settings, tmp_path / "run")
    curve = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["temimagenet"]["curve"]
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert {"recall", "precision", "rmse_pm"} <= set(curve[-1])


def test_shards_by_epochs_and_mixed_data(library: Path, tmp_path: Path) -> None:
    stored = replace(TINY, data="shards", library=str(library), steps=0, epochs=1, batch=4, round_steps=50)
    card = _run(stored, tmp_path / "stored").parent / "model_card.md"
    assert "| epochs | 1 |" in card.read_text(encoding="utf-8")
    mixed = replace(TINY, data="mixed", library=str(library), recipe="demo", crop=64, steps=2)
    assert _run(mixed, tmp_path / "mixed").is_file()


def test_weights_to_begin_with(tmp_path: Path) -> None:
    weights = _run(TINY, tmp_path / "first")
    later = replace(TINY, start_from=str(weights), steps=2, learning_rate=1e-9)
    first, second = (load_network(path)[0] for path in (weights, _run(later, tmp_path / "second")))
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0.0, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preset": "huge"}, "expected one of fast, paper, gpu"),
        ({"task": "count"}, "expected one of circularMask"),
        ({"loss": "l1"}, "expected one of mse"),
        ({"data": "shards"}, "name the library's folder"),
        ({"data": "disk"}, "expected one of on-the-fly"),
        ({"steps": 0}, "give one of them"),
        ({"crop": 8}, "32 pixels or more"),
        ({"batch": 0}, "expected 1 or more"),
        ({"learning_rate": -1.0}, "positive number"),
        ({"seed": -1}, "expected 0 to"),
        ({"library": "build/library/v1"}, "choose data shards or mixed"),
        ({"start_from": "imagenet"}, "only a Faster R-CNN"),
        ({"preset": "faster-rcnn", "task": "denoise"}, "no tasks"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        settings_for(**({"preset": "fast"} | changes))  # type: ignore[arg-type]


def test_a_recipe_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe 'nonesuch'"):
        _run(replace(TINY, recipe="nonesuch"), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "how", "told"),
    [
        ({"precision": "7-bit"}, {}, "7-bit"),
        ({}, {"device": "abacus"}, "abacus"),
        ({}, {"devices": 0}, "devices"),
        ({}, {"devices": "x"}, "devices"),
    ],
)
def test_devices_and_precisions_that_there_are_not_are_told(
    changes: dict[str, str], how: dict[str, object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=rf"training cannot start: .*{told}"):
        train(replace(TINY, **changes), tmp_path / "run", **({"device": "cpu", "devices": 1} | how))  # type: ignore


def test_presets_are_what_they_say() -> None:
    paper = PRESETS["paper"]
    assert (paper.network, paper.batch, paper.epochs, paper.width, paper.depth) == ("unet", 4, 200, 64, 4)
    assert PRESETS["gpu"].render_device == "cuda"


_SCRIPT = """
import sys
from pathlib import Path
import temimagenet.models.train as t
t._VALIDATION = 4
settings = t.TrainSettings(network="unet", maps=("gaussianMask",), width=4, depth=2, recipe="demo", crop=32, batch=2,
                           steps=int(sys.argv[2]), round_steps=2, workers=0, precision="32-true")
t.train(settings, Path(sys.argv[1]), device="cpu", devices=1, progress=False, resume=True)
"""


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """Killed at once in the middle; the last checkpoint is whole, and the run goes on from there."""
    out = tmp_path / "run"
    last = out / "checkpoints" / "last.ckpt"
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(out), "4000"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120.0
    while not last.exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = torch.load(last, weights_only=True)
    assert before["global_step"] >= 2
    settings = replace(TINY, steps=4000)
    rounds = before["global_step"] // 2 + 2
    assert not _run(settings, out, resume=True, most_rounds=rounds).exists()
    after = torch.load(last, weights_only=True)
    assert after["global_step"] == before["global_step"] + 4
    steps = [row["step"] for row in after["temimagenet"]["curve"]]
    assert steps == [2.0 * (number + 1) for number in range(len(steps))]
