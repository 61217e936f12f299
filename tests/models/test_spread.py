"""Two processes train together on one library: every sample once in an epoch, on one rank and in one worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

PLAIN = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from temimagenet import TEMImageNet, collate

rank, root, out = int(os.environ["RANK"]), sys.argv[1], sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
data = TEMImageNet(root, split=None, labels=["gaussianMask"], where="image_size == 64")
sampler = DistributedSampler(data, shuffle=True, seed=3)
loader = DataLoader(data, batch_size=4, sampler=sampler, num_workers=2, collate_fn=collate)
model = DistributedDataParallel(torch.nn.Conv2d(1, 1, 3, padding=1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
with open(f"{out}.{rank}", "w") as file:
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in loader:
            loss = (model(batch.image) - batch.labels["gaussianMask"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for identity in batch.ids:
                print(epoch, rank, identity, file=file)
    print("weights", rank, float(sum(p.double().sum() for p in model.parameters())), file=file)
dist.destroy_process_group()
"""

OURS = """
import os, sys
import torch
from temimagenet.models import train as module

root, out = sys.argv[1], sys.argv[2]
torch.set_num_threads(1)
inner = module.from_library


def told(data, seed=0):
    source = inner(data, seed)

    def seen(number):
        sample = source(number)
        if data.split == "train":
            rank = os.environ.get("LOCAL_RANK", "0")
            with open(f"{out}.{rank}", "a") as file:
                print(number // len(data), rank, sample.id, file=file)
        return sample

    return seen


module.from_library = told
settings = module.settings_for(
    "paper", "gaussianMask", library=root, crop=32, batch=2, epochs=2, width=2, depth=1, workers=2, round_steps=50
)
module.train(settings, out + "-run", device="cpu", devices=2, progress=False)
"""


def seen(out: Path) -> list[list[str]]:
    """Lines of both ranks."""
    return [line.split() for rank in (0, 1) for line in Path(f"{out}.{rank}").read_text().splitlines()]


def test_ranks_and_workers_share_every_sample_of_an_epoch(library, tmp_path):
    out = tmp_path / "seen"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PLAIN, str(library), str(out)], env={**common, "RANK": str(rank)}, cwd=CHECKOUT
        )
        for rank in (0, 1)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    lines = seen(out)
    weights = {line[2] for line in lines if line[0] == "weights"}
    assert len(weights) == 1
    for epoch in ("0", "1"):
        ids = Counter(line[2] for line in lines if line[0] == epoch)
        assert len(ids) == 24
        assert set(ids.values()) == {1}
        assert Counter(line[1] for line in lines if line[0] == epoch) == {"0": 12, "1": 12}
    orders = [[line[2] for line in lines if line[0] == epoch] for epoch in ("0", "1")]
    assert orders[0] != orders[1]


@pytest.mark.slow
def test_training_on_two_devices_passes_over_the_library_once_an_epoch(library, tmp_path):
    from temimagenet import TEMImageNet

    count = len(TEMImageNet(library, "train", labels=[]))
    out = tmp_path / "seen"
    # Lightning starts the second process with the command of the first: a file, not text.
    script = tmp_path / "ours.py"
    script.write_text(OURS)
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), str(library), str(out)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=900)
    lines = seen(out)
    per_epoch = [Counter(line[2] for line in lines if line[0] == epoch) for epoch in ("0", "1")]
    # The last step of all is filled up: what is beyond two passes begins a third.
    steps = 2 * -(-count // 4)
    assert len(lines) == 4 * steps
    assert per_epoch[0] == Counter(dict.fromkeys(per_epoch[0], 1))
    assert len(per_epoch[0]) == len(per_epoch[1]) == count
    assert {line[1] for line in lines} == {"0", "1"}
