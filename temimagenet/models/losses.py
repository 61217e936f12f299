"""What training minimises: squared errors, the paper's modified chi-square, and the likelihood of the columns."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from temimagenet.errors import ModelError

__all__ = ["MapLoss", "check_map_loss", "columns_loss", "map_loss"]

MapLoss = Literal["mse", "chi10", "chi100"]
"""Mean squared error, or the modified chi-square of Lin et al. with k = 10 or 100."""


def check_map_loss(kind: str) -> MapLoss:
    """The name of a loss.

    Raises:
        ModelError: there is none of that name.
    """
    for known in get_args(MapLoss):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise ModelError(f"loss {kind!r}: expected one of {', '.join(get_args(MapLoss))}")


def map_loss(
    kind: MapLoss,
    drawn: Float[Tensor, "B *rest"],
    truth: Float[Tensor, "B *rest"],
    weights: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of (p - t)^2, or of (p - t)^2 / (t + 1 / k), which punishes false atoms where nothing is.

    Lin et al., Sci. Rep. 11, 5386 (2021); the formula is missing from the paper's text, k is in its weights' names. A
    truth below 0 counts as 0 in the denominator.
    """
    errors = (drawn - truth).square()
    if kind != "mse":
        errors = errors / (truth.clamp_min(0.0) + 1.0 / (10.0 if kind == "chi10" else 100.0))
    return errors.mean() if weights is None else (weights * errors.flatten(1).mean(dim=1)).mean()


def relative_weights(truth: Float[Tensor, "B *rest"]) -> Float[Tensor, "B"]:
    """What an example's squared errors are multiplied by: 1 / (1 + mean of its truth's squares).

    For images without a background in units of what the network sees. In a blurred image columns have a mean of many
    times their contrast, which nobody can tell from a background: without weights one such example in fifty decides
    the direction of most steps.
    """
    return 1.0 / (1.0 + truth.square().flatten(1).mean(dim=1))


def columns_loss(
    chance: Float[Tensor, "B H W"],
    place: Float[Tensor, "B 3 H W"],
    spread: Float[Tensor, "B 3 H W"],
    truth: Float[Tensor, "N 3"],
    image: Float[Tensor, "N"],
) -> Float[Tensor, "B"]:
    """Negative log-likelihood of an image's columns, as a Poisson process.

    Each cell offers a column with some chance and, if so, a normal distribution of its (x, y, signal). The process's
    density at a true column is what all cells near it offer there; the expected number is the sum of the chances. With
    the mixture of cells as in DECODE (Speiser et al., Nat. Methods 18 (2021) 1082) a column between two cells may be
    told by either; the count is Poisson here, so that the loss is a sum over places and does not care how images are
    cut.

    Args:
        chance: chance of a column in each cell.
        place: x, y in cells (cell centres at integers) and signal of that column.
        spread: their standard deviations.
        truth: x, y and signal of the true columns inside the image, in the same units.
        image: which image of the batch each is of.

    Returns:
        The loss of each image, over its number of cells.
    """
    _, rows, columns = chance.shape
    expected = chance.sum(dim=(1, 2))
    reach = torch.arange(-2, 3, device=chance.device)
    centre = truth[:, :2].round().long()
    x = centre[:, 0, None, None] + reach[None, None, :]
    y = centre[:, 1, None, None] + reach[None, :, None]
    within = ((x >= 0) & (x < columns) & (y >= 0) & (y < rows)).expand(-1, 5, 5)
    x, y = (part.expand(-1, 5, 5) for part in (x.clamp(0, columns - 1), y.clamp(0, rows - 1)))
    b = image[:, None, None].expand(-1, 5, 5)
    offered = place.permute(0, 2, 3, 1)[b, y, x]
    width = spread.permute(0, 2, 3, 1)[b, y, x]
    distance = (truth[:, None, None, :] - offered) / width
    density = -0.5 * distance.square().sum(dim=-1) - width.log().sum(dim=-1) - 1.5 * math.log(2.0 * math.pi)
    density = (density + chance[b, y, x].clamp_min(1e-8).log()).masked_fill(~within, -math.inf)
    told = torch.logsumexp(density.flatten(1), dim=1)
    per_image = expected.index_add(0, image, -told)
    return per_image / (rows * columns)
