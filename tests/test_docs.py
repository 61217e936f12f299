"""The documentation's code runs: every Python block of the tutorial, in order, and the recipe of the recipes page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temimagenet.recipe import load_recipe

DOCS = Path(__file__).resolve().parents[1] / "site" / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("TEMIMAGENET_TEST_CACHE", str(tmp_path / "cache")))
    code = blocks("tutorial.md", "python")
    assert len(code) >= 6
    names: dict[str, object] = {}
    for number, block in enumerate(code):
        exec(compile(block, f"tutorial.md, block {number + 1}", "exec"), names)
    assert (tmp_path / "sample.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "TEMImageNet" in printed
    assert "weight" in printed
    assert "copper [110]" in printed


@pytest.mark.parametrize("page", ["../../README.md", "getting-started.md"])
def test_the_first_steps_find_columns_and_their_limit(page, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = [block for block in blocks(page, "python") if "localize" in block or "evaluate" in block]
    names: dict[str, Any] = {}
    for block in code:
        exec(compile(block, page, "exec"), names)
    found, truth = names["columns"], names["truth"]
    error = found.sigma_pm[found.sound]
    assert found.sound.sum() >= truth.counts.sum()
    # The bound is 1.5 pm.
    assert 1.0 < np.median(error) < 2.5
    assert 0.7 < names["record"].scores["pt110-20dB"]["efficiency"].value < 1.3
    assert "sigma_x_pm" in capsys.readouterr().out


def test_the_page_of_networks_draws_and_finds():
    names: dict[str, Any] = {}
    for block in blocks("models.md", "python"):
        exec(compile(block, "models.md", "exec"), names)
    assert names["clean"].shape == names["image"].shape
    assert names["clean"].std() < 0.5 * names["image"].std()
    assert len(names["columns"]) == len(names["paper"]) == 0


def test_the_recipe_of_the_recipes_page_is_valid(tmp_path):
    from ase.build import bulk

    bulk("Cu", "fcc", a=3.615, cubic=True).write(tmp_path / "copper.cif")
    (tmp_path / "own.toml").write_text(blocks("recipes.md", "toml")[0])
    assert load_recipe(tmp_path / "own.toml").samples == 1000


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"])
def test_a_checkout_says_what_it_is(name):
    assert len((DOCS.parents[1] / name).read_text()) > 300


def test_the_outside_method_of_the_precision_page_gets_onto_a_leaderboard(tmp_path, monkeypatch):
    from builder.portal import build_leaderboard
    from temimagenet.errors import PrecisionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    for block in blocks("precision.md", "python"):
        exec(compile(block, "precision.md", "exec"), names)
    page = build_leaderboard(tmp_path / "build" / "leaderboard", tmp_path / "site")
    text = page.read_text(encoding="utf-8")
    assert "peaks, then Gaussian fits" in text
    assert text.count("<svg") >= 1
    empty = build_leaderboard(None, tmp_path / "empty").read_text(encoding="utf-8")
    assert "peaks, then Gaussian fits" not in empty
    with pytest.raises(PrecisionError, match="no folder"):
        build_leaderboard(tmp_path / "nowhere", tmp_path / "site")
