"""Fixtures: a small library rendered once for all tests."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from builder.render import render_library
from temimagenet.recipe import Recipe, load_recipe

RECIPE = """
schema = 1
name = "tiny"
seed = 11
samples = 24
image_size = 64

[draw]
condition = [1, 2, 3, 5]
field_of_view_A = [10, 20]
rotation_deg = [0, 30, 90]
thickness_A = [20, 60]
background = ["constant", "ramp", "nonlinear"]
background_level = { min = 0.0, max = 0.5 }
psnr_dB = { min = 10, max = 25 }
scan_sigma_A = { min = 0.05, max = 0.2 }
scan_modulation = ["line-frequency", "constant"]
scan_form = ["beam", "published"]

[[entry]]
material = "SrTiO3"
zone = "[110]"

[[entry]]
material = "MoS2"
zone = "[001]"

[[entry]]
kind = "amorphous"
realisations = 8

[[entry]]
kind = "particle"
material = "Pt"
zone = "[110]"
draw = { size_A = { min = 14, max = 24 } }

[[entry]]
material = "W"
zone = "[111]"
heldout = true

[[entry]]
name = "Si defective"
material = "Si"
zone = "[110]"
vacancy_fraction = 0.2
displacement_A = 0.1
"""

# One commit, one result: CI draws the same cases in every run; at home, each run draws new ones.
if os.environ.get("TEMIMAGENET_NO_SKIPS"):
    settings.register_profile("one-result", derandomize=True, database=None, print_blob=True)
    settings.load_profile("one-result")


@pytest.fixture(scope="session")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file that draws every kind of specimen."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def recipe(recipe_path: Path) -> Recipe:
    """The tiny recipe."""
    return load_recipe(recipe_path)


@pytest.fixture(scope="session")
def library(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact library of the tiny recipe, in three shards. Do not change it: take `library_copy` for that."""
    root = tmp_path_factory.mktemp("library") / "tiny"
    render_library(recipe, root, workers=1, samples_per_shard=10)
    return root


@pytest.fixture
def library_copy(library: Path, tmp_path: Path) -> Path:
    """A copy of the library that a test may damage."""
    return Path(shutil.copytree(library, tmp_path / "library"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a GPU, and of atomap, are left out where there is none."""
    import torch

    absent = {"gpu": not torch.cuda.is_available(), "atomap": find_spec("atomap") is None}
    without = [item for item in items if any(lacks and name in item.keywords for name, lacks in absent.items())]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With TEMIMAGENET_NO_SKIPS set, a skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("TEMIMAGENET_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = 1
