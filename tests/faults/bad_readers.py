"""Readers that end, hang or fill a process, for `read_apart` to call by their names."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
from collections import deque
from importlib import import_module
from pathlib import Path

import numpy as np


def whole(file, **options):
    """What was asked, and arrays of all kinds."""
    print("printed by a library")
    os.write(1, b"printed by a library of C")
    arrays = [np.arange(6.0).reshape(2, 3).T, np.arange(3, dtype=">u2"), np.zeros((0, 2)), np.array([np.nan, 1.0])]
    return {"file": file.name, "options": options, "size": float("inf"), "text": "\udc80 \0 \n"}, arrays


def loaded(file):
    """Whether the readers of micrographs and sessions load PyTorch."""
    import_module("temimagenet.hdf5")
    import_module("temimagenet.micrographs.read")
    return {"torch": "torch" in sys.modules, "h5py": "h5py" in sys.modules}, []


def refuses(file):
    """A reader's own error."""
    raise ValueError("a heap is damaged\nand more")


def crashes(file):
    """Reads where there is nothing."""
    return ctypes.string_at(0), []


def hangs(file):
    """Never comes back, and lets no other thread run, as HDF5."""
    Path(f"{file}.pid").write_text(str(os.getpid()))
    deque(itertools.repeat(0), maxlen=0)


def large(file):
    """A megabyte."""
    return None, [np.ones(2**17)]


def fills(file):
    """Asks for more memory than there is for it."""
    return None, [np.ones(2**31)]
