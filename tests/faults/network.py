"""Downloads and streams of a library over a network that drops connections, is slow, fails, and changes bytes.

Half of the downloads are killed at a random moment and begun again. What comes must be equal to what was published;
where faults do not end, one error must name the file, and without them the same command must end well.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "storage"))

from hub_server import Fault, File, HubServer, Repository
from judge import LABELS, digest_of

from temimagenet import TEMImageNet
from temimagenet.errors import HubError, ShardError
from temimagenet.storage import remote

_REPO = "atoms/faults"
_PAUSE_S = 0.002
_LABELS = {"all": LABELS, "some": ("gaussianMask", "position")}


def _published(library: Path) -> HubServer:
    """A server of a library."""
    server = HubServer()
    server.repositories[_REPO] = Repository()
    files = {
        path.relative_to(library).as_posix(): File(path.read_bytes(), True)
        for path in library.rglob("*")
        if path.is_file()
    }
    server.repositories[_REPO].commit(files)
    return server


def _some_faults(draw: random.Random, library: Path) -> list[Fault]:
    """Up to eight faults; few of them last longer than anybody asks again."""
    names = [path for path in library.rglob("*") if path.is_file()]
    faults = []
    for _ in range(draw.randrange(9)):
        path = draw.choice(names)
        often = 50 if draw.random() < 0.05 else draw.randrange(1, 4)
        name = rf"{path.name}$"
        # Of the manifest no digest tells: other bytes would be another library.
        kind = draw.choice(["drop", "slow", "status", *(["flip"] if path.name != "manifest.json" else [])])
        if kind == "drop":
            faults.append(Fault(name, often, drop_after=draw.randrange(path.stat().st_size)))
        elif kind == "slow":
            faults.append(Fault(name, often, slow_s=draw.uniform(0.0, 0.03)))
        elif kind == "status":
            faults.append(Fault(name, often, status=draw.choice([429, 500, 502, 503, 504])))
        else:
            # What is wrong twice is an error.
            often = 1 if draw.random() < 0.8 else 2
            faults.append(Fault(name, often, flip=draw.randrange(path.stat().st_size)))
    return faults


def _digests(data: TEMImageNet, labels: tuple[str, ...], draw: random.Random | None = None) -> dict[str, str]:
    """Digests of all samples, read in batches of a random order where there is one."""
    order = list(range(len(data)))
    if draw is not None:
        draw.shuffle(order)
    samples = [sample for start in range(0, len(order), 4) for sample in data.__getitems__(order[start : start + 4])]
    return {sample.id: digest_of(sample, labels) for sample in samples}


def _download(address: str, root: Path, labels: tuple[str, ...]) -> TEMImageNet:
    """A download without its bar."""
    with contextlib.redirect_stdout(io.StringIO()):
        return TEMImageNet(root, None, labels=labels, source=address, download=True)


def _try_download(address: str, root: Path, labels: tuple[str, ...]) -> None:
    """A download that is to be killed, if faults do not end it before."""
    with contextlib.suppress(HubError, ShardError):
        _download(address, root, labels)


def _whole(root: Path) -> set[str]:
    """Names of the shards that are there whole."""
    return {path.name for path in root.glob("shards/*.h5")}


def fault_networks(library: Path, folder: Path, runs: int, seed: int = 2) -> Counter[str]:
    """Counts of outcomes, and of what should not be: wrong samples, unclear errors, finished shards fetched again."""
    draw = random.Random(seed)
    pause, remote.FIRST_PAUSE_S = remote.FIRST_PAUSE_S, _PAUSE_S
    context = multiprocessing.get_context("fork")
    server = _published(library)
    address = f"{server.address}/datasets/{_REPO}/resolve/main"
    truth = {kind: _digests(TEMImageNet(library, None, labels=names), names) for kind, names in _LABELS.items()}
    count: Counter[str] = Counter({"wrong": 0, "unclear": 0, "fetched again": 0})
    try:
        for _ in range(runs):
            kind = draw.choice(list(_LABELS))
            streamed, killed = draw.random() < 0.4, draw.random() < 0.5
            root = folder / "away"
            shutil.rmtree(root, ignore_errors=True)
            server.faults = _some_faults(draw, library)
            count["faults"] += len(server.faults)
            if killed and not streamed:
                server.faults.append(Fault(r"\.h5$", 10_000, slow_s=0.02))
                process = context.Process(target=_try_download, args=(address, root, _LABELS[kind]))
                process.start()
                time.sleep(draw.uniform(0.02, 0.6))
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                count["killed"] += process.exitcode == -signal.SIGKILL
                count["killed in a shard"] += bool(list(root.glob("shards/*.part")))
                server.faults.pop()
            finished = _whole(root)
            server.requests.clear()
            for attempt in (0, 1):
                try:
                    if streamed:
                        data = TEMImageNet(address, None, labels=_LABELS[kind], streaming=True)
                    else:
                        data = _download(address, root, _LABELS[kind])
                    count["wrong"] += _digests(data, _LABELS[kind], draw) != truth[kind]
                    count["streamed" if streamed else "downloaded"] += 1
                    break
                except (HubError, ShardError) as error:
                    count["refused"] += 1
                    stems = {Path(fault.path.rstrip("$")).stem for fault in server.faults}
                    if attempt == 1 or not any(stem in str(error) for stem in stems):
                        count["unclear"] += 1
                        print(f"unclear: {error}")
                    server.faults = []
            again = {Path(path).name for _, path, _ in server.requests} & finished
            count["fetched again"] += len(again)
    finally:
        remote.FIRST_PAUSE_S = pause
        server.shutdown()
        server.server_close()
    return count
