"""Rendering on a Dask cluster: a worker that dies in the middle changes nothing in what is written."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

from builder.render import render_library
from temimagenet.errors import ShardError
from temimagenet.storage import verify_library


def test_a_cluster_that_loses_a_worker_writes_what_one_process_writes(recipe, tmp_path):
    render_library(recipe, tmp_path / "serial", workers=1, samples_per_shard=2)
    killed: list[int] = []
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        assert len(set(pids.values()) | {os.getpid()}) == 4
        folder = tmp_path / "spread"

        def kill_a_busy_one() -> None:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not killed:
                if list(folder.glob("shards/*.h5")):
                    busy = [address for address, tasks in client.processing().items() if tasks]
                    if busy:
                        os.kill(pids[busy[0]], signal.SIGKILL)
                        killed.append(pids[busy[0]])
                time.sleep(0.005)

        watch = threading.Thread(target=kill_a_busy_one)
        watch.start()
        render_library(recipe, folder, scheduler=cluster.scheduler_address, samples_per_shard=2)
        watch.join()
        assert killed
        assert killed[0] not in client.run(os.getpid).values()
    assert verify_library(folder) == verify_library(tmp_path / "serial")
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert len(names) == 27  # twelve shards, twelve sidecars, catalogue, recipe, manifest
    others = [name for name in names if (folder / name).read_bytes() != (tmp_path / "serial" / name).read_bytes()]
    assert not others, [differing(folder / name, tmp_path / "serial" / name) for name in sorted(others)]


def differing(one: Path, other: Path) -> str:
    """Which arrays of two shards differ, where and by how much; names of other files."""
    told = [one.name]
    if one.suffix == ".h5":
        with h5py.File(one) as first, h5py.File(other) as second:
            names: list[str] = []
            first.visit(names.append)
            for name in names:
                if not isinstance(first[name], h5py.Group):
                    a, b = (np.asarray(file[name][()]) for file in (first, second))
                    if not np.array_equal(a, b) if a.dtype.hasobject else a.tobytes() != b.tobytes():
                        told.append(f"{name} at {np.argwhere(a != b)[:3].tolist()}: {a[a != b][:3]}, {b[a != b][:3]}")
    return ", ".join(told)


def test_a_scheduler_without_workers_is_told_and_waited_for(recipe, tmp_path, capsys):
    with LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster:
        later = threading.Timer(1.0, lambda: cluster.scale(1))
        later.start()
        render_library(recipe, tmp_path / "x", scheduler=cluster.scheduler_address, samples_per_shard=10)
        later.join()
    assert f"{cluster.scheduler_address} has no workers yet: start `dask worker" in capsys.readouterr().out


def test_no_scheduler_is_told(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("builder.render._PATIENCE_S", 0.5)
    with pytest.raises(ShardError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:9"):
        render_library(recipe, tmp_path / "x", scheduler="tcp://127.0.0.1:9")
