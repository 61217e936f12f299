"""Rendering: `SampleSpec`s in, `Sample`s out; the one place where specimen, imaging and labels meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from temimagenet.atlas import ON_NEW_TABLES, find_series
from temimagenet.bounds import Bound, hybrid_bound, image_model
from temimagenet.device import single_threaded
from temimagenet.errors import LabelError, OpticsError, SpecimenError
from temimagenet.imaging.background import evaluate_background
from temimagenet.imaging.detector import count_electrons, dose_for_psnr
from temimagenet.imaging.fourier import FourierImage, derivatives, evaluate, in_vacuum
from temimagenet.imaging.linear import Contrast, column_weights_A2, fourier_image, window
from temimagenet.imaging.optics import Detector, Optics
from temimagenet.imaging.scan import Scan, lattice_images, row_shifts_A, row_sigma_A
from temimagenet.labels import (
    INTENSITIES,
    LABELS,
    MAPS,
    SCALED,
    Columns,
    Scaled,
    check_labels,
    column_map,
    intensity_map,
    point_label,
    quantise,
)
from temimagenet.recipe import Engine, SampleSpec, SpecimenSpec
from temimagenet.specimen import (
    Specimen,
    defective,
    faceted_particle,
    material,
    project,
    random_specimen,
    sheet_specimen,
    strained,
    structure_from_text,
)
from temimagenet.specimen.amorphous import sheet_of

__all__ = [
    "Sample",
    "TwinFacts",
    "draw_label",
    "render",
    "sample_bound",
    "specimen_of",
    "twin_facts",
    "with_bounds",
]

WINDOW_MARGIN_A = 8.0
"""How far the padded cell of a particle or film reaches beyond the field of view."""

VACUUM_PEAK = 0.01
"""Stands for the clean image's peak, the unit of background and PSNR, where no column is near; a choice."""

_EDGE_STEP_A = 20.0

_LARGE_CELL_A2 = 300.0
"""Projected cells above this area are imaged through a window: cheaper than their own, much finer series."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its ground truth.

    Attributes:
        spec: what was drawn.
        image: (rows, columns) float32 electron counts, with scan noise, background and shot noise.
        labels: the labels asked for, by name: maps (rows, columns) or (2 rows, 2 columns) float32; points (K, 2 or 3)
            and scalars float64 in pixels.
        columns: atomic columns in and just outside the image.
        series: the clean image as a Fourier series; None where a reader did not need it.
        series_scan: the ideal scan that goes with the series (a padded cell lies along the scan).
        clean_peak: largest value of the linear engine's clean image, fraction of the beam: the unit of the background,
            and of the PSNR, in both engines; `VACUUM_PEAK` in vacuum.
        dose_e_per_A2: electrons per A^2.
        row_shift_A: (rows, 2) displacement (dx, dy) of each row of `image` in angstrom.
        scaled: 16-bit forms of intensity maps, where made for storage; `labels` holds the same values.
        engine: what the image was rendered by.
    """

    spec: SampleSpec
    image: Float[Tensor, "rows columns"]
    labels: Mapping[str, Tensor]
    columns: Columns
    series: FourierImage | None
    series_scan: Scan
    clean_peak: float
    dose_e_per_A2: float
    row_shift_A: Float[NDArray[np.float64], "rows 2"]
    scaled: Mapping[str, Scaled] = field(default_factory=dict)
    engine: Engine = "linear"

    @property
    def id(self) -> str:
        """The sample's name."""
        return self.spec.id

    @property
    def pixel_size_A(self) -> float:
        """Pixel size in angstrom."""
        return self.spec.pixel_size_A

    @property
    def radius_A(self) -> float:
        """Mask radius in angstrom."""
        return self.spec.radius_A

    @property
    def psnr_dB(self) -> float:
        """Peak signal-to-noise ratio in decibels."""
        return self.spec.psnr_dB

    def __repr__(self) -> str:
        """What it is, in one line."""
        rows, cols = self.image.shape
        inside = int(self.columns.inside((rows, cols)).sum())
        return (
            f"Sample({self.id}: {self.spec.entry}, {self.spec.field_of_view_A:g} A, {rows} x {cols} px, "
            f"{inside} columns, PSNR {self.psnr_dB:.1f} dB, labels {', '.join(self.labels) or 'none'})"
        )


@lru_cache(maxsize=256)
def specimen_of(spec: SpecimenSpec) -> Specimen:
    """Build the specimen of a sample.

    Raises:
        SpecimenError: the material, structure or zone axis cannot be used.
    """
    if spec.kind == "unknown":
        raise SpecimenError("an image that others made does not tell its specimen: it cannot be rendered anew")
    if spec.kind == "amorphous":
        return sheet_specimen(sheet_of(spec.realisation or 0))
    if spec.kind == "random":
        assert spec.size_A is not None
        return random_specimen(spec.seed, spec.size_A)
    rng = np.random.Generator(np.random.Philox(spec.seed))
    if spec.kind == "particle":
        assert spec.size_A is not None
        return faceted_particle(spec.material, spec.zone, size_A=spec.size_A, rng=rng)
    if spec.cif:
        projected = project(structure_from_text(spec.cif), spec.zone)
    else:
        known = material(spec.material)
        projected = project(known.atoms(), spec.zone, u_A=known.u_A, name=spec.material)
    specimen = projected.sheet() if spec.thickness_A is None else projected.slab(spec.thickness_A)
    if any(spec.strain):
        specimen = strained(specimen, *spec.strain)
    if spec.realisation is not None:
        repeat = np.maximum(1, np.rint(30.0 / np.linalg.norm(projected.cell_A, axis=1))).astype(int)
        specimen = defective(
            specimen, (int(repeat[0]), int(repeat[1])), spec.vacancy_fraction, spec.displacement_A, rng
        )
    return specimen


@lru_cache(maxsize=512)
def _periodic_series(spec: SpecimenSpec, optics: Optics, detector: Detector, contrast: Contrast) -> FourierImage:
    """The series of a crystal, shared by all its samples under one condition."""
    return fourier_image(specimen_of(spec), optics, detector, contrast)


def _linear_series(spec: SampleSpec) -> tuple[FourierImage, Scan]:
    """Linear engine: a sample's series and the ideal scan to evaluate it on."""
    specimen = specimen_of(spec.specimen)
    cell = specimen.cell_A
    if cell is not None and abs(np.linalg.det(cell)) <= _LARGE_CELL_A2:
        return _periodic_series(spec.specimen, spec.optics, spec.detector, spec.contrast), spec.scan
    part, scan = window(specimen, spec.scan, WINDOW_MARGIN_A)
    return fourier_image(part, spec.optics, spec.detector, spec.contrast), scan


@lru_cache(maxsize=512)
def _multislice_series(spec: SpecimenSpec, optics: Optics, detector: Detector) -> FourierImage:
    """Multislice engine: a specimen's series from its table."""
    return find_series(spec, optics, detector).image(spec.thickness_A, optics.source_size_A)


@lru_cache(maxsize=128)
def _particle_series(
    spec: SpecimenSpec, optics: Optics, detector: Detector, edge_A: float, rotation_deg: float
) -> FourierImage:
    """Multislice engine: a particle's series in a wider cell of vacuum along the axes of a scan."""
    return in_vacuum(_multislice_series(spec, optics, detector), edge_A, rotation_deg)


ON_NEW_TABLES.extend([_multislice_series.cache_clear, _particle_series.cache_clear])


def _twin_series(spec: SampleSpec) -> tuple[FourierImage, Scan]:
    """Multislice engine: a sample's series and the ideal scan to evaluate it on."""
    image, scan = _multislice_series(spec.specimen, spec.optics, spec.detector), spec.scan
    if spec.specimen.kind != "particle":
        return image, scan
    last = spec.image_size - 1
    corners = scan.to_specimen_A(np.array([(x, y) for x in (0, last) for y in (0, last)])) @ scan.rotation
    # No neighbour may reach into the field, whatever the row shifts; few different edges keep the cache small.
    reach = float(np.abs(corners).max()) + np.sqrt(0.5) * float(image.cell_A[0, 0]) + 2.0
    edge_A = _EDGE_STEP_A * np.ceil(reach / _EDGE_STEP_A)
    series = _particle_series(spec.specimen, spec.optics, spec.detector, float(edge_A), scan.rotation_deg)
    x, y = np.asarray(scan.offset_A) @ scan.rotation
    return series, replace(scan, rotation_deg=0.0, offset_A=(float(x), float(y)))


@dataclass(frozen=True)
class TwinFacts:
    """How a specimen's multislice image differs from the linear one, whatever the scan.

    Attributes:
        mean_ratio: mean of the multislice image over the mean of the linear one.
        column_ratio: least and largest ratio of the two images at the columns' positions.
        column_shift_pm: largest distance between the nearest maximum of the multislice image and a column's position;
            a maximum farther than 60 pm belongs to no column and is left out; nan where no column has its own maximum.
        correlation: normalised cross-correlation of the two images without their means.
    """

    mean_ratio: float
    column_ratio: tuple[float, float]
    column_shift_pm: float
    correlation: float


@lru_cache(maxsize=4096)
def twin_facts(spec: SpecimenSpec, optics: Optics, detector: Detector) -> TwinFacts:
    """Compare a specimen's multislice image with the linear `adf` one.

    Raises:
        AtlasError: there is no multislice table for it.
    """
    twin = _multislice_series(spec, optics, detector)
    specimen = specimen_of(spec)
    # A particle is taken in its table's own cell.
    linear = fourier_image(replace(specimen, cell_A=twin.cell_A), optics, detector)
    a, b = (image.coefficients.numpy().astype(np.complex128) for image in (twin, linear))
    both = float((a[1:] * b[1:].conj()).real.sum() / np.linalg.norm(a[1:]) / np.linalg.norm(b[1:]))
    start = specimen.column_xy_A
    ratio = derivatives(twin, start)[0] / derivatives(linear, start)[0]
    own = np.linalg.norm(_maxima(twin, start) - start, axis=1)
    own = own[own < 0.6]
    return TwinFacts(
        float(a[0].real / b[0].real),
        (float(ratio.min()), float(ratio.max())),
        100.0 * float(own.max()) if len(own) else float("nan"),
        both,
    )


ON_NEW_TABLES.append(twin_facts.cache_clear)


def _maxima(image: FourierImage, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Climb from each point: Newton steps of at most 0.05 A where the image is a hill, along the slope elsewhere."""
    place = start.copy()
    for _ in range(60):
        _, slope, curve = derivatives(image, place)
        hill = np.linalg.eigvalsh(curve)[:, -1] < 0.0
        newton = -np.linalg.solve(np.where(hill[:, None, None], curve, np.eye(2)), slope[..., None])[..., 0]
        uphill = slope / (np.linalg.norm(curve, axis=(1, 2))[:, None] + 1e-30)
        step = np.where(hill[:, None], newton, uphill)
        step *= np.minimum(1.0, 0.05 / (np.linalg.norm(step, axis=1) + 1e-30))[:, None]
        place = place + step
        if np.linalg.norm(step, axis=1).max() < 1e-6:
            break
    return place


def _columns(spec: SampleSpec) -> Columns:
    """Columns in the field of view and as far outside it as their marks reach."""
    specimen = specimen_of(spec.specimen)
    margin = spec.optics.column_radius_A + spec.pixel_size_A
    xy_A, index = lattice_images(specimen.column_xy_A, specimen.cell_A, spec.scan, margin)
    weights = column_weights_A2(specimen, spec.optics, spec.detector, spec.contrast)
    atoms = np.bincount(specimen.column, specimen.atoms).astype(np.float64)
    kinds, kind = np.unique(np.array(specimen.column_kinds), return_inverse=True)
    return Columns(
        xy_A / spec.pixel_size_A,
        spec.pixel_size_A,
        weights[index],
        atoms[index],
        kind[index].astype(np.int64),
        tuple(kinds.tolist()),
    )


def draw_label(
    name: str,
    spec: SampleSpec,
    columns: Columns,
    series: FourierImage | None,
    series_scan: Scan,
    clean_peak: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw one label from what a sample keeps: the same code at rendering and at reading a compact library.

    Raises:
        LabelError: unknown name.
    """
    shape = (spec.image_size, spec.image_size)
    if name not in MAPS:
        return point_label(name, columns, shape, spec.radius_A)
    if name in INTENSITIES:
        if series is None:
            raise LabelError(f"{name} needs the sample's Fourier series")
        return intensity_map(name, series, spec.background, clean_peak, series_scan, device)
    return column_map(name, columns, shape, spec.radius_A).to(device)


def render(
    specs: Sequence[SampleSpec],
    labels: Sequence[str] = LABELS,
    device: torch.device | str = "cpu",
    *,
    engine: Engine = "linear",
    quantised: bool = False,
    bounds: bool = False,
) -> list[Sample]:
    """Render samples.

    Twins of both engines share specimen, scan, labels' geometry, background, dose and seeds: background and dose follow
    from the linear twin, and both images are fractions of the same beam.

    A sample depends on its spec alone, not on its neighbours or their number: on the CPU each is computed by one
    thread, so run several processes to use several cores.

    Args:
        specs: what to render.
        labels: which of the ten labels and two scalars to draw.
        device: where images and maps are computed and stay.
        engine: "linear", or "multislice" for specimens of which the atlas has a table.
        quantised: round intensity maps to the 16-bit steps in which a library stores them.
        bounds: work out `columns.crlb_A` (`with_bounds`): some two seconds a sample, a hundred times the rest.

    Returns:
        One `Sample` for each spec.

    Raises:
        LabelError: unknown label.
        AtlasError: there is no multislice table for a spec; the message says how to compute one.
        SpecimenError, OpticsError: a spec cannot be rendered; the message names the sample.
    """
    wanted = check_labels(tuple(labels))
    with single_threaded():
        samples = [_render_one(spec, wanted, device, engine, quantised) for spec in specs]
        return [with_bounds(sample) for sample in samples] if bounds else samples


def _render_one(
    spec: SampleSpec, labels: Sequence[str], device: torch.device | str, engine: Engine, quantised: bool
) -> Sample:
    """Render one sample."""
    columns = _columns(spec)
    series, scan = _linear_series(spec)
    clean = evaluate(series, scan, device)
    background = evaluate_background(spec.background, scan.shape, device)
    clean_peak = float(clean.max()) or VACUUM_PEAK
    dose = dose_for_psnr(spec.psnr_dB, clean_peak, float((clean + clean_peak * background).mean()), spec.pixel_size_A)
    if engine == "multislice":
        series, scan = _twin_series(spec)
        if not {"noNoise", "noBackgroundnoNoise"}.isdisjoint(labels):
            clean = evaluate(series, scan, device)
    scan_rng = np.random.Generator(np.random.Philox(spec.scan_seed))
    shifts = row_shifts_A(spec.scan_noise, scan.shape[0], spec.pixel_size_A, scan_rng)
    intensity = evaluate(series, replace(scan, row_shift_A=shifts), device) + clean_peak * background
    image = count_electrons(intensity.clamp_(min=0.0), dose, spec.pixel_size_A, spec.noise_seed)

    ready: dict[str, Callable[[], Tensor]] = {
        "noBackgroundnoNoise": lambda: clean,
        "noNoise": lambda: clean + clean_peak * background,
    }
    drawn: dict[str, Tensor] = {}
    scaled: dict[str, Scaled] = {}
    for name in labels:
        if name in ready:
            values = ready[name]()
        elif name == "noNoiseUpinterpolation2x" and "noNoiseNoBackgroundUpinterpolation2x" in drawn and not quantised:
            fine = drawn["noNoiseNoBackgroundUpinterpolation2x"]
            values = fine + clean_peak * evaluate_background(spec.background, (fine.shape[0], fine.shape[1]), device)
        else:
            values = draw_label(name, spec, columns, series, scan, clean_peak, device)
        if quantised and name in SCALED:
            scaled[name] = quantise(values)
            values = scaled[name].restore().to(device)
        drawn[name] = values
    return Sample(spec, image, drawn, columns, series, scan, clean_peak, dose, shifts, scaled, engine)


def sample_bound(sample: Sample) -> Bound | None:
    """How precisely the columns on a sample's image can be known, in the order of `sample.columns`.

    The Cramer-Rao bound, with scan noise the hybrid one (`temimagenet.bounds`); the phase of line-frequency noise is
    taken as known. It follows from what was drawn, not from the counts: rendered and read samples have the same.

    Returns:
        None where there is no bound: of multislice images, which the bound's linear model does not draw; of rows moved
        by whole pixels (scan form "published"), whose displacements have no density; of an image without columns.

    Raises:
        OpticsError: the sample's columns are no longer those of its specification.
    """
    spec, noise, shape = sample.spec, sample.spec.scan_noise, (sample.spec.image_size,) * 2
    in_steps = noise.form == "published" and noise.sigma_A > 0.0
    inside = int(sample.columns.inside(shape).sum())
    if sample.engine != "linear" or in_steps or not inside:
        return None
    with single_threaded():
        background = sample.clean_peak * evaluate_background(spec.background, shape).numpy()
        model = image_model(
            specimen_of(spec.specimen),
            spec.optics,
            spec.detector,
            spec.scan,
            sample.dose_e_per_A2,
            background,
            spec.contrast,
        )
        if model.columns - model.beyond != inside:
            raise OpticsError(
                f"{sample.id}: {inside} columns on the image, its specification has {model.columns - model.beyond}; "
                "bounds are of samples as they were rendered"
            )
        scan_rng = np.random.Generator(np.random.Philox(spec.scan_seed))
        return hybrid_bound(model, row_sigma_A(noise, shape[0], scan_rng))


def with_bounds(sample: Sample) -> Sample:
    """The sample with `columns.crlb_A` from `sample_bound`; unchanged where there is no bound."""
    bound = sample_bound(sample)
    if bound is None:
        return sample
    crlb_A = np.full((len(sample.columns), 2), np.nan)
    crlb_A[sample.columns.inside((sample.spec.image_size,) * 2)] = bound.xy_A
    return replace(sample, columns=replace(sample.columns, crlb_A=crlb_A))
