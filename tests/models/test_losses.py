"""Losses against their formulas and against a closed form."""

from __future__ import annotations

import math

import pytest
import torch

from temimagenet.errors import ModelError
from temimagenet.models.losses import check_map_loss, columns_loss, map_loss, relative_weights


def test_modified_chi_square_is_the_formula() -> None:
    drawn, truth = torch.tensor([0.2, 0.5, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    assert map_loss("mse", drawn, truth) == pytest.approx((0.04 + 0.25) / 3)
    assert map_loss("chi10", drawn, truth) == pytest.approx((0.04 / 0.1 + 0.25 / 1.1) / 3)
    assert map_loss("chi100", drawn, truth) == pytest.approx((0.04 / 0.01 + 0.25 / 1.01) / 3)


def test_false_atoms_cost_more_than_missed_ones_by_chi_square() -> None:
    none, atom = torch.zeros(10), torch.ones(10)
    for kind in ("chi10", "chi100"):
        assert map_loss(kind, atom, none) > 5.0 * map_loss(kind, none, atom)
    assert map_loss("mse", atom, none) == map_loss("mse", none, atom)


def test_negative_truth_counts_as_zero() -> None:
    assert map_loss("chi10", torch.tensor([0.0]), torch.tensor([-0.5])) == pytest.approx(2.5)


def test_a_pedestal_of_columns_does_not_decide_a_batch() -> None:
    truth = torch.stack([torch.tensor([0.0, 2.0]), torch.tensor([15.0, 17.0])]).reshape(2, 1, 1, 2)
    assert relative_weights(truth).tolist() == pytest.approx([1.0 / 3.0, 1.0 / 258.0])
    drawn = torch.zeros_like(truth)
    assert map_loss("mse", drawn, truth, relative_weights(truth)) == pytest.approx((2.0 / 3.0 + 257.0 / 258.0) / 2.0)
    assert map_loss("mse", drawn, truth) == pytest.approx((2.0 + 257.0) / 2.0)


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(ModelError, match="expected one of mse, chi10, chi100"):
        check_map_loss("chi")


def _offer(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cells that offer nothing but a faint chance."""
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(rows).float(), indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)])[None]
    return torch.full((1, rows, rows), 1e-6), place, torch.full((1, 3, rows, rows), 0.1)


def test_one_sure_cell_costs_its_own_normal_density() -> None:
    chance, place, spread = _offer()
    chance[0, 3, 4] = 1.0
    truth = torch.tensor([[4.05, 2.9, 1.1]])
    loss = columns_loss(chance, place, spread, truth, torch.tensor([0]))
    density = 3 * (math.log(0.1) + 0.5 * math.log(2 * math.pi)) + 0.5 * (0.25 + 1.0 + 1.0)
    assert float(loss) * 64 == pytest.approx(1.0 + 63e-6 + density, abs=1e-3)


def test_chances_are_calibrated_where_the_loss_is_least() -> None:
    """Half of the images have a column in a cell: the loss is least at a chance of one half."""
    chance, place, spread = _offer()
    truth, owner = torch.tensor([[4.0, 3.0, 1.0]]), torch.tensor([0])
    costs = []
    for value in (0.3, 0.4, 0.5, 0.6, 0.7):
        two = chance.repeat(2, 1, 1)
        two[:, 3, 4] = value
        costs.append(float(columns_loss(two, place.repeat(2, 1, 1, 1), spread.repeat(2, 1, 1, 1), truth, owner).sum()))
    assert costs.index(min(costs)) == 2


def test_spread_is_the_error_where_the_loss_is_least() -> None:
    chance, place, _ = _offer()
    chance[0, 3, 4] = 1.0
    truth = torch.tensor([[4.2, 3.0, 1.0], [3.8, 3.0, 1.0]])
    costs = {}
    for value in (0.1, 0.15, 0.2, 0.25, 0.3):
        spread = torch.full((1, 3, 8, 8), 0.05)
        spread[:, 0] = value
        costs[value] = float(columns_loss(chance, place, spread, truth, torch.tensor([0, 0])))
    assert min(costs, key=lambda value: costs[value]) == 0.2


def test_columns_of_one_image_are_not_told_by_another() -> None:
    chance, place, spread = (part.repeat(2, *[1] * (part.ndim - 1)) for part in _offer())
    chance[1, 3, 4] = 1.0
    truth = torch.tensor([[4.0, 3.0, 1.0]])
    right = columns_loss(chance, place, spread, truth, torch.tensor([1]))
    wrong = columns_loss(chance, place, spread, truth, torch.tensor([0]))
    assert right[1] < right[0] + 1.0
    assert wrong.sum() > right.sum() + 10.0 / 64


def test_a_column_at_the_corner_and_an_image_without_any() -> None:
    chance, place, spread = _offer()
    corner = columns_loss(chance, place, spread, torch.tensor([[-0.4, -0.4, 1.0]]), torch.tensor([0]))
    empty = columns_loss(chance, place, spread, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert torch.isfinite(corner).all()
    assert float(empty) * 64 == pytest.approx(64e-6, rel=1e-3)
