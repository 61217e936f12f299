"""`loader`: a DataLoader whose workers hand batches over in memory that is used again.

A worker's batch reaches the training process through shared memory. PyTorch takes new memory for every batch, and that
the system clears its pages takes as long as reading the samples. Here a worker keeps a few pieces of shared memory, and
fills one again once nothing in the training process lies in it any more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import DataLoader, Dataset, get_worker_info

from temimagenet.datasets import Batch, collate, join
from temimagenet.errors import DatasetError
from temimagenet.labels import POINTS, SCALARS
from temimagenet.render import Sample

__all__ = ["loader"]

_MOST_PIECES = 8
"""Of a worker: one is filled, two wait, one is trained on, and some people keep a batch or two."""

_ALIGNED = 64
"""Maps begin at multiples of so many bytes."""


def loader(
    data: Dataset[Sample], batch_size: int = 16, *, shuffle: bool | None = None, workers: int = 2, **options: Any
) -> DataLoader[Batch]:
    """Batches of a dataset of this package, read or rendered by several processes.

    It is torch's `DataLoader` with `collate`: the same batches in the same order. Only their memory differs: workers
    fill it again once no tensor, view or NumPy array of a batch is left in this process. To hand a batch on to yet
    another process, clone it first.

    Args:
        data: `TEMImageNet`, `OnTheFly`, `PublishedTEMImageNet`, or a `Subset` of one.
        batch_size: samples in a batch.
        shuffle: whether each epoch has an order of its own.
        workers: processes; 0 reads in this one. They stay from epoch to epoch.
        options: others of `torch.utils.data.DataLoader`, such as `sampler`, `generator` or `pin_memory`.

    Raises:
        DatasetError: `collate_fn` is among the options.
    """
    if "collate_fn" in options:
        raise DatasetError("loader joins samples itself: for a collate_fn of your own take torch's DataLoader")
    options = {"persistent_workers": workers > 0} | options
    whole: Any = data
    return DataLoader(whole, batch_size, shuffle, num_workers=workers, collate_fn=_joined, **options)


class _Pieces:
    """Shared memory of one worker.

    Attributes:
        owner: the worker's process.
        memory: the pieces, bytes.
        taken: (_MOST_PIECES,) 1 where a piece is in use; who gets the batches sets it to 0 again.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.memory: list[Tensor] = []
        self.taken = _shared(_MOST_PIECES).zero_()

    def take(self, size: int) -> int | None:
        """Number of a free piece of that size or more; None where all are in use."""
        free = next((i for i in range(len(self.memory)) if not self.taken[i]), len(self.memory))
        if free == _MOST_PIECES:
            return None
        if free == len(self.memory):
            self.memory.append(_shared(size))
        elif len(self.memory[free]) < size:
            self.memory[free] = _shared(size)
        self.taken[free] = 1
        return free


def _shared(size: int) -> Tensor:
    """Bytes that other processes can read, too."""
    memory: Tensor = torch.empty(size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    return memory


@dataclass(frozen=True)
class _Parcel:
    """A batch on its way: images and maps in a piece of shared memory, the rest beside it.

    Attributes:
        piece: the memory.
        taken: see `_Pieces`.
        number: which piece it is.
        places: of the image and of each map, where it lies in the piece: first byte, shape, type.
        rest: other arrays of the batch.
        labels: names of the labels, in order.
        ids: names of the samples.
    """

    piece: Tensor
    taken: Tensor
    number: int
    places: dict[str, tuple[int, tuple[int, ...], torch.dtype]]
    rest: dict[str, NDArray[Any]]
    labels: tuple[str, ...]
    ids: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Where it arrives it is a `Batch`."""
        return _arrived, (self.piece, self.taken, self.number, self.places, self.rest, self.labels, self.ids)


_pieces: _Pieces | None = None
_in_use: list[tuple[StorageWeakRef, Tensor, int]] = []
_lock = Lock()


def _joined(samples: Sequence[Sample]) -> Batch | _Parcel:
    """`collate`; in a worker, images and maps are stacked in shared memory at once."""
    global _pieces
    if get_worker_info() is None or not samples:
        return collate(samples)
    if _pieces is None or _pieces.owner != os.getpid():
        _pieces = _Pieces()
    first = samples[0]
    stacked = {name: value for name, value in first.labels.items() if name not in (*POINTS, *SCALARS)}
    sizes = [len(samples) * value.nbytes + _ALIGNED for value in (first.image, *stacked.values())]
    number = _pieces.take(sum(sizes)) if first.image.device.type == "cpu" else None
    if number is None:
        return collate(samples)
    piece, begin = _pieces.memory[number], 0
    places = []

    def stack(values: list[Tensor]) -> Tensor:
        """Stack into the piece, behind what is there."""
        nonlocal begin
        places.append((begin, (len(values), *values[0].shape), values[0].dtype))
        room = _view(piece, *places[-1])
        begin += -(-room.nbytes // _ALIGNED) * _ALIGNED
        return torch.stack(values, out=room)

    try:
        batch = join(samples, stack)
    except BaseException:
        _pieces.taken[number] = 0
        raise
    rest = {name: value.numpy() for name, value in batch.labels.items() if name not in stacked}
    rest |= {"n_columns": batch.n_columns.numpy(), "pixel_size_A": batch.pixel_size_A.numpy()}
    found = dict(zip(("image", *stacked), places, strict=True))
    return _Parcel(piece, _pieces.taken, number, found, rest, tuple(batch.labels), batch.ids)


def _view(piece: Tensor, begin: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a piece of memory."""
    return piece[begin : begin + dtype.itemsize * prod(shape)].view(dtype).view(shape)


def _arrived(
    piece: Tensor,
    taken: Tensor,
    number: int,
    places: dict[str, tuple[int, tuple[int, ...], torch.dtype]],
    rest: dict[str, NDArray[Any]],
    labels: tuple[str, ...],
    ids: tuple[str, ...],
) -> Batch:
    """The batch of a parcel; pieces in which nothing lies any more are given back."""
    with _lock:
        for entry in _in_use[:]:
            if entry[0].expired():  # type: ignore[no-untyped-call]
                entry[1][entry[2]] = 0
                _in_use.remove(entry)
        mapped = StorageWeakRef(piece.untyped_storage())  # type: ignore[no-untyped-call]
        _in_use.append((mapped, taken, number))
    tensors = {name: _view(piece, *place)[:, None] for name, place in places.items()}
    tensors |= {name: torch.from_numpy(value) for name, value in rest.items()}
    return Batch(
        tensors["image"], {name: tensors[name] for name in labels}, tensors["n_columns"], tensors["pixel_size_A"], ids
    )
