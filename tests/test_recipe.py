"""Recipes: what the presets touch, what a sample depends on, and what is refused."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temimagenet.errors import RecipeError
from temimagenet.imaging.optics import CONDITIONS
from temimagenet.recipe import (
    load_recipe,
    presets,
    recipe_for_structure,
    sample_spec,
    spec_from_json,
    spec_to_json,
)


def test_presets_are_demo_training_and_v1():
    assert presets() == ("demo", "training", "v1")
    assert load_recipe("v1").samples == 15000


def test_demo_touches_every_entry_condition_field_and_background():
    recipe = load_recipe("demo")
    specs = [sample_spec(recipe, i) for i in range(recipe.samples)]
    assert 450 <= len(specs) <= 550
    assert {s.entry for s in specs} == {e.name for e in recipe.entries}
    assert {s.condition for s in specs} == set(CONDITIONS)
    assert {s.field_of_view_A for s in specs} == {8.0, 10.0, 20.0, 30.0, 40.0}
    assert {s.background.kind for s in specs} == {"constant", "ramp", "nonlinear"}
    assert {s.rotation_deg for s in specs} == {0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0}
    assert {s.split for s in specs} == {"train", "test", "heldout"}


def test_three_quarters_of_the_seen_structures_train():
    recipe = load_recipe("v1")
    count = Counter(sample_spec(recipe, i).split for i in range(4800))
    seen = count["train"] + count["test"]
    assert count["train"] / seen == pytest.approx(0.75, abs=0.03)


def test_random_specimens_never_straddle_the_splits():
    recipe = load_recipe("v1")
    home: dict[tuple[str, int], set[str]] = {}
    for i in range(6000):
        spec = sample_spec(recipe, i)
        if spec.specimen.realisation is not None:
            home.setdefault((spec.entry, spec.specimen.realisation), set()).add(spec.split)
    assert len(home) > 100
    assert all(len(splits) == 1 for splits in home.values())


def test_a_spec_depends_on_recipe_and_index_alone(recipe):
    again = [sample_spec(recipe, i) for i in reversed(range(24))][::-1]
    assert again == [sample_spec(recipe, i) for i in range(24)]
    from dataclasses import replace

    assert sample_spec(replace(recipe, seed=12), 3) != sample_spec(recipe, 3)


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**7))
def test_specs_survive_json(index):
    spec = sample_spec(load_recipe("demo"), index)
    assert spec_from_json(spec_to_json(spec)) == spec


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80))
def test_text_that_is_no_spec_is_refused(text):
    with pytest.raises(RecipeError, match="not a sample's specification"):
        spec_from_json(text)


GOOD = """
schema = 1
name = "own"
seed = 1
samples = 5
[draw]
condition = [1]
field_of_view_A = [20]
rotation_deg = [0]
thickness_A = [40]
background = ["constant"]
background_level = 0.1
psnr_dB = { min = 10, max = 20 }
scan_sigma_A = 0.1
scan_modulation = ["constant"]
scan_form = ["beam"]
[[entry]]
material = "Pt"
zone = "[110]"
"""
ENTRY = 'material = "Pt"\nzone = "[110]"'
OPTICS = """energy_keV = { min = 60, max = 300 }
aperture_mrad = { min = 10, max = 30 }
source_size_A = { min = 0.5, max = 1.6 }"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('material = "Pt"', 'material = "Pu"', "unknown material 'Pu'"),
        ('zone = "[110]"', 'zone = "[000]"', r"\[000\] does not exist"),
        ('zone = "[110]"', 'zone = "[11]"', "expected three integers"),
        ('material = "Pt"', 'material = "MoS2"', "does not exist for the single layer"),
        ('material = "Pt"', 'cif = "nowhere.cif"', "nowhere.cif cannot be read"),
        ('material = "Pt"\n', "", "expected either material"),
        ("samples = 5", "samples = 0", "samples >= 1"),
        ("samples = 5", 'samples = "5"', "samples = '5', expected int"),
        ("samples = 5", "sample = 5", "unknown key 'sample'"),
        ("schema = 1", "schema = 2", "schema is 2, expected 1"),
        ("condition = [1]", "condition = [9]", r"condition \[9\]"),
        ("field_of_view_A = [20]", "field_of_view_A = [-20]", "field_of_view_A = -20: expected above 0"),
        ("field_of_view_A = [20]\n", "", "no distribution for field_of_view_A"),
        ("psnr_dB = { min = 10, max = 20 }", "psnr_dB = { min = 20, max = 10 }", "min <= max"),
        ("psnr_dB = { min = 10, max = 20 }", "psnr_db = 3", "unknown key 'psnr_db'"),
        ('["constant"]\nbackground_level', '["fog"]\nbackground_level', r"background \['fog'\]"),
        ("scan_sigma_A = 0.1", "scan_sigma_A = -0.1", "scan_sigma_A = -0.1: expected 0 or more"),
        ("scan_sigma_A = 0.1", "scan_sigma_A = nan", "must be finite"),
        ('name = "own"', 'name = "../own"', "may hold letters"),
        ("schema = 1", "schema = ", "not valid TOML"),
        ('zone = "[110]"', 'zone = "[110]"\nkind = "particle"', "no distribution for size_A"),
        (
            'zone = "[110]"',
            'zone = "[110]"\nkind = "particle"\ndraw = { size_A = 20, field_of_view_A = 80 }',
            "larger than the specimen's cell",
        ),
        ('material = "Pt"', 'kind = "amorphous"\ndraw = { field_of_view_A = 50 }', "larger than the specimen's cell"),
        ('material = "Pt"', 'kind = "random"', "neither material, cif nor zone"),
        (ENTRY, 'kind = "random"', "no distribution for size_A"),
        (ENTRY, 'kind = "random"\ndraw = { size_A = 0.3 }', "column spacings of 0.8 to 10"),
        (ENTRY, 'kind = "random"\ndraw = { size_A = 2, field_of_view_A = 60 }', "larger than the specimen's cell"),
        (ENTRY, 'kind = "random"\ndraw = { size_A = 2 }\nstrain = [0.1, 0, 0]', "are drawn with it"),
        ("condition = [1]", "condition = [0]", "no distribution for energy_keV, aperture_mrad, source_size_A"),
        ("condition = [1]", f"condition = [0]\n{OPTICS}".replace("60", "0.1"), "beam energy 0.1 keV"),
        ("condition = [1]", f"condition = [0]\n{OPTICS}".replace("0.5", "-0.5"), "source size -0.5"),
    ],
)  # fmt: skip
def test_bad_recipes_get_one_clear_error(tmp_path, old, new, message):
    path = tmp_path / "own.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert "own.toml" in str(caught.value)


def test_a_missing_recipe_lists_the_presets(tmp_path):
    with pytest.raises(RecipeError, match="presets demo, training, v1"):
        load_recipe(tmp_path / "none.toml")


def test_a_recipe_may_bring_its_own_crystal_and_optics(tmp_path):
    from ase.build import bulk

    bulk("Cu", "fcc", a=3.615, cubic=True).write(tmp_path / "cu.cif")
    text = GOOD.replace('material = "Pt"', 'cif = "cu.cif"').replace("condition = [1]", "condition = [7]")
    text += "\n[conditions.7]\nenergy_keV = 300\naperture_mrad = 25\nsource_size_A = 0.7\n"
    (tmp_path / "own.toml").write_text(text)
    spec = sample_spec(load_recipe(tmp_path / "own.toml"), 0)
    assert spec.entry == "cu [110]"
    assert spec.optics.energy_keV == 300.0
    assert "_cell_length_a" in spec.specimen.cif


def test_an_unparsable_cif_is_named(tmp_path):
    (tmp_path / "bad.cif").write_text("nonsense")
    (tmp_path / "own.toml").write_text(GOOD.replace('material = "Pt"', 'cif = "bad.cif"'))
    with pytest.raises(RecipeError, match=re.escape("bad [110]")):
        load_recipe(tmp_path / "own.toml")
    with pytest.raises(Exception, match="CIF"):
        recipe_for_structure(tmp_path / "bad.cif")


def test_the_resolved_recipe_is_the_same_text_each_time(recipe_path):
    assert load_recipe(recipe_path).to_json() == load_recipe(recipe_path).to_json()


def test_condition_0_draws_the_optics_and_cannot_be_set(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(GOOD.replace("condition = [1]", f"condition = [0, 0, 1]\n{OPTICS}"))
    specs = [sample_spec(load_recipe(path), i) for i in range(60)]
    drawn = [s.optics for s in specs if s.condition == 0]
    assert all(s.optics == CONDITIONS[1] for s in specs if s.condition == 1)
    assert 20 < len(drawn) == len(set(drawn)) < 60
    assert all(60 <= o.energy_keV <= 300 and 10 <= o.aperture_mrad <= 30 for o in drawn)
    assert all(0.5 <= o.source_size_A <= 1.6 for o in drawn)
    path.write_text(GOOD + "[conditions.0]\nenergy_keV = 200\naperture_mrad = 20\n")
    with pytest.raises(RecipeError, match="condition 0 stands for"):
        load_recipe(path)


def test_training_draws_widely_and_six_of_ten_are_random():
    recipe = load_recipe("training")
    specs = [sample_spec(recipe, i) for i in range(1920)]
    random = [s for s in specs if s.specimen.kind == "random"]
    assert 0.6 < len(random) / len(specs) < 0.65
    assert len({s.specimen.seed for s in random}) == len(random)
    assert {s.split for s in specs} == {"train", "test"}
    perfect = (e for e in load_recipe("v1").entries if e.heldout and not e.random and not any(e.strain))
    unseen = {(e.material, e.zone) for e in perfect}
    assert not unseen & {(e.material, e.zone) for e in recipe.entries}
    for values, low, high in (
        ([s.pixel_size_A for s in specs], 0.06, 0.2),
        ([s.rotation_deg for s in specs], 0.0, 360.0),
        ([s.psnr_dB for s in specs], 5.0, 40.0),
        ([s.scan_noise.sigma_A for s in specs], 0.0, 0.35),
        ([s.optics.aperture_mrad for s in specs], 10.0, 30.0),
        ([s.optics.energy_keV for s in specs], 60.0, 300.0),
        ([s.optics.source_size_A for s in specs], 0.5, 1.6),
        ([s.specimen.size_A for s in random], 1.2, 4.5),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > high - 0.1 * (high - low)
    middle = [0.08 <= s.pixel_size_A <= 0.16 for s in specs]
    assert 0.7 < sum(middle) / len(middle) < 0.95


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10**7))
def test_training_specs_survive_json(index):
    spec = sample_spec(load_recipe("training"), index)
    assert spec_from_json(spec_to_json(spec)) == spec
