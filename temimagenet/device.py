"""Where tensors are computed, and by how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock, get_ident
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from temimagenet.errors import DeviceError

__all__ = ["check_device", "single_threaded"]


_LOCK = Lock()
_inside: list[int] = []
"""Identities of the threads within blocks of one thread."""

_before: list[tuple[int, Any]] = []
"""What the first of them found: torch's threads, and the limit that restores BLAS's."""


def check_device(device: torch.device | str) -> torch.device:
    """The device, after it was used once.

    Raises:
        DeviceError: the name is unknown, or this machine or build of torch has no such device.
    """
    try:
        known = torch.device(device)
        torch.zeros(1, device=known)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DeviceError(f"device {str(device)!r}: {reason}; 'cpu' always works") from error
    return known


@cache
def _thread_pools() -> ThreadpoolController:
    """The BLAS libraries that NumPy uses in this process."""
    return ThreadpoolController()


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread: sums are then taken in the same order wherever and with whatever neighbours a sample runs.

    It is also the fastest on these small matrices: idle BLAS threads spin and take the cores of other processes.
    """
    with _LOCK:
        _inside.append(get_ident())
        if len(_inside) == 1:
            _before.append((torch.get_num_threads(), _thread_pools().limit(limits=1, user_api="blas")))
            torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _inside.remove(get_ident())
            # Whoever leaves last restores what the first one found: blocks of several threads overlap.
            if not _inside:
                threads, limit = _before.pop()
                limit.restore_original_limits()
                torch.set_num_threads(threads)
