"""Options of the precision benchmark."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--localizer`, `--faster-rcnn`, `--precision-images`, `--precision-cases`, `--leaderboard`."""
    group = parser.getgroup("precision benchmark")
    group.addoption(
        "--localizer", action="append", default=[], metavar="PACKAGE:OBJECT",
        help="run this localizer too, such as my_package.module:Method; may be given again",
    )  # fmt: skip
    group.addoption(
        "--faster-rcnn", default="", metavar="FILE", help="run a Faster R-CNN of these weights too (torchvision)"
    )
    group.addoption(
        "--precision-images", type=int, default=int(os.environ.get("TEMIMAGENET_PRECISION_IMAGES", "2")), metavar="N",
        help="images of each case, 30 for a full run (or TEMIMAGENET_PRECISION_IMAGES)",
    )  # fmt: skip
    group.addoption("--precision-cases", default="", metavar="A,B", help="only these cases")
    group.addoption(
        "--leaderboard", type=Path, default=Path("build/leaderboard"), metavar="FOLDER", help="where records go"
    )
