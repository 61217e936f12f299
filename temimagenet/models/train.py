"""Training with Lightning: settings and presets, a run that goes on where it was stopped, and its model card."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from temimagenet import __version__
from temimagenet.datasets import TEMImageNet
from temimagenet.device import check_device, halves_well
from temimagenet.errors import ModelError
from temimagenet.metrics import match
from temimagenet.models.columns import CELL, offered_columns, read_columns
from temimagenet.models.examples import ExampleBatch, Examples, Source, batched, from_library, on_the_fly
from temimagenet.models.faster_rcnn import ColumnRCNN
from temimagenet.models.inputs import ABOVE_ZERO, choose_grid
from temimagenet.models.losses import MapLoss, check_map_loss, columns_loss, map_loss, relative_weights
from temimagenet.models.torchvision_ops import import_torchvision
from temimagenet.models.unet import FINE_MAPS, PLAIN_MAPS
from temimagenet.models.zoo import TASKS, build_network, read_weights, write_weights
from temimagenet.recipe import DRAWN_OPTICS, Recipe, load_recipe, recipe_for_structure

# Lightning imports torchvision where it is installed, and fails on one that was made for another build of PyTorch.
with suppress(ModelError):
    import_torchvision()

try:
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
except ImportError as error:
    raise ModelError("training needs Lightning: pip install 'temimagenet[train]'") from error

__all__ = [
    "PRESETS",
    "Data",
    "TrainSettings",
    "Training",
    "count_hits",
    "examples_to_judge_by",
    "read_positions",
    "settings_for",
    "train",
]

Data = Literal["on-the-fly", "shards", "mixed"]

_VALIDATION = 48
"""Examples that a run is judged by between rounds."""

_VALIDATION_SEED = 20210308
_MAP_WEIGHT: Mapping[str, float] = {
    "circularMask": 2.0,
    "smallcircularMask": 2.0,
    "gaussianMask": 30.0,
    "noNoise": 5.0,
    "noBackgroundnoNoise": 5.0,
    "noNoiseNoBackgroundSuperresolution": 5.0,
    "noNoiseNoBackgroundUpinterpolation2x": 5.0,
    "noNoiseUpinterpolation2x": 5.0,
}
"""Brings the losses of a network with several outputs near each other; a choice."""

_COLUMNS_WEIGHT = 50.0

_FIELD_A = (18.0, 45.0)
"""Fields of a structure file's samples, unless its pixel size is given."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run.

    Attributes:
        network: "atomnet", "unet" or "faster-rcnn".
        maps: what it draws; nothing of a Faster R-CNN.
        width, depth: of the U-Net.
        loss: of the maps.
        data: where examples come from.
        recipe: name or file of the recipe, or a structure file (`.cif`), of examples on the fly.
        zone: zone axis of a structure file.
        optics: (keV, mrad, source in angstrom) that a structure file is imaged with; the conditions of the recipe `v1`
            where empty.
        pixel_size_A: its pixel size, drawn within a tenth; fields of 18 to 45 A where 0.
        library: folder of the library of stored examples.
        start_from: weights to begin with: a shipped model's name or a file, or "imagenet" for the backbone of a Faster
            R-CNN; random ones where empty.
        crop: rows and columns of an example.
        batch: examples a step, on each device.
        steps: steps of the whole run; 0 with `epochs`.
        epochs: passes over the library instead.
        round_steps: steps between validations and checkpoints.
        learning_rate: at its highest; it rises over the first twentieth, then falls to 0 as a cosine.
        weight_decay: of AdamW.
        precision: as Lightning spells it; "bf16-mixed" is single precision on processors that it would slow down.
        workers: processes that render or read; 0 for the training process itself.
        render_device: where examples on the fly are rendered.
        seed: of weights, crops and the recipe.
    """

    network: Literal["atomnet", "unet", "faster-rcnn"] = "atomnet"
    maps: tuple[str, ...] = PLAIN_MAPS + FINE_MAPS
    width: int = 64
    depth: int = 4
    loss: MapLoss = "mse"
    data: Data = "on-the-fly"
    recipe: str = "training"
    zone: str = "[001]"
    optics: tuple[float, ...] = ()
    pixel_size_A: float = 0.0
    library: str = ""
    start_from: str = ""
    crop: int = 192
    batch: int = 8
    steps: int = 8000
    epochs: int = 0
    round_steps: int = 250
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    precision: str = "bf16-mixed"
    workers: int = 1
    render_device: str = "cpu"
    seed: int = 1


PRESETS: Mapping[str, TrainSettings] = {
    "fast": TrainSettings(),
    "paper": TrainSettings(
        network="unet", maps=("gaussianMask",), data="shards", crop=256, batch=4, steps=0, epochs=200,
        learning_rate=1e-3, weight_decay=0.0, precision="32-true", workers=2,
    ),
    "gpu": TrainSettings(
        crop=256, batch=32, steps=60000, round_steps=1000, workers=0, render_device="cuda",
    ),
    "faster-rcnn": TrainSettings(
        network="faster-rcnn", maps=(), start_from="imagenet", crop=128, batch=4, steps=6000, learning_rate=5e-4,
        precision="32-true",
    ),
}  # fmt: skip
"""`fast`: `AtomNet` for all tasks in some two hours of two cores. `paper`: the U-Net of Lin et al. (2021) on a library,
75 / 25, batches of 4, 200 epochs. `gpu`: `AtomNet` at length, rendered on the GPU. `faster-rcnn`: boxes for columns, a
baseline; needs torchvision."""


def settings_for(preset: str, task: str = "all", **changes: Any) -> TrainSettings:
    """A preset for a task, with changes.

    Args:
        preset: one of `PRESETS`.
        task: one of `zoo.TASKS`, or "all" for every map at once.
        changes: fields of `TrainSettings` to set; those that are None are left.

    Raises:
        ModelError: unknown preset or task, or a value out of range.
    """
    if preset not in PRESETS:
        raise ModelError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if task != "all" and task not in TASKS:
        raise ModelError(f"task {task!r}: expected one of {', '.join(TASKS)}, or all")
    chosen = replace(PRESETS[preset], **{key: value for key, value in changes.items() if value is not None})
    if chosen.network == "faster-rcnn":
        if task != "all":
            raise ModelError(f"task {task}: a Faster R-CNN draws no maps; it has no tasks")
        chosen = replace(chosen, maps=())
    else:
        chosen = replace(chosen, maps=PLAIN_MAPS + FINE_MAPS if task == "all" else (TASKS[task],))
    _check(chosen)
    return chosen


def _check(settings: TrainSettings) -> None:
    """Raise `ModelError` for settings that cannot be trained with."""
    check_map_loss(settings.loss)
    if settings.data not in get_args(Data):
        raise ModelError(f"data {settings.data!r}: expected one of {', '.join(get_args(Data))}")
    if settings.data != "on-the-fly" and not settings.library:
        raise ModelError(f"data {settings.data}: name the library's folder")
    if bool(settings.steps) == bool(settings.epochs):
        raise ModelError(f"{settings.steps} steps, {settings.epochs} epochs: give one of them")
    if settings.epochs and settings.data != "shards":
        raise ModelError(f"epochs are passes over a library: data {settings.data} has none; give steps")
    for name in ("crop", "batch", "round_steps"):
        if getattr(settings, name) < 1:
            raise ModelError(f"{name} {getattr(settings, name)}: expected 1 or more")
    if settings.crop < 32:
        raise ModelError(f"crop {settings.crop}: expected 32 pixels or more")
    if settings.optics and len(settings.optics) != 3:
        raise ModelError(f"optics {settings.optics}: expected energy in keV, aperture in mrad, source in angstrom")
    if settings.library and settings.data == "on-the-fly":
        raise ModelError(f"library {settings.library}: data on-the-fly reads none; choose data shards or mixed")
    if settings.start_from == "imagenet" and settings.network != "faster-rcnn":
        raise ModelError(f"start from imagenet: only a Faster R-CNN can, not {settings.network}")
    if not 0 <= settings.seed < 2**32:
        raise ModelError(f"seed {settings.seed}: expected 0 to 4294967295")
    if not settings.learning_rate > 0.0:
        raise ModelError(f"learning rate {settings.learning_rate}: expected a positive number")


def _recipe(settings: TrainSettings, seed: int) -> Recipe:
    """What is drawn on the fly."""
    if settings.recipe.lower().endswith(".cif"):
        recipe = recipe_for_structure(settings.recipe, settings.zone, **_draws(settings))
    else:
        recipe = load_recipe(settings.recipe)
    return replace(recipe, seed=seed)


def _draws(settings: TrainSettings) -> dict[str, Any]:
    """Distributions of a structure file's samples that the settings set."""
    size = load_recipe("v1").image_size
    field = _FIELD_A
    if settings.pixel_size_A:
        # What is binned or interpolated before the network sees it is learnt as it is seen.
        seen = choose_grid((size, size), settings.pixel_size_A).pixel_size_A * size
        field = (0.9 * seen, 1.1 * seen)
    drawn: dict[str, Any] = {
        "field_of_view_A": {"min": field[0], "max": field[1]}, "rotation_deg": {"min": 0, "max": 360},
    }  # fmt: skip
    if settings.optics:
        names = ("energy_keV", "aperture_mrad", "source_size_A")
        drawn |= {"condition": [DRAWN_OPTICS]}
        drawn |= {key: [value] for key, value in zip(names, settings.optics, strict=True)}
    return drawn


def _sources(settings: TrainSettings) -> tuple[Source, Source, int]:
    """Examples to learn from, examples to be judged by, and how many there are to learn from, 0 for without end."""
    size = 0
    if settings.data == "on-the-fly":
        device = check_device(settings.render_device)
        learn = on_the_fly(_recipe(settings, settings.seed), settings.maps, "train", device)
        judge = on_the_fly(_recipe(settings, _VALIDATION_SEED), settings.maps, "test")
        return learn, judge, size
    train_part, test_part = (TEMImageNet(settings.library, split, labels=settings.maps) for split in ("train", "test"))
    stored = from_library(train_part, settings.seed)
    judge = from_library(test_part, _VALIDATION_SEED)
    if settings.data == "shards":
        return stored, judge, len(train_part)
    fresh = on_the_fly(_recipe(settings, settings.seed), settings.maps, "train", check_device(settings.render_device))

    def mixed(number: int) -> Any:
        """Stored and fresh samples by turns."""
        return (fresh if number % 2 else stored)(number // 2)

    return mixed, judge, size


class Training(lightning.LightningModule):
    """A network, its losses and its examples, in rounds: a round's examples follow from its number alone.

    Attributes:
        network: what is trained.
        settings: how.
        curve: a row a round: step, losses, scores.
    """

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = build_network(settings.network, _network_settings(settings))
        if settings.start_from == "imagenet" and isinstance(self.network, ColumnRCNN):
            self.network.begin_with_imagenet()
        elif settings.start_from:
            read_weights(settings.start_from, self.network)
        self.curve: list[dict[str, float]] = []
        self._sources = _sources(settings)
        self._running: list[Tensor] = []
        self.spread_over(1)

    def spread_over(self, devices: int) -> None:
        """Say how many devices share each step: an epoch passes over the library once, whatever their number."""
        size, share = self._sources[2], self.settings.batch * devices
        self.total_steps = self.settings.steps or self.settings.epochs * -(-size // share)

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return -(-self.total_steps // self.settings.round_steps)

    def configure_optimizers(self) -> Any:
        """AdamW; the rate rises over the first twentieth, then falls to 0 as a cosine."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.settings.weight_decay},
                  {"params": others, "weight_decay": 0.0}]  # fmt: skip
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate)
        warm = max(1, self.total_steps // 20)

        def rate(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 + 0.5 * float(np.cos(np.pi * min(1.0, (step - warm) / max(1, self.total_steps - warm))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[ExampleBatch]:
        """The examples of the current round."""
        settings = self.settings
        number = self.trainer.current_epoch
        steps = min(settings.round_steps, self.total_steps - number * settings.round_steps)
        share = settings.batch * self.trainer.world_size
        examples = Examples(
            self._sources[0], settings.maps, settings.crop, settings.seed,
            number * settings.round_steps * share, max(steps, 1) * share,
        )  # fmt: skip
        return _loader(examples, settings)

    def val_dataloader(self) -> DataLoader[ExampleBatch]:
        """The examples to be judged by, the same in every round."""
        settings = replace(self.settings, workers=min(self.settings.workers, 1))
        return _loader(
            Examples(self._sources[1], settings.maps, settings.crop, _VALIDATION_SEED, 0, _VALIDATION, worn=False),
            settings,
        )

    def losses(self, batch: ExampleBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The network's answer, and each of its losses; a Faster R-CNN answers otherwise (`ColumnRCNN.find`)."""
        if isinstance(self.network, ColumnRCNN):
            return {}, self.network.losses(batch.image, _places(batch), batch.radius_px)
        answer = self.network(batch.image.contiguous(memory_format=torch.channels_last))
        parts = {
            name: _MAP_WEIGHT[name]
            * map_loss(
                self.settings.loss, answer[name].float(), truth, relative_weights(truth) if name in ABOVE_ZERO else None
            )
            for name, truth in batch.maps.items()
        }
        if "columns" in answer:
            offered = offered_columns(answer["columns"])
            told = columns_loss(offered.chance, offered.place, offered.spread, batch.columns, batch.owner)
            parts["columns"] = _COLUMNS_WEIGHT * told.mean()
        return answer, parts

    def training_step(self, batch: ExampleBatch, index: int) -> Tensor:
        """One step's loss."""
        _, parts = self.losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.image))
        self._running.append(loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        """What a network draws at random follows from the round, too."""
        torch.manual_seed(self.settings.seed + self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Nothing is judged yet."""
        self._judged: list[dict[str, float]] = []

    def validation_step(self, batch: ExampleBatch, index: int) -> None:
        """Losses, and columns right, missed and false."""
        answer, parts = self.losses(batch)
        row = {f"validation {name}": float(value) for name, value in parts.items()}
        row["validation loss"] = sum(row.values())
        if isinstance(self.network, ColumnRCNN):
            row |= count_hits([boxes.xy_px for boxes in self.network.find(batch.image)], batch)
        elif "columns" in answer:
            row |= count_hits(
                [read_positions(*each) for each in zip(answer["columns"], batch.pixel_size_A, strict=True)], batch
            )
        self._judged.append(row)

    def on_validation_epoch_end(self) -> None:
        """A row of the curve."""
        keys = self._judged[0]
        mean = {key: float(np.mean([row[key] for row in self._judged])) for key in keys}
        if "right" in mean:
            mean["recall"] = mean["right"] / max(mean["true"], 1e-9)
            mean["precision"] = mean["right"] / max(mean["found"], 1e-9)
            mean["rmse_pm"] = float(np.sqrt(mean.pop("squares_pm2") / max(mean["right"], 1e-9)))
            for key in ("right", "true", "found"):
                mean.pop(key)
        mean["loss"] = float(torch.stack(self._running).mean()) if self._running else float("nan")
        self._running.clear()
        mean["step"] = float(self.trainer.global_step)
        self.curve.append(mean)
        self.log_dict({key: value for key, value in mean.items() if key not in ("loss", "step")}, sync_dist=True)
        self.log("validation_loss", mean["validation loss"], prog_bar=True, sync_dist=True, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The curve and the settings go with the weights."""
        checkpoint["temimagenet"] = {"curve": self.curve, "settings": asdict(self.settings)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """And come back with them."""
        self.curve = list(checkpoint["temimagenet"]["curve"])


def _network_settings(settings: TrainSettings) -> dict[str, Any]:
    """What the network is built from."""
    if settings.network == "unet":
        return {"maps": settings.maps, "width": settings.width, "depth": settings.depth}
    if settings.network == "faster-rcnn":
        return {}
    return {"maps": settings.maps}


def _loader(examples: Examples, settings: TrainSettings) -> DataLoader[ExampleBatch]:
    """Batches in the order of the examples."""
    return DataLoader(
        examples, batch_size=settings.batch, collate_fn=batched, num_workers=settings.workers,
        prefetch_factor=8 if settings.workers else None, worker_init_fn=_one_thread,
    )  # fmt: skip


def _one_thread(_: int) -> None:
    """Workers leave the cores to the network."""
    torch.set_num_threads(1)


def examples_to_judge_by(settings: TrainSettings, count: int = _VALIDATION) -> Examples:
    """Examples that no run of these settings learns from, the same each time, unworn and whole.

    Raises:
        ModelError, RecipeError, SpecimenError, ShardError, DatasetError: they cannot be had.
    """
    _check(settings)
    return Examples(_sources(settings)[1], settings.maps, 10**6, _VALIDATION_SEED, 0, count, worn=False)


def _places(batch: ExampleBatch) -> list[Tensor]:
    """(N, 2) true positions (x, y) in pixels of each image."""
    xy = batch.columns[:, :2] * CELL + (CELL - 1) / 2.0
    return [xy[batch.owner == number] for number in range(len(batch.image))]


def read_positions(raw: Tensor, pixel_size_A: Tensor) -> NDArray[np.float64]:
    """(N, 2) positions (x, y) in pixels that `AtomNet` tells of one image."""
    return read_columns(offered_columns(raw[None]), float(pixel_size_A))[0][:, :2]


def count_hits(told: Sequence[NDArray[np.float64]], batch: ExampleBatch) -> dict[str, float]:
    """Columns right, true, found, and the squared errors of the right ones, from positions in each image."""
    total = {"right": 0.0, "true": 0.0, "found": 0.0, "squares_pm2": 0.0}
    for found, places, size in zip(told, _places(batch), batch.pixel_size_A, strict=True):
        pixel, truth = float(size), places.double().numpy(force=True)
        true_index, found_index = match(found, truth, pixel)
        error = (found[found_index] - truth[true_index]) * pixel * 100.0
        total["right"] += len(true_index)
        total["true"] += len(truth)
        total["found"] += len(found)
        total["squares_pm2"] += 0.5 * float((error**2).sum())
    return total


def train(
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    devices: int | str = "auto",
    nodes: int = 1,
    progress: bool = True,
    most_rounds: int | None = None,
) -> Path:
    """Train a network; a checkpoint after every round, weights and model card at the end.

    Args:
        settings: what to train and how.
        out: folder of the run: `checkpoints/`, `logs/` (CSV and TensorBoard), `model.safetensors`, `model_card.md`,
            `curve.png`.
        resume: go on from the last checkpoint in `out`, if there is one.
        device: Lightning's accelerator: "cpu", "gpu" or "auto".
        devices: how many, as Lightning takes it.
        nodes: number of machines.
        progress: whether to draw a progress bar.
        most_rounds: stop after so many rounds, to go on later.

    Returns:
        The weights' file; not yet there if `most_rounds` stopped the run.

    Raises:
        ModelError: settings or devices that cannot be trained with, or an `out` that holds another run.
        RecipeError, ShardError, DatasetError: the examples cannot be had.
    """
    _check(settings)
    folder = Path(out)
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        if not resume:
            raise ModelError(f"{folder} holds a run already: go on with it by --resume, or name another folder")
        before = _checkpoint_settings(last)
        now = json.loads(json.dumps(asdict(settings)))
        changed = [key for key, value in now.items() if json.loads(json.dumps(before.get(key))) != value]
        changed = [key for key in changed if key not in ("workers", "render_device")]
        if changed:
            raise ModelError(f"{folder} was begun with other settings ({', '.join(changed)}): resume with the same")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{folder}: no folder that a run can be written to ({error.strerror})") from error
    lightning.seed_everything(settings.seed, verbose=False)
    # What Lightning says of itself at every start.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*|.*treespec.*|.*does not have many workers.*")
    training = Training(settings)
    training.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_gpu = device in ("gpu", "cuda") or (device == "auto" and torch.cuda.is_available())
    slow = settings.precision == "bf16-mixed" and not halves_well(torch.device("cuda" if on_gpu else "cpu"))
    try:
        trainer = lightning.Trainer(
            accelerator=device, devices=devices, num_nodes=nodes, precision="32-true" if slow else settings.precision,  # type: ignore[arg-type]
            reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0,
            log_every_n_steps=min(10, settings.round_steps, training.total_steps), max_epochs=0,
            logger=[CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="logs")],
            callbacks=[ModelCheckpoint(folder / "checkpoints", "last", save_top_k=1, every_n_epochs=1,
                                       save_on_train_epoch_end=False, enable_version_counter=False)],
            enable_progress_bar=progress, enable_model_summary=False, gradient_clip_val=1.0,
        )  # fmt: skip
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ModelError(f"training cannot start: {' '.join(str(error).split())}") from error
    training.spread_over(trainer.world_size)
    trainer.fit_loop.max_epochs = min(training.rounds, most_rounds) if most_rounds else training.rounds
    trainer.fit(training, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    weights = folder / "model.safetensors"
    if trainer.global_step >= training.total_steps and trainer.is_global_zero:
        write_weights(training.network, weights, {"settings": asdict(settings), "version": __version__,
                                                  "curve": training.curve[-1:]})  # fmt: skip
        _write_card(training, folder)
    return weights


def _checkpoint_settings(path: Path) -> dict[str, Any]:
    """The settings of the run that a checkpoint is of.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        settings: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["temimagenet"]["settings"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: no checkpoint of a run, or damaged; begin anew in another folder") from error
    return settings


def _write_card(training: Training, folder: Path) -> None:
    """`model_card.md` and `curve.png`."""
    from matplotlib.figure import Figure

    curve, settings = training.curve, training.settings
    steps = [row["step"] for row in curve]
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [row["loss"] for row in curve], label="training")
    left.plot(steps, [row["validation loss"] for row in curve], label="validation")
    left.set(xlabel="step", ylabel="loss", yscale="symlog" if min(row["loss"] for row in curve) <= 0 else "log")
    left.legend(frameon=False)
    for key in ("recall", "precision"):
        if key in curve[-1]:
            right.plot(steps, [row[key] for row in curve], label=key)
            right.legend(frameon=False)
    right.set(xlabel="step", ylim=(0.0, 1.0))
    figure.savefig(folder / "curve.png", dpi=120)
    scores = "\n".join(f"| {key} | {value:.4g} |" for key, value in curve[-1].items())
    chosen = "\n".join(f"| {key} | {value} |" for key, value in asdict(settings).items())
    count = sum(p.numel() for p in training.network.parameters())
    (folder / "model_card.md").write_text(
        f"# {settings.network}, {count:,} parameters\n\nTrained by TEMImageNet {__version__}, PyTorch "
        f"{torch.__version__}, for {int(steps[-1])} steps.\n\n![Loss and scores](curve.png)\n\n"
        f"## Scores on {_VALIDATION} examples not learnt from\n\n| score | value |\n| --- | --- |\n{scores}\n"
        f"\n## Settings\n\n| setting | value |\n| --- | --- |\n{chosen}\n",
        encoding="utf-8",
    )
