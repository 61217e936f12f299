"""`Settings`: what a user chooses before a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from temimagenet.errors import AppError
from temimagenet.micrographs.methods import METHODS

__all__ = ["DISCONNECT", "MAP_METHOD", "MOST_CLASSES", "MOST_ITERATIONS", "SCALES", "Disconnect", "Settings"]

Disconnect = Literal["none", "opening", "erosion"]
DISCONNECT: tuple[Disconnect, ...] = get_args(Disconnect)

MAP_METHOD = "map"
"""The method of AtomSegNet: a map is opened or eroded, parted by a threshold, and its regions have centres."""

SCALES: Mapping[str, float | None] = {
    "automatic": None, "x1/4": 1 / 4, "x1/3": 1 / 3, "x1/2": 1 / 2, "x1": 1.0, "x2": 2.0, "x3": 3.0, "x4": 4.0,
}  # fmt: skip
"""Scales by what they are called; automatic follows from the pixel size."""

MOST_ITERATIONS = 5
MOST_CLASSES = 20
_MOST_LEVEL_PX = 20


@dataclass(frozen=True)
class Settings:
    """What a run does.

    Attributes:
        model: a shipped model, or a file that training wrote.
        maps: labels that the network draws, in order.
        device: where it works.
        scale: one of `SCALES`: pixels that it sees along one of the image.
        tile_px: rows and columns of the tiles that large images are worked on in.
        iterations: how often a map is drawn; from the second time on, of itself.
        method: finds the columns: one of `micrographs.methods.METHODS`, or `MAP_METHOD`.
        map: the label that `MAP_METHOD` reads.
        disconnect: what is done with that map first.
        level_px: radius in pixels of the disc that it is opened or eroded by.
        threshold: where its regions begin between the least (0) and the greatest value (1); Otsu's where None.
        classes: number of classes of intensity; told by the data where None.
        reference_px: left, top, right and bottom in pixels of the region that strain is measured against; the whole
            image where None.

    Raises:
        AppError: a value that cannot be.
    """

    model: str = "all"
    maps: tuple[str, ...] = ("noNoise", "noNoiseNoBackgroundSuperresolution")
    device: str = "cpu"
    scale: str = "automatic"
    tile_px: int = 1024
    iterations: int = 1
    method: str = "auto"
    map: str = "gaussianMask"
    disconnect: Disconnect = "none"
    level_px: int = 0
    threshold: float | None = None
    classes: int | None = None
    reference_px: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        if self.scale not in SCALES:
            raise AppError(f"scale {self.scale!r}: expected one of {', '.join(SCALES)}")
        if self.method not in (*METHODS, MAP_METHOD):
            raise AppError(f"method {self.method!r}: expected one of {', '.join((*METHODS, MAP_METHOD))}")
        if self.disconnect not in DISCONNECT:
            raise AppError(f"disconnect {self.disconnect!r}: expected one of {', '.join(DISCONNECT)}")
        for name, value, least, most in (
            ("iterations", self.iterations, 1, MOST_ITERATIONS),
            ("level", self.level_px, 0, _MOST_LEVEL_PX),
            ("tiles", self.tile_px, 256, 16384),
            ("classes", 1 if self.classes is None else self.classes, 1, MOST_CLASSES),
        ):
            if not least <= value <= most:
                raise AppError(f"{name} {value}: expected {least} to {most}")
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise AppError(f"threshold {self.threshold}: expected between 0 and 1, or None for Otsu's")
        if self.reference_px is not None:
            left, top, right, bottom = self.reference_px
            if not (left < right and top < bottom):
                raise AppError(f"reference {self.reference_px}: expected left, top, right, bottom in pixels")

    def to_dict(self) -> dict[str, Any]:
        """The values by name, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(told: Mapping[str, Any]) -> Settings:
        """Settings from `to_dict`, through JSON or not.

        Raises:
            AppError: unknown names or values that cannot be.
        """
        unknown = set(told) - {field.name for field in fields(Settings)}
        if unknown:
            raise AppError(f"settings {', '.join(sorted(unknown))}: of another version of TEMImageNet")
        try:
            edges = told.get("reference_px")
            return Settings(
                **{**told, "maps": tuple(told.get("maps", Settings.maps)), "reference_px": edges and tuple(edges)}
            )
        except (TypeError, ValueError) as error:
            raise AppError(f"settings that cannot be: {error}") from error
