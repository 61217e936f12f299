"""Sitemaps as sitemaps.org describes them: the pages of a site, and an address of every sample."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, urlencode, urljoin
from xml.sax.saxutils import escape

import pandas as pd

__all__ = ["SITEMAP", "sitemaps"]

SITEMAP = "sitemap.xml"

_MOST = 50_000
_XMLNS = "http://www.sitemaps.org/schemas/sitemap/0.9"


def sitemaps(site: str, pages: Iterable[str], catalogue: pd.DataFrame, *, most: int = _MOST) -> dict[str, str]:
    """The files of a sitemap: one, or an index and its parts where there are more addresses than one may hold.

    Args:
        site: address of the site, ending in a slash.
        pages: paths of its pages.
        catalogue: a row a sample and engine.
        most: addresses in a file; the protocol allows 50,000.

    Returns:
        Content by name.
    """
    samples = catalogue[["id", "engine"]].itertuples(index=False)
    addresses = [
        *(urljoin(site, quote(page)) for page in pages),
        *(urljoin(site, f"sample.html?{urlencode({'id': row.id, 'engine': row.engine})}") for row in samples),
    ]
    parts = [addresses[start : start + most] for start in range(0, len(addresses), most)]
    if len(parts) == 1:
        return {SITEMAP: _listed("urlset", "url", addresses)}
    names = [f"sitemap-{number}.xml" for number in range(1, len(parts) + 1)]
    return {
        SITEMAP: _listed("sitemapindex", "sitemap", [urljoin(site, name) for name in names]),
        **{name: _listed("urlset", "url", part) for name, part in zip(names, parts, strict=True)},
    }


def _listed(root: str, entry: str, addresses: Iterable[str]) -> str:
    """Addresses as XML."""
    lines = "".join(f"<{entry}><loc>{escape(address)}</loc></{entry}>\n" for address in addresses)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_XMLNS}">\n{lines}</{root}>\n'
