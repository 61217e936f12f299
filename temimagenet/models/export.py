"""Networks as files for other programs: ONNX, and programs of `torch.export`."""

from __future__ import annotations

import io
import json
import warnings
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from temimagenet.errors import ModelError
from temimagenet.models.inputs import PIXEL_RANGE_A
from temimagenet.models.predict import Model
from temimagenet.models.unet import FINE_MAPS

__all__ = ["FORMATS", "export_model", "onnx_bytes", "torch_program"]

FORMATS = ("onnx", "torch")
"""What `export_model` writes."""

_OPSET = 17


def export_model(model: Model, path: str | Path, format: str | None = None) -> None:
    """Write a network as a file for other programs; whole or not at all.

    Its input `image` is (batch, 1, rows, columns), brought to mean 0 and standard deviation 1 (`inputs.normalise`),
    with pixels of 0.06 to 0.2 A. Its outputs are the model's maps, in the network's unit (`inputs.to_image_unit`
    leads back), and `columns`, which `columns.offered_columns` and `read_columns` read. Rows and columns are free in
    ONNX; in a program of `torch.export` they are multiples of the network's `multiple` (16).

    Args:
        model: what to write, such as `load_model("denoise")`.
        path: the file.
        format: "onnx", or "torch" for a program of `torch.export`; unless given the latter for a file that ends in
            .pt2, the former for others.

    Raises:
        ModelError: no such format, a package is missing, or the file cannot be written.
    """
    if format is None:
        format = "torch" if Path(path).suffix == ".pt2" else "onnx"
    if format not in FORMATS:
        raise ModelError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    data = onnx_bytes(model) if format == "onnx" else _torch_bytes(model)
    target = Path(path)
    unfinished = target.with_name(target.name + ".part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(target)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ModelError(f"{target}: cannot be written ({error.strerror})") from error


def onnx_bytes(model: Model) -> bytes:
    """A network in ONNX. Weights that half precision holds exactly, as files of weights do, are stored in it.

    Raises:
        ModelError: the package onnx is missing.
    """
    onnx = _onnx()
    outputs = _outputs(model)
    sizes = {"image": {0: "batch", 2: "rows", 3: "columns"}}
    for name in outputs:
        sizes[name] = {0: "batch", **dict(zip((2, 3), _SIZES.get(name, ("rows", "columns")), strict=True))}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is called old, yet takes half a second where the other takes ten, and any size.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            _AnySize(model.network, outputs).eval(), (torch.zeros(2, 1, 50, 70),), buffer,  # type: ignore[arg-type]
            dynamo=False,
            input_names=["image"], output_names=outputs, dynamic_axes=sizes, opset_version=_OPSET,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip
    graph = onnx.load_from_string(buffer.getvalue())
    _halve(onnx, graph)
    onnx.helper.set_model_props(graph, {"temimagenet": json.dumps(_facts(model))})
    return bytes(graph.SerializeToString())


def torch_program(model: Model) -> torch.export.ExportedProgram:
    """A network as a program of `torch.export`; outputs are the maps in the model's order, then the columns."""
    step = model.network.multiple
    rows, columns = (step * torch.export.Dim(f"{name}_{step}", min=1, max=4096) for name in ("rows", "columns"))
    sizes = ({0: torch.export.Dim("batch", min=1, max=4096), 2: rows, 3: columns},)
    example = torch.zeros(2, 1, 3 * step, 4 * step)
    network = _Chosen(model.network, _outputs(model)).eval()
    return torch.export.export(network, (example,), dynamic_shapes=sizes, strict=False)


def _torch_bytes(model: Model) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    torch.export.save(torch_program(model), buffer, extra_files={"temimagenet.json": json.dumps(_facts(model))})
    return buffer.getvalue()


_SIZES = {"columns": ("cell_rows", "cell_columns"), **dict.fromkeys(FINE_MAPS, ("twice_rows", "twice_columns"))}
"""What the sides of an output are called, if not rows and columns."""


def _outputs(model: Model) -> list[str]:
    """Names of what is written: maps, and the columns of a network that tells of them."""
    return [*model.maps, *(["columns"] if hasattr(model.network, "columns") else [])]


def _facts(model: Model) -> dict[str, Any]:
    """What a file says of itself."""
    return {
        "version": metadata.version("temimagenet"),
        "outputs": _outputs(model),
        "pixel_range_A": PIXEL_RANGE_A,
        "settings": model.network.settings,
    }


def _onnx() -> ModuleType:
    """The package onnx.

    Raises:
        ModelError: it is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError("ONNX needs the package onnx: pip install 'temimagenet[export]'") from error
    return onnx


class _Chosen(nn.Module):
    """A network whose answer is a tuple of some of its outputs."""

    def __init__(self, network: nn.Module, outputs: list[str]) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs chosen, in their order."""
        answer = self.network(image)
        return tuple(answer[name] for name in self.outputs)


class _AnySize(_Chosen):
    """The same, with padding and cropping that tracing writes down for every size, also where it met none."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs chosen, of an image of any size."""
        rows, columns = image.shape[-2:]
        step = int(self.network.multiple)  # type: ignore[arg-type]
        padded = functional.pad(image, (0, -columns % step, 0, -rows % step), mode="replicate")
        parts = []
        for name, part in zip(self.outputs, super().forward(padded), strict=True):
            if name == "columns":
                part = part[..., : (rows + 1) // 2, : (columns + 1) // 2]
            else:
                fold = 2 if name in FINE_MAPS else 1
                part = part[..., : fold * rows, : fold * columns]
            parts.append(part)
        return tuple(parts)


def _halve(onnx: ModuleType, model: Any) -> None:
    """Store kernels in half precision, cast back to single as the model is loaded, where that changes no bit."""
    casts = []
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.ndim < 2 or not np.array_equal(value, value.astype(np.float16)):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
