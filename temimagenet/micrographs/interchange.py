"""Other packages' objects: images of HyperSpy, sublattices of atomap. pandas has `FoundColumns.to_dataframe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.errors import MicrographError
from temimagenet.micrographs.units import is_reciprocal, pixel_size, to_angstrom

if TYPE_CHECKING:
    from temimagenet.localize.protocol import FoundColumns

__all__ = ["from_atomap", "from_hyperspy", "to_atomap"]


def from_hyperspy(
    signal: Any, pixel_size_A: float | None = None
) -> tuple[Float[NDArray[np.float64], "rows columns"], float]:
    """The image and pixel size of a HyperSpy signal, as every localizer takes them.

    HyperSpy need not be installed for it; a lazy signal is computed.

    Args:
        signal: a `Signal2D` of one image.
        pixel_size_A: pixel size in angstrom; that of the signal's axes unless given.

    Returns:
        The image as float64 and the pixel size in angstrom.

    Raises:
        MicrographError: not one real image in real space, or its pixel size is not known or not square.
    """
    manager = getattr(signal, "axes_manager", None)
    if manager is None:
        raise MicrographError(f"a {type(signal).__name__}: expected a signal of HyperSpy")
    if manager.signal_dimension != 2:
        raise MicrographError(f"{signal}: expected an image, a signal of two dimensions (signal.as_signal2D)")
    if manager.navigation_size > 1:
        raise MicrographError(f"{signal}: several images; take one (signal.inav[0]) or their sum (signal.sum())")
    data = np.squeeze(np.asarray(signal.data))
    if data.ndim != 2 or not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        raise MicrographError(f"{signal}: values of type {data.dtype}, shape {data.shape}; expected real numbers")
    across, down = manager.signal_axes
    if is_reciprocal(across.units or ""):
        raise MicrographError(f"{signal}: axes in {across.units}; expected an image, not a diffraction pattern")
    if pixel_size_A is None:
        found = pixel_size((float(down.scale), float(across.scale)), (down.units, across.units), "signal's axes")
        if found.size_A is None:
            raise MicrographError(f"no pixel size ({found.source}): give pixel_size_A")
        pixel_size_A = found.size_A
    return data.astype(np.float64), pixel_size_A


def to_atomap(columns: FoundColumns, image: Float[NDArray[np.floating], "rows columns"], name: str = "") -> Any:
    """Columns as a `Sublattice` of atomap, with its widths and amplitudes; its pixel size is in nm.

    Choose the columns first, `columns.select(columns.sound)`: atomap knows no flags and no standard errors.

    Args:
        columns: positions, intensities and widths; widths that are not known stay atomap's own.
        image: the image that they were found in.
        name: the sublattice's.

    Raises:
        MicrographError: atomap is not installed.
    """
    try:
        from atomap.api import Sublattice
    except ImportError as error:
        raise MicrographError("atomap is not installed: pip install atomap") from error
    made = Sublattice(columns.xy_px, np.asarray(image), name=name, pixel_size=0.1 * columns.pixel_size_A, units="nm")
    for atom, width, intensity in zip(made.atom_list, columns.width_px, columns.intensity, strict=True):
        if np.isfinite(width) and width > 0.0:
            atom.sigma_x = atom.sigma_y = float(width)
            if np.isfinite(intensity):
                # The factor A of atomap's Gaussian, HyperSpy's, is its volume.
                atom.amplitude_gaussian = float(intensity)
    return made


def from_atomap(sublattice: Any, pixel_size_A: float | None = None) -> FoundColumns:
    """Columns of a `Sublattice` of atomap.

    Intensities are the volumes of its elliptic Gaussians, which atomap calls amplitudes, where it was fitted by them
    or made by `to_atomap`; amplitudes and widths are 1 before. It tells no standard errors.

    Args:
        sublattice: the sublattice.
        pixel_size_A: pixel size in angstrom; the sublattice's own unless given.

    Raises:
        MicrographError: the pixel size is not known.
    """
    from temimagenet.localize.protocol import FoundColumns

    if pixel_size_A is None:
        pixel_size_A = to_angstrom(float(sublattice.pixel_size), sublattice.units)
        if pixel_size_A is None:
            raise MicrographError(f"sublattice in units {str(sublattice.units)!r}: give pixel_size_A")
    xy = np.stack([np.asarray(sublattice.x_position, float), np.asarray(sublattice.y_position, float)], axis=1)
    widths = np.stack([np.asarray(sublattice.sigma_x, float), np.asarray(sublattice.sigma_y, float)])
    volume = np.asarray(sublattice.atom_amplitude_gaussian2d, float)
    # What no fit has touched has both widths and the amplitude at exactly 1.
    fitted = ~((widths == 1.0).all(axis=0) & (volume == 1.0))
    unknown = np.full(len(xy), np.nan)
    return FoundColumns(
        xy, np.full(xy.shape, np.nan), np.where(fitted, volume, np.nan), unknown,
        np.where(fitted, np.sqrt(widths.prod(axis=0)), np.nan), np.zeros(len(xy), dtype=np.int64), pixel_size_A,
    )  # fmt: skip
