"""A repacked library is the same to whoever reads it, and holds its arrays as they are."""

from __future__ import annotations

import json

import h5py
import pytest
import torch

from temimagenet import LABELS, TEMImageNet
from temimagenet.errors import LabelError, ShardError
from temimagenet.storage import repack_library, verify_library


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


def test_bad_requests_are_refused(library, library_copy, tmp_path):
    with pytest.raises(ShardError, match="onto itself"):
        repack_library(library_copy, library_copy)
    with pytest.raises(LabelError, match="unknown label"):
        repack_library(library, tmp_path / "x", (LABELS[0], "mask"))
