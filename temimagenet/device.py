"""Where tensors are computed, and by how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from temimagenet.errors import DeviceError

__all__ = ["check_device", "halves_well", "single_threaded"]


def check_device(device: torch.device | str) -> torch.device:
    """The device, after it was used once.

    Raises:
        DeviceError: the name is unknown, or this machine or build of torch has no such device.
    """
    try:
        known = torch.device(device)
        torch.zeros(1, device=known)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise DeviceError(f"device {str(device)!r}: {reason}; 'cpu' always works") from error
    return known


def halves_well(device: torch.device) -> bool:
    """Whether bfloat16 is faster on a device than single precision: its processor has instructions for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # The one place where torch tells what the processor has; without it, single precision is always right.
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


@cache
def _thread_pools() -> ThreadpoolController:
    """The BLAS libraries that NumPy uses in this process."""
    return ThreadpoolController()


@dataclass
class _Users:
    """Blocks of one thread that are open now, in whatever threads.

    Attributes:
        count: how many.
        threads: torch's number of threads before the first of them.
        limit: restores BLAS's.
    """

    count: int = 0
    threads: int = 0
    limit: Any = None


_users, _lock = _Users(), Lock()


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread: sums are then taken in the same order wherever and with whatever neighbours a sample runs.

    It is also the fastest on these small matrices: idle BLAS threads spin and take the cores of other processes.
    Blocks of several threads may overlap.
    """
    own = torch.get_num_threads()
    with _lock:
        if not _users.count:
            _users.threads, _users.limit = own, _thread_pools().limit(limits=1, user_api="blas")
        _users.count += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _users.count -= 1
            if not _users.count:
                _users.limit.restore_original_limits()
            # Torch has a number for each thread, and one for threads to come: that of the last call.
            torch.set_num_threads(own if _users.count else _users.threads)
