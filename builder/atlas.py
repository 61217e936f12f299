"""Schedules multislice tables on this machine or a Dask cluster, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from distributed import as_completed

from builder.render import cluster_client
from temimagenet.atlas import TableTask, check_folder, compute_table, merge_tables
from temimagenet.bar import progress_bar
from temimagenet.device import check_device

__all__ = ["compute_atlas"]


def _one(task: TableTask, folder: Path, keep_pairs: bool, device: str) -> Path:
    """One table by one thread: several run side by side."""
    torch.set_num_threads(1)
    return compute_table(task, folder, keep_pairs=keep_pairs, device=device)


def compute_atlas(
    tasks: Sequence[TableTask],
    folder: Path,
    *,
    out: Path | None = None,
    keep_pairs: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    scheduler: str | None = None,
) -> list[Path]:
    """Compute tables; those that are there already are kept, so that an interrupted run goes on.

    Args:
        tasks: tables to compute.
        folder: a file for each table.
        out: also gather all of them into this file, as the package ships it.
        keep_pairs: keep the beam pairs beside each table.
        device: where waves are propagated.
        workers: processes on this machine; all cores unless told.
        scheduler: address of a Dask scheduler to use instead.

    Returns:
        The tables' paths.

    Raises:
        TEMImageNetError: a table cannot be made; those finished stay.
    """
    folder = folder.resolve()
    check_device(device)
    check_folder(folder)
    paths: list[Path] = []
    with (
        progress_bar() as progress,
        cluster_client(scheduler, min(workers or os.cpu_count() or 1, max(1, len(tasks)))) as client,
    ):
        bar = progress.add_task("multislice tables", total=len(tasks))
        futures = [client.submit(_one, task, folder, keep_pairs, device, pure=False) for task in tasks]
        for future in as_completed(futures):
            paths.append(future.result())
            progress.advance(bar)
    if out is not None:
        merge_tables(paths, out)
    return paths
