"""The precision benchmark's cases: images drawn from seeds, with the true columns and the bound of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree

from temimagenet.bounds import DRAWS
from temimagenet.errors import PrecisionError
from temimagenet.imaging.background import BackgroundKind, draw_background
from temimagenet.imaging.optics import CONDITIONS, Detector
from temimagenet.imaging.scan import Scan, ScanNoise, lattice_images
from temimagenet.recipe import Engine, EntryKind, SampleSpec, SpecimenSpec, load_recipe, spec_to_json, specimen_spec
from temimagenet.render import Sample, render, sample_bound, specimen_of
from temimagenet.specimen import Specimen
from temimagenet.specimen.amorphous import SHIPPED_SHEETS

__all__ = [
    "CASES",
    "CASE_SET_VERSION",
    "DOSE_LADDER",
    "FAINT_SHARE",
    "IMAGES_PER_CASE",
    "MARGIN_A",
    "RESPONSE_CASES",
    "SCAN_LADDER",
    "BenchmarkImage",
    "Case",
    "case_images",
    "find_case",
]

CASE_SET_VERSION = 1
"""Raised whenever an image, a true position or a bound changes; records of other versions do not compare."""

IMAGES_PER_CASE = 30

MARGIN_A = 2.0
"""Columns nearer to the border than this do not count: part of their spot is not on the image."""

FAINT_SHARE = 0.03
"""Columns below this share of the image's largest weight do not count: no electron of theirs stands out."""

IMAGE_SIZE = 256

CaseGroup = Literal["particle", "dose", "scan noise", "structure", "response", "multislice"]

_STILL = ScanNoise(0.0, None)


@dataclass(frozen=True)
class Case:
    """A kind of image, of which the benchmark holds `IMAGES_PER_CASE`.

    Attributes:
        name: key in `CASES`.
        title: for tables.
        question: what the case asks of a method.
        group: cases that are looked at together.
        material: name in `temimagenet.specimen.MATERIALS`.
        zone: zone axis.
        kind: "crystal", "particle" or "amorphous".
        engine: "linear" or "multislice".
        condition: number of the optics in `CONDITIONS`.
        thickness_A: thickness of a crystal; None for particles and films.
        size_A: least and largest diameter of a particle.
        field_of_view_A: edge of the image.
        psnr_dB: peak signal-to-noise ratio, from which the dose follows.
        scan_noise: distribution of the row displacements.
        background: kind of background.
        background_level: its level, or its rise across the field, in clean peaks.
        displacement_A: standard deviation per axis of each column's own static displacement.
        strain: largest magnitude of each component of a homogeneous strain.
        off_centre: how far a particle's centre lies from the field's, as a share of its size.
    """

    name: str
    title: str
    question: str
    group: CaseGroup
    material: str
    zone: tuple[int, int, int]
    kind: EntryKind = "crystal"
    engine: Engine = "linear"
    condition: int = 1
    thickness_A: float | None = 60.0
    size_A: tuple[float, float] | None = None
    field_of_view_A: float = 25.0
    psnr_dB: float = 20.0
    scan_noise: ScanNoise = field(default=_STILL)
    background: BackgroundKind = "constant"
    background_level: float = 0.05
    displacement_A: float = 0.0
    strain: float = 0.0
    off_centre: float = 0.08

    @property
    def measures_response(self) -> bool:
        """Whether columns are displaced from a perfect lattice, so that a method's response can be measured."""
        return self.displacement_A > 0.0 or self.strain > 0.0

    @property
    def has_bound(self) -> bool:
        """Whether the bound's linear model is what draws the image."""
        return self.engine == "linear"

    def spec(self, index: int) -> SampleSpec:
        """Image `index`: a pure function of the case's name, the index and `CASE_SET_VERSION`.

        Raises:
            PrecisionError: there is no image of that index.
        """
        if not 0 <= index < IMAGES_PER_CASE:
            raise PrecisionError(f"case {self.name}, image {index}: expected 0 to {IMAGES_PER_CASE - 1}")
        digest = hashlib.sha256(f"precision {CASE_SET_VERSION} {self.name} {index}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))
        rotation = float(rng.uniform(0.0, 90.0))
        place = rng.random(2)
        specimen_seed, scan_seed, noise_seed = (int(s) for s in rng.integers(2**62, size=3))
        size_A = None if self.size_A is None else float(rng.uniform(*self.size_A))
        exx, eyy, exy = (float(e) for e in rng.uniform(-self.strain, self.strain, 3))
        background = draw_background(self.background, self.background_level, rng)
        if self.kind == "particle" and self.engine == "multislice":
            specimen = _twinned_particle(index)
            size_A = specimen.size_A
        else:
            moved = self.kind != "crystal" or self.displacement_A > 0.0
            specimen = SpecimenSpec(
                self.kind,
                self.material,
                "",
                self.zone,
                self.thickness_A if self.kind == "crystal" else None,
                (index % SHIPPED_SHEETS if self.kind == "amorphous" else index) if moved else None,
                specimen_seed if moved else 0,
                size_A,
                (exx, eyy, exy),
                0.0,
                self.displacement_A,
            )
        scan = Scan((IMAGE_SIZE,) * 2, self.field_of_view_A / IMAGE_SIZE, rotation)
        if self.kind == "particle":
            assert size_A is not None
            angle = 2.0 * np.pi * place[0]
            centre = self.off_centre * size_A * np.array([np.cos(angle), np.sin(angle)])
            offset = centre - scan.to_specimen_A(np.full((1, 2), (IMAGE_SIZE - 1) / 2.0))[0]
        else:
            offset = 60.0 * place
        return SampleSpec(
            id=f"{self.name}-{index:02d}",
            index=index,
            entry=self.title,
            split="heldout",
            specimen=specimen,
            condition=self.condition,
            optics=CONDITIONS[self.condition],
            detector=Detector(),
            contrast="adf",
            image_size=IMAGE_SIZE,
            field_of_view_A=self.field_of_view_A,
            rotation_deg=rotation,
            offset_A=(float(offset[0]), float(offset[1])),
            scan_noise=self.scan_noise,
            scan_seed=scan_seed,
            background=background,
            psnr_dB=self.psnr_dB,
            noise_seed=noise_seed,
        )


@cache
def _twinned_particle(index: int) -> SpecimenSpec:
    """One of the six particles of recipe v1 that have multislice tables, in turn."""
    recipe = load_recipe("v1")
    entry = next(entry for entry in recipe.entries if entry.name == "Pt particle [110] twinned")
    return specimen_spec(recipe, entry, index % entry.realisations, None)


_PT = ("Pt", (1, 1, 0))
_RMS_OF_PAPER_A = round(0.2 / np.sqrt(2.0), 4)
_RESPONSE = "Does the method see columns that are out of place, or does it draw a lattice?"


def _all_cases() -> Iterator[Case]:
    """Every case of the set, in the order of tables."""
    yield Case(
        "pt110-particle", "Pt [110] particle, 20.4 dB",
        "The particle of Lin et al., Sci. Rep. 11, 5386 (2021), Fig. 6: 20.4 dB; white row displacements of the same "
        "rms (0.14 A per axis) as the paper's 0.2 A modulated by the line frequency.",
        "particle", *_PT, kind="particle", size_A=(22.0, 26.0), field_of_view_A=30.0, psnr_dB=20.4,
        scan_noise=ScanNoise(float(_RMS_OF_PAPER_A), None),
    )  # fmt: skip
    for level in (5, 10, 15, 20, 25, 30):
        yield Case(
            f"pt110-{level:02d}dB", f"Pt [110], {level} dB", "How does precision follow the dose, shot noise alone?",
            "dose", *_PT, psnr_dB=float(level),
        )  # fmt: skip
    for sigma in (0.05, 0.1, 0.2, 0.3):
        yield Case(
            f"pt110-scan-{sigma:.2f}A", f"Pt [110], 20 dB, rows displaced by {sigma:g} A",
            "How much of the scan noise, white from row to row in x and y, does the method undo?",
            "scan noise", *_PT, scan_noise=ScanNoise(sigma, None),
        )  # fmt: skip
    yield Case(
        "pt110-line-frequency", "Pt [110], 20 dB, 0.2 A line-frequency modulated",
        "The paper's scan noise: normal displacements of 0.2 A times a sine of the line frequency.",
        "scan noise", *_PT, scan_noise=ScanNoise(0.2),
    )  # fmt: skip
    yield Case(
        "si110-dumbbells", "Si [110] dumbbells", "Are columns 1.36 A apart told from one another without pull?",
        "structure", "Si", (1, 1, 0), field_of_view_A=20.0,
    )  # fmt: skip
    for name, material, zone in (
        ("srtio3-001", "SrTiO3", (0, 0, 1)), ("tio2-001", "TiO2", (0, 0, 1)), ("licoo2-010", "LiCoO2", (0, 1, 0)),
    ):  # fmt: skip
        told = "".join(map(str, zone))
        yield Case(
            name, f"{material} [{told}], 25 dB", "Are light columns found, and not pulled by heavy neighbours?",
            "structure", material, zone, psnr_dB=25.0,
        )  # fmt: skip
    yield Case(
        "particle-edges", "Pt [110] particle edges on a ramp",
        "Are thin columns at a particle's edge found where the background rises by a whole peak across the field?",
        "structure", *_PT, kind="particle", size_A=(30.0, 36.0), psnr_dB=25.0, background="ramp",
        background_level=1.0, off_centre=0.4,
    )  # fmt: skip
    yield Case(
        "amorphous-graphene", "Amorphous graphene, 60 keV", "What is found where there is no lattice?",
        "structure", "graphene", (0, 0, 1), kind="amorphous", condition=6, thickness_A=None, field_of_view_A=20.0,
    )  # fmt: skip
    for name, material, zone, decibels in (("pt110", *_PT, 20.0), ("srtio3", "SrTiO3", (0, 0, 1), 25.0)):
        told = "".join(map(str, zone))
        for pm in (10, 20, 30):
            yield Case(
                f"{name}-displaced-{pm}pm", f"{material} [{told}], columns displaced by {pm} pm", _RESPONSE,
                "response", material, zone, psnr_dB=decibels, displacement_A=pm / 100.0,
            )  # fmt: skip
        yield Case(
            f"{name}-strained", f"{material} [{told}], strained by up to 2 %", _RESPONSE,
            "response", material, zone, psnr_dB=decibels, strain=0.02,
        )  # fmt: skip
    for name, material, zone, decibels in (
        ("pt110", *_PT, 20.0), ("si110", "Si", (1, 1, 0), 20.0), ("srtio3-001", "SrTiO3", (0, 0, 1), 25.0),
        ("licoo2-010", "LiCoO2", (0, 1, 0), 25.0),
    ):  # fmt: skip
        yield Case(
            f"{name}-multislice", f"{material} [{''.join(map(str, zone))}], multislice",
            "Does what was learned or assumed of spots hold where electrons scatter more than once?",
            "multislice", material, zone, psnr_dB=decibels, engine="multislice",
            field_of_view_A=20.0 if material == "Si" else 25.0,
        )  # fmt: skip
    yield Case(
        "pt110-particle-multislice", "Pt [110] particle, multislice",
        "The same of a particle with edges and thin columns.", "multislice", *_PT, kind="particle",
        engine="multislice", size_A=(12.0, 18.0), field_of_view_A=20.0, psnr_dB=20.4,
    )  # fmt: skip


CASES: Mapping[str, Case] = {case.name: case for case in _all_cases()}
"""All cases by name, in the order of tables."""

DOSE_LADDER: Mapping[float, str] = {case.psnr_dB: case.name for case in CASES.values() if case.group == "dose"}
"""PSNR in dB to the case of the dose ladder."""

SCAN_LADDER: Mapping[float, str] = {
    0.0: "pt110-20dB",
    **{
        case.scan_noise.sigma_A: case.name
        for case in CASES.values()
        if case.group == "scan noise" and case.scan_noise.modulation is None
    },
}
"""rms row displacement per axis in angstrom to the case of the scan-noise ladder."""

RESPONSE_CASES: tuple[str, ...] = tuple(case.name for case in CASES.values() if case.displacement_A > 0.0)
"""Cases with randomly displaced columns: what a method's response is measured on."""


def find_case(name: str) -> Case:
    """A case by name.

    Raises:
        PrecisionError: no such case; the message lists those there are.
    """
    if name not in CASES:
        raise PrecisionError(f"no benchmark case {name!r}: expected one of {', '.join(CASES)}")
    return CASES[name]


@dataclass(frozen=True, eq=False)
class BenchmarkImage:
    """One image of a case and what is true of it; K columns lie on the image, in one order for all fields.

    Attributes:
        case: the case.
        spec: how it was drawn.
        image: (rows, columns) float64 electron counts.
        xy_px: (K, 2) true positions (x, y) in pixels, pixel centres at integers.
        counts: (K,) columns that count: farther than `MARGIN_A` from the border, of at least `FAINT_SHARE` of the
            largest weight. Others may be found or not.
        group: (K,) name of each column's group: its elements in a crystal, "edge" or "inside" in a particle.
        displacement_A: (K, 2) true displacement (x, y) from the perfect lattice in the scan's frame, angstrom; None
            where the case has none.
        bound_A: (K, 2) smallest standard deviation of an unbiased estimate of x and y in angstrom; None where not
            asked for or where the image is not of the linear model.
        covariance_A2: (2, n, n) the same as covariances, of x and of y, between the n columns that count.
    """

    case: Case
    spec: SampleSpec
    image: Float[NDArray[np.float64], "rows columns"]
    xy_px: Float[NDArray[np.float64], "K 2"]
    counts: NDArray[np.bool_]
    group: NDArray[np.str_]
    displacement_A: Float[NDArray[np.float64], "K 2"] | None
    bound_A: Float[NDArray[np.float64], "K 2"] | None
    covariance_A2: Float[NDArray[np.float64], "2 n n"] | None

    @property
    def pixel_size_A(self) -> float:
        """Pixel size in angstrom."""
        return self.spec.pixel_size_A

    def relative_bound_A(self, columns: Int[NDArray[np.int64], "M"]) -> Float[NDArray[np.float64], "M 2"]:
        """Smallest standard deviation of x and y in angstrom of some columns less the mean position of just those.

        The mean must be that of the same columns: one that a method missed has no part in it (`Bound.relative_xy_A`).

        Args:
            columns: indices of columns that count.

        Raises:
            PrecisionError: the image has no bound.
        """
        if self.covariance_A2 is None:
            raise PrecisionError(f"{self.spec.id} has no bound")
        place = np.cumsum(self.counts)[columns] - 1
        centre = np.eye(len(place)) - 1.0 / max(len(place), 1)
        parts = [np.diag(centre @ block[np.ix_(place, place)] @ centre) for block in self.covariance_A2]
        deviation: NDArray[np.float64] = np.sqrt(np.maximum(np.stack(parts, axis=1), 0.0))
        return deviation


def case_images(
    case: Case | str, indices: Iterable[int] | None = None, *, bounds: bool = True, cache: Path | None = None
) -> Iterator[BenchmarkImage]:
    """The images of a case, one at a time.

    Args:
        case: the case or its name.
        indices: which images; all unless given.
        bounds: work out the bounds too: half a second to two an image, kept on disk.
        cache: folder of the bounds; the user's cache unless given.

    Raises:
        PrecisionError: no such case or image.
    """
    chosen = find_case(case) if isinstance(case, str) else case
    folder = cache or Path(platformdirs.user_cache_dir("temimagenet")) / "bounds"
    for index in range(IMAGES_PER_CASE) if indices is None else indices:
        spec = chosen.spec(index)
        sample = render([spec], (), engine=chosen.engine)[0]
        inside = sample.columns.inside((spec.image_size,) * 2)
        xy = sample.columns.xy_px[inside]
        weight = sample.columns.weight_A2[inside]
        edge = np.minimum(xy + 0.5, spec.image_size - 0.5 - xy).min(axis=1) * spec.pixel_size_A
        counts = (edge >= MARGIN_A) & (weight >= FAINT_SHARE * weight.max())
        absolute, covariance = None, None
        if bounds and chosen.has_bound:
            absolute, covariance = _bounds(spec, sample, counts, folder)
        yield BenchmarkImage(
            chosen, spec, sample.image.numpy().astype(np.float64), xy, counts, _groups(spec, sample, inside),
            _displacement(spec) if chosen.measures_response else None, absolute, covariance,
        )  # fmt: skip


def _on_image(spec: SampleSpec) -> tuple[Specimen, NDArray[np.float64], NDArray[np.int64]]:
    """A sample's specimen, the columns on the image in the scan's frame in angstrom, and which column each is."""
    specimen = specimen_of(spec.specimen)
    return specimen, *lattice_images(specimen.column_xy_A, specimen.cell_A, spec.scan, 0.0)


def _displacement(spec: SampleSpec) -> Float[NDArray[np.float64], "K 2"]:
    """Displacement of every column on the image from where a crystal without strain and displacements has it."""
    specimen, xy_A, index = _on_image(spec)
    scan = spec.scan
    exx, eyy, exy = spec.specimen.strain
    stretch = np.eye(2) + np.array([[exx, exy], [exy, eyy]])
    place = scan.to_specimen_A(xy_A / scan.pixel_size_A)
    own = np.zeros_like(place)
    if spec.specimen.displacement_A:
        perfect = specimen_of(replace(spec.specimen, displacement_A=0.0))
        own = (specimen.column_xy_A - perfect.column_xy_A)[index]
    homogeneous = (place - own) - (place - own) @ np.linalg.inv(stretch)
    displacement: NDArray[np.float64] = (own + homogeneous) @ scan.rotation
    return displacement


def _groups(spec: SampleSpec, sample: Sample, inside: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Name of the group of every column on the image."""
    if spec.specimen.kind != "particle":
        return np.array(sample.columns.kinds)[sample.columns.kind[inside]]
    specimen, _, index = _on_image(spec)
    tree = KDTree(specimen.column_xy_A)
    nearest = np.asarray(tree.query(specimen.column_xy_A, k=2)[0])[:, 1]
    pairs = tree.query_pairs(1.3 * float(np.median(nearest)), output_type="ndarray")
    neighbours = np.bincount(pairs.ravel(), minlength=len(specimen.column_xy_A))
    return np.where(neighbours < neighbours.max(), "edge", "inside")[index]


def _bounds(
    spec: SampleSpec, sample: Sample, counts: NDArray[np.bool_], folder: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound of the columns on an image, and its covariance between those that count, from the cache or anew."""
    key = hashlib.sha256(f"{CASE_SET_VERSION} {DRAWS} {spec_to_json(spec)}".encode()).hexdigest()[:24]
    path = folder / f"{key}.npz"
    if path.is_file():
        with np.load(path) as file:
            return file["bound_A"], file["covariance_A2"].astype(np.float64)
    bound = sample_bound(sample)
    assert bound is not None
    kept = np.flatnonzero(counts)
    covariance = np.stack([bound.covariance[np.ix_(kept + start, kept + start)] for start in (0, bound.columns)])
    # Half the disk, and 1e-7 is exact enough; rounded at once, so that cached and fresh bounds are the same.
    covariance = covariance.astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    # A finished file appears whole: other processes may be reading.
    partial = path.with_name(f"{key}-{np.random.default_rng().integers(2**62):x}.npz")
    np.savez(partial, bound_A=bound.xy_A, covariance_A2=covariance)
    partial.replace(path)
    return bound.xy_A, covariance.astype(np.float64)
