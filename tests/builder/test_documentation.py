"""The documentation in the portal's frame: header, colours, print, search; and accessible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = (
    "index.html", "physics/index.html", "static-api/index.html", "api/imaging/index.html",
    "notebooks/locate/index.html",
)  # fmt: skip
OVER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
TABLES = "[...document.querySelectorAll('.md-typeset__scrollwrap')]"


def header_links(text: str) -> list[tuple[str, str]]:
    nav = re.search(r'<nav id="pages".*?</nav>', text, re.DOTALL).group()
    return [(href.rsplit("../", 1)[-1], label) for href, label in re.findall(r'<a href="([^"]+)"[^>]*>([^<]+)', nav)]


def test_every_page_has_the_header_of_the_portal(site):
    own = header_links((site / "index.html").read_text())
    assert len(own) == 8
    for page in (site / "docs").rglob("*.html"):
        assert header_links(page.read_text()) == own, page


def test_every_public_room_is_in_the_reference(site):
    named = " ".join(path.read_text() for path in (CHECKOUT / "site/docs/api").glob("*.md"))
    rooms = {path.name for path in (CHECKOUT / "temimagenet").iterdir() if (path / "__init__.py").is_file()}
    assert [room for room in rooms - {"data"} if f"temimagenet.{room}" not in named] == []
    assert "Raises" in (site / "docs/api/storage/index.html").read_text()


@pytest.mark.browser
def test_search_finds_within_the_site(page, server):
    page.goto(f"{server}docs/index.html")
    # Keys, not `fill`: the search listens to these alone.
    page.get_by_placeholder("Search").press_sequentially("Cramér bound")
    page.locator(".md-search-result__link").first.wait_for()
    page.get_by_placeholder("Search").fill("")
    page.get_by_placeholder("Search").press_sequentially("Croissant")
    page.locator(".md-search-result__link", has_text="Static API").first.click()
    page.wait_for_url("**/docs/static-api/**")


@pytest.mark.browser
def test_colours_follow_the_choice_made_in_the_portal(visit, server):
    page = visit(server, color_scheme="light")
    back = "getComputedStyle(document.body).backgroundColor"
    page.goto(f"{server}index.html")
    light = page.evaluate(back)
    page.goto(f"{server}docs/physics/index.html")
    assert page.evaluate(back) == light
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.body.dataset.mdColorScheme === 'slate'")
    page.get_by_role("button", name="Colours: system").click()
    page.wait_for_function("document.body.dataset.mdColorScheme === 'default'")
    page.get_by_role("button", name="Colours: light").click()
    page.wait_for_function("document.body.dataset.mdColorScheme === 'slate'")
    dark = page.evaluate(back)
    page.emulate_media(color_scheme="light")
    page.goto(f"{server}index.html")
    assert page.evaluate(back) == dark != light


@pytest.mark.browser
def test_print_shows_the_text_alone_on_white(visit, server):
    page = visit(server, color_scheme="dark")
    page.goto(f"{server}docs/physics/index.html")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for hidden in (".md-header", ".md-sidebar--primary", ".md-footer__inner", "#look"):
        assert page.locator(hidden).first.is_hidden(), hidden
    assert page.locator("article h1").is_visible()
    assert page.evaluate("document.body.dataset.mdColorScheme") == "default"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_the_documentation_is_accessible_and_fits(visit, server, name):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(server, color_scheme="light", viewport={"width": 1400, "height": 800})
    page.goto(f"{server}docs/{name}")
    page.add_style_tag(content="* { transition: none !important; }")
    for look, width in (("light", 1400), ("dark", 1400), ("light", 390)):
        page.emulate_media(color_scheme=look)
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function(f"document.body.dataset.mdColorScheme === '{'slate' if look == 'dark' else 'default'}'")
        # Tables that are too wide for the page scroll, and can be reached by keyboard.
        page.wait_for_function(f"{TABLES}.every((t) => t.scrollWidth > t.clientWidth === t.matches('[tabindex]'))")
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["html"][:160] for n in v["nodes"]][:3]) for v in found] == [], (look, width)
        assert page.evaluate(OVER) <= 0, (look, width)
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate(OVER) <= 0
