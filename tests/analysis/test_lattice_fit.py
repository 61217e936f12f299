"""A lattice with a basis, its sublattices and what does not fit: exact positions, and rendered crystals."""

from functools import cache

import numpy as np
import pytest
from scipy.spatial import KDTree

from builder.film import EXAMPLE, Film, render_film
from temimagenet.analysis import fit_lattice, intensity_classes, separate_sublattices
from temimagenet.errors import LocalizeError
from temimagenet.localize import FoundColumns, GaussianFit

BASIS = np.array([[21.0, 3.0], [-4.0, 25.0]])
SITES = np.array([[0.0, 0.0], [0.98, 0.35], [0.4, 0.6]])


def found(xy, intensity=None):
    """Columns as a localizer gives them."""
    one = np.ones(len(xy))
    bright = one if intensity is None else intensity
    return FoundColumns(xy, np.stack([one, one], axis=1), bright, one, one, np.zeros(len(xy), dtype=np.int64), 0.1)


def crystal(sites=SITES):
    """Positions in a field, and the site of each."""
    steps = np.stack(np.meshgrid(np.arange(-30, 30), np.arange(-30, 30)), axis=-1).reshape(-1, 2)
    xy = ((steps[:, None] + sites) @ BASIS + 200.0).reshape(-1, 2)
    site = np.tile(np.arange(len(sites)), len(steps))
    inside = ((xy > 5.0) & (xy < 395.0)).all(axis=1)
    return xy[inside], site[inside]


@cache
def rendered(film, seed=0):
    """An image and its columns."""
    made = render_film(film, seed)
    return made, GaussianFit()(made.image, made.pixel_size_A)


def kinds(made, columns):
    """What each found column truly is."""
    away, nearest = KDTree(made.xy_px).query(columns.xy_px)
    assert np.median(away) < 1.0
    return made.kind[nearest]


def test_an_exact_lattice_comes_back_with_its_sites():
    xy, truth = crystal()
    brightness = np.array([5.0, 9.0, 7.0])[truth]
    lattice = fit_lattice(found(xy, brightness))
    # Brightest first.
    np.testing.assert_array_equal(lattice.site, np.array([2, 0, 1])[truth])
    np.testing.assert_allclose(lattice.site_intensity, [9.0, 7.0, 5.0])
    np.testing.assert_allclose(np.sort(lattice.lengths_pm), np.sort(10.0 * np.linalg.norm(BASIS, axis=1)), rtol=1e-9)
    np.testing.assert_allclose(lattice.displacement_px, 0.0, atol=1e-7)
    placed = lattice.origin_px + (lattice.cell + lattice.site_position[lattice.site]) @ lattice.vectors_px
    np.testing.assert_allclose(placed, xy, atol=1e-7)
    assert ((lattice.site_position >= -1e-6) & (lattice.site_position < 1.0)).all()
    assert len(np.unique(np.column_stack([lattice.site, lattice.cell]), axis=0)) == len(xy)


def test_errors_of_lattice_vectors_are_those_of_repeated_measurements():
    xy, _ = crystal(SITES[:1])
    rng = np.random.default_rng(4)
    vectors, told = [], []
    for _ in range(16):
        lattice = fit_lattice(found(xy + 0.4 * rng.standard_normal(xy.shape)))
        vectors.append(lattice.vectors_px)
        told.append(lattice.vectors_sigma_px)
    # 16 draws know a standard deviation to 18 %.
    np.testing.assert_allclose(np.mean(told, axis=0), np.std(vectors, axis=0), rtol=0.5)


def test_what_is_no_site_of_the_lattice_is_left_out():
    xy, truth = crystal(SITES[[0, 2]])
    rng = np.random.default_rng(1)
    # Adatoms between the sites, and flagged columns.
    adatoms = np.array([[3.75, 2.2], [-3.25, 1.2], [0.75, -2.8]]) @ BASIS + 200.0
    columns = found(np.concatenate([xy + 0.2 * rng.standard_normal(xy.shape), adatoms]))
    columns.flags[5] = 2
    lattice = fit_lattice(columns)
    assert len(lattice) == 2
    assert (lattice.site[-3:] == -1).all()
    assert lattice.site[5] == -1
    assert np.isnan(lattice.displacement_px[[5, -1]]).all()
    kept = np.delete(np.arange(len(xy)), 5)
    assert len(set(zip(lattice.site[kept], truth[kept], strict=True))) == 2
    assert np.nanstd(lattice.displacement_px) == pytest.approx(0.2, rel=0.1)
    assert lattice.plot().axes


@pytest.mark.parametrize("rotation", [3.0, 41.0])
def test_strontium_and_titanium_of_a_rendered_image_are_told_apart_by_place_and_by_intensity(rotation):
    made, columns = rendered(Film(rotation_deg=rotation))
    truth = kinds(made, columns)
    both = separate_sublattices(columns)
    sound = columns.sound
    assert sound.sum() > 600
    assert len(both.lattice) == len(both.classes) == 2
    # Site 0 is the brighter, strontium; classes begin with the dimmer.
    np.testing.assert_array_equal(both.lattice.site[sound], (truth[sound] == "TiO").astype(int))
    np.testing.assert_array_equal(both.classes.label[sound], (truth[sound] == "Sr").astype(int))
    np.testing.assert_allclose(both.lattice.site_position[1], 0.5, atol=2e-3)
    # SrTiO3: a = 3.905 A.
    np.testing.assert_allclose(both.lattice.lengths_pm, 390.5, atol=0.3)
    assert both.lattice.angle_deg == pytest.approx(90.0, abs=0.05)
    assert not both.odd.any()
    np.testing.assert_array_equal(both.usual_class, [1, 0])
    assert both.classes.confused < 1e-6


def test_foreign_columns_of_a_rendered_film_are_found():
    made, columns = rendered(EXAMPLE)
    truth = kinds(made, columns)
    both = separate_sublattices(columns)
    sound = columns.sound
    assert len(both.classes) == 3
    np.testing.assert_array_equal(both.odd[sound], truth[sound] == "Ba")
    np.testing.assert_array_equal(both.lattice.site[sound], (truth[sound] == "TiO").astype(int))


def test_cobalt_and_oxygen_of_a_rendered_oxide_are_told_apart():
    made, columns = rendered(
        Film("LiCoO2", "[010]", (384, 384), 0.1, 5.0, electrons_per_pixel=400.0), seed=2
    )  # fmt: skip
    truth = kinds(made, columns)
    bright = columns.sound & (truth == "Co")
    dim = columns.sound & (truth == "O")
    classes = intensity_classes(columns)
    assert bright.sum() > 50
    # Some at the edge have lost a neighbour's tail and make a class of their own.
    assert (classes.label[bright] > 0).all()
    assert (classes.label[dim] == 0).all()
    assert classes.confused < 1e-3
    # Two oxygen columns a cobalt, of one intensity and two places.
    lattice = fit_lattice(columns)
    assert len(lattice) == 3
    on_site = lattice.site >= 0
    assert on_site[columns.sound].mean() > 0.95
    np.testing.assert_array_equal(lattice.site[on_site] == 0, truth[on_site] == "Co")
    assert lattice.site_intensity[1] == pytest.approx(lattice.site_intensity[2], rel=0.01)
    # Along [010] of the hexagonal axes a = 2.816 A is seen at 30 degrees.
    assert lattice.lengths_pm[0] == pytest.approx(281.6 * np.sqrt(0.75), abs=0.5)


def test_two_grains_are_no_one_lattice():
    xy, _ = crystal(SITES[:1])
    turn = np.radians(12.0)
    turned = (xy - 200.0) @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] + 200.0
    both = np.concatenate([xy[xy[:, 0] < 195.0], turned[turned[:, 0] > 205.0]])
    with pytest.raises(LocalizeError, match="no one lattice"):
        fit_lattice(found(both))


def test_what_has_no_lattice_is_told():
    with pytest.raises(LocalizeError, match="no lattice"):
        fit_lattice(found(np.random.default_rng(0).uniform(0.0, 400.0, (200, 2))))
    with pytest.raises(LocalizeError, match="12 sound ones"):
        fit_lattice(found(crystal()[0][:8]))
