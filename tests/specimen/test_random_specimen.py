"""Random specimens: reproducible, never too close, as varied as they are told to be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.spatial import KDTree

from temimagenet.errors import SpecimenError
from temimagenet.specimen import random_specimen
from temimagenet.specimen.random_specimen import MIN_SEPARATION_A, RANDOM_RADIUS_A, _crystal, _first_come

SPECIMENS = [random_specimen(seed, 1.2 + 0.0275 * seed) for seed in range(120)]
FILLED = [s for s in SPECIMENS if len(s.numbers)]


def nearest_A(specimen) -> np.ndarray:
    return KDTree(specimen.xy_A).query(specimen.xy_A, k=2)[0][:, 1]


def test_a_specimen_is_a_pure_function_of_seed_and_spacing():
    for seed in range(12):
        one, two = (random_specimen(seed, 2.5) for _ in range(2))
        for field in ("xy_A", "numbers", "atoms", "u_A", "column"):
            assert np.array_equal(getattr(one, field), getattr(two, field))
    assert not np.array_equal(random_specimen(1, 2.5).xy_A[:5], random_specimen(2, 2.5).xy_A[:5])


def test_columns_keep_apart_and_inside_the_disc():
    for specimen in FILLED:
        assert nearest_A(specimen).min() >= MIN_SEPARATION_A
        assert np.linalg.norm(specimen.xy_A, axis=1).max() < RANDOM_RADIUS_A + 5.0


def test_columns_are_physical():
    for specimen in FILLED:
        assert specimen.numbers.min() >= 5
        assert specimen.numbers.max() <= 92
        assert specimen.atoms.min() >= 1.0
        assert specimen.atoms.max() <= 200.0
        assert np.array_equal(specimen.atoms, np.rint(specimen.atoms))
        assert 0.04 <= specimen.u_A.min() <= specimen.u_A.max() <= 0.12
        assert len(specimen.column_kinds) == len(specimen.column_xy_A) == len(specimen.numbers)
        assert np.array_equal(specimen.column_xy_A, specimen.xy_A)


def test_every_kind_is_drawn():
    count = Counter(s.name for s in SPECIMENS)
    assert set(count) == {f"random {k}" for k in ("crystal", "bicrystal", "particle", "sheet", "vacuum")}
    assert count["random crystal"] > 45
    assert all(len(s.numbers) == 0 for s in SPECIMENS if s.name == "random vacuum")


def test_a_perfect_crystal_has_the_spacing_that_was_asked_for():
    dumbbells = 0
    for seed in range(80):
        crystal = _crystal(3.0, seed % 4 == 0, np.random.default_rng(seed))
        paired = crystal.nearest_A < 3.0 - 1e-6
        dumbbells += paired
        assert 0.7 <= crystal.nearest_A <= 1.6 if paired else crystal.nearest_A == pytest.approx(3.0)
        assert 1 <= len(crystal.motif.xy_A) <= 6
    assert 10 < dumbbells < 40


def test_lattices_are_not_perfect_and_spacings_spread():
    typical = np.array([np.median(nearest_A(s)) for s in FILLED])
    assert typical.min() < 1.4
    assert typical.max() > 3.5
    crystals = [s for s in FILLED if s.name == "random crystal"]
    assert np.mean([np.std(nearest_A(s)) > 0.03 for s in crystals]) > 0.6


def test_both_sides_of_a_boundary_hold_whole_atoms_and_can_be_seen():
    for seed in range(400):
        specimen = random_specimen(seed, 4.0)
        if specimen.name != "random bicrystal":
            continue
        assert np.array_equal(specimen.atoms, np.rint(specimen.atoms))
        weight = specimen.atoms * specimen.numbers**1.7
        # Foreign columns and thin places dim or brighten some; no side as a whole.
        assert np.mean(weight > 0.005 * np.quantile(weight, 0.9)) > 0.9


def test_first_come_equals_taking_points_one_by_one():
    xy = np.random.default_rng(4).uniform(0.0, 10.0, (300, 2))
    taken: list[int] = []
    for i in range(len(xy)):
        if all(np.linalg.norm(xy[i] - xy[j]) > 1.0 for j in taken):
            taken.append(i)
    assert np.flatnonzero(_first_come(xy, 1.0)).tolist() == taken


@pytest.mark.parametrize("spacing_A", [0.5, 11.0, np.nan])
def test_impossible_spacings_are_refused(spacing_A):
    with pytest.raises(SpecimenError, match=r"expected 0\.8 to 10"):
        random_specimen(0, spacing_A)
