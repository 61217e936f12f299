"""Reading columns from cells: what was put in comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from temimagenet.models.columns import Offered, offered_columns, read_columns


def _offered(cells: list[tuple[int, int, float, float, float]], size: int = 16) -> Offered:
    """Cells (row, column, chance, x, y), x and y in cells."""
    chance = torch.zeros(1, size, size)
    place = torch.zeros(1, 3, size, size)
    for row, column, value, x, y in cells:
        chance[0, row, column] = value
        place[0, :, row, column] = torch.tensor([x, y, 2.0])
    return Offered(chance, place, torch.full((1, 3, size, size), 0.1))


def test_positions_are_in_pixels_with_centres_at_integers() -> None:
    # Cell (3, 5) covers pixels 6, 7 and 10, 11: its centre is (10.5, 6.5).
    found, chance = read_columns(_offered([(3, 5, 0.9, 5.0, 3.0), (9, 2, 0.8, 2.25, 9.0)]), 0.1)
    np.testing.assert_allclose(found[:, :2], [[10.5, 6.5], [5.0, 18.5]])
    np.testing.assert_allclose(found[:, 2], 2.0)
    np.testing.assert_allclose(found[:, 3:5], 0.2, rtol=1e-6)
    np.testing.assert_allclose(chance, [0.9, 0.8], rtol=1e-6)


def test_two_cells_that_tell_of_one_column_are_one() -> None:
    found, chance = read_columns(_offered([(3, 5, 0.4, 5.52, 3.0), (3, 6, 0.5, 5.48, 3.0)]), 0.1)
    assert len(found) == 1
    assert found[0, 0] == pytest.approx((0.4 * 5.52 + 0.5 * 5.48) / 0.9 * 2 + 0.5)
    assert chance[0] == pytest.approx(0.9)
    # What they disagree by is in the error.
    assert found[0, 3] > 0.2


def test_columns_0_6_angstrom_apart_stay_two() -> None:
    found, _ = read_columns(_offered([(3, 5, 0.9, 5.0, 3.0), (3, 8, 0.9, 8.0, 3.0)]), 0.1)
    assert len(found) == 2


def test_columns_of_small_chance_are_left_out() -> None:
    offered = _offered([(3, 5, 0.3, 5.0, 3.0), (9, 9, 0.6, 9.0, 9.0)])
    assert len(read_columns(offered, 0.1)[0]) == 1
    assert len(read_columns(offered, 0.1, least_chance=0.2)[0]) == 2
    assert read_columns(_offered([]), 0.1)[0].shape == (0, 6)


def test_raw_numbers_are_turned_into_chances_places_and_spreads() -> None:
    raw = torch.zeros(1, 7, 4, 6)
    raw[0, 1, 2, 3] = 0.5
    offered = offered_columns(raw)
    assert offered.chance[0, 0, 0] == pytest.approx(0.5)
    assert offered.place[0, :2, 1, 4].tolist() == [4.0, 1.0]
    assert offered.place[0, 0, 2, 3] == pytest.approx(3.0 + 2.0 * np.tanh(0.25))
    assert (offered.spread > 0.0).all()
    assert (offered.place[:, 2] > 0.0).all()
