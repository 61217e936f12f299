"""Statistics of a library: numbers that add up, pictures that say what they show."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from builder.statistics import library_plots
from temimagenet.storage import read_catalogue


@pytest.fixture(scope="module")
def catalogue(library):
    return read_catalogue(library)


def plots_of(catalogue):
    return {plot.key: plot for section in library_plots(catalogue) for plot in section.plots}


def test_numbers_are_those_of_the_catalogue(catalogue):
    plots = plots_of(catalogue)
    material = {row[0]: row[1:] for row in plots["by-material"].rows}
    pt = catalogue[catalogue["material"] == "Pt"]
    assert material["Pt"][:2] == (str(len(pt)), f"{100 * len(pt) / len(catalogue):.1f} %")
    assert [int(n) for n in material["Pt"][2:]] == [(pt["split"] == s).sum() for s in ("train", "test", "heldout")]
    assert "browse.html?material=Pt" in plots["by-material"].links
    rings = plots.pop("rings")
    assert [row[0] for row in rings.rows] == ["5 atoms", "6 atoms", "7 atoms", "8 atoms"]
    shares = [float(row[2].removesuffix(" %")) for row in rings.rows]
    assert shares == pytest.approx([24, 55, 19, 2], abs=3)  # as site/docs/physics.md tells of all sheets
    psnr = plots["of-psnr-dB"].rows
    sums = [sum(int(row[2 + k]) for row in psnr) for k in range(3)]
    assert sums == [(catalogue["split"] == s).sum() for s in ("train", "test", "heldout")]
    for key, plot in plots.items():
        assert sum(int(row[1].replace(",", "")) for row in plot.rows) == len(catalogue), key


def test_pictures_are_drawn_with_title_and_description(catalogue):
    for key, plot in plots_of(catalogue).items():
        svg = ET.fromstring(str(plot.svg))
        assert svg.get("role") == "img"
        assert svg.get("aria-labelledby") == f"{key}-title {key}-desc"
        assert svg[0].text
        assert svg[1].text
        width, height = (float(v) for v in svg.get("viewBox").split()[2:])
        for bar in svg.iter("rect"):
            x, y, w, h = (float(bar.get(k)) for k in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width + 0.2, key
            assert 0 <= y <= y + h <= height + 0.2, key


def test_a_tall_plot_stands_beside_as_many_as_are_as_high(catalogue):
    many = pd.concat([catalogue.assign(material=f"M{k}") for k in range(14)])
    for section in library_plots(many):
        for plot, span, after in zip(section.plots, section.spans, range(1, 99), strict=False):
            beside = sum(other.height for other in section.plots[after : after + span])
            assert span == 1 or abs(beside - plot.height) < max(p.height for p in section.plots[after:]) / 2
        assert (max(section.spans) > 1) == (section.title == "What was imaged")


@pytest.mark.parametrize("change", ["one row", "all alike", "names of markup", "no numbers", "drawn from ranges"])
def test_unusual_libraries_are_drawn(catalogue, change):
    odd: pd.DataFrame = {
        "one row": lambda: catalogue.head(1),
        "all alike": lambda: catalogue.assign(psnr_dB=20.0, dose_e_per_A2=1e6, columns=3, scan_sigma_A=0.0),
        "names of markup": lambda: catalogue.assign(material="<b>&"),
        "no numbers": lambda: catalogue.assign(dose_e_per_A2=np.nan),
        "drawn from ranges": lambda: pd.concat([catalogue] * 4).assign(
            rotation_deg=np.linspace(0.0, 360.0, 96),
            field_of_view_A=np.linspace(8.0, 40.0, 96),
            energy_keV=np.linspace(60.0, 300.0, 96),
        ),
    }[change]()
    for plot in plots_of(odd).values():
        ET.fromstring(str(plot.svg))
        assert plot.rows
    if change == "drawn from ranges":
        assert plots_of(odd)["by-condition"].rows[0][0] == "1: various"
        assert "of-rotation-deg" in plots_of(odd)
    told = [title for section in library_plots(odd) for title in section.absent]
    assert told == (["Dose (e/Å²)"] if change == "no numbers" else [])
