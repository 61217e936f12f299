"""Files made to do harm: none is executed, none leads out of its folder or fills the memory, each is told by name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from mutations import reseal
from PIL import Image, PngImagePlugin
from rsciio.hspy import file_writer as write_hspy
from safetensors.torch import save_file

from temimagenet import TEMImageNet
from temimagenet.errors import DatasetError, MicrographError, ModelError, PrecisionError, RecipeError, ShardError
from temimagenet.micrographs import read_micrograph
from temimagenet.models.zoo import load_network
from temimagenet.precision.records import read_record
from temimagenet.recipe import load_recipe, spec_from_json
from temimagenet.storage import Shard, finish_library, plan_library, verify_library

SHARD = "shards/linear-00000.h5"


class Trap:
    """An object whose unpickling writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def outside(tmp_path):
    """A file that no library may lead to."""
    path = tmp_path / "outside.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.arange(600.0).reshape(24, 25)
    return path


def read_everything(path):
    """All samples and series of a shard."""
    with Shard(path) as shard:
        for row in range(len(shard)):
            shard.sample(row, ("noNoiseUpinterpolation2x",))
            shard.series(row)


def put(file, name, form, outside):
    """A dataset that leads elsewhere or is more than it seems."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    if form == "external link":
        file[name] = h5py.ExternalLink(str(outside), "secret")
    elif form == "soft link":
        file[name] = h5py.SoftLink("/n_columns")
    elif form == "virtual":
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(str(outside), "secret", shape)
        file.create_virtual_dataset(name, layout)
    elif form == "external storage":
        file.create_dataset(name, shape, dtype, external=[(str(outside), 0, h5py.h5f.UNLIMITED)])
    elif form == "absurd shape":
        file.create_dataset(name, (2**40, *shape[1:]), dtype, chunks=(1, *shape[1:]))
    elif form == "bomb":
        # 128 MB of zeros in 125 kB.
        made = file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), compression=1)
        made.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(2**27), 9))


@pytest.mark.parametrize("name", ["image", "dose_e_per_A2", "series/hk"])
@pytest.mark.parametrize("form", ["external link", "soft link", "virtual", "external storage", "absurd shape", "bomb"])
@pytest.mark.parametrize("sidecar", [True, False], ids=["with sidecar", "alone"])
def test_a_shard_leads_nowhere_and_fills_no_memory(library, tmp_path, outside, name, form, sidecar):
    path = tmp_path / "shards" / "linear-00000.h5"
    path.parent.mkdir()
    shutil.copy(library / SHARD, path)
    with h5py.File(path, "r+") as file:
        put(file, name, form, outside)
    if sidecar:
        told = json.loads((library / SHARD).with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps(told | {"bytes": path.stat().st_size}))
    with pytest.raises(ShardError, match=r"linear-00000\.h5"):
        read_everything(path)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside.h5", "shards/../../outside.h5", "..\\outside.h5", "C:\\outside", "a\0b", "link.h5"],
)
def test_a_library_names_nothing_outside_of_it(library_copy, outside, name):
    (library_copy / "link.h5").symlink_to(outside)
    catalogue = pd.read_parquet(library_copy / "catalogue.parquet")
    catalogue["shard"] = name
    catalogue.to_parquet(library_copy / "catalogue.parquet")
    reseal(library_copy, "catalogue.parquet")
    with pytest.raises(ShardError, match=r"catalogue\.parquet: names"):
        TEMImageNet(library_copy, split=None)
    manifest = json.loads((library_copy / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (library_copy / "manifest.json").write_text(json.dumps(manifest))
    for read in (verify_library, lambda root: TEMImageNet(root, split=None)):
        with pytest.raises(ShardError, match=r"manifest\.json: file name .* outside the library"):
            read(library_copy)


def test_a_catalogue_that_mixes_samples_up_is_told(library_copy):
    path = library_copy / "catalogue.parquet"
    catalogue = pd.read_parquet(path)
    catalogue.loc[[0, 1], ["shard", "row"]] = catalogue.loc[[1, 0], ["shard", "row"]].to_numpy()
    catalogue.to_parquet(path)
    reseal(library_copy, "catalogue.parquet")
    with pytest.raises(ShardError, match=r"catalogue\.parquet says"):
        TEMImageNet(library_copy, split=None)[0]


def test_closing_a_library_removes_only_what_is_its_own(recipe, library_copy):
    keep = library_copy / "shards" / "my notes.txt"
    keep.write_text("kept")
    old = library_copy / "shards" / "linear-00099.h5"
    old.write_text("of an earlier recipe")
    finish_library(library_copy, recipe, plan_library(recipe, samples_per_shard=10))
    assert keep.exists()
    assert not old.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"specimen": ' * 5000, "1e999", '{"a": 1' + "0" * 5000 + "}"])
def test_deep_or_large_json_is_no_specification(text):
    with pytest.raises(RecipeError, match="not a sample's specification"):
        spec_from_json(text)


def test_deep_json_is_no_collection(library, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match=r"deep\.json cannot be read"):
        TEMImageNet.from_manifest(tmp_path / "deep.json", root=library)


def test_pickled_weights_are_not_unpickled(tmp_path):
    mark = tmp_path / "executed"
    for name, content in (("a.safetensors", pickle.dumps(Trap(mark))), ("b.pt", b"")):
        path = tmp_path / name
        if content:
            path.write_bytes(content)
        else:
            torch.save({"state_dict": Trap(mark)}, path)
        with pytest.raises(ModelError, match=name):
            load_network(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("unet", {"maps": ["noNoise"], "width": 10**9, "depth": 4}),
        ("unet", {"maps": ["noNoise"], "width": 8000, "depth": 7}),
        ("atomnet", {"widths": [8000, 8000]}),
        ("atomnet", {"widths": [1] * 10**6}),
        ("atomnet", [1, 2]),
        ("unet", {"width": "x"}),
    ],
)
def test_weights_do_not_decide_how_much_memory_is_taken(tmp_path, kind, settings):
    path = tmp_path / "large.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"kind": kind, "settings": json.dumps(settings), "facts": "{}"})
    with pytest.raises(ModelError, match=r"large\.safetensors"):
        load_network(path)


def test_a_pickled_checkpoint_is_not_unpickled(tmp_path):
    from temimagenet.models.train import settings_for, train

    mark = tmp_path / "executed"
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"temimagenet": {"settings": Trap(mark)}}, folder / "last.ckpt")
    with pytest.raises(ModelError, match=r"last\.ckpt: no checkpoint"):
        train(settings_for("fast"), tmp_path / "run", resume=True)
    assert not mark.exists()


def hspy(path):
    """A file of HyperSpy's, as RosettaSciIO writes it."""
    axes = [
        {"size": size, "index_in_array": number, "name": name, "scale": 0.02, "offset": 0.0, "units": "nm",
         "navigate": False}
        for number, (size, name) in enumerate(((24, "y"), (25, "x")))
    ]  # fmt: skip
    write_hspy(path, {
        "data": np.zeros((24, 25)), "axes": axes, "metadata": {"General": {"title": "HAADF"}, "Signal": {}},
        "original_metadata": {}, "attributes": {"_lazy": False}, "package_info": {}, "tmp_parameters": {},
        "models": {}, "learning_results": {},
    })  # fmt: skip
    return path


@pytest.mark.parametrize("form", ["external link", "virtual", "external storage", "absurd shape", "bomb"])
@pytest.mark.parametrize("suffix", ["hspy", "emd"])
def test_a_micrograph_leads_nowhere_and_fills_no_memory(tmp_path, outside, suffix, form):
    path = hspy(tmp_path / "image.hspy").rename(tmp_path / f"image.{suffix}")
    with h5py.File(path, "r+") as file:
        put(file, "Experiments/HAADF/data", form, outside)
    with pytest.raises(MicrographError):
        read_micrograph(path)


def test_arrays_and_pictures_that_are_not_what_they_say(tmp_path):
    mark = tmp_path / "executed"
    np.save(tmp_path / "pickled.npy", np.array([Trap(mark)], dtype=object), allow_pickle=True)
    with np.errstate(all="ignore"):
        header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }"
    (tmp_path / "huge.npy").write_bytes(header + text.ljust(117).encode() + b"\n" + bytes(64))
    picture = Image.new("L", (8, 8))
    told = PngImagePlugin.PngInfo()
    told.add_text("bomb", "0" * 10**8, zip=True)
    picture.save(tmp_path / "text.png", pnginfo=told)
    Image.new("1", (20000, 20000)).save(tmp_path / "wide.png")
    for name in ("pickled.npy", "huge.npy", "text.png", "wide.png"):
        with pytest.raises(MicrographError):
            read_micrograph(tmp_path / name)
    assert not mark.exists()


def test_a_description_that_grows_is_not_expanded(tmp_path):
    import tifffile

    levels = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "lolololol">{levels}]><OME>&a9;</OME>'
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint16), description=bomb, metadata=None)
    try:
        image = read_micrograph(tmp_path / "a.tif").image
    except MicrographError:
        return
    assert image.shape == (8, 8)


def test_pickled_positions_are_not_unpickled(tmp_path):
    import hashlib

    mark = tmp_path / "executed"
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        np.save(tmp_path / "count.npy", np.array([Trap(mark)], dtype=object), allow_pickle=True)
        archive.write(tmp_path / "count.npy", "count.npy")
    record = {
        "schema": 1, "method": "m", "version": "1", "library_version": "0", "date": "2026-01-01", "results": [],
        "positions": {"file": "p.npz", "sha256": hashlib.sha256((tmp_path / "p.npz").read_bytes()).hexdigest()},
    }  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(record))
    with pytest.raises(PrecisionError, match=r"[pr]\.(npz|json)"):
        read_record(tmp_path / "r.json")
    assert not mark.exists()


def test_recipes_that_ask_for_more_than_there_is(tmp_path, recipe_path):
    text = recipe_path.read_text()
    path = tmp_path / "r.toml"
    for old, new in (
        ("samples = 24", "samples = 1" + "0" * 400), ("image_size = 64", "image_size = 100000"),
        ('zone = "[110]"', "zone = [99999999999999999999, 1, 0]"), ("vacancy_fraction = 0.2", "vacancy_fraction = nan"),
        ('zone = "[001]"', 'zone = "[001]"\nshare = 1000000000'), ("realisations = 8", "realisations = 1" + "0" * 30),
        ("field_of_view_A = [10, 20]", "field_of_view_A = [10, 1e300]"),
        ("thickness_A = [20, 60]", "thickness_A = [20, nan]"),
        ('zone = "[111]"', 'zone = "[111]"\nstrain = [nan, 0, 0]'),
        ('name = "tiny"', 'name = "tiny"\nx = ' + "[" * 50000),
        ("psnr_dB = { min = 10, max = 25 }", "psnr_dB = { min = -1e5, max = 1e5 }"),
        ('material = "W"', 'cif = "a\\u0000b"'),
    ):  # fmt: skip
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(RecipeError, match=r"r\.toml"):
            load_recipe(path)


def test_what_lies_between_chunks_is_compared_before_hdf5_opens_a_shard(library_copy, monkeypatch):
    path = library_copy / SHARD
    whole = path.read_bytes()
    told = json.loads(path.with_suffix(".json").read_text())
    inside = np.zeros(len(whole), dtype=bool)
    for entry in (*told["datasets"].values(), *told["series"].values()):
        for offset, size in zip(entry["offsets"], entry["sizes"], strict=True):
            inside[offset : offset + size] = True
    monkeypatch.setattr(h5py, "File", lambda *a, **k: pytest.fail("HDF5 was given a damaged file"))
    for place in np.random.default_rng(3).choice(np.flatnonzero(~inside), 30, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"linear-00000\.h5: damaged, what is not in chunks"):
            Shard(path)


@pytest.mark.parametrize("name", ["hk", "coefficients"])
def test_chunks_of_the_series_are_compared_before_hdf5_unpacks_them(library, library_copy, monkeypatch, name):
    path = library_copy / SHARD
    told = json.loads(path.with_suffix(".json").read_text())["series"][name]
    damaged = bytearray(path.read_bytes())
    damaged[told["offsets"][0] + told["sizes"][0] // 2] ^= 0x10
    path.write_bytes(damaged)
    with Shard(path) as shard, Shard(library / SHARD) as whole:
        assert torch.equal(shard.sample(0, ("noNoise",)).image, whole.sample(0).image)
        monkeypatch.setattr(Shard, "_whole", lambda *a: pytest.fail("HDF5 unpacks a damaged chunk"))
        for read in (lambda: shard.series(0), lambda: shard.sample(0, ("noNoiseUpinterpolation2x",))):
            with pytest.raises(ShardError, match=rf"linear-00000\.h5: series/{name} 0 .* differs from its SHA-256"):
                read()


def test_a_dataset_keeps_few_shards_open(library, monkeypatch):
    monkeypatch.setattr("temimagenet.datasets._MOST_OPEN", 1)
    data = TEMImageNet(library, split=None, labels=[])
    opened = [data[index].id for index in (0, 23, 0, 12)]
    assert opened[0] == opened[2]
    assert len(data._shards) == 1
