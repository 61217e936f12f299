"""What a validation report is made of: parts with claims, tables and pictures, kept as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Claim", "Part", "Picture", "Spread", "Table", "read_part", "spread", "write_part"]


@dataclass(frozen=True)
class Claim:
    """A number asked of the networks, and what was reached.

    Attributes:
        what: what was measured.
        reached: its value; nan where nothing could be measured, which does not count as met.
        least: smallest value asked, or None.
        most: largest value asked, or None; `least` and `most` both None: told without being asked.
        unit: unit of all three, or "".
        over: what it was measured over, such as "1,204 columns in 50 images".
    """

    what: str
    reached: float
    least: float | None = None
    most: float | None = None
    unit: str = ""
    over: str = ""

    @property
    def met(self) -> bool:
        """Whether the value lies where it was asked to."""
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        return low <= self.reached <= high

    @property
    def asked(self) -> str:
        """The limits in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.least is not None and self.most is not None:
            return f"{self.least:.4g} to {self.most:.4g}{unit}"
        if self.least is not None:
            return f"at least {self.least:.4g}{unit}"
        return "–" if self.most is None else f"at most {self.most:.4g}{unit}"

    @property
    def told(self) -> str:
        """The value as text.

        Counts, which are held against whole numbers, have no decimals; others three, and more where rounding would
        tell another verdict.
        """
        if math.isnan(self.reached):
            return "–"
        limits = [limit for limit in (self.least, self.most) if limit is not None]
        if limits and all(value.is_integer() for value in (*limits, self.reached)):
            return f"{self.reached:,.0f}"
        texts = (f"{self.reached:.{digits}f}" for digits in range(3, 9))
        return next((text for text in texts if replace(self, reached=float(text)).met == self.met), str(self.reached))


@dataclass(frozen=True)
class Table:
    """Numbers behind the claims.

    Attributes:
        caption: what it shows, units included where the head has none.
        head: names of the columns.
        rows: a row's cells: words or numbers; nan where there is none.
        digits: decimals of each column's numbers.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    digits: tuple[int, ...]


@dataclass(frozen=True)
class Picture:
    """A picture in the folder `pictures`.

    Attributes:
        file: its name.
        title: the group that it is shown with.
        caption: what it is, in a few words.
        alt: what is to be seen, for those who do not see it.
        width: width in pixels.
        height: height in pixels.
    """

    file: str
    title: str
    caption: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Part:
    """One part of the report.

    Attributes:
        name: short name, and that of its file.
        title: for people.
        how: how it was measured, in sentences.
        claims: numbers asked and reached.
        tables: numbers behind them.
        pictures: pictures.
        origin: weights, number of images and version that it was measured with.
    """

    name: str
    title: str
    how: str
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation over images, and their number."""

    mean: float
    deviation: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of values; nan where there are too few."""
    count = len(values)
    mean = math.fsum(values) / count if count else math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1) if count > 1 else math.nan
    return Spread(mean, math.sqrt(variance), count)


def write_part(part: Part, folder: Path) -> Path:
    """Write a part into a folder as JSON; whole or not at all."""
    path = folder / f"{part.name}.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(_plain(asdict(part)), indent=1, allow_nan=False), encoding="utf-8")
    unfinished.replace(path)
    return path


def _plain(value: Any) -> Any:
    """Numbers that JSON does not know as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _told(value: Any) -> Any:
    """A measured value, nan where there is null."""
    return math.nan if value is None else value


def read_part(path: Path) -> Part | None:
    """The part that `write_part` wrote; None if there is none or it is of another form."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tables = [
            Table(
                t["caption"], tuple(t["head"]), tuple(tuple(map(_told, row)) for row in t["rows"]), tuple(t["digits"])
            )
            for t in data.pop("tables")
        ]
        claims = tuple(Claim(**claim | {"reached": _told(claim["reached"])}) for claim in data.pop("claims"))
        pictures = tuple(Picture(**picture) for picture in data.pop("pictures"))
        return Part(claims=claims, tables=tuple(tables), pictures=pictures, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
