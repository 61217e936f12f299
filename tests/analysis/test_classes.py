"""Classes of intensity: mixtures of known classes, of known errors."""

import numpy as np
import pytest

from temimagenet.analysis import intensity_classes
from temimagenet.errors import LocalizeError
from temimagenet.localize import Flag, FoundColumns

MEANS, SPREADS, SHARES = np.array([100.0, 140.0, 220.0]), np.array([3.0, 6.0, 5.0]), np.array([0.5, 0.3, 0.2])


def drawn(count, errors, seed=0, means=MEANS, spreads=SPREADS, shares=SHARES):
    """Columns of known classes, seen through errors, and the class of each."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(means), count, p=shares)
    sigma = rng.uniform(0.5, 1.5, count) * errors
    intensity = means[truth] + spreads[truth] * rng.standard_normal(count) + sigma * rng.standard_normal(count)
    xy, one = rng.uniform(0.0, 500.0, (count, 2)), np.ones(count)
    flags = np.zeros(count, dtype=np.int64)
    return FoundColumns(xy, np.stack([one, one], 1), intensity, sigma, one, flags, 0.1), truth


@pytest.mark.parametrize("errors", [0.0, 6.0])
def test_known_classes_come_back(errors):
    columns, truth = drawn(900, errors)
    classes = intensity_classes(columns)
    assert len(classes) == 3
    np.testing.assert_allclose(classes.mean, MEANS, atol=4.0 * classes.mean_sigma.max())
    np.testing.assert_allclose(classes.share, SHARES, atol=0.05)
    # Errors are not part of a class's spread.
    np.testing.assert_allclose(classes.spread, SPREADS, atol=1.3)
    assert (classes.label == truth).mean() > (0.99 if errors else 0.999)
    assert classes.confused < 0.01
    assert len(classes.bic) >= 3
    assert int(np.argmin(classes.bic)) == 2
    assert classes.plot().axes


def test_standard_errors_and_labels_are_as_good_as_they_say():
    far, wrong, doubted = [], [], []
    for seed in range(30):
        columns, truth = drawn(
            300, 5.0, seed, np.array([100.0, 124.0]), np.array([4.0, 4.0]), np.array([0.6, 0.4])
        )  # fmt: skip
        classes = intensity_classes(columns, 2)
        far.append((classes.mean - [100.0, 124.0]) / classes.mean_sigma)
        wrong.append((classes.label != truth).mean())
        doubted.append(classes.confused)
    assert 0.75 < np.std(far) < 1.35
    assert np.mean(wrong) == pytest.approx(np.mean(doubted), rel=0.2)


def test_one_kind_is_one_class():
    for seed in range(3):
        columns, _ = drawn(400, 4.0, seed, np.array([50.0]), np.array([2.0]), np.array([1.0]))
        assert len(intensity_classes(columns)) == 1


def test_flagged_and_unknown_columns_have_no_class():
    columns, _ = drawn(200, 1.0)
    columns.flags[3] = int(Flag.CUT)
    columns.intensity[7] = np.nan
    classes = intensity_classes(columns)
    assert (np.flatnonzero(classes.label < 0) == [3, 7]).all()
    assert np.isnan(classes.probability[[3, 7]]).all()
    np.testing.assert_allclose(classes.probability.sum(axis=1)[classes.label >= 0], 1.0)


def test_equal_intensities_are_one_class():
    columns, _ = drawn(50, 0.0)
    columns.intensity[:] = 4.0
    classes = intensity_classes(columns)
    assert len(classes) == 1
    assert classes.mean[0] == 4.0


def test_what_cannot_be_sorted_is_told():
    columns, _ = drawn(10, 1.0)
    with pytest.raises(LocalizeError, match="12 or more"):
        intensity_classes(columns)
    columns, _ = drawn(30, 1.0)
    for number in (0, 11):
        with pytest.raises(LocalizeError, match="expected 1 to 10"):
            intensity_classes(columns, number)
    with pytest.raises(LocalizeError, match="at most"):
        intensity_classes(columns, most=0)
