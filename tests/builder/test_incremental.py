"""Building a site again: only what would differ is made, by content; what is left over goes, what is not ours stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from builder.ledger import LEDGER, Ledger, digest_of_files
from builder.portal import build_portal
from builder.render import render_library
from temimagenet.storage.library import read_manifest


def stamps(folder: Path) -> dict[str, int]:
    found = {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    found.pop(LEDGER, None)
    return found


def made(report):
    return {name: part.made for name, part in report.parts.items() if part.made}


@pytest.fixture(scope="module")
def built(library, tmp_path_factory):
    """A site without documentation, and its report. Do not change it."""
    out = tmp_path_factory.mktemp("incremental") / "site"
    return out, build_portal(library, out, docs=False)


@pytest.fixture
def again(built, tmp_path):
    """A copy of the site with the times of its files."""
    return Path(shutil.copytree(built[0], tmp_path / "site", copy_function=shutil.copy2))


def test_the_first_build_makes_everything_and_tells_sizes(built, library):
    out, report = built
    assert all(part.reused == 0 for part in report.parts.values())
    assert report.parts["samples"].files == 25
    assert report.parts["thumbnails"].made == 4
    assert report.parts["library"].bytes == sum(p.stat().st_size for p in (out / "data").rglob("*") if p.is_file())
    own = [p for p in out.rglob("*") if p.is_file() and out / "data" not in p.parents and p.name != LEDGER]
    assert report.files == len(own)
    assert report.bytes == sum(p.stat().st_size for p in own)
    assert report.links > 100


def test_nothing_is_made_twice(again, library):
    before = stamps(again)
    report = build_portal(library, again, docs=False)
    assert made(report) == {}
    assert stamps(again) == before


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b" ")])
def test_what_was_changed_or_lost_is_made_anew(again, library, spoil):
    parts = {
        "assets/style.css": "assets",
        "thumbs/index.json": "thumbnails",
        "samples/linear/tiny-000003.json": "samples",
        "statistics.html": "pages",
        "data/catalogue.parquet": "library",
        "model/example.png": "model",
    }
    good = {name: (again / name).read_bytes() for name in parts}
    for name in parts:
        spoil(again / name)
    assert made(build_portal(library, again, docs=False)) == dict.fromkeys(parts.values(), 1)
    assert {name: (again / name).read_bytes() for name in parts} == good


def test_another_library_replaces_only_its_own_and_strangers_stay(recipe, again, library, tmp_path):
    (again / "CNAME").write_text("example.org")
    (again / "samples/linear/mine.txt").write_text("mine")
    kept = {name: stamp for name, stamp in stamps(again).items() if name.startswith(("assets", "vendor", "schemas"))}
    render_library(replace(recipe, samples=12, image_size=32), tmp_path / "small", workers=1, samples_per_shard=10)
    report = build_portal(tmp_path / "small", again, docs=False)
    assert {"samples", "thumbnails", "pages", "library", "metadata", "index"} <= set(made(report))
    assert not {"assets", "vendor", "schemas"} & set(made(report))
    assert kept.items() <= stamps(again).items()
    files = {path.name for path in (again / "samples/linear").iterdir()}
    assert files == {"mine.txt", *(f"tiny-{n:06d}.json" for n in range(12))}
    assert (again / "CNAME").read_text() == "example.org"
    assert {p.name for p in (again / "thumbs").glob("*.bin")} == {
        entry["pack"] for entry in json.loads((again / "thumbs/index.json").read_text()).values()
    }
    assert not (again / "data/shards/linear-00002.h5").exists()


def test_a_shard_rendered_anew_changes_its_own_pieces(again, library, library_copy):
    manifest = read_manifest(library_copy)
    other = manifest["files"]["shards/linear-00001.h5"] | {"sha256": "0" * 64}
    manifest["files"]["shards/linear-00001.h5"] = other
    (library_copy / "manifest.json").write_text(json.dumps(manifest))
    report = build_portal(library_copy, again, docs=False)
    assert report.parts["thumbnails"].made == 2  # its pack, and the index that names it
    assert report.parts["samples"].made == 2
    assert report.parts["library"].made == 2  # the shard and the manifest


def test_without_the_library_beside_it_its_copy_goes(again, library):
    build_portal(library, again, docs=False, data_url="https://example.org/v1")
    assert not (again / "data").exists()
    assert (library / "manifest.json").is_file()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "pieces": {"a/b": 3}}'])
def test_a_ledger_that_cannot_be_read_means_building_all(tmp_path, text):
    (tmp_path / LEDGER).write_text(text)
    with Ledger(tmp_path) as ledger:
        ledger.write("pages", "a.html", "a")
        assert ledger.report()["pages"].made == 1
    with Ledger(tmp_path) as ledger:
        ledger.write("pages", "a.html", "a")
        assert ledger.report()["pages"].reused == 1


def test_a_build_that_fails_keeps_what_it_made_and_removes_nothing(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.write("pages", "old.html", "old")

    def failing():
        with Ledger(tmp_path) as ledger:
            ledger.write("pages", "new.html", "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert (tmp_path / "old.html").is_file()
    with Ledger(tmp_path) as ledger:
        ledger.write("pages", "new.html", "new")
        assert ledger.report()["pages"].reused == 1
    assert not (tmp_path / "old.html").exists()


def test_digests_follow_names_and_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    first = digest_of_files([tmp_path / "a"])
    (tmp_path / "a/__pycache__").mkdir()
    (tmp_path / "a/__pycache__/x.pyc").write_text("2")
    assert digest_of_files([tmp_path / "a"]) == first
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    renamed = digest_of_files([tmp_path / "a"])
    (tmp_path / "a/y").write_text("2")
    assert len({first, renamed, digest_of_files([tmp_path / "a"])}) == 3
