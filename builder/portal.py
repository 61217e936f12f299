"""Draws the website of a library: static pages, packed thumbnails, a copy of the data, and the documentation."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markdown
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from builder.browse_index import INDEX, index_bytes
from builder.citation import CITATION_FILE, read_citation
from builder.describe import API, CROISSANT, SCHEMAS, Addresses, api_index, croissant, json_ld
from builder.documentation import FOLDER as DOCS
from builder.documentation import write_docs
from builder.fields import FIELDS
from builder.leaderboard import leaderboard_facts
from builder.ledger import Ledger, PartReport
from builder.links import check_links
from builder.samples import write_samples
from builder.sitemap import sitemaps
from builder.statistics import SPLITS, library_plots
from builder.thumbnails import write_mosaic, write_thumbnails
from builder.try_it import write_model
from builder.validation.page import validation_facts
from temimagenet.errors import PrecisionError
from temimagenet.storage import read_catalogue
from temimagenet.storage.library import MANIFEST, read_manifest
from temimagenet.storage.shard import CITATION, sha256_of

__all__ = ["PortalReport", "build_leaderboard", "build_portal"]

CHECKOUT = Path(__file__).resolve().parent.parent
DATA = "data"
_LOCAL = "http://127.0.0.1:8000/"
_NOT_FOUND = "404.html"


@dataclass(frozen=True)
class PortalReport:
    """What a build made.

    Attributes:
        samples: samples in the library.
        files: files of the site, the library's own left out.
        bytes: their size.
        seconds: time taken.
        parts: files, bytes, and what was made and reused of each part of the site; `library` is the library's own.
        links: links between its files that were followed.
    """

    samples: int
    files: int
    bytes: int
    seconds: float
    parts: dict[str, PartReport]
    links: int


def build_portal(
    library: Path,
    out: Path,
    *,
    data_url: str | None = None,
    site_url: str | None = None,
    docs: bool = True,
    records: Path | None = None,
    on_left_out: Callable[[str], object] | None = None,
    validation: Path | None = None,
    webgpu: Path | None = None,
) -> PortalReport:
    """Build the site, or what of it an earlier build into the same folder did not make already.

    Args:
        library: a finished library.
        out: folder of the site; pages there are replaced.
        data_url: address under which the library is served; without it the library is linked or copied into the site.
        site_url: address under which the site is served. Pages work under any; it is told to search engines and in
            metadata. Without it, metadata names files relative to the site, and the sitemap the address that
            `builder serve` serves at.
        docs: build the documentation with mkdocs into `docs/`.
        records: folder of the precision benchmark's records, for the leaderboard.
        on_left_out: called with each record that the leaderboard leaves out, and why.
        validation: folder of the networks' validation, for its page.
        webgpu: folder `dist` of npm's onnxruntime-web; the page that runs the network then offers graphics cards.

    Raises:
        ShardError: the library is not finished or damaged.
        PrecisionError: there is no such folder of a validation.
        PortalError: the documentation does not build, a link of the site leads nowhere, or `webgpu` lacks a file.
    """
    start = time.perf_counter()
    manifest = read_manifest(library)
    catalogue = read_catalogue(library)
    out.mkdir(parents=True, exist_ok=True)
    site = "" if site_url is None else site_url.rstrip("/") + "/"
    addresses = Addresses(site, "data/" if data_url is None else data_url.rstrip("/") + "/")
    with Ledger(out) as ledger:
        _assets(ledger, out)
        thumbnails = write_thumbnails(ledger, library, manifest, catalogue, out)
        ledger.write("index", INDEX, index_bytes(catalogue, thumbnails, manifest["name"]))
        write_model(ledger, library, catalogue, out, webgpu)
        labels = write_samples(ledger, library, manifest, catalogue, out)
        if data_url is None:
            _link_library(ledger, library, manifest, out / DATA)
        if docs:
            write_docs(ledger, CHECKOUT, out)
        leaderboard = leaderboard_facts(records)
        results = leaderboard | {"validation": validation_facts(validation, ledger), "validated": True}
        mosaic = write_mosaic(ledger, catalogue, thumbnails, out)
        results |= {"mosaic": mosaic, "labels": labels, "webgpu": webgpu is not None}
        pages = _pages(ledger, manifest, catalogue, addresses, docs, results)
        _metadata(ledger, manifest, catalogue, addresses, [*pages, *_doc_pages(out, docs)])
        parts = ledger.report()
    _tell(leaderboard["left_out"], on_left_out)
    links = check_links(out, outside=[DATA])
    own = [part for name, part in parts.items() if name != "library"]
    return PortalReport(
        len(catalogue),
        sum(part.files for part in own),
        sum(part.bytes for part in own),
        time.perf_counter() - start,
        parts,
        links,
    )


def _tell(left_out: list[str], on_left_out: Callable[[str], object] | None) -> None:
    """Hand on what the leaderboard left out."""
    if on_left_out is not None:
        for text in left_out:
            on_left_out(text)


def build_leaderboard(
    records: Path | None, out: Path, *, check: bool = False, on_left_out: Callable[[str], object] | None = None
) -> Path:
    """Draw the leaderboard alone, into a site that stands already or into a new folder.

    Args:
        records: folder of records.
        out: folder of the site; other pages there are left as they are.
        check: leave out records whose scores do not follow from their positions.
        on_left_out: called with each record that is left out, and why.

    Returns:
        The page.

    Raises:
        PrecisionError: there is no such folder.
    """
    if records is not None and not records.is_dir():
        raise PrecisionError(f"no folder {records}: expected records written by the precision benchmark")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("assets", "vendor"):
        shutil.copytree(CHECKOUT / "site" / name, out / name, dirs_exist_ok=True)
    facts = leaderboard_facts(records, check=check) | {
        "library": (out / "index.html").is_file(),
        "validated": (out / "validation.html").is_file(),
        "docs": (out / "docs" / "index.html").is_file(),
        "manifest": None,
        "site_url": "",
        "data_url": "data/",
        "citation": CITATION,
    }
    page = out / "leaderboard.html"
    text = _environment().get_template("leaderboard.html.j2").render(page=page.name, **facts)
    page.write_text(text, encoding="utf-8")
    _tell(facts["left_out"], on_left_out)
    return page


def _assets(ledger: Ledger, out: Path) -> None:
    """Style, scripts, schemas, vendored code and the citation, as they are in the checkout."""
    for name in ("assets", "vendor", SCHEMAS):
        for path in sorted((CHECKOUT / "site" / name).rglob("*")):
            if path.is_file():
                ledger.write(name, path.relative_to(CHECKOUT / "site").as_posix(), path.read_bytes())
    ledger.write("metadata", CITATION_FILE, (CHECKOUT / CITATION_FILE).read_bytes())


def _link_library(ledger: Ledger, library: Path, manifest: dict[str, Any], out: Path) -> None:
    """The library's files inside the site, by hard link where the file system has them."""
    digests = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    for name, digest in {**digests, MANIFEST: sha256_of(library / MANIFEST)}.items():

        def make(name: str = name) -> tuple[Sequence[Path], None]:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(library / name, target)
            except OSError:
                shutil.copy2(library / name, target)
            return [target], None

        ledger.piece("library", name, digest, make)


def _environment() -> Environment:
    """The templates."""
    return Environment(
        loader=FileSystemLoader(CHECKOUT / "site" / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def _pages(
    ledger: Ledger,
    manifest: dict[str, Any],
    catalogue: pd.DataFrame,
    addresses: Addresses,
    docs: bool,
    more: dict[str, Any],
) -> list[str]:
    """Render every page from its template and tell their names; `more` are facts of some of them.

    Servers show the page of what is not found at any address, so it is drawn only where the site's own is known.
    """
    environment = _environment()
    entries = [
        {
            "name": name,
            "morphology": group["morphology"].iloc[0],
            **{split: int((group["split"] == split).sum()) for split in SPLITS},
        }
        for name, group in catalogue.groupby("entry", sort=False)
    ]
    citation = read_citation(CHECKOUT / CITATION_FILE)
    facts = more | {
        "library": True,
        "citation": manifest["citation"],
        "bibtex": citation.bibtex,
        "manifest": manifest,
        "entries": entries,
        "conditions": catalogue["condition"].nunique(),
        "library_bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "data_url": addresses.data,
        "site_url": addresses.site,
        "docs": docs,
        "json_ld": json_ld(manifest, catalogue, citation, addresses, more["labels"]),
        "sections": library_plots(catalogue),
        "splits": SPLITS,
        "changelog": _changelog(),
        "meanings": FIELDS,
    }
    pages = []
    for template in sorted((CHECKOUT / "site" / "templates").glob("*.html.j2")):
        page = template.name.removesuffix(".j2")
        if page == "base.html" or (page == _NOT_FOUND and not addresses.site):
            continue
        ledger.write("pages", page, environment.get_template(template.name).render(page=page, **facts))
        if page != _NOT_FOUND:
            pages.append(page)
    return pages


def _doc_pages(out: Path, docs: bool) -> list[str]:
    """Paths of the documentation's pages."""
    return sorted(path.relative_to(out).as_posix() for path in (out / DOCS).rglob("*.html")) if docs else []


def _metadata(
    ledger: Ledger, manifest: dict[str, Any], catalogue: pd.DataFrame, addresses: Addresses, pages: list[str]
) -> None:
    """What machines read: checksums, Croissant, the index of the data, the sitemap."""
    sums = "".join(f"{file['sha256']}  {name}\n" for name, file in manifest["files"].items())
    citation = read_citation(CHECKOUT / CITATION_FILE)
    files = {
        "SHA256SUMS": sums,
        CROISSANT: json.dumps(croissant(manifest, catalogue, citation, addresses), ensure_ascii=False, indent=1),
        API: json.dumps(api_index(manifest, catalogue, addresses), ensure_ascii=False, indent=1),
        **sitemaps(addresses.site or _LOCAL, pages, catalogue),
    }
    for name, text in files.items():
        ledger.write("metadata", name, text)


def _changelog() -> list[dict[str, str]]:
    """The versions with what changed in each, as HTML."""
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return [{"title": title.strip(), "html": str(markdown.markdown(body))} for title, _, body in versions]
