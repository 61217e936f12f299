"""Fixtures: files that people open."""

from __future__ import annotations

import pytest
from opened import make_opened


@pytest.fixture(scope="session")
def opened_files(tmp_path_factory):
    """Small micrographs in HDF5 and a session of the app."""
    return make_opened(tmp_path_factory.mktemp("opened"))
