"""Linear against multislice: figures and tables of the shipped atlas for the documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from temimagenet.atlas import find_series, has_table, table_tasks
from temimagenet.imaging.fourier import FourierImage, evaluate
from temimagenet.imaging.linear import fourier_image
from temimagenet.imaging.optics import CONDITIONS, Detector
from temimagenet.imaging.scan import Scan
from temimagenet.recipe import SpecimenSpec, load_recipe
from temimagenet.render import specimen_of, twin_facts
from temimagenet.specimen import MATERIALS

__all__ = ["draw_comparison"]

_SHOWN = (("Pt", (1, 1, 0)), ("SrTiO3", (0, 0, 1)), ("Si", (1, 1, 0)), ("MoS2", (0, 0, 1)))
_THICK = (20.0, 60.0, 120.0, 200.0)
_INK = {"linear": "#b45309", "multislice": "#1d4ed8"}


def draw_comparison(folder: Path) -> list[Path]:
    """Draw the comparison of both engines at 200 keV and 24 mrad into a folder: two SVG figures and a table.

    Args:
        folder: where `profiles.svg`, `thickness.svg` and `table.md` go.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("profiles.svg", "thickness.svg", "table.md")]
    _profiles().savefig(files[0], metadata={"Date": None})
    _thickness().savefig(files[1], metadata={"Date": None})
    files[2].write_text(_table(), encoding="utf-8")
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
    """Images side by side and line profiles through columns."""
    figure = Figure(figsize=(9.0, 2.6 * len(_SHOWN)), layout="constrained")
    panels = figure.subplots(len(_SHOWN), 3, width_ratios=(1, 1, 1.6))
    for row, (material, zone) in zip(panels, _SHOWN, strict=True):
        spec = _spec(material, zone, 100.0)
        specimen = specimen_of(spec)
        pair = _pair(spec)
        place = specimen.column_xy_A[int(np.argmax(specimen.numbers[np.unique(specimen.column, return_index=True)[1]]))]
        scan = Scan((160, 160), 0.075, 0.0, (float(place[0]) - 6.0, float(place[1]) - 6.0))
        images = {name: evaluate(image, scan).numpy() for name, image in pair.items()}
        for panel, (name, image) in zip(row, images.items(), strict=False):
            panel.imshow(image, cmap="gray", extent=(0, 12, 12, 0))
            panel.axhline(6.0, color=_INK[name], linewidth=0.8)
            panel.set_title(f"{specimen.name}{'' if spec.thickness_A is None else ', 100 Å'}: {name}", fontsize=8)
            panel.set_axis_off()
            row[2].plot(np.arange(160) * 0.075, 100.0 * image[80], color=_INK[name], label=name)
        row[2].set_xlabel("Å", fontsize=8)
        row[2].set_ylabel("% of the beam", fontsize=8)
        row[2].tick_params(labelsize=7)
        row[2].set_ylim(0.0, 130.0 * max(float(image[80].max()) for image in images.values()))
        row[2].legend(fontsize=7, frameon=False)
    return figure


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
        g = image.g_per_A[1:]
        values = image.coefficients.numpy().astype(np.complex128)
        phases = np.exp(2j * np.pi * specimen.column_xy_A @ g.T)
        heights = values[0].real + 2.0 * (phases @ values[1:]).real
        ratios.append(float(heights.max() / heights.min()))
    return f"{ratios[1]:.2f} / {ratios[0]:.2f}"


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
        if task.pupils[0].energy_keV != optics.energy_keV or not has_table(what, optics, detector):
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
