"""Damaged libraries, killed writers, full disks, bad networks: a fixed part of `campaign.py`; all of it when asked."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from campaign import fill_disks, judged, kill_writers, small_library
from network import fault_networks

CAMPAIGN = Path(__file__).with_name("campaign.py")


def test_damaged_files_are_refused_by_name_or_read_as_written(tmp_path):
    found = judged(small_library(tmp_path), tmp_path / "work", 0, 150, batch=150)
    outcomes = Counter(line["outcome"] for line in found)
    assert set(outcomes) <= {"refused", "equal"}, [
        line for line in found if line["outcome"] not in ("refused", "equal")
    ]
    assert outcomes["refused"] > 100
    # Most of what is refused got past the digests of whole files.
    assert sum(line["sealed"] for line in found if line["outcome"] == "refused") > 50


def test_killed_writers_lose_nothing(tmp_path):
    count = kill_writers(tmp_path, 5)
    assert count["kills"] == 5
    assert not count["corrupt"] + count["lost"] + count["left over"]


def test_full_disks_leave_nothing(tmp_path):
    count = fill_disks(tmp_path, 4)
    assert count["refused"] > 0
    assert not count["corrupt"] + count["left over"] + count["unclear"]


def test_bad_networks_change_nothing(tmp_path):
    count = fault_networks(small_library(tmp_path, 24), tmp_path, 12)
    assert count["downloaded"] + count["streamed"] == 12
    assert count["faults"] > 30
    assert not count["wrong"] + count["fetched again"] + count["unclear"]


@pytest.mark.slow
def test_the_whole_campaign():
    done = subprocess.run([sys.executable, str(CAMPAIGN)], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
