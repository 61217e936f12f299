"""Fixtures: the portal of the small library, served, and a real Chromium to visit it with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.portal import build_portal
from builder.serve import served

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a browser need Chromium."""
    if CHROMIUM is None:
        for item in items:
            if "browser" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))


@pytest.fixture(scope="session")
def serving():
    """What serves a folder."""
    return served


@pytest.fixture(scope="session")
def site(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole portal of the small library. Do not change it: copy it for that."""
    out = tmp_path_factory.mktemp("portal") / "site"
    build_portal(library, out, docs=True)
    return out


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """Address of the portal."""
    with served(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Makes pages that fail the test if they ask anything of an origin not given, or report an error."""
    contexts, trouble = [], []

    def page(address, *more, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        made = context.new_page()
        own = (address, *more, "data:", "blob:")
        made.on("request", lambda r: None if r.url.startswith(own) else trouble.append(r.url))
        made.on("pageerror", lambda error: trouble.append(str(error)))
        made.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        return made

    yield page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def page(visit, server):
    """A page of the portal."""
    return visit(server)
