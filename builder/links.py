"""Whether every link of a built site leads somewhere: pages, anchors, pictures, styles, scripts and their imports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from temimagenet.errors import PortalError

__all__ = ["BrokenLink", "broken_links", "check_links"]

_HOLDING = ("href", "src", "poster", "data", "action", "formaction")
_IMPORT = re.compile(
    r"""(?:\bfrom|\bimport)\s*\(?\s*["'](\.[^"']+)["']|\bnew URL\(\s*["']([^"':]+)["']\s*,\s*import\.meta"""
)
_URL = re.compile(r"""url\(\s*["']?([^"')]+)["']?\s*\)|@import\s+["']([^"']+)["']""")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_SHOWN = 20
_NOT_OURS = "vendor"
"""Code of others: its modules are checked by hash, and its texts hold imports for other systems."""


@dataclass(frozen=True)
class BrokenLink:
    """A link that leads nowhere.

    Attributes:
        page: file of the site that has it.
        link: as it is written there.
        why: what is wrong with it.
    """

    page: str
    link: str
    why: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.page}: {self.link!r} {self.why}"


def check_links(site: Path, outside: Iterable[str] = ()) -> int:
    """Follow every link inside a site.

    Args:
        site: the site's folder.
        outside: names in it whose files are not looked into, as the library's.

    Returns:
        How many links were followed.

    Raises:
        PortalError: links lead nowhere; the message names pages and links.
    """
    found = list(broken_links(site, outside))
    broken = [link for link in found if link is not None]
    if broken:
        more = f"\nand {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        lines = "\n".join(map(str, broken[:_SHOWN]))
        raise PortalError(f"{len(broken)} links of the site lead nowhere:\n{lines}{more}")
    return len(found)


def broken_links(site: Path, outside: Iterable[str] = ()) -> Iterator[BrokenLink | None]:
    """For each link inside a site, what is wrong with it, or None."""
    root = site.resolve()
    skipped = {root / name for name in outside} | {root / _NOT_OURS}
    page_of = cache(_Page.read)
    for path in sorted(root.rglob("*")):
        if skipped & set(path.parents) or path.suffix not in (".html", ".css", ".js", ".svg") or not path.is_file():
            continue
        seen = set()
        for link in _links(path, page_of):
            if link not in seen:
                seen.add(link)
                why = _wrong(root, path, link, page_of)
                yield BrokenLink(path.relative_to(root).as_posix(), link, why) if why else None


class _Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> _Page:
        """Parse a file."""
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Gather an element's addresses and its name."""
        facts = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := facts.get(key))}
        self.links += [value for key in _HOLDING if (value := facts.get(key)) is not None]
        for choice in (facts.get("srcset") or "").split(","):
            self.links += choice.split()[:1]
        self.links += [groups[0] or groups[1] for groups in _URL.findall(facts.get("style") or "")]


def _links(path: Path, page_of: Callable[[Path], _Page]) -> Iterator[str]:
    """Addresses in a page, a style sheet or a module."""
    if path.suffix == ".html":
        yield from page_of(path).links
        return
    text = path.read_text(encoding="utf-8")
    pattern = _IMPORT if path.suffix == ".js" else _URL
    for groups in pattern.findall(text if path.suffix == ".js" else _COMMENT.sub("", text)):
        yield groups[0] or groups[1]


def _wrong(root: Path, path: Path, link: str, page_of: Callable[[Path], _Page]) -> str:
    """Why a link leads nowhere; empty if it leads somewhere or out of the site."""
    try:
        parts = urlsplit(link)
    except ValueError as error:
        return f"is no address ({error})"
    if parts.scheme or parts.netloc:
        return ""
    if parts.path.startswith("/"):
        return "starts at the server's root: the site would work there alone"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(root):
        return "leads out of the site"
    if target.is_dir():
        # A script names a folder to find files in it; a page's link to one shows its index.
        if path.suffix == ".js":
            return ""
        target /= "index.html"
    if not target.is_file():
        return "is not there"
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html" and anchor not in page_of(target).anchors:
        return f"names no place in {target.relative_to(root).as_posix()}"
    return ""
