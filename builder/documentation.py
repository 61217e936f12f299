"""The documentation of the site, by mkdocs, built anew when its sources, the package or mkdocs change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.ledger import Ledger, digest_of_files
from builder.notebooks import stage_docs
from temimagenet.errors import PortalError

__all__ = ["FOLDER", "write_docs"]

FOLDER = "docs"

_MADE_BY = ("mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python", "pymdown-extensions")
_LEFT_OUT = ("404.html", "sitemap.xml", "sitemap.xml.gz")
"""Written by mkdocs for a site at a server's root whose address it knows; the portal has a sitemap of its own."""


def write_docs(ledger: Ledger, checkout: Path, out: Path) -> None:
    """Build the documentation into `docs/` of the site.

    Args:
        ledger: knows whether it is there already.
        checkout: folder of the sources.
        out: the site's folder.

    Raises:
        PortalError: mkdocs failed; the message ends with its output.
    """
    sources = [
        checkout / "mkdocs.yml",
        checkout / "site" / "docs",
        checkout / "site" / "theme",
        checkout / "builder" / "notebooks.py",
    ]
    made_of = [digest_of_files([*sources, checkout / "temimagenet"]), {name: version(name) for name in _MADE_BY}]
    ledger.piece("docs", "mkdocs", made_of, lambda: (_build(checkout, out / FOLDER), None))


def _build(checkout: Path, folder: Path) -> Sequence[Path]:
    """Run mkdocs."""
    with TemporaryDirectory() as name:
        # Notebooks become pages in a copy: a build writes nothing among the sources.
        staged = stage_docs(checkout / "site" / "docs", Path(name) / "docs")
        config = Path(name) / "mkdocs.yml"
        theme = f"theme:\n  custom_dir: {checkout / 'site' / 'theme'}\n"
        config.write_text(f"INHERIT: {checkout / 'mkdocs.yml'}\ndocs_dir: {staged}\n{theme}", encoding="utf-8")
        _mkdocs(checkout, config, folder)
    for name in _LEFT_OUT:
        (folder / name).unlink(missing_ok=True)
    return [path for path in folder.rglob("*") if path.is_file()]


def _mkdocs(checkout: Path, config: Path, folder: Path) -> None:
    """Run mkdocs with a configuration."""
    command = [
        sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir",
        str(folder.resolve()),
    ]  # fmt: skip
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise PortalError(f"the documentation does not build:\n{done.stdout}{done.stderr}")
