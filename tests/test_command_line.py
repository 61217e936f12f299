"""The command line as a user meets it."""

import pytest
from ase import Atoms
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
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("name", "text", "options", "told"),
    [
        ("al.cif", None, ["--device", "foo"], "device 'foo'"),
        ("al.cif", None, ["--zone", "1234"], "such as '[110]'"),
        ("rf.cif", None, [], "no scattering factor for atomic number 104"),
        ("empty.cif", "", [], "empty.cif is empty"),
        ("b[/red].cif", "nonsense", [], "b[/red].cif"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(structure, tmp_path, monkeypatch, capsys, name, text, options, told):
    write(tmp_path / "rf.cif", Atoms("Rf", cell=[4.0] * 3, pbc=True))
    if text is not None:
        folder = tmp_path / "b["
        folder.mkdir()
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("sys.argv", ["temimagenet", "atlas", str(tmp_path / name), *options])
    with pytest.raises(SystemExit, match="1"):
        main()
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_starts(structure, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "file" / "cache")
    monkeypatch.setattr("sys.argv", ["temimagenet", "atlas", str(structure)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "no folder that tables can be written to" in capsys.readouterr().err


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
