"""The HTML of every page, documentation included, passes the Nu Html Checker (vnu), that of pages at work too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
JAR = CHECKOUT / "build/tools/node_modules/vnu-jar/build/dist/vnu.jar"
VNU = Path(os.environ.get("TEMIMAGENET_VNU", JAR))

THEMES_OWN = ("Attribute “autocomplete” is only allowed when the input type is",)
"""mkdocs-material's template gives its two hidden checkboxes an attribute that checkboxes do not have."""

pytestmark = pytest.mark.skipif(
    not VNU.is_file() or shutil.which("java") is None,
    reason="needs the Nu Html Checker and Java: make build/tools/node_modules/vnu-jar",
)


def faults(*files: Path) -> list[str]:
    command = ["java", "-Xss4m", "-jar", str(VNU), "--format", "json", "--exit-zero-always", *map(str, files)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return [
        f"{Path(m['url']).name}:{m['lastLine']}: {m['message']}"
        for m in json.loads(told.stdout or told.stderr)["messages"]
        if m["type"] != "info" and not m["message"].startswith(THEMES_OWN)
    ]


def test_the_checker_finds_a_fault(tmp_path):
    (tmp_path / "bad.html").write_text("<!doctype html><html lang=en><title>x</title><body><a rel=next>y</a><p></b>")
    assert len(faults(tmp_path / "bad.html")) == 2


def test_every_page_is_valid(site):
    pages = [*site.glob("*.html"), *(site / "docs").rglob("*.html")]
    assert len(pages) > 25
    assert faults(*pages) == []


@pytest.mark.browser
def test_pages_stay_valid_at_work(page, server, tmp_path):
    shots = {
        "browse.html?morphology=layer": "document.querySelector('.tile canvas')",
        "browse.html?view=table": "document.querySelector('.table a')",
        "sample.html?id=tiny-000003": "performance.getEntriesByName('panes').length",
        "collection.html?q=pt": "performance.getEntriesByName('panes').length",
        "try.html": "document.querySelector('#run')",
    }
    files = []
    for address, ready in shots.items():
        page.goto(server + address)
        page.wait_for_function(ready)
        files.append(tmp_path / f"{len(files)}.html")
        files[-1].write_text(f"<!doctype html>{page.evaluate('document.documentElement.outerHTML')}")
    assert faults(*files) == []
