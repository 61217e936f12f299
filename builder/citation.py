"""CITATION.cff as pages and metadata need it: authors, the paper and its BibTeX, the version and its date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from temimagenet.errors import PortalError

__all__ = ["CITATION_FILE", "Citation", "read_citation"]

CITATION_FILE = "CITATION.cff"


@dataclass(frozen=True)
class Citation:
    """Who made this, and what to cite.

    Attributes:
        makers: names of the software's authors.
        authors: the paper's, as (given names, family names).
        title: of the paper.
        journal: where it appeared.
        volume: of the journal.
        start: first page, or the article's number.
        year: of publication.
        doi: of the paper.
        version: of the software.
        released: date of that version.
    """

    makers: tuple[str, ...]
    authors: tuple[tuple[str, str], ...]
    title: str
    journal: str
    volume: str
    start: str
    year: int
    doi: str
    version: str
    released: date

    @property
    def bibtex(self) -> str:
        """The paper as an entry of BibTeX."""
        names = " and ".join(f"{family}, {given}" for given, family in self.authors)
        key = f"{self.authors[0][1].lower()}{self.year}temimagenet"
        facts = {
            "author": names,
            "title": f"{{{self.title}}}",
            "journal": self.journal,
            "volume": self.volume,
            "pages": self.start,
            "year": str(self.year),
            "doi": self.doi,
        }
        return "\n".join([f"@article{{{key},", *(f"  {name} = {{{value}}}," for name, value in facts.items()), "}"])


def read_citation(path: Path) -> Citation:
    """The facts of a `CITATION.cff`.

    Raises:
        PortalError: the file is missing or lacks what is cited.
    """
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        paper = data["preferred-citation"]
        return Citation(
            makers=tuple(_maker(author) for author in data["authors"]),
            authors=tuple((author["given-names"], author["family-names"]) for author in paper["authors"]),
            title=paper["title"],
            journal=paper["journal"],
            volume=str(paper["volume"]),
            start=str(paper["start"]),
            year=int(paper["year"]),
            doi=paper["doi"],
            version=str(data["version"]),
            # YAML makes a date of it, unless it is quoted.
            released=date.fromisoformat(str(data["date-released"])),
        )
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise PortalError(f"{path}: no citation can be read from it ({error!r}); expected CITATION.cff 1.2") from error


def _maker(author: dict[str, str]) -> str:
    """A person's or an organisation's name."""
    return author.get("name") or f"{author['given-names']} {author['family-names']}"
