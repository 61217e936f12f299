"""The loader whose workers fill memory again: the batches of `collate`, and none changes while someone has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from temimagenet import LABELS, OnTheFly, TEMImageNet, collate, loader, loading
from temimagenet.errors import DatasetError


def same(one, other):
    return one.ids == other.ids and all(
        torch.equal(torch.nan_to_num(a, nan=-1.0), torch.nan_to_num(b, nan=-1.0)) and a.dtype == b.dtype
        for a, b in [
            (one.image, other.image), (one.n_columns, other.n_columns), (one.pixel_size_A, other.pixel_size_A),
            *((one.labels[name], other.labels[name]) for name in other.labels),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_torchs_loader(library, workers):
    data = TEMImageNet(library, split=None, labels=LABELS)
    plain = DataLoader(
        data, 5, shuffle=True, collate_fn=collate, generator=torch.Generator().manual_seed(3), num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    ours = loader(data, 5, shuffle=True, workers=workers, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        expected, got = list(plain), list(ours)
        assert len(expected) == len(got) == 5
        assert all(same(a, b) for a, b in zip(got, expected, strict=True))
        assert all(list(a.labels) == list(LABELS) for a in got)


def test_memory_is_filled_again_but_never_under_a_batch_that_is_kept(library):
    data = TEMImageNet(library, split=None)
    ours = loader(data, 2, shuffle=True, workers=1)
    numbers, kept, copies = set(), [], []
    for epoch in range(4):
        for batch in ours:
            numbers |= {number for _, _, number in loading._in_use}
            if epoch == 1:
                # More than there are pieces; an array that shares memory counts as the batch.
                kept.append(batch.image[0, 0].numpy() if len(kept) % 2 else batch)
                copies.append(batch.image.clone())
    assert max(numbers) == loading._MOST_PIECES - 1
    for held, copy in zip(kept, copies, strict=True):
        assert np.array_equal(held, copy[0, 0]) if isinstance(held, np.ndarray) else torch.equal(held.image, copy)
    fresh = loader(data, 2, workers=1)
    several = [(number, taken) for _ in range(3) for _ in fresh for _, taken, number in loading._in_use[-1:]]
    # Thirty-six batches, none kept: a few pieces did.
    assert max(number for number, _ in several) <= 4
    assert len(several) == 36


def _cropped(sample):
    edge = 64 - 32 * (int(sample.id[-1]) % 2)
    return replace(sample, image=sample.image[:edge, :edge])


def test_a_batch_that_cannot_be_joined_is_told_and_its_memory_free(library):
    data = TEMImageNet(library, split=None, transform=_cropped)
    with pytest.raises(DatasetError, match="images of different sizes"):
        next(iter(loader(data, 4, workers=1)))
    with pytest.raises(DatasetError, match="take torch's DataLoader"):
        loader(data, collate_fn=collate)


def test_endless_samples_come_in_batches(recipe):
    fresh = OnTheFly(recipe, seed=5)
    batch = next(iter(loader(fresh, 3, workers=1)))
    assert same(batch, collate([sample for sample, _ in zip(iter(fresh), range(3), strict=False)]))
