"""Weights: written whole, read back, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from temimagenet.errors import ModelError
from temimagenet.models import AtomNet, UNet, load_network
from temimagenet.models.zoo import build_network, read_weights, write_weights


@pytest.mark.parametrize("network", [AtomNet(widths=(8, 8)), UNet(("noNoise",), width=4, depth=2)])
def test_weights_come_back_in_half_precision(network: AtomNet | UNet, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(network, path, {"version": "1"})
    again, facts = load_network(path)
    assert facts == {"version": "1"}
    assert not again.training
    assert again.settings == network.settings
    image = torch.randn(1, 1, 32, 32)
    for name, value in network.eval()(image).items():
        torch.testing.assert_close(again(image)[name], value, rtol=0.02, atol=0.02)
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(AtomNet(widths=(8, 8)), path, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"a.safetensors.*damaged"):
        load_network(path)
    path.write_text("not weights", encoding="utf-8")
    with pytest.raises(ModelError, match=r"a.safetensors.*not weights"):
        load_network(path)
    with pytest.raises(ModelError, match="no model 'nonesuch': expected a \\.safetensors file"):
        load_network("nonesuch")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = UNet(width=4, depth=1)
    with torch.no_grad():
        next(network.parameters())[0] = float("nan")
    write_weights(network, tmp_path / "a.safetensors", {})
    with pytest.raises(ModelError, match=r"a.safetensors: damaged.*not finite"):
        load_network(tmp_path / "a.safetensors")


def test_a_task_is_a_name_of_the_shipped_weights() -> None:
    assert load_network("denoise")[0].settings == load_network("atomnet")[0].settings
    with pytest.raises(ModelError, match="one of all, circularMask"):
        load_network("Denoise")
    with pytest.raises(ModelError, match="expected the name"):
        load_network(3)  # type: ignore[arg-type]


def test_weights_of_another_build_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(AtomNet(widths=(8, 8)), path, {})
    with pytest.raises(ModelError, match="widths"):
        read_weights(path, AtomNet(widths=(8, 12)))


def test_unknown_networks_and_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="expected one of atomnet, unet"):
        build_network("resnet", {})
    with pytest.raises(ModelError, match="unexpected keyword"):
        build_network("unet", {"colour": 3})
