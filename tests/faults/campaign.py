"""The campaign of faults: damaged libraries, micrographs and sessions, killed writers, full disks, bad networks.

    python tests/faults/campaign.py --files 10000 --opened 1000 --kills 50 --disks 30 --networks 200

Prints its figures.
Every figure that should be 0 decides the exit status.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path.insert(0, str(CHECKOUT))

from network import fault_networks  # noqa: E402
from opened import open_damaged  # noqa: E402

from temimagenet import isolated  # noqa: E402
from temimagenet.errors import ShardError  # noqa: E402
from temimagenet.recipe import Recipe, load_recipe  # noqa: E402
from temimagenet.storage import Shard, finish_library, plan_library, render_shard, shard_is_done  # noqa: E402

RECIPE = """
schema = 1
name = "faults"
seed = 7
samples = {samples}
image_size = 32

[draw]
condition = [1, 2, 5]
field_of_view_A = [8, 10]
rotation_deg = [0, 30]
thickness_A = [20]
background = ["constant", "ramp", "nonlinear"]
background_level = {{ min = 0.0, max = 0.5 }}
psnr_dB = {{ min = 10, max = 25 }}
scan_sigma_A = {{ min = 0.05, max = 0.2 }}
scan_modulation = ["line-frequency", "constant"]
scan_form = ["beam"]

[[entry]]
material = "SrTiO3"
zone = "[110]"

[[entry]]
material = "MoS2"
zone = "[001]"
"""

_HANGS_S = 300.0
_APART_HANGS_S = 10.0


def small_recipe(folder: Path, samples: int) -> Recipe:
    """A recipe of small images, quick to render."""
    path = folder / "faults.toml"
    path.write_text(RECIPE.format(samples=samples), encoding="utf-8")
    return load_recipe(path)


def small_library(folder: Path, samples: int = 6) -> Path:
    """A library of shards of three samples."""
    root = folder / f"library-{samples}"
    recipe = small_recipe(folder, samples)
    tasks = plan_library(recipe, samples_per_shard=3)
    for task in tasks:
        render_shard(task, root)
    finish_library(root, recipe, tasks)
    return root


def judged(library: Path, folder: Path, first: int, last: int, batch: int = 500) -> list[dict[str, Any]]:
    """What the readers did with libraries damaged by seeds `first` to `last`, in processes of `batch` each.

    A process that ends or hangs is the fault of the seed it was at; the others go on after it.
    """
    found: list[dict[str, Any]] = []
    while first < last:
        end = min(first + batch, last)
        command = [sys.executable, str(HERE / "judge.py"), str(library), str(folder), str(first), str(end)]
        path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as problems:
            process = subprocess.Popen(command, stdout=out, stderr=problems, env={**os.environ, "PYTHONPATH": path})
            at, since = -1, time.monotonic()
            while process.poll() is None and time.monotonic() - since < _HANGS_S:
                time.sleep(0.1)
                if (size := os.fstat(out.fileno()).st_size) != at:
                    at, since = size, time.monotonic()
            hung = process.poll() is None
            if hung:
                process.kill()
            status = process.wait()
            out.seek(0)
            problems.seek(0)
            lines = [json.loads(line) for line in out if line.endswith("\n")]
            told = problems.read()[-2000:]
        found += [line for line in lines if line["outcome"] != "begun"]
        if status == 0:
            first = end
            continue
        begun = [line["seed"] for line in lines if line["outcome"] == "begun"]
        if not begun:
            raise RuntimeError(f"the judge did not start: {told}")
        found.append({"seed": begun[-1], "outcome": "hang" if hung else "crash", "told": f"status {status}: {told}"})
        first = begun[-1] + 1
    return found


def _write(recipe: Recipe, root: Path) -> None:
    """Render what is missing."""
    for task in plan_library(recipe, samples_per_shard=3):
        render_shard(task, root)


def kill_writers(folder: Path, kills: int, seed: int = 0) -> Counter[str]:
    """Kill a writer at random moments; counts of kills, of those in the midst of a file, and of what should not be.

    A folder that is complete is begun anew; what was finished before a kill must be so after it.
    """
    draw = random.Random(seed)
    recipe = small_recipe(folder, 60)
    tasks = plan_library(recipe, samples_per_shard=3)
    context = multiprocessing.get_context("fork")
    root = folder / "killed-0"
    begin = time.monotonic()
    _write(recipe, folder / "timed")
    whole_s = time.monotonic() - begin
    count: Counter[str] = Counter(corrupt=0, lost=0)
    finished: set[str] = set()
    while count["kills"] < kills:
        process = context.Process(target=_write, args=(recipe, root))
        process.start()
        time.sleep(draw.uniform(0.0, 0.4 * whole_s))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            count["kills"] += 1
        count["in a file"] += bool(list((root / "shards").glob(".*.partial")))
        now = {task.name for task in tasks if shard_is_done(task, root)}
        count["lost"] += len(finished - now)
        for path in (root / "shards").glob("*.h5"):
            try:
                with Shard(path) as shard:
                    for row in range(len(shard)):
                        shard.sample(row)
            except ShardError:
                count["corrupt"] += 1
        finished = now
        if len(now) == len(tasks):
            count["libraries"] += 1
            root = folder / f"killed-{count['libraries']}"
            finished = set()
    _write(recipe, root)
    finish_library(root, recipe, tasks)
    count["left over"] = len(list(root.rglob("*.partial")))
    return count


def _write_limited(recipe: Recipe, root: Path, limit: int, answer: Any) -> None:
    """Render under a limit of the size of a file, the kernel's stand-in for a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        _write(recipe, root)
        finish_library(root, recipe, plan_library(recipe, samples_per_shard=3))
        answer.put("written")
    except ShardError as error:
        answer.put(str(error))


def fill_disks(folder: Path, disks: int, seed: int = 1) -> Counter[str]:
    """Write libraries where the room ends at random places; counts of outcomes and of what should not be."""
    draw = random.Random(seed)
    recipe = small_recipe(folder, 6)
    tasks = plan_library(recipe, samples_per_shard=3)
    context = multiprocessing.get_context("fork")
    count: Counter[str] = Counter({"left over": 0, "corrupt": 0, "unclear": 0})
    for number in range(disks):
        root = folder / f"full-{number}"
        answer = context.Queue()
        limit = int(10.0 ** draw.uniform(2.0, 5.3))
        process = context.Process(target=_write_limited, args=(recipe, root, limit, answer))
        process.start()
        told = answer.get(timeout=_HANGS_S)
        process.join()
        count["written" if told == "written" else "refused"] += 1
        count["unclear"] += not (told == "written" or "cannot write" in told)
        count["left over"] += len(list(root.rglob("*.partial")))
        count["corrupt"] += sum(
            (root / task.name).with_suffix(".json").exists() and not shard_is_done(task, root) for task in tasks
        )
        # With room, the same command ends well.
        _write(recipe, root)
        finish_library(root, recipe, tasks)
    return count


def main() -> int:
    """All parts; 1 where something is as it should not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="damaged files")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--opened", type=int, default=1_000, help="damaged micrographs in HDF5 and sessions")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--disks", type=int, default=30)
    parser.add_argument("--networks", type=int, default=200, help="downloads and streams over a bad network")
    asked = parser.parse_args()
    # Writers are forked: what is not yet written would be written by each of them.
    tell = functools.partial(print, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic()
        found = (
            judged(small_library(folder), folder / "work", asked.first, asked.first + asked.files)
            if asked.files
            else []
        )
        outcomes = Counter(line["outcome"] for line in found)
        bad = [line for line in found if line["outcome"] not in ("refused", "equal")]
        sealed = sum(line.get("sealed", False) for line in found)
        tell(
            f"{asked.files} damaged files, {sealed} with digests recomputed, {time.monotonic() - begin:.0f} s: "
            f"{outcomes['refused']} refused by an error that names the file, {outcomes['equal']} read as written, "
            f"{outcomes['wrong']} wrong arrays, {outcomes['crash']} crashes, {outcomes['hang']} hangs, "
            f"{len(bad) - outcomes['wrong'] - outcomes['crash'] - outcomes['hang']} other findings"
        )
        for line in bad:
            tell(json.dumps(line))
        begin = time.monotonic()
        isolated._LEAST_S = _APART_HANGS_S
        opened = Counter(open_damaged(folder / "opened", asked.first, asked.first + asked.opened))
        strange = [told for told in opened if told not in ("read", "refused", "ended", "hung")]
        tell(
            f"{asked.opened} damaged micrographs and sessions, {time.monotonic() - begin:.0f} s: {opened['refused']} "
            f"refused by the reader, {opened['ended']} ended and {opened['hung']} hung the process apart and were "
            f"refused for it, {opened['read']} read, {len(strange)} other findings"
        )
        for line in strange:
            tell(line)
        kills = kill_writers(folder, asked.kills) if asked.kills else Counter()
        tell(
            f"{kills['kills']} writers killed, {kills['in a file']} in the midst of a file: {kills['corrupt']} corrupt "
            f"shards, {kills['lost']} lost finished shards, {kills['left over']} files left over"
        )
        disks = fill_disks(folder, asked.disks) if asked.disks else Counter()
        tell(
            f"{asked.disks} disks filled: {disks['refused']} refused, {disks['written']} had room; {disks['corrupt']} "
            f"corrupt shards, {disks['left over']} files left over, {disks['unclear']} unclear errors; all complete "
            "once there was room"
        )
        begin = time.monotonic()
        networks = fault_networks(small_library(folder, 24), folder, asked.networks) if asked.networks else Counter()
        tell(
            f"{asked.networks} uses of a network with {networks['faults']} faults, {time.monotonic() - begin:.0f} s: "
            f"{networks['downloaded']} downloaded, {networks['streamed']} streamed, {networks['refused']} of them only "
            f"after an error that names the file; {networks['killed']} downloads killed before, "
            f"{networks['killed in a shard']} in the midst of a shard; {networks['wrong']} with wrong samples, "
            f"{networks['fetched again']} finished shards fetched again, {networks['unclear']} unclear errors"
        )
    wrong = len(bad) + len(strange) + sum(kills[key] for key in ("corrupt", "lost", "left over"))
    wrong += sum(disks[key] for key in ("corrupt", "left over", "unclear"))
    return int(wrong + sum(networks[key] for key in ("wrong", "fetched again", "unclear")) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
