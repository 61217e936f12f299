"""Linear against multislice: figures and tables of the shipped atlas for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from temimagenet.atlas import find_series, has_table, table_tasks
from temimagenet.imaging.fourier import FourierImage, derivatives, evaluate
from temimagenet.imaging.linear import fourier_image
from temimagenet.imaging.optics import CONDITIONS, Detector
from temimagenet.imaging.scan import Scan
from temimagenet.recipe import Engine, SpecimenSpec, load_recipe, sample_spec
from temimagenet.render import render, specimen_of, twin_facts
from temimagenet.specimen import MATERIALS

__all__ = ["draw_comparison"]

_SHOWN = (("Pt", (1, 1, 0)), ("SrTiO3", (0, 0, 1)), ("Si", (1, 1, 0)), ("MoS2", (0, 0, 1)))
_THICK = (20.0, 60.0, 120.0, 200.0)
_INK = {"linear": "#b45309", "multislice": "#1d4ed8"}


def draw_comparison(folder: Path) -> list[Path]:
    """Draw the comparison of both engines at 200 keV and 24 mrad into a folder: three SVG figures and two tables.

    Args:
        folder: where `profiles.svg`, `thickness.svg`, `finite.svg`, `table.md` and `particles.md` go.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("profiles.svg", "thickness.svg", "finite.svg", "table.md", "particles.md")]
    for file, figure in zip(files, (_profiles(), _thickness(), _finite()), strict=False):
        figure.savefig(file, metadata={"Date": None})
    files[3].write_text(_table(), encoding="utf-8")
    files[4].write_text(_particles(), encoding="utf-8")
    return files


def _spec(material: str, zone: tuple[int, int, int], thickness_A: float) -> SpecimenSpec:
    """A crystal, or a layer without thickness."""
    layer = MATERIALS[material].morphology == "layer"
    return SpecimenSpec("crystal", material, "", zone, None if layer else thickness_A)


def _pair(spec: SpecimenSpec) -> dict[str, FourierImage]:
    """Both engines' series under condition 1."""
    optics, detector = CONDITIONS[1], Detector()
    twin = find_series(spec, optics, detector).image(spec.thickness_A, optics.source_size_A)
    return {"linear": fourier_image(specimen_of(spec), optics, detector), "multislice": twin}


def _profiles() -> Figure:
    """Images of crystals side by side and line profiles through columns."""
    figure = Figure(figsize=(9.0, 2.6 * len(_SHOWN)), layout="constrained")
    for row, (material, zone) in zip(_panels(figure, len(_SHOWN)), _SHOWN, strict=True):
        spec = _spec(material, zone, 100.0)
        specimen = specimen_of(spec)
        place = specimen.column_xy_A[int(np.argmax(specimen.numbers[np.unique(specimen.column, return_index=True)[1]]))]
        scan = Scan((160, 160), 0.075, 0.0, (float(place[0]) - 6.0, float(place[1]) - 6.0))
        images = {name: evaluate(image, scan).numpy() for name, image in _pair(spec).items()}
        _row(row, f"{specimen.name}{'' if spec.thickness_A is None else ', 100 Å'}", images, scan.pixel_size_A, 80)
    return figure


def _finite() -> Figure:
    """A particle and a film side by side and line profiles through columns."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    recipe = load_recipe("v1")
    for row, kind, field, corner in zip(
        _panels(figure, 2), ("particle", "amorphous"), (28.0, 20.0), (-14.0, 10.0), strict=True
    ):
        spec = next(
            spec
            for spec in (sample_spec(recipe, index) for index in range(recipe.samples))
            if spec.specimen.kind == kind and has_table(spec.specimen, CONDITIONS[1], spec.detector)
        )
        spec = replace(spec, optics=CONDITIONS[1], field_of_view_A=field, rotation_deg=0.0, offset_A=(corner, corner))
        images = {}
        for name in _INK:
            (sample,) = render([spec], ("noBackgroundnoNoise",), engine=cast(Engine, name))
            images[name] = sample.labels["noBackgroundnoNoise"].numpy()
        line = int(np.argmax(images["multislice"].max(axis=1)))
        _row(row, specimen_of(spec.specimen).name, images, spec.pixel_size_A, line)
    return figure


def _panels(figure: Figure, rows: int) -> NDArray[np.object_]:
    """Rows of two images and a plot."""
    panels: NDArray[np.object_] = figure.subplots(rows, 3, width_ratios=(1, 1, 1.6))
    return panels


def _row(
    row: NDArray[np.object_], title: str, images: Mapping[str, NDArray[np.float32]], pixel_size_A: float, line: int
) -> None:
    """Both engines' images and their profiles along one line."""
    edge = images["linear"].shape[0] * pixel_size_A
    for panel, (name, image) in zip(row, images.items(), strict=False):
        panel.imshow(image, cmap="gray", extent=(0, edge, edge, 0))
        panel.axhline(line * pixel_size_A, color=_INK[name], linewidth=0.8)
        panel.set_title(f"{title}: {name}", fontsize=8)
        panel.set_axis_off()
        row[2].plot(np.arange(image.shape[1]) * pixel_size_A, 100.0 * image[line], color=_INK[name], label=name)
    row[2].set_xlabel("Å", fontsize=8)
    row[2].set_ylabel("% of the beam", fontsize=8)
    row[2].tick_params(labelsize=7)
    row[2].set_ylim(0.0, 130.0 * max(float(image[line].max()) for image in images.values()))
    row[2].legend(fontsize=7, frameon=False)


def _thickness() -> Figure:
    """Mean signal against thickness."""
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    shown = [item for item in _SHOWN if item[0] != "MoS2"]
    for panel, (material, zone) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        ladder = np.arange(20.0, 201.0, 10.0)
        for name in _INK:
            means = [float(_pair(_spec(material, zone, t))[name].coefficients[0].real) for t in ladder]
            panel.plot(ladder, 100.0 * np.array(means), color=_INK[name], label=name)
        panel.set_title(specimen_of(_spec(material, zone, 20.0)).name, fontsize=8)
        panel.set_xlabel("thickness, Å", fontsize=8)
        panel.set_ylabel("mean, % of the beam", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_ylim(bottom=0.0)
        panel.legend(fontsize=7, frameon=False)
    return figure


def _contrast(spec: SpecimenSpec) -> str:
    """Brightest over faintest column in both engines' images, multislice first; one number of columns has none."""
    specimen = specimen_of(spec)
    kinds = specimen.column_kinds
    if len(set(kinds)) < 2:
        return ""
    ratios = []
    for image in _pair(spec).values():
        heights = derivatives(image, specimen.column_xy_A)[0]
        ratios.append(float(heights.max() / heights.min()))
    return f"{ratios[1]:.2f} / {ratios[0]:.2f}"


def _particles() -> str:
    """The particles that have tables."""
    lines = [
        "| particle | size | atoms | columns | mean / linear | correlation | error over peak, 24, 10.5, 10 mrad |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in table_tasks(load_recipe("v1")):
        what = task.specimen
        if what.kind != "particle" or not has_table(what, CONDITIONS[1], task.detector):
            continue
        specimen = specimen_of(what)
        told = twin_facts(what, CONDITIONS[1], task.detector)
        errors = []
        for optics in (CONDITIONS[n] for n in (1, 3, 5)):
            series = find_series(what, optics, task.detector)
            image = series.image(None, optics.source_size_A)
            peak = derivatives(image, specimen.column_xy_A)[0].max()
            errors.append(float(series.error_of_image()[0]) * float(image.coefficients[0].real) / float(peak))
        lines.append(
            f"| {specimen.name}, {what.realisation} | {what.size_A:.1f} Å | {int(specimen.atoms.sum())} "
            f"| {len(specimen.column_xy_A)} | {told.mean_ratio:.2f} | {told.correlation:.3f} "
            f"| {', '.join(f'{100.0 * error:.1f} %' for error in errors)} |"
        )
    return "\n".join(lines) + "\n"


def _table() -> str:
    """How well the linear model does, a row a crystal and thickness."""
    lines = [
        "| specimen | thickness | mean / linear | correlation | brightest / faintest column (multislice / linear) "
        "| largest shift of a maximum | standard error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    optics, detector = CONDITIONS[1], Detector()
    for task in table_tasks(load_recipe("v1")):
        what = task.specimen
        if what.kind != "crystal" or task.pupils[0].energy_keV != optics.energy_keV:
            continue
        if not has_table(what, optics, detector):
            continue
        layer = np.isnan(find_series(what, optics, detector).thickness_A).any()
        for thickness in (None,) if layer else _THICK:
            spec = SpecimenSpec(what.kind, what.material, "", what.zone, thickness, strain=what.strain)
            told = twin_facts(spec, optics, detector)
            table = find_series(spec, optics, detector)
            error = table.error_of_image()
            rung = 0 if thickness is None else int(np.searchsorted(table.thickness_A, thickness))
            shift = "" if np.isnan(told.column_shift_pm) else f"{told.column_shift_pm:.1f} pm"
            lines.append(
                f"| {specimen_of(spec).name} | {'layer' if thickness is None else f'{thickness:g} Å'} "
                f"| {told.mean_ratio:.2f} | {told.correlation:.3f} | {_contrast(spec)} | {shift} "
                f"| {100.0 * error[rung]:.1f} % |"
            )
    return "\n".join(lines) + "\n"
