"""Translations of a crystal, found from columns that are known, tell of those that are not."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from temimagenet.localize.repeats import Repeats, complete

WIDTH, SIZE = 3.0, 300
A = 29.4
RUTILE = 0.305
"""Internal coordinate of oxygen (Baur & Khan, Acta Cryst. B27 (1971) 2133)."""
LIGHT = np.array([[RUTILE, RUTILE], [-RUTILE, -RUTILE], [0.5 + RUTILE, 0.5 - RUTILE], [0.5 - RUTILE, 0.5 + RUTILE]])


def _rutile(strain=0.0, turn=20.0):
    """Titanium and oxygen of rutile [001] in an image, sheared more and more along it."""
    cells = np.stack(np.meshgrid(np.arange(-20, 20), np.arange(-20, 20)), axis=-1).reshape(-1, 1, 2)
    angle = np.deg2rad(turn)
    matrix = A * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed = []
    for basis in (np.array([[0.0, 0.0], [0.5, 0.5]]), LIGHT):
        xy = (cells + basis).reshape(-1, 2) @ matrix + SIZE / 2
        xy = xy + strain * np.stack([(xy[:, 1] - SIZE / 2) ** 2 / SIZE, 0.0 * xy[:, 0]], axis=1)
        placed.append(xy[((xy > 5.0) & (xy < SIZE - 6.0)).all(axis=1)])
    return placed


@pytest.mark.parametrize("strain", [0.0, 0.1])
def test_where_equivalents_are_is_told_wherever_the_crystal_is_strained(strain):
    heavy, light = _rutile(strain)
    rng = np.random.default_rng(1)
    known = rng.random(len(light)) < 0.4
    xy = np.concatenate([heavy, light[known]]) + rng.normal(scale=0.2, size=(len(heavy) + known.sum(), 2))
    repeats = Repeats.of(xy, np.repeat([10.0, 1.0], [len(heavy), known.sum()]), WIDTH, (SIZE, SIZE))
    missing, tree = light[~known], KDTree(light[~known])

    def left(places):
        return np.exp(-0.5 * (tree.query(places)[0] / WIDTH) ** 2)

    mean, told = repeats.at_equivalents(missing, np.ones(len(missing)), left)
    middle = ((missing > 60.0) & (missing < SIZE - 61.0)).all(axis=1)
    assert middle.sum() > 40
    assert (told[middle] >= 5).all()
    np.testing.assert_allclose(mean[middle], 1.0, atol=0.15)
    # The centring of titanium takes oxygen to where none is.
    nowhere = missing[middle] + 0.5 * (repeats.vectors_px[0] + repeats.vectors_px[2])
    mean, _ = repeats.at_equivalents(nowhere, np.ones(len(nowhere)), left)
    assert np.nanmax(mean) < 0.6


def test_a_column_is_expected_to_be_as_high_as_its_equivalents():
    heavy, light = _rutile()
    height = np.repeat([10.0, 2.0], [len(heavy), len(light)])
    expected = Repeats.of(np.concatenate([heavy, light]), height, WIDTH, (SIZE, SIZE)).expected()
    np.testing.assert_allclose(expected, height)


@pytest.mark.parametrize("strain", [0.0, 0.1])
def test_a_crystal_completes_what_was_found_of_it_and_keeps_what_else_there_is(strain):
    heavy, light = _rutile(strain)
    rng = np.random.default_rng(3)
    xy = np.concatenate([heavy, light])
    height = np.repeat([10.0, 1.0], [len(heavy), len(light)])
    found = np.concatenate([np.ones(len(heavy), dtype=bool), rng.random(len(light)) < 0.75])
    grid = np.stack(np.meshgrid(np.arange(60, 240), np.arange(60, 240)), axis=-1).reshape(-1, 2)
    defect = grid[np.argmax(KDTree(xy).query(grid)[0])]
    told = np.concatenate([xy[found] + rng.normal(scale=0.3 * WIDTH, size=(found.sum(), 2)), [defect]])
    whole = complete(told, np.append(height[found], 1.0), WIDTH, (SIZE, SIZE), rounds=3)
    middle = ((xy > 30.0) & (xy < SIZE - 31.0)).all(axis=1)
    away, which = KDTree(whole.xy_px).query(xy)
    here = middle & (away < 0.6 * WIDTH)
    assert (middle & ~found).sum() > 50
    assert here[middle & ~found].mean() > 0.95
    assert here[middle & found].all()
    assert np.sqrt((away[here] ** 2).mean() / 2.0) < 0.2 * WIDTH
    assert (whole.source[which[here & ~found]] == -1).all()
    assert whole.regular[which[here]].mean() > 0.98
    np.testing.assert_array_equal(whole.height[which[here]], height[here])
    assert (~whole.regular[whole.source == found.sum()]).all()
    np.testing.assert_array_equal(whole.xy_px[whole.source == found.sum()], [defect])
    inner = whole.regular & ((whole.xy_px > 30.0) & (whole.xy_px < SIZE - 31.0)).all(axis=1)
    assert KDTree(xy).query(whole.xy_px[inner])[0].max() < 0.6 * WIDTH


def test_a_crystal_does_not_go_on_beyond_its_edge():
    heavy, light = _rutile()
    xy = np.concatenate([heavy, light])
    height = np.repeat([10.0, 1.0], [len(heavy), len(light)])
    inside = xy[:, 0] < SIZE / 2
    whole = complete(xy[inside], height[inside], WIDTH, (SIZE, SIZE), rounds=3)
    beyond = whole.xy_px[(whole.source < 0) & (whole.xy_px[:, 0] > SIZE / 2)]
    # A few of the first layer, near the image's border, which is no edge of the crystal.
    assert len(beyond) <= 5
    assert (beyond[:, 0] < (SIZE + A) / 2).all()


def test_disorder_has_no_translations():
    rng = np.random.default_rng(2)
    xy = rng.uniform(5.0, SIZE - 6.0, size=(900, 2))
    xy = xy[[number for number, near in enumerate(KDTree(xy).query_ball_point(xy, 7.0)) if min(near) == number]]
    repeats = Repeats.of(xy, np.ones(len(xy)), WIDTH, (SIZE, SIZE))
    assert len(repeats.vectors_px) == 0
    assert np.isnan(repeats.expected()).all()
    assert not len(repeats.places()[0])
    np.testing.assert_array_equal(complete(xy, np.ones(len(xy)), WIDTH, (SIZE, SIZE)).xy_px, xy)
    assert np.isnan(repeats.at_equivalents(xy, np.ones(len(xy)), lambda places: np.ones(len(places)))[0]).all()
