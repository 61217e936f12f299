"""The builder's command line, run as a stranger would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from temimagenet.storage import read_catalogue

CHECKOUT = Path(__file__).resolve().parents[2]


def builder(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_plan_tells_samples_bytes_and_time_and_writes_nothing(recipe_path, tmp_path):
    done = builder("plan", recipe_path)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("samples", "24", "MB", "minutes"))
    assert "minutes" in builder("plan", recipe_path, "--bounds").stdout
    again = builder("render", recipe_path, "--out", tmp_path / "lib", "--dry-run")
    assert "24" in again.stdout
    assert not (tmp_path / "lib").exists()


def test_render_then_portal_from_the_command_line(recipe_path, tmp_path):
    # Bounds take a hundred times as long as images: an image of each kind of specimen.
    few = tmp_path / "few.toml"
    few.write_text(recipe_path.read_text(encoding="utf-8").replace("samples = 24", "samples = 6"), encoding="utf-8")
    done = builder("render", few, "--out", tmp_path / "lib", "--bounds", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "6 samples" in done.stdout
    assert read_catalogue(tmp_path / "lib")["crlb_median_pm"].notna().any()
    done = builder("portal", tmp_path / "lib", "--out", tmp_path / "site", "--no-docs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").is_file()


def test_errors_are_one_line_without_a_traceback(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("schema = 1\nname = 3\n")
    for arguments in (("render", bad), ("plan", "no-such-preset"), ("portal", tmp_path), ("serve", tmp_path / "none")):
        done = builder(*arguments)
        assert done.returncode == 1
        assert "error:" in done.stderr
        assert "Traceback" not in done.stderr
