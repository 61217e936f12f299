"""Whatever a file holds, a reader returns what it should or raises its own error: hypothesis looks for others."""

from __future__ import annotations

import json
import math
import random
import tomllib
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings, target
from hypothesis import strategies as st
from mutations import BYTES
from opened import damaged, opened
from PIL import Image

from temimagenet import isolated
from temimagenet.errors import DatasetError, MicrographError, RecipeError, ShardError
from temimagenet.micrographs import read_micrograph
from temimagenet.recipe import Recipe, load_recipe, sample_spec, spec_from_json, spec_to_json
from temimagenet.storage import read_collection

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LEAVES = st.one_of(
    st.booleans(), st.integers(), st.sampled_from([2**63, -(2**63), 10**400, 0, -1]), st.floats(),
    st.text(max_size=6),
    st.sampled_from(["Pt", "SrTiO3", "[110]", "crystal", "particle", "random", "amorphous", "film"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["min", "max", "x", "7"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("\\ud8", "x").replace("\\udc", "x")


def places(node: Any) -> list[tuple[Any, Any]]:
    """All keys in a document."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [(node, key) for key in keys] + [place for key in keys for place in places(node[key])]


@QUICK
@given(data=st.data())
def test_a_changed_recipe_is_read_or_refused(recipe_path, tmp_path, data):
    document = tomllib.loads(recipe_path.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        node, key = data.draw(st.sampled_from(places(document)))
        if isinstance(node, dict) and data.draw(st.booleans()):
            node[
                data.draw(st.sampled_from(["share", "zone", "kind", "cif", "strain", "draw", "conditions", "cell_A"]))
            ] = data.draw(VALUES)
        else:
            node[key] = data.draw(VALUES)
    path = tmp_path / "changed.toml"
    path.write_text(
        "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in document.items()), encoding="utf-8"
    )
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        told = str(error)
    else:
        told = ""
    target(float(told.count("entry")), label="how far it was read")
    if told:
        assert "changed.toml" in told
        return
    assert isinstance(recipe, Recipe)
    for index in (0, 5):
        spec = sample_spec(recipe, index)
        assert spec_from_json(spec_to_json(spec)) == spec


@QUICK
@given(text=st.text(max_size=200))
def test_any_text_as_a_recipe(tmp_path, text):
    path = tmp_path / "any.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(RecipeError, match=r"any\.toml"):
        load_recipe(path)


@QUICK
@given(data=st.data())
def test_a_changed_specification_is_read_or_refused(recipe, data):
    document = json.loads(spec_to_json(sample_spec(recipe, data.draw(st.integers(0, 11)))))
    node, key = data.draw(st.sampled_from(places(document)))
    node[key] = data.draw(VALUES)
    try:
        spec = spec_from_json(json.dumps(document))
    except RecipeError:
        return
    assert 1 <= spec.image_size <= 4096
    assert spec.pixel_size_A > 0.0


@QUICK
@given(value=VALUES, other=VALUES)
@example(value=[], other={})
def test_any_json_as_a_collection(library, tmp_path, value, other):
    path = tmp_path / "c.json"
    document = {
        "format": "temimagenet-collection", "schema": 1, "library": "tiny", "version": "0.1.0", "shards": value,
        "samples": other,
    }  # fmt: skip
    for text in (json.dumps(value), json.dumps(document)):
        path.write_text(text)
        with pytest.raises((DatasetError, ShardError), match=r"c\.json"):
            read_collection(path, library)


@pytest.fixture(scope="module")
def micrographs(tmp_path_factory):
    """A small file of each kind that is read in this process."""
    folder = tmp_path_factory.mktemp("micrographs")
    image = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20)
    np.save(folder / "a.npy", image)
    Image.fromarray(image.astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(image.astype(np.uint8)).save(folder / "a.jpg")
    Image.fromarray(image.astype(np.uint8)).save(folder / "a.bmp")
    tifffile.imwrite(folder / "a.tif", image, imagej=True, resolution=(50.0, 50.0), metadata={"unit": "nm"})
    header = bytearray(1024)
    header[:40] = np.array([20, 24, 1, 1, 0, 0, 0, 20, 24, 1], "<i4").tobytes()
    header[40:64] = np.array([4.0, 4.8, 0.2, 90.0, 90.0, 90.0], "<f4").tobytes()
    header[64:76] = np.array([1, 2, 3], "<i4").tobytes()
    header[208:212] = b"MAP "
    header[212:216] = b"\x44\x44\0\0"
    (folder / "a.mrc").write_bytes(bytes(header) + image.astype("<i2").tobytes())
    for path in sorted(folder.iterdir()):
        assert sorted(read_micrograph(path).image.shape) == [20, 24], path
    return sorted(folder.iterdir())


def test_a_heap_whose_free_space_has_no_size_is_refused(opened_files, tmp_path):
    """HDF5 2.0 would read it for ever."""
    content = bytearray(next(path for path in opened_files if path.name == "berkeley.emd").read_bytes())
    start = content.index(b"GCOL")
    place = start + 16
    while int.from_bytes(content[place : place + 2], "little"):
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    assert int.from_bytes(content[place + 8 : place + 16], "little") > 0
    content[place + 8 : place + 16] = bytes(8)
    path = tmp_path / "damaged.emd"
    path.write_bytes(content)
    with pytest.raises(MicrographError, match="the heap at byte"):
        read_micrograph(path)


@QUICK
@example(seed=2235, number=5, form="metadata", times=1)
@given(
    seed=st.integers(0, 2**32), number=st.integers(0, 5), form=st.sampled_from(sorted(BYTES)), times=st.integers(1, 3)
)
def test_a_damaged_micrograph_is_read_or_refused(micrographs, tmp_path, seed, number, form, times):
    source = micrographs[number]
    draw, content = random.Random(seed), source.read_bytes()
    for _ in range(times):
        content = BYTES[form](bytearray(content), draw) or b"\0"
    path = tmp_path / f"damaged{source.suffix}"
    path.write_bytes(content)
    assert opened(path)


@settings(QUICK, max_examples=16)
@example(seed=155, number=3)
@given(seed=st.integers(0, 2**32), number=st.integers(0, 3))
def test_a_damaged_hdf5_micrograph_or_session_is_read_or_refused(opened_files, tmp_path, monkeypatch, seed, number):
    """A few: each takes a process. On some, the example, HDF5 2.0 hangs, which need not take a minute here."""
    monkeypatch.setattr(isolated, "_LEAST_S", 5.0)
    assert opened(damaged(opened_files[number], tmp_path, seed))
