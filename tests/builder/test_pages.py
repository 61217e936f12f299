"""Every page: valid, accessible in light and dark, wide and narrow, and readable without JavaScript."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

VOID = {"meta", "link", "img", "input", "br", "hr", "source", "wbr"}
PAGES = (
    "index",
    "browse",
    "browse.html?view=table",
    "browse.html?q=nothing",
    "statistics",
    "sample.html?id=tiny-000003",
    "collection",
    "collection.html?q=pt",
    "downloads",
    "leaderboard",
    "validation",
    "try",
)


class Structure(HTMLParser):
    """Faults of a page: tags that do not nest, ids that meet, labels and references that lead nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.wanted: list[str] = []
        self.headings: list[int] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if len(facts) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if facts.get("id"):
            self.ids.append(str(facts["id"]))
        for key in ("for", "aria-labelledby", "aria-describedby", "popovertarget"):
            self.wanted += (facts.get(key) or "").split()
        if tag == "img" and "alt" not in facts:
            self.faults.append("an image has no alternative text")
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def told(self) -> list[str]:
        twice = {name for name in self.ids if self.ids.count(name) > 1}
        lost = set(self.wanted) - set(self.ids)
        skips = [b for a, b in zip(self.headings, self.headings[1:], strict=False) if b > a + 1]
        return [
            *self.faults,
            *(f"id {name} twice" for name in twice),
            *(f"nothing has id {name}" for name in lost),
            *(f"a heading of level {level} follows one two levels up" for level in skips),
            *([] if self.headings.count(1) == 1 else ["not one heading of level 1"]),
            *(f"<{tag}> is left open" for tag in self.open if tag not in ("html", "body", "p", "li")),
        ]


def test_pages_are_well_formed(site):
    for path in site.glob("*.html"):
        structure = Structure()
        structure.feed(path.read_text(encoding="utf-8"))
        assert structure.told() == [], path.name


def address_of(name):
    return name if ".html" in name else f"{name}.html"


CONTRAST = {"runOnly": ["color-contrast"]}


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_accessible_and_fit(visit, server, name):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(server, color_scheme="light", viewport={"width": 1400, "height": 800})
    page.goto(server + address_of(name))
    if name.startswith("browse"):
        page.wait_for_function("performance.getEntriesByName('interactive').length")
    if name.startswith(("sample", "collection")):
        page.wait_for_function("performance.getEntriesByName('panes').length")

    def check(what: str, **options: object) -> None:
        found = Axe().run(page, **options).response["violations"]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found] == [], what
        fits(what)

    def fits(what: str) -> None:
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{what}: {over} px too wide"

    check("wide")
    page.emulate_media(color_scheme="dark")
    check("dark", options=CONTRAST)
    page.set_viewport_size({"width": 390, "height": 800})
    check("narrow", options={"rules": {"color-contrast": {"enabled": False}}})
    page.set_viewport_size({"width": 320, "height": 800})
    fits("narrowest")


@pytest.mark.browser
def test_the_menu_opens_on_a_narrow_screen_and_colours_are_chosen(visit, server):
    page = visit(server, viewport={"width": 390, "height": 800}, color_scheme="light")
    page.goto(f"{server}index.html")
    assert not page.get_by_role("link", name="Statistics").is_visible()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Statistics").click()
    page.wait_for_url("**/statistics.html")
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.get_by_role("button", name="Colours: system").click()
    page.get_by_role("button", name="Colours: light").click()
    assert page.evaluate(back) != light
    page.goto(f"{server}browse.html")
    assert page.evaluate("document.documentElement.dataset.look") == "dark"
