"""The builder's own check of links: a broken one fails the build and is named."""

from __future__ import annotations

import shutil

import pytest

from builder import portal
from builder.links import broken_links, check_links
from temimagenet.errors import PortalError

GOOD = {
    "index.html": '<a href="a%20b/c.html#d%C3%A9">x</a><a href="#top" id="top">y</a><a href="https://doi.org/1">z</a>'
    '<img src="p.svg?v=1" srcset="p.svg 1x, p.svg 2x" alt=""><a href="a b/">f</a><a href="mailto:a@b">m</a>'
    '<div style="background: url(p.svg)"></div>',
    "a b/c.html": '<p id="dé"><a href="../index.html?q=1#top">back</a>',
    "a b/index.html": "",
    "p.svg": "<svg/>",
    "style.css": "/* url(gone.png) */ a { background: url('p.svg') }",
    "code.js": "import { a } from './more.js';\nnew Worker(new URL('more.js', import.meta.url));\nimport('./more.js');",
    "more.js": "export const a = 1;",
}


def made(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_links_that_lead_somewhere_pass(tmp_path):
    assert check_links(made(tmp_path, GOOD)) == 11


@pytest.mark.parametrize(
    ("name", "text", "link", "why"),
    [
        ("index.html", '<a href="gone.html">', "gone.html", "is not there"),
        ("index.html", '<a href="p.svg"><img src="gone.png" alt="">', "gone.png", "is not there"),
        ("index.html", '<a href="a b/c.html#e">', "a b/c.html#e", "names no place in a b/c.html"),
        ("index.html", '<a href="#e">', "#e", "names no place in index.html"),
        ("index.html", '<link href="/style.css">', "/style.css", "server's root"),
        ("index.html", '<a href="../x.html">', "../x.html", "leads out of the site"),
        ("index.html", '<a href="http://[">', "http://[", "is no address"),
        ("index.html", '<img alt="" srcset="p.svg 1x, q.svg 2x">', "q.svg", "is not there"),
        ("index.html", '<i style="background:url(q.svg)">', "q.svg", "is not there"),
        ("style.css", "@import 'gone.css';", "gone.css", "is not there"),
        ("code.js", "export * from './gone.js';", "./gone.js", "is not there"),
        ("code.js", "new URL('gone.js', import.meta.url)", "gone.js", "is not there"),
    ],
)
def test_a_broken_link_is_named_with_its_page(tmp_path, name, text, link, why):
    site = made(tmp_path, GOOD | {name: f'<p id="top">{text}' if name == "index.html" else text})
    (broken,) = [found for found in broken_links(site) if found]
    assert (broken.page, broken.link) == (name, link)
    assert why in broken.why
    with pytest.raises(PortalError, match="1 links of the site lead nowhere"):
        check_links(site)


def test_a_broken_link_in_a_template_fails_the_build(library, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    shutil.copytree(portal.CHECKOUT / "site", checkout / "site")
    for name in ("CHANGELOG.md", "CITATION.cff"):
        shutil.copy2(portal.CHECKOUT / name, checkout / name)
    page = checkout / "site/templates/downloads.html.j2"
    page.write_text(page.read_text().replace('href="SHA256SUMS"', 'href="SHA256SUM"'))
    monkeypatch.setattr(portal, "CHECKOUT", checkout)
    with pytest.raises(PortalError, match=r"downloads\.html: 'SHA256SUM' is not there"):
        portal.build_portal(library, tmp_path / "out", docs=False)
