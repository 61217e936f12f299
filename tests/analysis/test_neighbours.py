"""Nearest neighbours: vectors, distances and their errors."""

import numpy as np
import pytest

from temimagenet.analysis import nearest_neighbours
from temimagenet.errors import LocalizeError
from temimagenet.localize import Flag, FoundColumns


def honeycomb():
    """Graphene's honeycomb, 14.2 px apart, on a field."""
    a = 14.2 * np.sqrt(3.0)
    basis = a * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    steps = np.stack(np.meshgrid(np.arange(-20, 30), np.arange(-20, 30)), axis=-1).reshape(-1, 2)
    xy = ((steps[:, None] + np.array([[0.0, 0.0], [1.0 / 3.0, 1.0 / 3.0]])) @ basis).reshape(-1, 2)
    xy = xy[((xy > 2.0) & (xy < 300.0)).all(axis=1)]
    one = np.ones(len(xy))
    sigma = np.stack([0.1 * one, 0.2 * one], axis=1)
    return FoundColumns(xy, sigma, one, one, one, np.zeros(len(xy), dtype=np.int64), 0.1)


def test_three_neighbours_at_one_distance_then_six_at_the_next():
    columns = honeycomb()
    near = nearest_neighbours(columns, 9)
    inner = near.enclosed
    assert 0.4 < inner.mean() < 0.9
    np.testing.assert_allclose(near.distance_pm[inner, :3], 142.0, rtol=1e-9)
    np.testing.assert_allclose(near.distance_pm[inner, 3:], 142.0 * np.sqrt(3.0), rtol=1e-9)
    angles = np.degrees(np.arctan2(near.vector_px[inner, :3, 1], near.vector_px[inner, :3, 0]))
    np.testing.assert_allclose(np.diff(np.sort(angles, axis=1), axis=1), 120.0, rtol=1e-9)
    apart = columns.xy_px[near.neighbour] - columns.xy_px[:, None]
    np.testing.assert_allclose(near.vector_px, apart)
    along = near.vector_px / np.linalg.norm(near.vector_px, axis=-1, keepdims=True)
    # Both ends' errors, in the direction of the vector.
    error = np.sqrt(2.0 * ((along * [0.1, 0.2]) ** 2).sum(axis=-1))
    np.testing.assert_allclose(near.sigma_pm, 10.0 * error)
    assert near.plot().axes


def test_flagged_columns_are_nobodys_neighbours():
    columns = honeycomb()
    columns.flags[::7] = int(Flag.FAINT)
    near = nearest_neighbours(columns, 2)
    flagged = np.arange(0, len(columns), 7)
    assert (near.neighbour[flagged] == -1).all()
    assert np.isnan(near.distance_pm[flagged]).all()
    assert not near.enclosed[flagged].any()
    assert not np.isin(near.neighbour, flagged).any()


def test_columns_on_one_another_are_neighbours_not_themselves():
    columns = honeycomb()
    columns.xy_px[4] = columns.xy_px[3]
    near = nearest_neighbours(columns, 1)
    assert near.neighbour[3, 0] == 4
    assert near.neighbour[4, 0] == 3
    assert (near.neighbour[:, 0] != np.arange(len(columns))).all()
    assert near.sigma_pm[3, 0] == 0.0


def test_too_few_are_told():
    columns = honeycomb().select(np.arange(3))
    with pytest.raises(LocalizeError, match="need 4 or more"):
        nearest_neighbours(columns, 3)
    with pytest.raises(LocalizeError, match="1 or more"):
        nearest_neighbours(columns, 0)
