"""Strain of columns whose displacements are known."""

import numpy as np
import pytest

from builder.film import Film, render_film
from temimagenet.analysis import measure_strain
from temimagenet.errors import LocalizeError
from temimagenet.localize import FoundColumns, GaussianFit

FILM = np.array([[1.02, 0.004], [-0.006, 0.985]])
"""The right half's deformation gradient."""


def positions(turn_deg=17.0, dumbbell=(0.0, 0.0)):
    """A turned oblique lattice, its right half deformed about the middle, perhaps with two columns a cell."""
    turn = np.radians(turn_deg)
    basis = np.array([[20.0, 0.0], [5.0, 24.0]]) @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    steps = np.stack(np.meshgrid(np.arange(-40, 40), np.arange(-40, 40)), axis=-1).reshape(-1, 2)
    xy = (steps @ basis)[:, None] + np.array([[0.0, 0.0], dumbbell] if any(dumbbell) else [[0.0, 0.0]])
    xy = xy.reshape(-1, 2)
    right = xy[:, 0] > 0.0
    xy[right] = xy[right] @ FILM.T
    xy += 256.0
    return xy[((xy > 12.0) & (xy < 500.0)).all(axis=1)]


def found(xy):
    """Columns as a localizer gives them."""
    one = np.ones(len(xy))
    return FoundColumns(xy, np.stack([one, one], axis=1), one, one, one, np.zeros(len(xy), dtype=np.int64), 0.1)


def halves(strain):
    """Means of exx, eyy, exy and rotation in the reference and far inside the film."""
    numbers = np.stack([strain.exx, strain.eyy, strain.exy, np.radians(strain.rotation_deg)])
    film = strain.xy_px[:, 0] > 320.0
    return np.nanmean(numbers[:, strain.reference], axis=1), np.nanmean(numbers[:, film], axis=1)


def truth(gradient=FILM):
    """The film's exx, eyy, exy and rotation."""
    angle = np.arctan2(gradient[1, 0] - gradient[0, 1], gradient[0, 0] + gradient[1, 1])
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch = back @ gradient
    return np.array([stretch[0, 0] - 1.0, stretch[1, 1] - 1.0, stretch[0, 1], angle])


REFERENCE = (0.0, 0.0, 190.0, 511.0)


@pytest.mark.parametrize("dumbbell", [(0.0, 0.0), (7.0, 3.0)])
@pytest.mark.parametrize("reach", [0.0, 1.5])
def test_exact_positions_give_exact_strain(dumbbell, reach):
    reference, film = halves(measure_strain(found(positions(dumbbell=dumbbell)), REFERENCE, reach=reach))
    np.testing.assert_allclose(reference, 0.0, atol=1e-9)
    np.testing.assert_allclose(film, truth(), atol=1e-9)


def test_an_image_with_counting_noise_gives_strain_within_a_tenth_of_a_per_cent():
    y, x = np.indices((512, 512))
    clean = np.zeros((512, 512))
    for a, b in positions():
        window = np.s_[max(0, int(b) - 16) : int(b) + 17, max(0, int(a) - 16) : int(a) + 17]
        clean[window] += np.exp(-((x[window] - a) ** 2 + (y[window] - b) ** 2) / 32.0)
    image = np.random.default_rng(5).poisson(30.0 + 150.0 * clean).astype(np.float64)
    strain = measure_strain(GaussianFit()(image, 0.1), REFERENCE)
    reference, film = halves(strain)
    np.testing.assert_allclose(reference, 0.0, atol=1e-3)
    np.testing.assert_allclose(film, truth(), atol=1e-3)
    # Column by column, the middle of the film alone: that of the edge between the halves is in between.
    film = strain.xy_px[:, 0] > 320.0
    assert np.nanstd(strain.exx[film]) < 2e-3
    assert strain.plot().axes


@pytest.mark.parametrize(
    ("name", "zone", "gradient"),
    [
        ("SrTiO3", "[001]", ((1.02, 0.0), (-0.012, 1.0))),
        ("SrTiO3", "[001]", ((0.985, 0.012), (-0.008, 1.015))),
        ("Pt", "[110]", ((1.0, 0.015), (0.0, 0.98))),
    ],
)
def test_rendered_crystals_give_their_strain_within_a_tenth_of_a_per_cent(name, zone, gradient):
    film = Film(name, zone, (400, 400), 0.13, 23.0, gradient, scan_sigma_A=0.03)
    made = render_film(film, seed=1)
    strain = measure_strain(GaussianFit()(made.image, made.pixel_size_A), (0.0, 0.0, 160.0, 399.0))
    numbers = np.stack([strain.exx, strain.eyy, strain.exy, np.radians(strain.rotation_deg)])
    inside = strain.xy_px[:, 0] > 250.0
    assert np.isfinite(numbers[:, inside]).mean() > 0.95
    np.testing.assert_allclose(np.nanmean(numbers[:, inside], axis=1), truth(np.array(gradient)), atol=1e-3)
    np.testing.assert_allclose(np.nanmean(numbers[:, strain.reference], axis=1), 0.0, atol=1e-3)


def test_the_whole_image_is_the_reference_unless_one_is_given():
    strain = measure_strain(found(positions()))
    assert strain.reference.all()
    assert abs(np.nanmean(strain.exx)) < 2e-3


def test_what_cannot_be_measured_is_told():
    with pytest.raises(LocalizeError, match="12 sound ones"):
        measure_strain(found(positions()), (0.0, 0.0, 40.0, 40.0))
    with pytest.raises(LocalizeError, match="left, top, right, bottom"):
        measure_strain(found(positions()), (50.0, 0.0, 40.0, 40.0))
    with pytest.raises(LocalizeError, match="no lattice"):
        measure_strain(found(np.random.default_rng(0).uniform(0.0, 400.0, (200, 2))))
