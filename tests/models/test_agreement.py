"""Maps brought into agreement with an image: against the truth of images whose rows were displaced."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.models import load_model
from temimagenet.models.agreement import Agreement, agree, in_agreement

ROWS, COLUMNS = 96, 256
NOISE = 0.25
LEVEL = 2.0


def _clean(moved: Float[NDArray[np.float64], "rows 2"] | None = None) -> NDArray[np.float64]:
    """Gaussian spots of 3 pixels, 16 and 18 pixels apart, seen in rows that are displaced by (x, y) pixels."""
    x, y = np.arange(COLUMNS)[None, :] + 0.0, np.arange(ROWS)[:, None] + 0.0
    if moved is not None:
        x, y = x + moved[:, :1], y + moved[:, 1:]
    across = np.exp(-0.5 * ((x[..., None] - np.arange(-16, COLUMNS + 32, 16)) / 3.0) ** 2).sum(-1)
    down = np.exp(-0.5 * ((y[..., None] - np.arange(-18, ROWS + 36, 18)) / 3.0) ** 2).sum(-1)
    return across * down


def _noisy(seed: int, sigma_px: float) -> NDArray[np.float64]:
    """The image of those spots on a level, rows displaced, with noise."""
    rng = np.random.default_rng(seed)
    return LEVEL + _clean(sigma_px * rng.standard_normal((ROWS, 2))) + NOISE * rng.standard_normal((ROWS, COLUMNS))


def _rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(values).mean()))


@pytest.mark.parametrize("sigma_px", [0.0, 1.0, 2.0])
def test_contrast_and_displacements_are_found_whatever_rows_do(sigma_px: float) -> None:
    gains, wander, plain = [], [], []
    for seed in range(8):
        image, drawn = _noisy(seed, sigma_px), (0.8 * _clean() + 1.7).astype(np.float32)
        found = agree(image, drawn)
        gains.append(found.gain * 0.8)
        wander.append(found.wander_px)
        plain.append(0.8 * np.polyfit(drawn.ravel(), image.ravel(), 1)[0])
        away = (found.corrected(drawn) - LEVEL - _clean())[16:-16, 16:-16]
        assert _rms(away) < 0.25 * _rms((drawn - LEVEL - _clean())[16:-16, 16:-16])
    assert np.mean(gains) == pytest.approx(1.0, abs=0.015)
    assert np.mean(wander) == pytest.approx(sigma_px, rel=0.1, abs=0.1)
    # A line through drawn and given pixels alone loses what displaced rows smear: 1 - sigma^2 / spot^2, roughly.
    if sigma_px:
        assert np.mean(plain) < 1.0 - 0.07 * sigma_px**2


def test_slow_parts_come_from_the_image() -> None:
    slope = np.linspace(-0.5, 0.5, ROWS)[:, None] * np.ones(COLUMNS)
    drawn = (_clean() + LEVEL).astype(np.float32)
    corrected = agree(_noisy(3, 1.0) + slope, drawn).corrected(drawn)
    truth = _clean() + LEVEL + slope
    inner = np.s_[16:-16, 16:-16]
    assert _rms((corrected - truth)[inner]) < 0.15 * _rms((drawn - truth)[inner])
    # Of the noise a filter of 7 pixels leaves 1 / (4 pi 7^2) of the variance.
    unmoved = agree(_noisy(4, 0.0), drawn)
    left = unmoved.corrected(drawn) - _clean() - LEVEL
    assert _rms(left[inner]) < 3.0 * NOISE / np.sqrt(4.0 * np.pi * 7.0**2)


@pytest.mark.parametrize(("unit", "zero"), [(1e-12, 0.0), (1.0, 3e4), (1e6, -5e6)])
def test_the_image_may_be_in_any_unit(unit: float, zero: float) -> None:
    image, drawn = _noisy(5, 1.0), 0.85 * _clean() + LEVEL
    plain = agree(image, drawn.astype(np.float32))
    other = agree(unit * image + zero, (unit * drawn + zero).astype(np.float32))
    assert other.gain == pytest.approx(plain.gain, abs=2e-3)
    expected = unit * plain.corrected(drawn.astype(np.float32)).astype(np.float64) + zero
    assert other.corrected((unit * drawn + zero).astype(np.float32)) == pytest.approx(expected, abs=0.02 * unit)


def test_nothing_but_noise_keeps_the_gain_within_bounds() -> None:
    rng = np.random.default_rng(6)
    image = rng.poisson(5.0, (64, 80)).astype(np.float64)
    for drawn in (np.full((64, 80), 5.0), 5.0 + 1e-4 * (image - 5.0), 5.0 + 3.0 * rng.standard_normal((64, 80))):
        found = agree(image, drawn.astype(np.float32))
        assert 0.8 <= found.gain <= 1.3
        assert np.isfinite(found.corrected(drawn.astype(np.float32))).all()


def test_an_image_without_noise_is_not_divided_by_it() -> None:
    clean = _clean() + LEVEL
    assert agree(clean, clean.astype(np.float32)).gain == pytest.approx(1.0, abs=1e-3)


def test_fine_maps_share_the_first_pixel() -> None:
    slow = np.arange(12, dtype=np.float32).reshape(3, 4)
    fine = Agreement(1.1, slow, 0.0).corrected(np.ones((6, 8), np.float32))
    assert fine[::2, ::2] == pytest.approx(1.1 + slow)
    assert fine[0, 1] == pytest.approx(1.1 + 0.5)
    assert fine[1, 0] == pytest.approx(1.1 + 2.0)
    assert fine[-1, -1] == pytest.approx(1.1 + 11.0)


def test_each_map_gets_its_own_correction() -> None:
    image, clean = _noisy(7, 1.0), (0.85 * _clean() + LEVEL).astype(np.float32)
    spots = (0.85 * _clean()).astype(np.float32)
    drawn = {"noNoise": clean, "noBackgroundnoNoise": spots, "gaussianMask": spots}
    made = in_agreement(image, drawn, ("gaussianMask", "noBackgroundnoNoise"))
    assert list(made) == ["gaussianMask", "noBackgroundnoNoise"]
    assert made["gaussianMask"] is spots
    assert made["noBackgroundnoNoise"] == pytest.approx(agree(image, clean).gain * spots)
    alone = in_agreement(image, {"noBackgroundnoNoise": spots}, ("noBackgroundnoNoise",))
    assert alone["noBackgroundnoNoise"] is spots


def test_a_map_is_the_same_whatever_else_is_asked_for() -> None:
    model, image = load_model("all"), _noisy(8, 1.5)
    every = model.predict(image, 0.1).maps
    alone = model.predict(image, 0.1, "noBackgroundnoNoise").maps
    assert list(alone) == ["noBackgroundnoNoise"]
    assert np.array_equal(alone["noBackgroundnoNoise"], every["noBackgroundnoNoise"])
