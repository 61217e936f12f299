"""Libraries published to, fetched from and streamed from a stand-in for the Hub, with faults on the wire."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hub_server import Fault, HubServer
from torch.utils.data import DataLoader

from builder.publish import dataset_card, plan_publication, publish, shipped_weights
from builder.render import render_library
from temimagenet import LABELS, TEMImageNet, collate
from temimagenet.errors import DatasetError, HubError, ShardError
from temimagenet.storage import read_catalogue, remote, repack_library, verify_library
from temimagenet.storage.parts import ShardParts
from temimagenet.storage.remote import RemoteLibrary

REPO = "atoms/tiny"
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Short pauses between attempts."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, at HF_ENDPOINT's place, for the real client."""
    server = HubServer()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(hub, library):
    """The stand-in with the tiny library."""
    publish(plan_publication(library, REPO))
    return hub


def at(hub: HubServer) -> str:
    """The library's address over plain HTTP."""
    return f"{hub.address}/datasets/{REPO}/resolve/main"


@pytest.fixture
def s3(published, monkeypatch):
    """The stand-in as a store of objects, for the real client; what a user's own settings tell it is left out."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    settings = {"ENDPOINT_URL": published.address, "ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "nothing",
                "DEFAULT_REGION": "us-east-1", "CONFIG_FILE": os.devnull, "EC2_METADATA_DISABLED": "true",
                "SHARED_CREDENTIALS_FILE": os.devnull}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return f"s3://datasets/{REPO}/resolve/main"


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.spec == b.spec
        assert torch.equal(a.image, b.image)
        assert np.array_equal(a.columns.xy_px, b.columns.xy_px)
        assert a.labels.keys() == b.labels.keys()
        for name in a.labels:
            assert torch.equal(a.labels[name], b.labels[name]), name


# Publishing


def test_all_files_a_card_weights_and_a_tag_are_published(published, library):
    repository = published.repositories[REPO]
    files = repository.commits[repository.head]
    manifest = json.loads((library / "manifest.json").read_text())
    assert {*manifest["files"], "manifest.json", "README.md", ".gitattributes"} == set(files)
    for name, facts in manifest["files"].items():
        assert hashlib.sha256(files[name].content).hexdigest() == facts["sha256"]
    assert repository.tags == {"v0.1.0": repository.head}


def test_the_card_tells_the_hub_and_people(library):
    card = dataset_card(library, REPO, "v0.1.0")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["configs"][0]["data_files"] == "catalogue.parquet"
    names = {feature["name"]: feature["dtype"] for feature in head["dataset_info"]["features"]}
    assert names["id"] == "string"
    assert names["psnr_dB"] == "float64"
    assert set(names) <= set(read_catalogue(library).columns)
    assert f'TEMImageNet("hf://{REPO}"' in card
    assert "10.1038/s41598-021-84499-w" in card
    assert "| linear | " in card


def test_weights_go_along(hub, library):
    assert shipped_weights()
    plan = plan_publication(library, REPO, weights=shipped_weights())
    publish(plan)
    repository = hub.repositories[REPO]
    assert "weights/atomnet.safetensors" in repository.commits[repository.head]


def test_what_is_there_is_not_sent_again(published, library):
    before, uploads = published.repositories[REPO].head, len(published.uploads)
    plan = plan_publication(library, REPO)
    assert plan.upload == plan.delete == ()
    assert plan.tagged
    assert publish(plan) == before
    assert len(published.uploads) == uploads


def test_a_dry_run_sends_nothing(hub, library):
    plan = plan_publication(library, REPO)
    assert {name for name, _, _ in plan.upload} >= {"catalogue.parquet", "shards/linear-00000.h5", "README.md"}
    assert plan.bytes > (library / "shards/linear-00000.h5").stat().st_size
    assert not hub.repositories
    assert not hub.uploads


def test_an_interrupted_publication_goes_on(hub, library, monkeypatch):
    monkeypatch.setattr("builder.publish.BATCH_FILES", 2)
    third = json.loads((library / "shards/linear-00002.json").read_text())["sha256"]
    hub.faults = [Fault(third, times=9, status=403, of_upload=True)]
    with pytest.raises(HubError, match="run again"):
        publish(plan_publication(library, REPO))
    assert "catalogue.parquet" not in hub.repositories[REPO].commits[hub.repositories[REPO].head]
    sent = list(hub.uploads)
    assert sent
    hub.faults = []
    publish(plan_publication(library, REPO))
    assert len(hub.uploads) == len(set(hub.uploads))
    verify = hub.repositories[REPO].commits[hub.repositories[REPO].head]
    assert third in {hashlib.sha256(file.content).hexdigest() for file in verify.values()}


def test_versions_do_not_change_and_new_ones_replace_only_what_differs(published, library_copy):
    from builder.render import render_library
    from temimagenet import load_recipe

    other = library_copy.parent / "other.toml"
    text = Path(CHECKOUT / "tests/conftest.py").read_text().split('RECIPE = """')[1].split('"""')[0]
    other.write_text(text.replace("samples = 24", "samples = 14"))
    render_library(load_recipe(other), library_copy, workers=1, samples_per_shard=10)
    with pytest.raises(HubError, match=r"tag v0\.1\.0 stands for other content"):
        plan_publication(library_copy, REPO)
    plan = plan_publication(library_copy, REPO, tag="v0.2.0")
    assert "shards/linear-00002.h5" in plan.delete
    publish(plan)
    repository = published.repositories[REPO]
    assert set(repository.tags) == {"v0.1.0", "v0.2.0"}
    assert "shards/linear-00002.h5" not in repository.commits[repository.tags["v0.2.0"]]
    assert "shards/linear-00002.h5" in repository.commits[repository.tags["v0.1.0"]]
    assert ".gitattributes" in repository.commits[repository.head]
    old = TEMImageNet(f"hf://{REPO}", None, streaming=True, revision="v0.1.0")
    assert (len(old), len(TEMImageNet(f"hf://{REPO}", None, streaming=True))) == (24, 14)


def test_a_repository_of_another_library_is_left_alone(published, recipe, tmp_path):
    render_library(replace(recipe, name="other", samples=3), tmp_path / "other", workers=1)
    with pytest.raises(HubError, match=r"holds library 'tiny', which 'other' would replace"):
        plan_publication(tmp_path / "other", REPO)


def test_a_damaged_library_is_not_published(hub, library_copy):
    (library_copy / "shards/linear-00001.h5").write_bytes(b"damaged")
    with pytest.raises(ShardError, match=r"linear-00001\.h5"):
        plan_publication(library_copy, REPO)
    assert not hub.repositories


def test_the_command_line_honours_hf_endpoint(hub, library):
    told = subprocess.run(
        [sys.executable, "-m", "builder", "publish", str(library), "--repo", REPO],
        env=os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_of_nobody"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "11 files" in told.stdout.replace("\n", " ")
    assert hub.repositories[REPO].tags


# Downloads


@pytest.mark.parametrize("address", ["hub", "http"])
def test_a_download_gives_the_same_samples_as_the_library(published, library, tmp_path, address):
    source = f"hf://{REPO}" if address == "hub" else at(published)
    data = TEMImageNet(tmp_path, None, labels=LABELS, download=True, source=source)
    same(data, TEMImageNet(library, None, labels=LABELS))


def test_a_whole_download_is_the_library(published, library, tmp_path):
    data = TEMImageNet(tmp_path, None, labels=LABELS, download=True, source=f"hf://{REPO}")
    assert len(data) == 24
    assert verify_library(tmp_path) == 8
    assert not list(tmp_path.rglob("*.part"))
    same(TEMImageNet(tmp_path, "test", verify=True), TEMImageNet(library, "test"))


def test_only_what_the_query_needs_is_fetched(published, library, tmp_path):
    where = "entry == 'MoS2 [001]'"
    data = TEMImageNet(tmp_path, None, labels=["gaussianMask"], where=where, download=True, source=f"hf://{REPO}")
    same(data, TEMImageNet(library, None, labels=["gaussianMask"], where=where))
    whole = sum(path.stat().st_size for path in library.glob("shards/*.h5"))
    layouts = [ShardParts(p.name, json.loads(p.with_suffix(".json").read_text())) for p in library.glob("shards/*.h5")]
    rest = sum(gap.size for layout in layouts for gap in layout.rest)
    assert published.sent(r"\.h5$") - rest < 0.5 * (whole - rest)
    with pytest.raises(ShardError, match=r"noNoise \d+ was not downloaded"):
        TEMImageNet(tmp_path, None, labels=["noNoise"], where=where)[0]
    before = published.sent(r"\.h5$")
    TEMImageNet(tmp_path, None, labels=["gaussianMask"], where=where, download=True, source=f"hf://{REPO}")
    assert published.sent(r"\.h5$") == before
    wider = TEMImageNet(tmp_path, None, labels=["noNoise"], where=where, download=True, source=f"hf://{REPO}")
    same(wider, TEMImageNet(library, None, labels=["noNoise"], where=where))


def test_ranges_small_enough_to_leave_out_what_is_not_needed(published, library, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "GAP_BYTES", 0)
    TEMImageNet(tmp_path, None, labels=["gaussianMask"], where="index == 3", download=True, source=f"hf://{REPO}")
    sidecar = json.loads((library / "shards/linear-00000.json").read_text())
    layout = ShardParts("x", sidecar)
    needed = sum(part.size for part in [*layout.rest, *layout.needed([3], ["gaussianMask"])])
    assert published.sent(r"\.h5$") == needed


def test_dropped_slow_and_failing_replies_do_not_matter(published, library, tmp_path):
    published.faults = [
        Fault(r"linear-00000\.h5", times=2, drop_after=20_000),
        Fault(r"linear-00001\.h5", times=1, slow_s=0.05),
        Fault(r"linear-00002\.h5", times=2, status=503),
        Fault(r"catalogue", times=1, drop_after=0),
    ]
    data = TEMImageNet(tmp_path, None, labels=LABELS, download=True, source=at(published))
    assert all(fault.times == 0 for fault in published.faults)
    same(data, TEMImageNet(library, None, labels=LABELS))


def test_an_interrupted_download_goes_on_where_it_stopped(published, library, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "RANGE_BYTES", 16_384)
    monkeypatch.setattr(remote, "GAP_BYTES", 0)
    monkeypatch.setattr(remote, "THREADS", 1)
    published.faults = [Fault(r"linear-00001\.h5", times=1000, drop_after=0)]
    with pytest.raises(HubError, match=r"linear-00001\.h5.*run again"):
        TEMImageNet(tmp_path, None, labels=LABELS, download=True, source=at(published))
    sent = published.sent(r"\.h5$")
    whole = sum(path.stat().st_size for path in library.glob("shards/*.h5"))
    assert 0 < sent < whole
    published.faults = []
    data = TEMImageNet(tmp_path, None, labels=LABELS, download=True, source=at(published))
    same(data, TEMImageNet(library, None, labels=LABELS))
    assert published.sent(r"\.h5$") <= whole + 16_384


def test_a_torn_list_of_parts_is_no_harm(published, library, tmp_path):
    where = "index in (3, 13)"
    TEMImageNet(tmp_path, None, labels=["noNoise"], where=where, download=True, source=at(published))
    listing = next(tmp_path.rglob("*.have"))
    text = listing.read_text()
    listing.write_text(text[: len(text) // 2])
    data = TEMImageNet(tmp_path, None, labels=["noNoise"], where=where, download=True, source=at(published))
    same(data, TEMImageNet(library, None, labels=["noNoise"], where=where))


@pytest.mark.parametrize("where", ["image 3", "what is not in chunks"])
@pytest.mark.parametrize("mode", ["download", "streaming"])
def test_a_wrong_byte_is_asked_for_again_and_named_if_it_stays(published, library, tmp_path, mode, where):
    sidecar = json.loads((library / "shards/linear-00000.json").read_text())
    image, rest = sidecar["datasets"]["image"]["offsets"][3], ShardParts("x", sidecar).rest[0].offset
    place = (image if where == "image 3" else rest) + 5

    def read():
        options = {"download": True, "source": at(published)} if mode == "download" else {"streaming": True}
        root = tmp_path / "there" if mode == "download" else at(published)
        data = TEMImageNet(root, None, labels=["gaussianMask"], where="index == 3", **options)
        return [data[0]]

    published.faults = [Fault(r"linear-00000\.h5", times=1, flip=place)]
    same(read(), [TEMImageNet(library, None, where="index == 3")[0]])
    published.faults = [Fault(r"linear-00000\.h5", times=100, flip=place)]
    if mode == "download":
        import shutil

        shutil.rmtree(tmp_path / "there")
    with pytest.raises(ShardError, match=rf"linear-00000\.h5: .*{where} .*(SHA-256|digest)"):
        read()


@pytest.mark.parametrize("name", ["catalogue.parquet", "shards/linear-00000.json"])
def test_wrong_bytes_in_small_files_are_named(published, tmp_path, name):
    published.faults = [Fault(name, times=100, flip=40)]
    with pytest.raises(ShardError, match=rf"{name}: SHA-256 is"):
        TEMImageNet(tmp_path, None, download=True, source=at(published))


def test_a_part_damaged_on_disk_is_named_and_fetched_anew(published, library, tmp_path):
    options = {"labels": ["gaussianMask"], "where": "index == 3"}
    TEMImageNet(tmp_path, None, download=True, source=at(published), **options)
    content = next(tmp_path.rglob("*.part"))
    sidecar = json.loads((library / "shards/linear-00000.json").read_text())
    with content.open("rb+") as file:
        file.seek(sidecar["datasets"]["image"]["offsets"][3] + 5)
        file.write(b"\xff\xff")
    with pytest.raises(ShardError, match="image 3"):
        TEMImageNet(tmp_path, None, **options)[0]
    data = TEMImageNet(tmp_path, None, download=True, source=at(published), verify=True, **options)
    same([data[0]], [TEMImageNet(library, None, **options)[0]])


def test_what_lies_between_the_chunks_of_a_part_is_compared_too(published, library, tmp_path):
    options = {"labels": ["gaussianMask"], "where": "index == 3"}
    TEMImageNet(tmp_path, None, download=True, source=at(published), **options)
    content, sidecar = next(tmp_path.rglob("*.part")), tmp_path / "shards/linear-00000.json"
    layout = ShardParts("x", json.loads(sidecar.read_text()))
    whole = content.read_bytes()
    damaged = bytearray(whole)
    damaged[layout.rest[0].offset + 40] ^= 1
    content.write_bytes(damaged)
    with pytest.raises(ShardError, match=r"linear-00000\.h5: damaged, what is not in chunks"):
        TEMImageNet(tmp_path, None, **options)[0]
    data = TEMImageNet(tmp_path, None, download=True, source=at(published), **options)
    same([data[0]], [TEMImageNet(library, None, **options)[0]])
    assert content.read_bytes() == whole
    sidecar.write_text(sidecar.read_text() + " ")
    with pytest.raises(ShardError, match=r"linear-00000\.json: SHA-256 differs"):
        TEMImageNet(tmp_path, None, **options)[0]


def test_a_sidecar_without_a_digest_of_the_rest_is_read_here_and_not_from_elsewhere(library_copy):
    for sidecar in library_copy.glob("shards/*.json"):
        told = json.loads(sidecar.read_text())
        del told["rest"]
        sidecar.write_text(json.dumps(told))
    manifest = json.loads((library_copy / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        content = (library_copy / name).read_bytes()
        facts |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (library_copy / "manifest.json").write_text(json.dumps(manifest))
    assert len(list(TEMImageNet(library_copy, None))) == 24
    with pytest.raises(ShardError, match=r"no digest of what is not in chunks"):
        TEMImageNet(f"file://{library_copy}", None, streaming=True)[0]


def test_a_manifest_that_points_outside_is_refused(published, tmp_path):
    repository = published.repositories[REPO]
    file = repository.commits[repository.head]["manifest.json"]
    for name in ("../evil", "/evil", "shards/../../evil", "C:\\evil"):
        told = json.loads(file.content)
        told["files"][name] = {"sha256": "0" * 64, "bytes": 1}
        file.content = json.dumps(told).encode()
        with pytest.raises(ShardError, match="points outside"):
            TEMImageNet(tmp_path / "there", None, download=True, source=at(published))
        assert not (tmp_path / "evil").exists()


def test_a_folder_of_another_version_is_brought_up_to_date(published, library, tmp_path):
    for path in library.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    stale = tmp_path / "shards/linear-00001.h5"
    stale.write_bytes(stale.read_bytes()[:-1] + b"\0\0")
    data = TEMImageNet(tmp_path, None, labels=LABELS, download=True, source=at(published))
    same(data, TEMImageNet(library, None, labels=LABELS))
    assert published.sent(r"linear-0000[02]\.h5") == 0


def test_a_complete_download_needs_nothing_written(published, library, tmp_path, monkeypatch):
    options = {"labels": ["gaussianMask"], "where": "index < 5", "download": True, "source": at(published)}
    TEMImageNet(tmp_path, None, **options)

    def refuse(path):
        raise AssertionError(f"{path} is written")

    monkeypatch.setattr(remote, "replacing", refuse)
    same(TEMImageNet(tmp_path, None, **options), TEMImageNet(library, None, labels=["gaussianMask"], where="index < 5"))


def test_a_download_in_part_says_so(published, tmp_path):
    TEMImageNet(tmp_path, None, where="index < 2", download=True, source=at(published))
    with pytest.raises(ShardError, match=r"linear-00000\.h5: downloaded in part"):
        verify_library(tmp_path)
    with pytest.raises(ShardError, match=r"linear-00000\.h5: downloaded in part"):
        repack_library(tmp_path, tmp_path / "fast")


def test_a_folder_that_holds_another_library_is_left_alone(published, library_copy):
    manifest = library_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "tiny"', '"name": "mine"'))
    (library_copy / "shards/linear-00001.h5").write_bytes(b"mine")
    with pytest.raises(ShardError, match="holds library 'mine', which 'tiny' would replace"):
        TEMImageNet(library_copy, None, download=True, source=at(published))
    assert (library_copy / "shards/linear-00001.h5").read_bytes() == b"mine"


# Streaming


@pytest.mark.parametrize("address", ["hub", "http"])
def test_streams_give_the_same_samples_as_the_library(published, library, address):
    source = f"hf://{REPO}" if address == "hub" else at(published)
    data = TEMImageNet(source, None, labels=LABELS, streaming=True)
    same(data, TEMImageNet(library, None, labels=LABELS))
    assert "24 samples" in repr(data)


def test_any_file_system_of_fsspec_is_read(library):
    data = TEMImageNet(f"file://{library}", None, labels=LABELS, streaming=True)
    same(data, TEMImageNet(library, None, labels=LABELS))


def test_streams_fetch_little_more_than_they_need(published, library, monkeypatch):
    monkeypatch.setattr(remote, "GAP_BYTES", 0)
    data = TEMImageNet(at(published), None, labels=["gaussianMask"], streaming=True)
    list(data)
    needed = 0
    for path in library.glob("shards/*.h5"):
        layout = ShardParts(path.name, json.loads(path.with_suffix(".json").read_text()))
        rows = range(len(layout._by_name) and json.loads(path.with_suffix(".json").read_text())["rows"])
        needed += sum(part.size for part in [*layout.rest, *layout.needed(rows, ["gaussianMask"])])
    assert published.sent(r"\.h5$") == needed


def test_a_sample_of_a_repacked_library_is_one_request(hub, library, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "GAP_BYTES", 0)
    repack_library(library, tmp_path / "fast", ["gaussianMask"])
    publish(plan_publication(tmp_path / "fast", REPO))
    data = TEMImageNet(at(hub), None, labels=["gaussianMask"], streaming=True)
    chosen = [0, 3, 5, 8]
    data.__getitems__(chosen)
    time.sleep(0.3)
    hub.requests.clear()
    chosen = [2, 7, 9]
    found = data.__getitems__(chosen)
    # The stand-in notes a request after the client has the answer.
    time.sleep(0.3)
    assert len(hub.requests) == len(chosen)
    local = TEMImageNet(library, None, labels=["gaussianMask"])
    same(found, [local[index] for index in chosen])
    # What was fetched is read from memory.
    data.__getitems__(chosen)
    time.sleep(0.3)
    assert len(hub.requests) == len(chosen)


def test_batches_of_workers_are_streamed_in_parallel(published, library):
    data = TEMImageNet(at(published), None, labels=["circularMask"], streaming=True)
    loader = DataLoader(data, batch_size=5, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
    batches = list(loader)
    images = torch.cat([batch.image for batch in batches])[:, 0]
    local = TEMImageNet(library, None, labels=["circularMask"])
    assert torch.equal(images, torch.stack([sample.image for sample in local]))


def test_workers_leave_the_connections_of_their_parent_alone(published, tmp_path):
    """A session that a forked process collects waits for an event loop of the parent, then closes what is shared."""
    data = TEMImageNet(at(published), None, streaming=True)
    data[0]
    inherited = weakref.ref(data._remote._files)

    def read() -> None:
        data[1]
        gc.collect()
        (tmp_path / "told").write_text(f"{data._remote._files is not inherited()} {inherited() is not None}")

    worker = multiprocessing.get_context("fork").Process(target=read)
    worker.start()
    worker.join()
    assert (tmp_path / "told").read_text() == "True True"


def test_what_streams_hold_is_bounded(published, library, monkeypatch):
    monkeypatch.setattr(remote, "_HELD_BYTES", 60_000)
    monkeypatch.setattr("temimagenet.datasets._OPEN_STREAMS", 1)
    data = TEMImageNet(at(published), None, labels=LABELS, streaming=True)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()[:12]
    local = TEMImageNet(library, None, labels=LABELS)
    same([data[i] for i in order], [local[i] for i in order])
    assert data._remote._held_bytes <= 60_000
    assert data._remote._held_bytes == sum(map(len, data._remote._held.values()))
    assert len(data._shards) == 1


def test_streams_survive_dropped_connections(published, library):
    published.faults = [Fault(r"\.h5", times=4, drop_after=5_000), Fault(r"\.h5", times=2, status=500)]
    same(
        TEMImageNet(at(published), None, labels=LABELS, streaming=True),
        TEMImageNet(library, None, labels=LABELS),
    )
    assert all(fault.times == 0 for fault in published.faults)


def test_a_stream_that_is_never_freed_does_not_crash_at_the_end(library):
    # As in a spawned worker, whose dataset outlives the interpreter.
    script = """
import ctypes, sys
from temimagenet import TEMImageNet
data = TEMImageNet(sys.argv[1], None, streaming=True)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(data))
print(data[0].id)
"""
    command = [sys.executable, "-c", script, f"file://{library}"]
    told = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "tiny-000000\n"), told.stderr


def test_a_server_without_ranges_is_told(published):
    published.ranges = False
    data = TEMImageNet(at(published), None, streaming=True)
    with pytest.raises(HubError, match="does not answer byte ranges"):
        data[0]


# S3


def test_streams_from_s3_give_the_same_samples(s3, published, library):
    published.faults = [Fault(r"\.h5", times=2, drop_after=5_000), Fault(r"\.h5", times=2, status=503)]
    data = TEMImageNet(s3, None, labels=LABELS, streaming=True)
    local = TEMImageNet(library, None, labels=LABELS)
    same(data, local)
    assert all(fault.times == 0 for fault in published.faults)
    loader = DataLoader(data, batch_size=12, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
    images = torch.cat([batch.image for batch in loader])[:, 0]
    assert torch.equal(images, torch.stack([sample.image for sample in local]))


def test_only_what_the_query_needs_is_fetched_from_s3(s3, published, library, tmp_path):
    options = {"labels": ["gaussianMask"], "where": "entry == 'MoS2 [001]'"}
    data = TEMImageNet(tmp_path, None, download=True, source=s3, **options)
    same(data, TEMImageNet(library, None, **options))
    assert 0 < published.sent(r"\.h5$") < sum(path.stat().st_size for path in library.glob("shards/*.h5"))


def test_what_s3_refuses_is_told(s3, published, monkeypatch):
    with pytest.raises(HubError, match=r"elsewhere/manifest\.json: no such file"):
        TEMImageNet("s3://datasets/elsewhere", streaming=True)
    published.faults = [Fault(r"manifest", times=1, status=403)]
    with pytest.raises(HubError, match=r"manifest\.json: not permitted"):
        TEMImageNet(s3, streaming=True)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(HubError, match=r"manifest\.json: .*credentials"):
        TEMImageNet(s3, streaming=True)


# What is asked wrongly


def test_revisions_repositories_and_addresses_that_are_not_there(published, tmp_path):
    with pytest.raises(HubError, match=r"no revision 'v9'"):
        TEMImageNet(f"hf://{REPO}", streaming=True, revision="v9")
    with pytest.raises(HubError, match="nobody/nothing"):
        TEMImageNet(tmp_path, download=True, source="hf://nobody/nothing")
    with pytest.raises(HubError, match=r"manifest\.json: no such file"):
        TEMImageNet(f"{published.address}/elsewhere", streaming=True)
    with pytest.raises(HubError, match="only libraries on the Hub"):
        RemoteLibrary(at(published), "v0.1.0")
    with pytest.raises(HubError, match="nonsense://x"):
        RemoteLibrary("nonsense://x")


def test_arguments_that_do_not_go_together(library, tmp_path):
    with pytest.raises(DatasetError, match="exclude each other"):
        TEMImageNet("hf://a/b", download=True, streaming=True)
    with pytest.raises(DatasetError, match="source="):
        TEMImageNet(tmp_path, download=True)
    with pytest.raises(DatasetError, match="not kept in a folder"):
        TEMImageNet(tmp_path, streaming=True, source="hf://a/b")
    with pytest.raises(DatasetError, match="download=True or streaming=True"):
        TEMImageNet("hf://a/b")
    with pytest.raises(DatasetError, match="download=True or streaming=True"):
        TEMImageNet(library, revision="v1")
