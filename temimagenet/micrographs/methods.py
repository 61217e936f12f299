"""Methods of `temimagenet locate` by name, and what the default one does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.errors import LocalizeError, MicrographError
from temimagenet.localize import (
    FasterRCNN,
    FoundColumns,
    GaussianFit,
    Localizer,
    NetworkColumns,
    NetworkOtsu,
    OtsuCentroid,
    ScanAware,
    fit_scan_aware,
)
from temimagenet.localize.detect import spot_width_px
from temimagenet.localize.network import VERY_SURE, has_columns
from temimagenet.localize.repeats import complete
from temimagenet.micrographs.doubts import clipping_doubts, scale_doubts
from temimagenet.micrographs.read import Micrograph
from temimagenet.models.zoo import load_network

__all__ = ["METHODS", "MOST_JOINT", "Automatic", "Located", "Network", "choose_method", "locate", "uses_network"]

MOST_JOINT = 4000
"""Columns that are fitted together at most; the time and memory of a joint fit grow faster than their number."""

_LEAST_CHANCE = 0.35
"""Chance of columns that the fit begins with: it leaves out those that are none."""

_REPEATED_CHANCE = 0.2
"""The same where a crystal repeats a column, which needs none at all if enough of the others have this one."""

_COMPLETED = 3
"""Times that what the network found is completed as a crystal repeats it."""

_SURE = 0.4
"""Chance of columns that stand for themselves, where a fit follows."""

_SURE_ENOUGH = 12
"""Sure columns from which an image is one of columns, so that others may be, too."""

_STANDS_OUT = 6.0
"""Standard errors of intensity that each column needs where the network is sure of few, and very sure of none, or takes
for columns what is texture."""

_TEXTURE = 1.5
"""Times as many columns as the network is sure of: where a fit finds more in what looks like texture, it is."""

_NEAREST_PX = 3.5
"""Columns that are nearer on the average were never told apart: the pixel size is wrong."""

_KEPT = 0.5
"""Share of the columns that the network is very sure of which a fit must keep, or it went astray."""

_UNFITTED = "Columns are the network's own, not fitted"


@dataclass(frozen=True)
class Automatic:
    """Localizer without a parameter: a network finds columns, their crystal completes them, and all are fitted with the
    rows' displacements.

    The fit begins with a column wherever others repeat one, whatever the network saw there. It leaves out what does not
    stand above the noise, so a vacancy stays one, and finds more in what it leaves over. Of texture, and of an image of
    few columns none of which the network is very sure of, those remain that stand out by themselves. Where
    there are more than 4,000, or no fit is possible, what the network tells is the answer; `explained` says so,
    and calling warns.

    Attributes:
        model: "all", the shipped network, or a file that training wrote.
        device: where the network works.
        scale: as in `NetworkColumns`.
        tile_px: likewise.
    """

    model: str = "all"
    device: str = "cpu"
    scale: float | None = None
    tile_px: int = 1024

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "auto: network, then scan-aware fit"

    def __call__(self, image: Float[NDArray[np.float64], "rows columns"], pixel_size_A: float) -> FoundColumns:
        """Find and fit the columns of one image; warns where they were not fitted.

        Raises:
            LocalizeError: the image cannot be used.
        """
        columns, why = self.explained(image, pixel_size_A)
        if why:
            warnings.warn(why, stacklevel=2)
        return columns

    def explained(
        self, image: Float[NDArray[np.float64], "rows columns"], pixel_size_A: float
    ) -> tuple[FoundColumns, str]:
        """The columns of one image, and why they are the network's own, not fitted; empty where they were.

        Raises:
            LocalizeError: the image cannot be used.
        """
        network = NetworkColumns(self.model, _REPEATED_CHANCE, self.device, self.scale, self.tile_px)
        told, chance = network.with_chances(image, pixel_size_A)
        sure = chance[chance >= _SURE]
        if len(sure) > np.size(image) / _NEAREST_PX**2:
            rows, across = np.shape(image)
            raise LocalizeError(
                f"{len(sure)} columns in {across} x {rows} pixels are more than these can show: is the pixel size "
                f"right, {100.0 * pixel_size_A:.3g} pm?"
            )
        columns, why = self._fitted(image, pixel_size_A, told, chance)
        texture = not has_columns(sure)
        if texture and len(columns) > _TEXTURE * len(sure):
            columns = FoundColumns.none(pixel_size_A)
        elif texture or (len(sure) < _SURE_ENOUGH and (sure < VERY_SURE).all()):
            columns = columns.select(columns.intensity > _STANDS_OUT * columns.intensity_sigma)
        return columns, why if len(columns) else ""

    @staticmethod
    def _fitted(
        image: Float[NDArray[np.float64], "rows columns"],
        pixel_size_A: float,
        told: FoundColumns,
        chance: Float[NDArray[np.float64], "N"],
    ) -> tuple[FoundColumns, str]:
        """What a fit makes of columns that the network told with some chances, and why there was none."""
        sure = told.select(chance >= _SURE)
        if not len(sure):
            return sure, ""
        if len(sure) > MOST_JOINT:
            return sure, f"{_UNFITTED}: more than {MOST_JOINT}; the method scan-aware fits them."
        width_px = spot_width_px(image, pixel_size_A)
        if not np.isfinite(width_px):
            return sure, f"{_UNFITTED}: the image shows no spots whose width can be measured."
        start_px = sure.xy_px
        enough = len(sure) >= _SURE_ENOUGH and has_columns(chance[chance >= _SURE])
        if enough and (chance >= _LEAST_CHANCE).sum() <= 2 * len(sure):
            whole = complete(told.xy_px, told.intensity, width_px, image.shape, _COMPLETED)
            likely = whole.regular | (chance[whole.source] >= _LEAST_CHANCE)
            if likely.sum() <= MOST_JOINT:
                start_px = whole.xy_px[likely]
        very_sure = int((chance >= VERY_SURE).sum())
        try:
            columns = fit_scan_aware(image, pixel_size_A, start_px, width_px, search=True).columns
            if len(columns) < _KEPT * very_sure and very_sure >= _SURE_ENOUGH:
                lost = f"a fit kept {len(columns)} of {very_sure} that are certain"
                return sure, f"{_UNFITTED}: {lost}; is the image streaked or clipped?"
            return columns, ""
        except LocalizeError as error:
            # Starts that cannot be told apart, such as those of a film's grain.
            return sure, f"{_UNFITTED}: {error}."


@dataclass(frozen=True)
class Network:
    """A network and how it sees images, for the methods that have one.

    Attributes:
        model: a shipped model, or a file that training wrote.
        device: where it works.
        scale: pixels that it sees along one of the image; None chooses by pixel size.
        tile_px: rows and columns of the tiles that large images are worked on in.
    """

    model: str = "all"
    device: str = "cpu"
    scale: float | None = None
    tile_px: int = 1024

    def columns(self) -> NetworkColumns:
        """The localizer that reads its columns."""
        return NetworkColumns(self.model, device=self.device, scale=self.scale, tile_px=self.tile_px)


METHODS: Mapping[str, Callable[[Network], Localizer]] = {
    "auto": lambda told: Automatic(told.model, told.device, told.scale, told.tile_px),
    "scan-aware": lambda told: ScanAware(),
    "scan-aware-network": lambda told: ScanAware(told.columns()),
    "network": lambda told: told.columns(),
    "network-otsu": lambda told: NetworkOtsu(told.model, device=told.device, scale=told.scale, tile_px=told.tile_px),
    "gaussian": lambda told: GaussianFit("poisson"),
    "gaussian-ls": lambda told: GaussianFit("least-squares"),
    "otsu": lambda told: OtsuCentroid(),
    "faster-rcnn": lambda told: FasterRCNN(told.model, device=told.device),
}
"""Localizers by name, from a network that only some of them have."""


def uses_network(name: str) -> bool:
    """Whether a method has a network."""
    return name in ("auto", "faster-rcnn") or "network" in name


def choose_method(
    name: str, model: str = "", device: str = "cpu", *, scale: float | None = None, tile_px: int = 1024
) -> Localizer:
    """A localizer by its name.

    Args:
        name: one of `METHODS`.
        model: a shipped model, or a file that training wrote; only for methods with a network.
        device: where a network works.
        scale: pixels that a network sees along one of the image; None chooses by pixel size.
        tile_px: rows and columns of its tiles.

    Raises:
        MicrographError: no such method, or a model given to one without a network, or none to one that needs it.
        ModelError: no such model, or its file is damaged.
    """
    if name not in METHODS:
        raise MicrographError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    if model and not uses_network(name):
        raise MicrographError(f"method {name} uses no network, so no model: try --method network")
    if name == "faster-rcnn" and not model:
        raise MicrographError("method faster-rcnn needs --model FILE: none is shipped")
    if model:
        # A wrong one is told once, not at each image.
        load_network(model)
    return METHODS[name](Network(model or "all", device, scale, tile_px))


@dataclass(frozen=True, eq=False)
class Located:
    """The columns of a micrograph, and what is to be told of how they were found.

    Attributes:
        columns: what was found.
        method: what found them; of `Automatic` the part of it that did.
        notes: what a user should know, in sentences.
    """

    columns: FoundColumns
    method: str
    notes: tuple[str, ...]


def locate(localizer: Localizer, micrograph: Micrograph) -> Located:
    """Find the columns of a micrograph.

    Raises:
        MicrographError: no pixel size is known.
        LocalizeError: the image cannot be used.
    """
    image, size, method, why = micrograph.image.astype(np.float64), micrograph.calibrated(), localizer.name, ""
    if isinstance(localizer, Automatic):
        columns, why = localizer.explained(image, size)
        method = f"{method}, the network alone" if why else method
    else:
        columns = localizer(image, size)
    doubts = (*clipping_doubts(image), *scale_doubts(image, columns, micrograph.calibration))
    return Located(columns, method, (*((why,) if why else ()), *doubts))
