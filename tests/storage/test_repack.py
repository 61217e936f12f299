"""A repacked library is the same to whoever reads it, and holds its arrays as they are."""

from __future__ import annotations

import json

import h5py
import pytest
import torch

from temimagenet import LABELS, TEMImageNet
from temimagenet.errors import LabelError, ShardError
from temimagenet.storage import Shard, repack_library, verify_library
from temimagenet.storage.parts import read_sidecar


def same(one, other, labels):
    """Whether two datasets give equal samples."""
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.spec == second.spec
        assert torch.equal(first.image, second.image)
        for name in labels:
            assert torch.equal(first.labels[name], second.labels[name]), name
        assert (first.columns.xy_px == second.columns.xy_px).all()
        assert (first.row_shift_A == second.row_shift_A).all()


def test_a_copy_with_chosen_labels_gives_equal_samples_of_all(library, tmp_path):
    labels = ("gaussianMask", "circularMask", "position")
    repack_library(library, tmp_path / "fast", labels)
    verify_library(tmp_path / "fast")
    wanted = ("gaussianMask", "circularMask", "noNoiseUpinterpolation2x", "positionRadius")
    same(*(TEMImageNet(root, None, labels=wanted) for root in (library, tmp_path / "fast")), wanted)
    with h5py.File(tmp_path / "fast/shards/linear-00000.h5") as file:
        assert file["gaussianMask"].compression is None
        assert file["circularMask"].shape == (10, 64, 64)
        assert "noNoise" not in file
        # Any reader of HDF5 finds the same numbers.
        first = TEMImageNet(library, None, labels=[])[0]
        assert (file["image"][0] == first.image.numpy()).all()


@pytest.mark.parametrize("name", LABELS)
def test_a_label_that_the_copy_lacks_is_redrawn_when_it_is_the_only_one(library, tmp_path, name):
    repack_library(library, tmp_path / "fast", ())
    same(*(TEMImageNet(root, None, labels=[name]) for root in (library, tmp_path / "fast")), [name])


def test_all_that_is_read_of_a_sample_lies_side_by_side(library, tmp_path):
    repack_library(library, tmp_path / "fast", ("gaussianMask", "circularMask"))
    shard = tmp_path / "fast/shards/linear-00000.h5"
    layout = read_sidecar(shard)
    # HDF5's own structures lie within the first sample.
    for row in range(1, 10):
        parts = layout.needed([row], ("gaussianMask", "circularMask"))
        assert len(parts) == 5
        assert parts[-1].end - parts[0].offset == sum(part.size for part in parts)


def test_a_plain_copy_keeps_what_was_stored_and_is_not_made_twice(library, tmp_path):
    manifest = repack_library(library, tmp_path / "fast")
    stored = ("noNoise", "noBackgroundnoNoise")
    same(*(TEMImageNet(root, None, labels=stored) for root in (library, tmp_path / "fast")), stored)
    path = tmp_path / "fast/shards/linear-00001.h5"
    before, written = path.stat().st_mtime_ns, json.loads(manifest.read_text())
    repack_library(library, tmp_path / "fast")
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"damaged")
    repack_library(library, tmp_path / "fast")
    assert json.loads(manifest.read_text())["files"] == written["files"]


def test_a_copy_of_no_maps_is_not_one_of_all_that_are_stored(library, tmp_path):
    repack_library(library, tmp_path / "fast", ["position"])
    with Shard(tmp_path / "fast/shards/linear-00000.h5") as shard:
        assert shard.stored_maps == ()
    repack_library(library, tmp_path / "fast")
    with Shard(tmp_path / "fast/shards/linear-00000.h5") as shard:
        assert shard.stored_maps == ("noNoise", "noBackgroundnoNoise")


def test_shards_of_an_earlier_copy_are_removed(library, tmp_path):
    repack_library(library, tmp_path / "fast")
    old = tmp_path / "fast/shards/linear-00009.h5"
    old.write_bytes(b"old")
    (tmp_path / "fast/shards/notes.txt").write_text("mine")
    repack_library(library, tmp_path / "fast")
    assert not old.exists()
    assert (tmp_path / "fast/shards/notes.txt").exists()


def test_bad_requests_are_refused(library, library_copy, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShardError, match=r"cannot write .*file"):
        repack_library(library, tmp_path / "file")
    with pytest.raises(ShardError, match="onto itself"):
        repack_library(library_copy, library_copy)
    with pytest.raises(LabelError, match="unknown label"):
        repack_library(library, tmp_path / "x", (LABELS[0], "mask"))
