"""`render_film`: images of a crystal whose one half is deformed and some columns foreign, all of it known.

Tests measure strain and composition of these images; the documentation shows what the command line makes of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from temimagenet.imaging.detector import count_electrons
from temimagenet.imaging.fourier import evaluate
from temimagenet.imaging.linear import fourier_image, window
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.imaging.scan import Scan, ScanNoise, lattice_images, row_shifts_A
from temimagenet.specimen import Specimen, material, parse_zone, project

__all__ = ["EXAMPLE", "Film", "FilmImage", "render_film"]

_MARGIN_A = 8.0
"""Specimen around the field, for the tails of the probe."""


@dataclass(frozen=True)
class Film:
    """A crystal along a zone axis, as a substrate and a film of it side by side.

    Attributes:
        name: material.
        zone: zone axis.
        shape: rows and columns of the image.
        pixel_size_A: pixel size.
        rotation_deg: turns the lattice in the image.
        gradient: deformation gradient of the film about the middle of the boundary, in the image's axes (x, y);
            coherent where its second column is (0, 1).
        boundary: where the film begins, as a part of the width.
        thickness_A: thickness.
        foreign: atomic number of the atoms that replace the heaviest ones, of some columns of the film.
        foreign_share: share of the heaviest columns of the film that are replaced.
        electrons_per_pixel: mean of the counts, about.
        scan_sigma_A: standard deviation of each row's displacement.
        optics: microscope.
    """

    name: str = "SrTiO3"
    zone: str = "[001]"
    shape: tuple[int, int] = (512, 512)
    pixel_size_A: float = 0.15
    rotation_deg: float = 8.0
    gradient: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    boundary: float = 0.5
    thickness_A: float = 120.0
    foreign: int = 56
    foreign_share: float = 0.0
    electrons_per_pixel: float = 150.0
    scan_sigma_A: float = 0.0
    optics: Optics = CONDITIONS[1]


EXAMPLE = Film(gradient=((1.02, 0.0), (-0.012, 1.0)), boundary=0.55, foreign_share=0.12, scan_sigma_A=0.03)
"""The image of the documentation: SrTiO3 [001], a strained film with some barium at strontium's places."""


@dataclass(frozen=True, eq=False)
class FilmImage:
    """An image with its truth.

    Attributes:
        image: (rows, columns) counts.
        pixel_size_A: pixel size.
        xy_px: (K, 2) true positions (x, y) of the columns in and just outside the image, in pixels.
        kind: (K,) elements of each column, "Sr" or "TiO"; foreign ones by their own.
        film: (K,) columns of the film.
    """

    image: Float[NDArray[np.float64], "rows columns"]
    pixel_size_A: float
    xy_px: Float[NDArray[np.float64], "K 2"]
    kind: NDArray[np.str_]
    film: Bool[NDArray[np.bool_], "K"]


def render_film(film: Film, seed: int = 0) -> FilmImage:
    """Draw one image with the linear engine.

    Args:
        film: what is drawn.
        seed: of foreign columns, scan noise and counts.
    """
    from ase.data import chemical_symbols

    known = material(film.name)
    crystal = project(known.atoms(), parse_zone(film.zone), u_A=known.u_A, name=film.name).slab(film.thickness_A)
    rng = np.random.Generator(np.random.Philox(seed))
    noise = ScanNoise(film.scan_sigma_A, None)
    shifts = row_shifts_A(noise, film.shape[0], film.pixel_size_A, rng)
    scan = Scan(film.shape, film.pixel_size_A, film.rotation_deg, row_shift_A=shifts)
    # What is stretched or turned must still cover the field.
    wide = _MARGIN_A + 0.1 * film.pixel_size_A * max(film.shape)
    centre, column = lattice_images(crystal.column_xy_A, crystal.cell_A, scan, wide)
    inside = film.boundary * film.shape[1] * film.pixel_size_A
    middle = np.array([inside, 0.5 * film.shape[0] * film.pixel_size_A])
    kinds = np.array(crystal.column_kinds)
    moved = centre[:, 0] > inside
    heaviest = int(crystal.numbers.max())
    # Sites follow their column: whole, as a rigid rod.
    turn = scan.rotation
    sites, numbers, of = [], [], []
    for number in range(len(crystal.xy_A)):
        own = np.flatnonzero(column == crystal.column[number])
        apart = crystal.xy_A[number] - crystal.column_xy_A[crystal.column[number]]
        assert crystal.cell_A is not None
        parts = apart @ np.linalg.inv(crystal.cell_A)
        sites.append(np.broadcast_to(((parts - np.rint(parts)) @ crystal.cell_A) @ turn, (len(own), 2)))
        numbers.append(np.full(len(own), number))
        of.append(own)
    owner, kept = np.concatenate(of), np.concatenate(numbers)
    foreign = moved & (rng.random(len(centre)) < film.foreign_share)
    placed = centre.copy()
    placed[moved] = middle + (centre[moved] - middle) @ np.array(film.gradient).T
    element = crystal.numbers[kept].copy()
    changed = foreign[owner] & (element == heaviest)
    element[changed] = film.foreign
    kind = kinds[column].astype("<U12")
    kind[np.unique(owner[changed])] = chemical_symbols[film.foreign]
    specimen = Specimen(
        crystal.name, None, placed[owner] + np.concatenate(sites), element, crystal.atoms[kept],
        crystal.u_A[kept], np.unique(owner, return_inverse=True)[1].astype(np.int64),
    )  # fmt: skip
    upright = replace(scan, rotation_deg=0.0)
    part, own_scan = window(specimen, upright, _MARGIN_A)
    detector = Detector()
    clean = evaluate(fourier_image(part, film.optics, detector), own_scan)
    dose = film.electrons_per_pixel / (float(clean.mean()) * film.pixel_size_A**2)
    image = count_electrons(clean, dose, film.pixel_size_A, seed)
    return FilmImage(image.numpy().astype(np.float64), film.pixel_size_A, placed / film.pixel_size_A, kind, moved)
