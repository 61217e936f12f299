"""Objects of HyperSpy and atomap: read by what they look like, and by the packages themselves where installed."""

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builder.film import Film, render_film
from temimagenet.analysis import fit_lattice
from temimagenet.errors import MicrographError
from temimagenet.localize import FoundColumns, GaussianFit
from temimagenet.micrographs import from_atomap, from_hyperspy, to_atomap


@dataclass
class Signal:
    """As much of a HyperSpy signal as is looked at."""

    data: Any
    units: str = "nm"
    scale: float = 0.012
    signal_dimension: int = 2
    navigation_size: int = 0
    down_scale: float = 0.0
    axes_manager: Any = field(init=False)

    def __post_init__(self):
        across = SimpleNamespace(scale=self.scale, units=self.units)
        down = SimpleNamespace(scale=self.down_scale or self.scale, units=self.units)
        self.axes_manager = SimpleNamespace(
            signal_dimension=self.signal_dimension, navigation_size=self.navigation_size, signal_axes=(across, down)
        )


def columns():
    """Three columns, one of unknown width."""
    xy = np.array([[3.0, 4.0], [10.5, 4.2], [17.0, 11.0]])
    width = np.array([2.0, 2.5, np.nan])
    return FoundColumns(
        xy, np.full((3, 2), 0.1), np.array([50.0, 80.0, 60.0]), np.ones(3), width, np.zeros(3, dtype=np.int64), 0.12
    )  # fmt: skip


def test_an_image_of_hyperspy():
    image, size = from_hyperspy(Signal(np.arange(12, dtype=np.uint16).reshape(3, 4)))
    assert image.dtype == np.float64
    assert image.shape == (3, 4)
    assert size == pytest.approx(0.12)
    assert from_hyperspy(Signal(np.ones((1, 3, 4)), "<undefined>"), 0.2)[1] == 0.2
    assert from_hyperspy(Signal(np.ones((3, 4)), "pm", 13.0))[1] == pytest.approx(0.13)


@pytest.mark.parametrize(
    ("signal", "told"),
    [
        (np.ones((3, 3)), "a ndarray: expected a signal of HyperSpy"),
        (Signal(np.ones((3, 3)), signal_dimension=1), "expected an image"),
        (Signal(np.ones((2, 3, 3)), navigation_size=2), "several images; take one"),
        (Signal(np.ones((3, 3), dtype=complex)), "expected real numbers"),
        (Signal(np.ones((3, 3)), "1/nm"), "not a diffraction pattern"),
        (Signal(np.ones((3, 3)), "<undefined>"), "give pixel_size_A"),
        (Signal(np.ones((3, 3)), down_scale=0.02), "not square"),
    ],
)
def test_what_is_no_image_is_told(signal, told):
    with pytest.raises(MicrographError, match=told):
        from_hyperspy(signal)


def sublattice(pixel_size=0.012, units="nm"):
    """As much of an atomap sublattice as is looked at: the first atom fitted, the second not."""
    return SimpleNamespace(
        x_position=[3.0, 8.0], y_position=[4.0, 5.0], sigma_x=[2.0, 1.0], sigma_y=[4.5, 1.0],
        atom_amplitude_gaussian2d=[30.0, 1.0], pixel_size=pixel_size, units=units,
    )  # fmt: skip


def test_a_sublattice_of_atomap():
    found = from_atomap(sublattice())
    np.testing.assert_array_equal(found.xy_px, [[3.0, 4.0], [8.0, 5.0]])
    np.testing.assert_array_equal(found.intensity, [30.0, np.nan])
    np.testing.assert_array_equal(found.width_px, [3.0, np.nan])
    assert found.pixel_size_A == pytest.approx(0.12)
    assert np.isnan(found.sigma_px).all()
    assert found.sound.all()
    with pytest.raises(MicrographError, match="units 'pixel': give pixel_size_A"):
        from_atomap(sublattice(1.0, "pixel"))
    assert from_atomap(sublattice(1.0, "pixel"), 0.2).pixel_size_A == 0.2


def test_atomap_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "atomap.api", None)
    with pytest.raises(MicrographError, match="pip install atomap"):
        to_atomap(columns(), np.ones((20, 20)))


@pytest.mark.atomap
def test_columns_go_to_atomap_and_come_back():
    made = to_atomap(columns(), np.ones((20, 20)), "Sr")
    assert made.name == "Sr"
    assert made.units == "nm"
    back = from_atomap(made)
    np.testing.assert_allclose(back.xy_px, columns().xy_px)
    np.testing.assert_allclose(back.intensity[:2], [50.0, 80.0])
    np.testing.assert_allclose(back.width_px[:2], [2.0, 2.5])
    assert back.pixel_size_A == pytest.approx(0.12)


@pytest.mark.atomap
def test_atomap_finds_the_same_sublattices():
    """atomap's usual way: the brighter from peaks, the other between them in what is left of the image."""
    import atomap.api as atomap
    import hyperspy.api as hs
    from atomap.tools import remove_atoms_from_image_using_2d_gaussian
    from scipy.spatial import KDTree

    made = render_film(Film(), seed=3)
    signal = hs.signals.Signal2D(made.image)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 0.1 * made.pixel_size_A, "nm"
    image, size = from_hyperspy(signal)
    np.testing.assert_array_equal(image, made.image)
    assert size == pytest.approx(made.pixel_size_A)
    ours = GaussianFit()(image, size)
    ours = ours.select(ours.sound)
    lattice = fit_lattice(ours)

    def refined(start, values):
        found = atomap.Sublattice(start, values, pixel_size=0.1 * size, units="nm")
        found.find_nearest_neighbors()
        found.refine_atom_positions_using_center_of_mass(show_progressbar=False)
        found.refine_atom_positions_using_2d_gaussian(show_progressbar=False)
        return found

    bright = refined(atomap.get_atom_positions(signal, separation=18, threshold_rel=0.3), made.image)
    bright.construct_zone_axes()
    between = bright.find_missing_atoms_from_zone_vector(bright.zones_axis_average_distances[2])
    dim = refined(between, remove_atoms_from_image_using_2d_gaussian(bright.image, bright, show_progressbar=False))
    for site, theirs in enumerate((bright, dim)):
        found = from_atomap(theirs)
        edge = ((found.xy_px > 15.0) & (found.xy_px < 496.0)).all(axis=1)
        away, nearest = KDTree(ours.xy_px).query(found.xy_px[edge])
        assert len(away) > 280
        assert away.max() < 0.2
        assert (lattice.site[nearest] == site).all()
        np.testing.assert_allclose(np.median(found.intensity[edge]), np.median(ours.intensity[nearest]), rtol=0.1)
