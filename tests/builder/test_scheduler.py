"""Rendering on a Dask cluster: a worker that dies in the middle changes nothing in what is written."""

from __future__ import annotations

import os
import signal
import threading
import time

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
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "serial" / name).read_bytes(), name


def test_no_scheduler_is_told(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("builder.render._PATIENCE_S", 0.5)
    with pytest.raises(ShardError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:9"):
        render_library(recipe, tmp_path / "x", scheduler="tcp://127.0.0.1:9")
