"""Where tensors are computed."""

from __future__ import annotations

import torch

from temimagenet.errors import DeviceError

__all__ = ["check_device"]


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
