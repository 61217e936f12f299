"""`FourierImage`: an ADF-STEM image as the finite Fourier series it is, evaluated wherever the beam was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from temimagenet.imaging.scan import Scan

__all__ = ["FourierImage", "derivatives", "evaluate", "half_plane_indices", "in_vacuum"]

_CHUNK = 4096
_SEPARABLE_FROM = 512
_NUFFT_FROM = 2048
_NUFFT_ERROR = 1e-6


@dataclass(frozen=True, eq=False)
class FourierImage:
    """A real, periodic, band-limited image: I(r) = c_00 + 2 Re sum_{hk != 00} c_hk exp(2 pi i g_hk . r).

    g_hk = h b1 + k b2 with b the columns of the inverse cell. Only the half plane h > 0 or (h = 0 and k >= 0)
    is kept; the other half is its conjugate.

    Attributes:
        cell_A: (2, 2) lattice in the specimen's frame, rows are the vectors (x, y) in angstrom.
        hk: (G, 2) indices, int16.
        coefficients: (G,) complex64 or complex128, fraction of the beam.
    """

    cell_A: Float[NDArray[np.float64], "2 2"]
    hk: Int[NDArray[np.int16], "G 2"]
    coefficients: Complex[Tensor, "G"]

    @property
    def g_per_A(self) -> Float[NDArray[np.float64], "G 2"]:
        """(G, 2) spatial frequencies (x, y) in 1/A."""
        frequencies: NDArray[np.float64] = self.hk @ np.linalg.inv(self.cell_A).T
        return frequencies


def half_plane_indices(cell_A: Float[NDArray[np.float64], "2 2"], q_max_per_A: float) -> Int[NDArray[np.int16], "G 2"]:
    """All (h, k) of the half plane with |g| < q_max, (0, 0) first, then by h and k."""
    h_max, k_max = np.floor(q_max_per_A * np.linalg.norm(cell_A, axis=1)).astype(int)
    h, k = np.meshgrid(np.arange(h_max + 1), np.arange(-k_max, k_max + 1), indexing="ij")
    hk = np.stack([h.ravel(), k.ravel()], axis=1)
    hk = hk[(hk[:, 0] > 0) | (hk[:, 1] >= 0)]
    inside = np.linalg.norm(hk @ np.linalg.inv(cell_A).T, axis=1) < q_max_per_A
    kept: NDArray[np.int16] = hk[inside].astype(np.int16)
    return kept


def evaluate(image: FourierImage, scan: Scan, device: torch.device | str = "cpu") -> Float[Tensor, "rows columns"]:
    """The image's values at the scan's beam points: exact, without interpolation, one matrix product.

    Row i and column j enter as a product of phases, so I = Re[(rows x G) (G x columns)].
    A rectangular cell whose axes are the scan's factors once more, into a sum over k and a sum over h. Other series of
    thousands of terms go through a non-uniform fast Fourier transform (error 1e-6 of the largest value).

    Args:
        image: the series.
        scan: grid, rotation, offset and row displacements.
        device: where to compute.

    Returns:
        (rows, columns) real tensor in the coefficients' precision (float32 for complex64), fraction of the beam.
    """
    rows, columns = scan.shape
    y = scan.pixel_size_A * np.arange(rows, dtype=np.float64)
    dx = np.zeros(rows)
    if scan.row_shift_A is not None:
        dx = scan.row_shift_A[:, 0]
        y = y + scan.row_shift_A[:, 1]
    x = scan.pixel_size_A * np.arange(columns, dtype=np.float64)
    aligned = scan.rotation_deg == 0.0 and image.cell_A[0, 1] == 0.0 and image.cell_A[1, 0] == 0.0
    if aligned and len(image.hk) >= _SEPARABLE_FROM:
        return _evaluate_separable(image, x, y, dx, scan.offset_A, device)
    if len(image.hk) >= _NUFFT_FROM and torch.device(device).type == "cpu":
        return _evaluate_nonuniform(image, scan, x, y, dx)

    g = image.g_per_A
    g_scan = g @ scan.rotation
    g_offset = g @ np.asarray(scan.offset_A)
    amplitude = image.coefficients.to(device)
    factor = torch.full((len(g),), 2.0, dtype=amplitude.real.dtype, device=device)
    factor[(torch.from_numpy(image.hk.astype(np.int64)) == 0).all(dim=1).to(device)] = 1.0
    amplitude = amplitude * factor
    total = torch.zeros((rows, columns), dtype=amplitude.real.dtype, device=device)
    for start in range(0, len(g), _CHUNK):
        part = slice(start, start + _CHUNK)
        gx, gy = g_scan[part, 0], g_scan[part, 1]
        row = _phases(np.outer(y, gy) + np.outer(dx, gx) + g_offset[part], amplitude, device) * amplitude[part]
        column = _phases(np.outer(gx, x), amplitude, device)
        total += torch.cat([row.real, -row.imag], dim=1) @ torch.cat([column.real, column.imag], dim=0)
    return total


def _evaluate_separable(
    image: FourierImage,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    dx: NDArray[np.float64],
    offset_A: tuple[float, float],
    device: torch.device | str,
) -> Tensor:
    """Evaluate on a cell aligned with the scan: first along k for every row, then along h for every pixel."""
    h, k = image.hk[:, 0].astype(np.int64), image.hk[:, 1].astype(np.int64)
    h_max, k_max = int(h.max()), int(np.abs(k).max())
    box = torch.zeros((2 * k_max + 1, h_max + 1), dtype=image.coefficients.dtype, device=device)
    values = image.coefficients.to(device)
    box[torch.from_numpy(k + k_max), torch.from_numpy(h)] = values
    axis = (h == 0) & (k > 0)
    box[torch.from_numpy(k_max - k[axis]), 0] = values[torch.from_numpy(axis)].conj()
    box[:, 1:] *= 2.0
    frequency_y = np.arange(-k_max, k_max + 1) / image.cell_A[1, 1]
    frequency_x = np.arange(h_max + 1) / image.cell_A[0, 0]
    along_y = _phases(np.outer(y + offset_A[1], frequency_y), values, device)
    row = (along_y @ box) * _phases(np.outer(dx + offset_A[0], frequency_x), values, device)
    column = _phases(np.outer(frequency_x, x), values, device)
    return torch.cat([row.real, -row.imag], dim=1) @ torch.cat([column.real, column.imag], dim=0)


def _evaluate_nonuniform(
    image: FourierImage, scan: Scan, x: NDArray[np.float64], y: NDArray[np.float64], dx: NDArray[np.float64]
) -> Tensor:
    """Evaluate a long series at a scan's points, which are sums of a part of the row and one of the column."""
    inverse = np.linalg.inv(image.cell_A)
    of_row = (np.stack([dx, y], axis=1) @ scan.rotation.T + scan.offset_A) @ inverse
    of_column = np.outer(x, scan.rotation[:, 0] @ inverse)
    of_row -= np.rint(of_row)
    turns = of_row[:, None, :] + of_column[None, :, :]
    values = _at_points(image, _doubled(image)[None], turns[..., 0].ravel(), turns[..., 1].ravel())[0]
    return torch.from_numpy(values.reshape(scan.shape)).to(image.coefficients.real.dtype)


def _doubled(image: FourierImage) -> NDArray[np.complex128]:
    """Coefficients of the half plane times 2, of (0, 0) times 1: the real part of their sum is the image."""
    factor = np.where((image.hk == 0).all(axis=1), 1.0, 2.0)
    doubled: NDArray[np.complex128] = factor * image.coefficients.cpu().numpy()
    return doubled


def _at_points(
    image: FourierImage, values: NDArray[np.complex128], turns_1: NDArray[np.float64], turns_2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(T, n) real parts of sum_g values[t, g] exp(2 pi i g . r), at any points in fractions of the cell.

    By FINUFFT (Barnett, Magland & af Klinteberg, SIAM J. Sci. Comput. 41 (2019) C479), one thread.
    """
    import finufft

    h, k = image.hk[:, 0].astype(np.int64), image.hk[:, 1].astype(np.int64)
    h_max, k_max = int(np.abs(h).max()), int(np.abs(k).max())
    modes = np.zeros((len(values), 2 * h_max + 1, 2 * k_max + 1), dtype=np.complex128)
    modes[:, h + h_max, k + k_max] = values
    x, y = (2.0 * np.pi * np.ascontiguousarray(turns) for turns in (turns_1, turns_2))
    found = finufft.nufft2d2(x, y, modes, isign=1, eps=_NUFFT_ERROR, nthreads=1, spread_sort=0)
    real: NDArray[np.float64] = np.atleast_2d(found).real
    return real


def derivatives(
    image: FourierImage, points_A: Float[NDArray[np.float64], "n 2"]
) -> tuple[Float[NDArray[np.float64], "n"], Float[NDArray[np.float64], "n 2"], Float[NDArray[np.float64], "n 2 2"]]:
    """Value, gradient (per A) and curvature (per A^2) of an image at any points (x, y) in angstrom, in closed form."""
    values = _doubled(image)
    g = 2.0 * np.pi * image.g_per_A
    terms = np.stack(
        [values, 1j * values * g[:, 0], 1j * values * g[:, 1], -values * g[:, 0] ** 2, -values * g[:, 0] * g[:, 1],
         -values * g[:, 1] ** 2]
    )  # fmt: skip
    if len(g) >= _NUFFT_FROM:
        turns = points_A @ np.linalg.inv(image.cell_A)
        found = _at_points(image, terms, *(turns - np.rint(turns)).T)
    else:
        found = (terms @ np.exp(1j * g @ points_A.T)).real
    return found[0], found[1:3].T, found[[3, 4, 4, 5]].T.reshape(-1, 2, 2)


def in_vacuum(image: FourierImage, edge_A: float, rotation_deg: float = 0.0) -> FourierImage:
    """The image of a square cell around the origin, alone in a larger square cell: no neighbours, vacuum instead.

    The image must have died away at the edges of its cell: what is left there is cut off.

    Args:
        image: series of a square cell along x and y.
        edge_A: least edge of the new cell.
        rotation_deg: angle of the new cell's axes in the image's frame. Along the axes of a scan rotated by as much,
            the new series is evaluated as a separable sum.

    Returns:
        A series of the new cell, in its own axes, with the same band limit.
    """
    edge = float(image.cell_A[0, 0])
    if edge_A <= edge and rotation_deg == 0.0:
        return image
    # One sample more than the band needs leaves room for what cutting adds to it.
    step = edge / (2 * (int(np.abs(image.hk).max()) + 1) + 1)
    turn = Scan((1, 1), 1.0, rotation_deg).rotation
    half = int(np.ceil(0.5 * edge * np.abs(turn[0]).sum() / step))
    first = turn @ np.full(2, -half * step)
    scan = Scan((2 * half + 1, 2 * half + 1), step, rotation_deg, (float(first[0]), float(first[1])))
    values = evaluate(image, scan).double().numpy()
    along = step * np.arange(-half, half + 1)
    own_x = turn[0, 0] * along[None, :] + turn[0, 1] * along[:, None]
    own_y = turn[1, 0] * along[None, :] + turn[1, 1] * along[:, None]
    values = np.where(np.maximum(np.abs(own_x), np.abs(own_y)) < 0.5 * edge, values, 0.0)
    middle = max(half, int(np.ceil(0.5 * edge_A / step)))
    wide = 2 * middle + 1
    frame = np.zeros((wide, wide))
    frame[middle - half : middle + half + 1, middle - half : middle + half + 1] = values.T
    spectrum = np.fft.fft2(np.fft.ifftshift(frame)) / wide**2
    cell = wide * step * np.eye(2)
    limit = np.linalg.norm(image.g_per_A, axis=1).max()
    hk = half_plane_indices(cell, float(limit) * (1.0 + 1e-9))
    picked = spectrum[hk[:, 0] % wide, hk[:, 1] % wide]
    return FourierImage(cell, hk, torch.from_numpy(picked).to(image.coefficients.dtype))


def _phases(cycles: NDArray[np.float64], like: Tensor, device: torch.device | str) -> Tensor:
    """exp(2 pi i cycles) in `like`'s complex precision; whole cycles are dropped in double precision first."""
    turns = torch.from_numpy(cycles - np.rint(cycles)).to(device)
    angle = (2.0 * np.pi * turns).to(like.real.dtype)
    return torch.complex(torch.cos(angle), torch.sin(angle))
