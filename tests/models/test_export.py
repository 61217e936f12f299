"""Export: what other programs compute from the files is what the network computes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from temimagenet.cli import app, main
from temimagenet.models import AtomNet, Model, UNet, load_model
from temimagenet.models.export import export_model, onnx_bytes
from temimagenet.models.inputs import PIXEL_RANGE_A

SIZES = [(1, 1, 64, 64), (1, 1, 37, 91), (2, 1, 100, 48), (1, 1, 4, 5)]


def _images() -> list[torch.Tensor]:
    """Normalised images of many sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in SIZES]


def _session(data: bytes) -> onnxruntime.InferenceSession:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options)


def test_onnx_draws_what_the_shipped_network_draws_at_any_size(tmp_path) -> None:
    path = tmp_path / "all.onnx"
    assert CliRunner().invoke(app, ["export", "all", str(path)]).exit_code == 0
    assert not list(tmp_path.glob("*.part"))
    model = load_model("all")
    session = _session(path.read_bytes())
    names = [*model.maps, "columns"]
    assert [output.name for output in session.get_outputs()] == names
    for image in _images():
        with torch.inference_mode():
            expected = model.network(image)
        for name, found in zip(names, session.run(None, {"image": image.numpy()}), strict=True):
            assert found.shape == tuple(expected[name].shape), name
            np.testing.assert_allclose(found, expected[name].numpy(), atol=2e-5, err_msg=name)


def test_a_task_is_written_alone_small_and_with_what_its_input_must_be() -> None:
    data = onnx_bytes(load_model("denoise"))
    session = _session(data)
    assert [output.name for output in session.get_outputs()] == ["noNoise", "columns"]
    facts = json.loads(session.get_modelmeta().custom_metadata_map["temimagenet"])
    assert facts["outputs"] == ["noNoise", "columns"]
    assert facts["pixel_range_A"] == list(PIXEL_RANGE_A)
    assert len(data) < 5e6


def test_weights_that_half_precision_would_change_stay_whole() -> None:
    torch.manual_seed(0)
    model = Model(UNet(width=4, depth=2).eval(), ("gaussianMask",), {})
    session = _session(onnx_bytes(model))
    image = _images()[1]
    with torch.inference_mode():
        expected = model.network(image)["gaussianMask"].numpy()
    (found,) = session.run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_program_of_torch_export_draws_the_same(tmp_path) -> None:
    torch.manual_seed(0)
    model = Model(AtomNet(widths=(8, 8), reach=3).eval(), ("noNoise", "noNoiseUpinterpolation2x"), {})
    extra = {"temimagenet.json": ""}
    export_model(model, tmp_path / "small.pt2")
    program = torch.export.load(tmp_path / "small.pt2", extra_files=extra)
    assert json.loads(extra["temimagenet.json"])["outputs"] == [*model.maps, "columns"]
    for size in [(1, 1, 32, 16), (3, 1, 16, 48)]:
        image = torch.randn(size)
        with torch.inference_mode():
            expected = model.network(image)
            for name, found in zip([*model.maps, "columns"], program.module()(image), strict=True):
                assert torch.equal(found, expected[name])


def test_what_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch, capsys) -> None:
    def told(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["temimagenet", "export", *arguments])
        with pytest.raises(SystemExit, match="1"):
            main()
        return " ".join(capsys.readouterr().err.split())

    assert "no model 'nothing': expected a .safetensors file or one of all, circularMask" in told("nothing", "out.onnx")
    assert "format 'jpeg': expected one of onnx, torch" in told("all", "out.onnx", "--format", "jpeg")
    assert "cannot be written (No such file or directory)" in told("all", str(tmp_path / "none" / "out.onnx"))
    assert "cannot be written (Is a directory)" in told("all", str(tmp_path))
    assert "cannot be written (Not a directory)" in told("all", str(Path(__file__) / "out.onnx"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'temimagenet[export]'" in told("all", str(tmp_path / "out.onnx"))
    assert list(tmp_path.iterdir()) == []
