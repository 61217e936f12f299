"""Schedules shard tasks on this machine or a Dask cluster, with a progress bar; everything else is the package's."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed

from temimagenet.bar import progress_bar
from temimagenet.errors import ShardError
from temimagenet.recipe import Recipe, sample_spec
from temimagenet.render import render, with_bounds
from temimagenet.storage import finish_library, plan_library, render_shard, shard_is_done
from temimagenet.storage.library import check_place
from temimagenet.storage.shard import DENSE_MAPS

__all__ = ["Estimate", "cluster_client", "estimate", "render_library"]

_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Estimate:
    """What rendering a recipe will take.

    Attributes:
        samples: number of samples.
        shards: number of shards.
        bytes: size on disk.
        seconds: time with the given number of workers.
    """

    samples: int
    shards: int
    bytes: float
    seconds: float


def estimate(recipe: Recipe, *, dense: bool, workers: int, bounds: bool = False, trial: int = 24) -> Estimate:
    """Estimate by rendering and compressing a few samples spread over the recipe, in this process."""
    import tempfile

    from temimagenet.storage import write_shard

    tasks = plan_library(recipe, dense=dense, bounds=bounds)
    count = min(trial, recipe.samples)
    labels = DENSE_MAPS if dense else ("noNoise", "noBackgroundnoNoise")
    specs = [sample_spec(recipe, i) for i in range(count)]
    render(specs[:1], labels, quantised=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.h5"
        start = time.perf_counter()
        samples = render(specs, labels, quantised=True)
        write_shard(path, samples, count, engine="linear", recipe_json="", dense=dense)
        seconds = (time.perf_counter() - start) / count
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / count
    total = sum(len(task.indices) for task in tasks)
    seconds *= total
    if bounds:
        start = time.perf_counter()
        for sample in samples:
            with_bounds(sample)
        each = (time.perf_counter() - start) / count
        seconds += each * sum(len(task.indices) for task in tasks if task.bounds)
    return Estimate(total, len(tasks), size * total, seconds / workers)


def render_library(
    recipe: Recipe,
    root: Path,
    *,
    dense: bool = False,
    bounds: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    samples_per_shard: int | None = None,
) -> Path:
    """Render a recipe into a folder; shards that are there already, whole and of the same recipe, are kept.

    Args:
        recipe: what to render.
        root: the library's folder.
        dense: store every map.
        bounds: store the columns' bounds with linear images.
        workers: processes on this machine; all cores unless told.
        scheduler: address of a Dask scheduler to use instead; its workers must see `root` at the same path.
        samples_per_shard: samples in a shard, for tests and small libraries.

    Returns:
        The manifest's path.

    Raises:
        ShardError: `root` is no folder, or holds a library of another name.
        TEMImageNetError: a sample cannot be rendered or the disk is full; finished shards stay and a rerun goes on.
    """
    root = root.resolve()
    tasks = plan_library(recipe, dense=dense, bounds=bounds, samples_per_shard=samples_per_shard)
    check_place(root, recipe.name)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"{root}: no folder, and none can be made there ({error})") from error
    waiting = [task for task in tasks if not shard_is_done(task, root)]
    processes = min(workers or os.cpu_count() or 1, max(len(waiting), 1))
    with progress_bar() as progress:
        total = sum(len(task.indices) for task in tasks)
        bar = progress.add_task(f"rendering {recipe.name}", total=total)
        progress.advance(bar, total - sum(len(task.indices) for task in waiting))
        if processes == 1 and scheduler is None:
            for task in waiting:
                render_shard(task, root, lambda: progress.advance(bar))
        elif waiting:
            with cluster_client(scheduler, processes) as client:
                if scheduler is not None and not client.scheduler_info()["workers"]:
                    told = f"{scheduler} has no workers yet: start `dask worker {scheduler} --nthreads 1`"
                    progress.console.print(told, markup=False, soft_wrap=True)
                futures = client.map(render_shard, waiting, root=root, pure=False)
                sizes = {future.key: len(task.indices) for future, task in zip(futures, waiting, strict=True)}
                for future in as_completed(futures):
                    try:
                        future.result()
                    except KilledWorker as error:
                        # A worker that dies is replaced and its shard rendered anew, a few times.
                        raise ShardError(
                            f"a shard ended every worker that rendered it ({error}): give workers more memory, or see "
                            "their logs; finished shards stay, run again to go on"
                        ) from error
                    progress.advance(bar, sizes[future.key])
    return finish_library(root, recipe, tasks)


def cluster_client(scheduler: str | None, processes: int) -> Client:
    """A client of the given scheduler, or of a cluster of single-threaded processes on this machine."""
    if scheduler is not None:
        try:
            return Client(scheduler, timeout=_PATIENCE_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise ShardError(
                f"no Dask scheduler at {scheduler} ({error}): start one with `dask scheduler`, workers with "
                "`dask worker ADDRESS --nthreads 1`"
            ) from error
    # Dask has workers give memory back at every chance, which suits data frames; arrays that come and go then cost
    # more than the arithmetic on them (a third of the time of a multislice table).
    keep = {f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": 2**30 for name in ("TRIM", "MMAP")}
    with dask.config.set(keep):
        cluster = LocalCluster(
            n_workers=processes, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        )
    return Client(cluster)
