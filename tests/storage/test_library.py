"""Libraries on disk: whole or absent, resumed after a kill, and every kind of damage told by name."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from builder.render import render_library
from temimagenet import LABELS, TEMImageNet, load_recipe, sample_spec
from temimagenet.errors import ShardError, TEMImageNetError
from temimagenet.render import render, with_bounds
from temimagenet.storage import (
    Shard,
    finish_library,
    plan_library,
    read_catalogue,
    render_shard,
    repack_library,
    verify_library,
)
from temimagenet.storage.parts import ShardParts

CHECKOUT = Path(__file__).resolve().parents[2]


def digests(root: Path) -> dict[str, str]:
    return dict(zip((c := read_catalogue(root))["id"], c["sha256"], strict=True))


def contents(root: Path) -> dict[str, bytes]:
    """Every array of every shard, by name."""
    found = {}
    for path in sorted((root / "shards").glob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item, path=path: (
                    found.__setitem__(
                        f"{path.name}/{name}",
                        np.asarray(item[()]).tobytes() if item.dtype.kind != "O" else repr(item[()]).encode(),
                    )
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    return found


def test_every_file_is_in_the_manifest_and_right(library):
    assert verify_library(library) == 8  # three shards, three sidecars, catalogue, recipe
    manifest = json.loads((library / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        data = (library / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == facts["sha256"]
        assert len(data) == facts["bytes"]
    present = {p.relative_to(library).as_posix() for p in library.rglob("*") if p.is_file()}
    assert present == set(manifest["files"]) | {"manifest.json"}


def test_shards_open_in_plain_h5py_with_default_bounds(library):
    with h5py.File(library / "shards/linear-00000.h5") as file:
        assert file.libver[0] == "earliest"
        assert file["image"].dtype == np.uint16
        assert file["image"].chunks == (1, 64, 64)
        assert file["image"].compression == "gzip"
        assert file["image"].shuffle
        assert {"schema", "recipe", "engine", "code_version", "licence", "citation"} <= set(file.attrs)
        assert list(file["columns"].attrs["fields"])[:2] == ["x_px", "y_px"]


def test_sidecars_let_a_plain_byte_reader_find_one_sample(library):
    path = library / "shards/linear-00001.h5"
    sidecar = json.loads(path.with_suffix(".json").read_text())
    raw = path.read_bytes()
    with h5py.File(path) as file:
        for name, entry in sidecar["datasets"].items():
            for row in (0, sidecar["rows"] - 1):
                chunk = raw[entry["offsets"][row] : entry["offsets"][row] + entry["sizes"][row]]
                assert hashlib.sha256(chunk).hexdigest()[:32] == entry["sha256"][row]
                item = np.dtype(entry["dtype"])
                flat = np.frombuffer(zlib.decompress(chunk), np.uint8).reshape(item.itemsize, -1).T
                values = np.ascontiguousarray(flat).view(item).reshape(entry["shape"][1:])
                assert np.array_equal(values, file[name][row], equal_nan=item.kind == "f")


@pytest.mark.parametrize("told", ["2(u2", "2u2,f8", "O", "[('a', 'f8')]", ""])
def test_types_that_are_no_numbers_are_refused(library, told):
    sidecar = json.loads((library / "shards/linear-00001.json").read_text())
    sidecar["datasets"]["image"]["dtype"] = told
    with pytest.raises(ShardError, match="sidecar is damaged"):
        ShardParts("here", sidecar)


def test_catalogue_has_a_row_a_sample_that_says_where_it_is(library):
    catalogue = pd.read_parquet(library / "catalogue.parquet")
    assert len(catalogue) == 24
    for _, row in catalogue.iterrows():
        with Shard(library / row["shard"]) as shard:
            assert shard.spec(row["row"]).id == row["id"]
    assert set(catalogue["morphology"]) == {"bulk", "layer", "amorphous", "particle"}
    assert catalogue["thickness_A"].notna().sum() == (catalogue["morphology"] == "bulk").sum()


def test_two_processes_write_what_one_writes(library, recipe, tmp_path):
    render_library(recipe, tmp_path / "two", workers=2, samples_per_shard=10)
    assert contents(tmp_path / "two") == contents(library)


def test_a_shard_does_not_depend_on_when_its_datasets_are_closed(recipe, library, tmp_path, monkeypatch):
    """Dask looks at the frames of its workers and keeps what is in them for a while; HDF5 packs chunks at closing."""
    make, kept = h5py.Group.create_dataset, []

    def keep(*args, **options):
        kept.append(make(*args, **options))
        return kept[-1]

    monkeypatch.setattr(h5py.Group, "create_dataset", keep)
    path = render_shard(plan_library(recipe, samples_per_shard=10)[0], tmp_path)
    assert len(kept) > 5
    assert path.read_bytes() == (library / "shards" / path.name).read_bytes()


def test_a_library_of_another_name_is_not_replaced(library_copy, recipe, tmp_path):
    before = {path: path.read_bytes() for path in library_copy.rglob("*") if path.is_file()}
    other = replace(recipe, name="other", samples=3)
    with pytest.raises(ShardError, match="holds library 'tiny', which 'other' would replace"):
        render_library(other, library_copy, workers=1)
    render_library(other, tmp_path / "other", workers=1)
    with pytest.raises(ShardError, match="holds library 'tiny', which 'other' would replace"):
        repack_library(tmp_path / "other", library_copy)
    assert {path: path.read_bytes() for path in library_copy.rglob("*") if path.is_file()} == before


def test_a_place_that_cannot_be_written_is_told(recipe, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShardError, match=r"file: no folder"):
        render_library(recipe, tmp_path / "file", workers=1)


def test_shards_that_are_done_are_not_rendered_again(library_copy, recipe):
    stamps = {p: p.stat().st_mtime_ns for p in (library_copy / "shards").iterdir()}
    render_library(recipe, library_copy, workers=1, samples_per_shard=10)
    assert {p: p.stat().st_mtime_ns for p in (library_copy / "shards").iterdir()} == stamps


def test_a_changed_recipe_renders_its_shards_anew(library_copy, recipe):
    before = digests(library_copy)
    render_library(replace(recipe, seed=99), library_copy, workers=1, samples_per_shard=10)
    after = digests(library_copy)
    assert all(before[name] != after[name] for name in before)


def test_a_damaged_shard_is_rendered_again(library_copy, library, recipe):
    path = library_copy / "shards/linear-00001.h5"
    path.write_bytes(path.read_bytes()[:1000])
    render_library(recipe, library_copy, workers=1, samples_per_shard=10)
    assert contents(library_copy) == contents(library)


def test_kill_nine_leaves_only_whole_files_and_the_same_command_finishes(library, recipe_path, tmp_path):
    """Kill the real command several times at different moments, then let it end: equal to an uninterrupted run."""
    script = (
        "import sys; from pathlib import Path; from builder.render import render_library; "
        "from temimagenet.recipe import load_recipe; "
        "render_library(load_recipe(sys.argv[1]), Path(sys.argv[2]), workers=1, samples_per_shard=10)"
    )
    root = tmp_path / "killed"
    command = [sys.executable, "-c", script, str(recipe_path), str(root)]
    killed = 0
    for after in (0, 1, 2):
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            done = len(list((root / "shards").glob("*.h5"))) if root.exists() else 0
            partial = list((root / "shards").glob(".*.partial")) if root.exists() else []
            if done >= after and partial:
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.001)
        process.wait()
        for path in (root / "shards").glob("*.h5"):
            with Shard(path) as shard:
                assert len(shard) in (10, 4)
        assert not (root / "manifest.json").exists() or killed < after + 1
    assert killed >= 2
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    assert contents(root) == contents(library)
    assert not list(root.rglob("*.partial"))


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(recipe_path, tmp_path):
    """A real limit on file size stands for a full disk: the kernel refuses the write in the middle of a shard."""
    script = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(CHECKOUT)!r})
from temimagenet.recipe import load_recipe
from temimagenet.storage import plan_library, render_shard
from temimagenet.errors import ShardError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
task = plan_library(load_recipe({str(recipe_path)!r}), samples_per_shard=10)[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    render_shard(task, Path({str(tmp_path / "lib")!r}))
except ShardError as error:
    print("ShardError:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert "ShardError: cannot write" in done.stdout, done.stdout + done.stderr
    assert "nothing was left there" in done.stdout
    assert not any(p.is_file() for p in (tmp_path / "lib").rglob("*"))


def test_a_really_full_disk_says_so(recipe, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        # Where mounting is not allowed, a device that is always full stands in.
        from temimagenet.storage.shard import replacing

        with pytest.raises(ShardError, match="disk is full"), replacing(tmp_path / "x"):
            Path("/dev/full").write_text("x")
        return
    try:
        task = plan_library(recipe, samples_per_shard=10)[0]
        with pytest.raises(ShardError, match="disk is full"):
            render_shard(task, disk)
        assert not any(p.is_file() for p in disk.rglob("*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_truncated_shard_is_named(library_copy):
    path = library_copy / "shards/linear-00000.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ShardError, match=r"linear-00000\.h5: truncated"):
        TEMImageNet(library_copy, split=None)[0]


def test_a_wrong_checksum_is_named(library_copy):
    path = library_copy / "shards/linear-00001.h5"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"linear-00001\.h5: SHA-256 is"):
        verify_library(library_copy)
    with pytest.raises(ShardError, match="SHA-256"):
        TEMImageNet(library_copy, verify=True)


def test_a_missing_shard_is_named(library_copy):
    (library_copy / "shards/linear-00002.h5").unlink()
    with pytest.raises(ShardError, match=r"linear-00002\.h5: missing"):
        verify_library(library_copy)
    with pytest.raises(ShardError, match=r"linear-00002\.h5: no such shard"):
        list(TEMImageNet(library_copy, split=None))


def test_a_newer_schema_asks_for_an_upgrade(library_copy):
    path = library_copy / "shards/linear-00000.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 99
    path.with_suffix(".json").unlink()
    with pytest.raises(ShardError, match=r"schema 99.*upgrade"):
        Shard(path)
    manifest = json.loads((library_copy / "manifest.json").read_text())
    (library_copy / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(ShardError, match=r"schema 99.*upgrade"):
        TEMImageNet(library_copy)


def test_a_damaged_catalogue_or_manifest_is_named(library_copy):
    (library_copy / "catalogue.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ShardError, match=r"catalogue\.parquet: SHA-256"):
        TEMImageNet(library_copy)
    (library_copy / "manifest.json").write_text("{")
    with pytest.raises(ShardError, match=r"manifest\.json: damaged"):
        TEMImageNet(library_copy)


def test_a_manifest_must_not_point_outside(library_copy):
    manifest = json.loads((library_copy / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = {"sha256": "0", "bytes": 1}
    (library_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="points outside the library"):
        verify_library(library_copy)


def test_an_unfinished_library_cannot_be_closed(recipe, tmp_path):
    tasks = plan_library(recipe, samples_per_shard=10)
    render_shard(tasks[0], tmp_path)
    with pytest.raises(ShardError, match=r"linear-00001\.h5: missing or damaged"):
        finish_library(tmp_path, recipe, tasks)


def test_a_row_beyond_the_shard_is_refused(library):
    with Shard(library / "shards/linear-00002.h5") as shard, pytest.raises(ShardError, match="holds 0 to 3"):
        shard.sample(4)


def test_a_failing_sample_is_named_and_leaves_nothing(recipe, tmp_path):
    from temimagenet.recipe import Distribution

    entry = recipe.entries[0]
    bad = replace(entry, draw=dict(entry.draw) | {"psnr_dB": Distribution((200.0,))})
    broken = replace(recipe, entries=(bad,), samples=3)
    with pytest.raises(TEMImageNetError, match="sample 0 of recipe tiny"):
        render_library(broken, tmp_path / "lib", workers=1)
    assert not any(p.is_file() for p in (tmp_path / "lib").rglob("*"))


@pytest.fixture(scope="module")
def short(recipe):
    """Two samples of each kind, small: bounds take time."""
    return replace(recipe, samples=12, image_size=32)


@pytest.fixture(scope="module")
def bounded(short, tmp_path_factory):
    """A library of it with bounds, in two shards."""
    root = tmp_path_factory.mktemp("bounded") / "library"
    render_library(short, root, bounds=True, workers=1, samples_per_shard=6)
    return root


def test_stored_bounds_are_those_worked_out_from_the_sample(bounded, short):
    data = TEMImageNet(bounded, split=None, labels=[])
    stored = 0
    for sample in data:
        fresh = with_bounds(render([sample_spec(short, sample.spec.index)], ())[0]).columns.crlb_A
        again = with_bounds(replace(sample, columns=replace(sample.columns, crlb_A=None))).columns.crlb_A
        median = data.catalogue.set_index("id").loc[sample.id, "crlb_median_pm"]
        if fresh is None:
            assert sample.columns.crlb_A is None
            assert again is None
            assert np.isnan(median)
            continue
        stored += 1
        assert np.array_equal(sample.columns.crlb_A, fresh, equal_nan=True)
        assert np.array_equal(again, fresh, equal_nan=True)
        assert median == pytest.approx(100.0 * np.nanmedian(fresh))
    assert 0 < stored < len(data)  # half the scans move rows by whole pixels


def test_bounds_change_nothing_else(bounded, short, tmp_path):
    render_library(short, tmp_path / "plain", workers=1, samples_per_shard=6)
    render_library(short, tmp_path / "dense", bounds=True, dense=True, workers=1, samples_per_shard=6)
    with_them, without, dense = (
        TEMImageNet(root, split=None, labels=LABELS) for root in (bounded, tmp_path / "plain", tmp_path / "dense")
    )
    assert "crlb_median_pm" not in without.catalogue
    for one, two, three in zip(with_them, without, dense, strict=True):
        assert two.columns.crlb_A is None
        assert torch.equal(one.image, two.image)
        assert all(torch.equal(one.labels[name], two.labels[name]) for name in LABELS)
        assert all(torch.equal(one.labels[name], three.labels[name]) for name in LABELS)
        if one.columns.crlb_A is not None:
            assert np.array_equal(one.columns.crlb_A, three.columns.crlb_A, equal_nan=True)
    assert digests(tmp_path / "dense") == digests(bounded)


def test_bounds_asked_for_later_are_rendered_and_interruptions_go_on(bounded, short, tmp_path):
    render_library(short, tmp_path / "lib", workers=1, samples_per_shard=6)
    render_shard(plan_library(short, bounds=True, samples_per_shard=6)[1], tmp_path / "lib")
    stamp = (tmp_path / "lib/shards/linear-00001.h5").stat().st_mtime_ns
    render_library(short, tmp_path / "lib", bounds=True, workers=2, samples_per_shard=6)
    assert contents(tmp_path / "lib") == contents(bounded)
    assert (tmp_path / "lib/shards/linear-00001.h5").stat().st_mtime_ns == stamp


def test_only_linear_shards_know_of_bounds():
    recipe = load_recipe("demo")
    plain, bounds = plan_library(recipe), plan_library(recipe, bounds=True)
    for one, two in zip(plain, bounds, strict=True):
        assert (one.fingerprint == two.fingerprint) == (one.engine == "multislice")
    with pytest.raises(ShardError, match="no linear images"):
        plan_library(replace(recipe, engines=("multislice",)), bounds=True)
