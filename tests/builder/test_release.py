"""What keeps a release from being made: licences and sizes. `make release-check` builds and tries one."""

from __future__ import annotations

from importlib import metadata

import pytest

from builder import release


@pytest.mark.parametrize(
    ("licence", "gpl"),
    [
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0-only", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("MIT OR GPL-2.0-only", False),
        ("BSD-3-Clause", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False),
    ],
)
def test_gpl_is_told_from_licences_that_are_not(licence, gpl):
    assert release.is_gpl(licence) is gpl


def test_what_the_package_needs_is_followed_to_the_end_and_extras_add_to_it():
    needs = metadata.requires("temimagenet")
    base, missing = release.closure(needs)
    assert not missing
    # The package asks for Matplotlib, which asks for kiwisolver; RosettaSciIO is an extra's.
    assert {"torch", "matplotlib", "kiwisolver", "ase"} <= base
    assert not {"rosettasciio", "lightning", "dask", "pytest"} & base
    with_io, _ = release.closure(needs, "io")
    assert {"rosettasciio", "dask"} <= with_io
    assert base <= with_io


def test_a_distribution_that_is_not_there_is_told():
    found, missing = release.closure(["numpy", "no-such-distribution>=1", "tomli; python_version < '3'"])
    assert found == {"numpy"}
    assert missing == {"no-such-distribution"}


def test_nothing_needed_to_run_is_under_the_gpl(tmp_path):
    lines = release.write_licences(tmp_path / "licences.csv")
    table = (tmp_path / "licences.csv").read_text()
    assert "rosettasciio" in table
    assert any("rosettasciio" in line and "io" in line for line in lines)


def test_the_readme_begins_with_what_is_tried():
    example = release.readme_example()
    assert "TEMImageNet.demo" in example
    assert "batch.image.shape" in example
