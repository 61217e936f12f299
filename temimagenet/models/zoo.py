"""The zoo: networks by the name of what they do, their weights in the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from temimagenet.errors import ModelError
from temimagenet.models.faster_rcnn import ColumnRCNN
from temimagenet.models.unet import AtomNet, UNet

__all__ = ["TASKS", "build_network", "load_network", "read_weights", "write_weights", "written"]

TASKS: Mapping[str, str] = {
    "circularMask": "circularMask",
    "gaussianMask": "gaussianMask",
    "superresolution": "noNoiseNoBackgroundSuperresolution",
    "denoise": "noNoise",
    "denoise-background": "noBackgroundnoNoise",
}
"""The five tasks of Lin et al. (2021), and the label that each draws."""

_SHIPPED = "atomnet"
"""The shipped model that does all tasks."""

_MOST_WIDE = 8192
_MOST_LEVELS = 64
"""More than any network of ours; what a file says is not trusted with the memory."""

Network = AtomNet | UNet | ColumnRCNN

_KINDS: Mapping[str, type[AtomNet] | type[UNet] | type[ColumnRCNN]] = {
    "atomnet": AtomNet, "unet": UNet, "faster-rcnn": ColumnRCNN,
}  # fmt: skip


def build_network(kind: str, settings: Mapping[str, Any]) -> Network:
    """A network with random weights.

    Raises:
        ModelError: no such kind, or settings that it does not take.
    """
    if kind not in _KINDS:
        raise ModelError(f"network {kind!r}: expected one of {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](**settings)
    except TypeError as error:
        raise ModelError(f"network {kind}: {error}") from error


def write_weights(network: Network, path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write weights as safetensors: kernels in half precision, all else in single; whole or not at all.

    Args:
        network: what to write.
        path: the file.
        facts: what else to record, as JSON.
    """
    kind = next(name for name, known in _KINDS.items() if isinstance(network, known))
    tensors = {}
    for name, value in network.state_dict().items():
        half = value.ndim > 1 and value.is_floating_point()
        tensors[name] = value.detach().cpu().to(torch.float16 if half else value.dtype).contiguous()
    target = Path(path)
    unfinished = target.with_suffix(".part")
    save_file(tensors, unfinished, {"kind": kind, "settings": json.dumps(network.settings), "facts": json.dumps(facts)})
    unfinished.replace(target)


def written(name: str | Path) -> int:
    """When a file of weights was last written, in ns; 0 for a shipped model."""
    path = Path(name)
    return path.stat().st_mtime_ns if path.is_file() else 0


def _locate(name: str | Path) -> Path:
    """The file of weights: a path, or the name of a shipped model or of a task that it does."""
    if not isinstance(name, str | Path):
        raise ModelError(f"model {name!r}: expected the name of a model or a file")
    shipped = Path(str(resources.files("temimagenet") / "data" / "weights"))
    known = sorted(item.stem for item in shipped.glob("*.safetensors")) if shipped.is_dir() else []
    wanted = _SHIPPED if name in ("all", *TASKS) else str(name)
    if wanted in known:
        return shipped / f"{wanted}.safetensors"
    if Path(name).is_file():
        return Path(name)
    names = ", ".join(("all", *TASKS, *known)) if known else "none"
    raise ModelError(f"no model {str(name)!r}: expected a .safetensors file or one of {names}")


def load_network(name: str | Path = "atomnet") -> tuple[Network, dict[str, Any]]:
    """A network with its weights, ready to be used, and the facts recorded with it.

    Args:
        name: a shipped model's name, a task's, or a file that `train` wrote.

    Raises:
        ModelError: there is none, or the file is damaged or of another kind.
    """
    path = _locate(name)
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        kind, settings, facts = told["kind"], json.loads(told["settings"]), json.loads(told["facts"])
        if not isinstance(settings, dict) or not isinstance(facts, dict):
            raise ValueError("settings and facts are no objects")
        _check_size(kind, settings, tensors)
        network = build_network(kind, settings)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not weights of TEMImageNet, or damaged ({error})") from error
    _fill(network, tensors, path)
    return network.eval(), facts


def _check_size(kind: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` where settings tell of a network larger than its weights, before memory is taken for it."""
    numbers = [value for value in settings.values() if isinstance(value, int | float)]
    numbers += [item for value in settings.values() if isinstance(value, list) for item in value
                if isinstance(item, int | float)]  # fmt: skip
    if any(len(value) > _MOST_LEVELS for value in settings.values() if isinstance(value, list)):
        raise ValueError(f"a network of more than {_MOST_LEVELS} maps or levels")
    if any(not 0 <= number <= _MOST_WIDE for number in numbers):
        raise ValueError(f"a network of {kind} with {dict(settings)}")
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in build_network(kind, settings).state_dict().items()}
    found = {name: value.shape for name, value in tensors.items()}
    if wanted != found:
        name = next(iter(wanted.keys() ^ found.keys()), None) or next(n for n in wanted if wanted[n] != found[n])
        raise ValueError(f"weights do not fit the network they name: {name}")


def read_weights(name: str | Path, network: Network) -> None:
    """Fill a network with the weights of another of the same build.

    Raises:
        ModelError: no such weights, or they do not fit.
    """
    other, _ = load_network(name)
    if other.settings != network.settings:
        raise ModelError(f"weights {name}: of a network with {other.settings}, not {network.settings}")
    network.load_state_dict(other.state_dict())


def _fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors in their places."""
    broken = [key for key, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise ModelError(
            f"{path}: damaged, or of a training that failed: {broken[0]} holds numbers that are not finite"
        )
    try:
        network.load_state_dict({key: value.float() if value.is_floating_point() else value
                                 for key, value in tensors.items()})  # fmt: skip
    except RuntimeError as error:
        raise ModelError(f"{path}: weights do not fit the network they name ({error})") from error
