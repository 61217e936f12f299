"""Datasets: what is chosen, what a worker sees, and that a compact library equals a dense one."""

from __future__ import annotations

import json
import threading
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from builder.render import render_library
from temimagenet import LABELS, OnTheFly, TEMImageNet, collate, plot
from temimagenet.errors import DatasetError, LabelError, ShardError
from temimagenet.labels import POINTS, SCALARS
from temimagenet.recipe import sample_spec
from temimagenet.render import render, with_bounds


def test_a_library_gives_back_what_was_rendered(library, recipe):
    data = TEMImageNet(library, split=None, labels=LABELS + SCALARS)
    assert len(data) == 24
    for index in range(0, 24, 5):
        read = data[index]
        fresh = render([sample_spec(recipe, int(data.catalogue["index"][index]))], LABELS + SCALARS, quantised=True)[0]
        assert torch.equal(read.image, fresh.image)
        for name in LABELS + SCALARS:
            assert torch.equal(read.labels[name], fresh.labels[name]), name
        assert np.array_equal(read.columns.xy_px, fresh.columns.xy_px)
        assert read.columns.kinds == fresh.columns.kinds
        assert read.spec == fresh.spec
        assert np.allclose(read.row_shift_A, fresh.row_shift_A, atol=1e-7)


def test_compact_and_dense_libraries_give_equal_values(library, recipe, tmp_path):
    render_library(recipe, tmp_path / "dense", dense=True, workers=1)
    compact, dense = (TEMImageNet(root, split=None, labels=LABELS + SCALARS) for root in (library, tmp_path / "dense"))
    for one, two in zip(compact, dense, strict=True):
        assert one.id == two.id
        assert torch.equal(one.image, two.image)
        for name in LABELS + SCALARS:
            assert torch.equal(one.labels[name], two.labels[name]), name


def test_splits_partition_the_library(library):
    parts = [TEMImageNet(library, split=s).catalogue["id"].tolist() for s in TEMImageNet.splits]
    everything = TEMImageNet(library, split=None).catalogue["id"].tolist()
    assert sorted(name for part in parts for name in part) == sorted(everything)
    assert set(TEMImageNet(library, split="heldout").catalogue["entry"]) == {"W [111]"}


def test_where_filters_by_the_catalogue(library):
    chosen = TEMImageNet(library, split=None, where="psnr_dB > 15 and material == 'Pt'")
    assert 0 < len(chosen) < 24
    assert (chosen.catalogue["psnr_dB"] > 15).all()
    assert set(chosen.catalogue["material"]) == {"Pt"}


def test_transform_is_applied(library):
    from dataclasses import replace

    data = TEMImageNet(library, split=None, transform=lambda s: replace(s, image=s.image * 0))
    assert float(data[0].image.abs().max()) == 0.0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_with_all_labels_sees_every_sample_once(library, workers):
    data = TEMImageNet(library, split=None, labels=LABELS)
    seen = []
    for batch in DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate, num_workers=workers):
        seen += batch.ids
        assert batch.image.shape == (len(batch.ids), 1, 64, 64)
        assert set(batch.labels) == set(LABELS)
        for name in POINTS:
            filled = (~batch.labels[name][..., 0].isnan()).sum(dim=1)
            assert torch.equal(filled, batch.n_columns)
    assert sorted(seen) == sorted(data.catalogue["id"])


def test_batches_move_to_a_device(library):
    batch = collate([TEMImageNet(library, split=None)[0]])
    assert batch.to("meta").image.device.type == "meta"


def test_on_the_fly_is_the_recipes_own_sequence_whatever_the_workers(recipe):
    fresh = OnTheFly(recipe, seed=recipe.seed, labels=["gaussianMask"])
    alone = list(islice(iter(fresh), 8))
    assert [s.spec for s in alone] == [sample_spec(recipe, i) for i in range(8)]
    loader = DataLoader(fresh, batch_size=None, num_workers=2)
    together = {s.id: s for s in islice(iter(loader), 8)}
    for sample in alone:
        assert torch.equal(together[sample.id].image, sample.image)


def test_on_the_fly_gives_bounds_on_request(recipe):
    plain, bound = (next(iter(OnTheFly(recipe, labels=[], bounds=wanted))) for wanted in (False, True))
    assert plain.columns.crlb_A is None
    assert np.array_equal(bound.columns.crlb_A, with_bounds(plain).columns.crlb_A, equal_nan=True)
    with pytest.raises(DatasetError, match="multislice images have no bounds"):
        OnTheFly(recipe, engine="multislice", bounds=True)


def test_ranks_of_on_the_fly_share_nothing(recipe):
    streams = [OnTheFly(recipe, rank=rank, world_size=3) for rank in range(3)]
    indices = [[s.spec.index for s in islice(iter(stream), 4)] for stream in streams]
    assert sorted(i for part in indices for i in part) == list(range(12))


def test_on_the_fly_renders_ones_own_cif(tmp_path):
    from ase.build import bulk

    bulk("Cu", "fcc", a=3.615, cubic=True).write(tmp_path / "cu.cif")
    sample = next(iter(OnTheFly(tmp_path / "cu.cif", zone="[110]", labels=["position"], seed=4)))
    assert sample.spec.entry == "cu [110]"
    assert len(sample.labels["position"]) > 0


def test_demo_is_rendered_once_into_the_cache(tmp_path, monkeypatch):
    from dataclasses import replace

    from temimagenet import datasets

    monkeypatch.setattr(datasets, "load_recipe", lambda name: replace(_load(name), samples=24, image_size=64))
    first = TEMImageNet.demo(split=None, cache=tmp_path)
    stamp = (first.root / "manifest.json").stat().st_mtime_ns
    second = TEMImageNet.demo(split="train", labels=LABELS, cache=tmp_path)
    assert len(first) == 24
    assert (second.root / "manifest.json").stat().st_mtime_ns == stamp


def _load(name):
    from temimagenet.recipe import load_recipe

    return load_recipe(name)


def a_collection(root, path, picks=(5, 2, 11), **changes):
    """A manifest of some samples, as the website writes it."""
    rows = TEMImageNet(root, split=None).catalogue.iloc[list(picks)]
    whole = json.loads((root / "manifest.json").read_text())
    samples = rows[["id", "engine", "shard", "row", "sha256"]].to_dict("records")
    shards = {name: whole["files"][name] for name in rows["shard"]}
    facts = {"format": "temimagenet-collection", "schema": 1, "library": whole["name"], "version": whole["version"]}
    path.write_text(json.dumps(facts | {"shards": shards, "samples": samples} | changes))
    return path


def test_a_collection_loads_its_samples_in_its_order(library, tmp_path):
    everything = TEMImageNet(library, split=None, labels=LABELS)
    path = a_collection(library, tmp_path / "mine.json")
    for source in (path, str(path)):
        data = TEMImageNet.from_manifest(source, root=library, labels=LABELS, verify=True)
        assert [sample.id for sample in data] == [everything[i].id for i in (5, 2, 11)]
    assert torch.equal(data[1].image, everything[2].image)
    assert all(torch.equal(data[1].labels[name], everything[2].labels[name]) for name in LABELS)


def test_a_collection_comes_from_an_address_too(library, tmp_path):
    from builder.serve import make_server

    a_collection(library, tmp_path / "mine.json")
    server = make_server(tmp_path, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    assert len(TEMImageNet.from_manifest(f"{address}/mine.json", root=library)) == 3
    with pytest.raises(DatasetError, match="404"):
        TEMImageNet.from_manifest(f"{address}/yours.json", root=library)
    server.shutdown()
    server.server_close()


def test_collections_that_do_not_fit_are_refused(library, library_copy, tmp_path):
    def load(root=library, verify=False, **changes):
        TEMImageNet.from_manifest(a_collection(library, tmp_path / "mine.json", **changes), root=root, verify=verify)

    sample = {"id": "tiny-000001", "engine": "linear", "shard": "shards/linear-00000.h5", "sha256": "00"}
    with pytest.raises(DatasetError, match=r"library 'other'.*holds 'tiny'"):
        load(library="other")
    with pytest.raises(DatasetError, match="version '9'"):
        load(version="9")
    with pytest.raises(DatasetError, match=r"schema 2.*upgrade"):
        load(schema=2)
    with pytest.raises(DatasetError, match="no collection"):
        load(format="something")
    with pytest.raises(DatasetError, match=r"damaged collection.*sha256"):
        load(samples=[{"id": "x", "engine": "linear", "shard": "y"}])
    with pytest.raises(DatasetError, match="empty collection"):
        load(samples=[])
    with pytest.raises(DatasetError, match=r"does not have: tiny-000099 \(linear\)$"):
        load(samples=[sample | {"id": "tiny-000099"}])
    with pytest.raises(DatasetError, match=r"tiny-000001 \(multislice\), .* and 2 more"):
        load(samples=[sample | {"engine": "multislice"}] * 5)
    with pytest.raises(DatasetError, match=r"tiny-000001.*twice"):
        load(samples=[sample, sample])
    with pytest.raises(ShardError, match=r"tiny-000001.*says 00"):
        load(samples=[sample])
    with pytest.raises(DatasetError, match="names shard shards/linear-00009"):
        load(shards={"shards/linear-00009.h5": {"sha256": "00"}})
    with pytest.raises(ShardError, match=r"linear-00000.h5: SHA-256 is .* says 00"):
        load(shards={"shards/linear-00000.h5": {"sha256": "00"}})
    with pytest.raises(DatasetError, match="cannot be read"):
        TEMImageNet.from_manifest(tmp_path / "none.json", root=library)
    with pytest.raises(ShardError, match="not a finished library"):
        load(root=tmp_path)
    with (library_copy / "shards/linear-00000.h5").open("ab") as file:
        file.write(b"more")
    load(root=library_copy)
    with pytest.raises(ShardError, match=r"linear-00000.h5: SHA-256 is"):
        load(root=library_copy, verify=True)


def test_plot_draws_the_image_and_every_map(library):
    figure = plot(TEMImageNet(library, split=None, labels=LABELS)[0])
    assert len([axes for axes in figure.axes if axes.images]) == 9
    from matplotlib.figure import Figure

    own = Figure()
    assert plot(TEMImageNet(library, split=None)[0], own.subplots()) is own


def test_a_dataset_tells_what_it_is(library):
    data = TEMImageNet(library, split=None)
    assert "24 samples" in repr(data)
    assert "columns, PSNR" in repr(data[0])


def test_bad_requests_are_refused(library, tmp_path):
    with pytest.raises(ShardError, match="not a finished library"):
        TEMImageNet(tmp_path)
    with pytest.raises(DatasetError, match="unknown split 'training'"):
        TEMImageNet(library, split="training")
    with pytest.raises(DatasetError, match="'multislice'"):
        TEMImageNet(library, engine="multislice")
    with pytest.raises(LabelError, match="unknown label 'mask'"):
        TEMImageNet(library, labels=["mask"])
    with pytest.raises(DatasetError, match="cannot be read"):
        TEMImageNet(library, where="psnr >")
    with pytest.raises(DatasetError, match="no sample"):
        TEMImageNet(library, where="psnr_dB > 1000")
    with pytest.raises(DatasetError, match="cannot be read"):
        TEMImageNet(library, where="@np.sum(psnr_dB) > 0")
    with pytest.raises(DatasetError, match="no samples to collate"):
        collate([])
    with pytest.raises(IndexError):
        TEMImageNet(library, split=None)[24]
    with pytest.raises(DatasetError, match="unknown split"):
        OnTheFly("demo", split="x")
