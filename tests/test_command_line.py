"""The command line as a user meets it."""

import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from temimagenet import OnTheFly
from temimagenet import atlas as tables
from temimagenet.cli import app, main


@pytest.fixture
def structure(tmp_path, monkeypatch):
    """A CIF, and a cache of our own."""
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "al.cif"
    write(path, bulk("Al", cubic=True))
    tables._table.cache_clear()
    return path


def test_costs_are_told_before_anything_starts(structure, tmp_path):
    result = CliRunner().invoke(app, ["atlas", str(structure), "--zone", "[110]"], input="n\n")
    assert result.exit_code == 1
    assert "200 keV, 3 apertures" in result.output
    assert "minutes on cpu" in result.output
    assert not (tmp_path / "cache").exists()


def test_bad_structures_are_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["temimagenet", "atlas", str(tmp_path / "no.cif")])
    with pytest.raises(SystemExit, match="1"):
        main()
    told = capsys.readouterr().err
    assert "no.cif" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_structure_gets_its_tables_and_images(structure):
    result = CliRunner().invoke(app, ["atlas", str(structure), "--zone", "[110]", "--tolerance", "0.2", "--yes"])
    assert result.exit_code == 0, result.output
    tables._table.cache_clear()
    sample = next(iter(OnTheFly(structure, "[110]", engine="multislice")))
    assert sample.image.max() > 0
