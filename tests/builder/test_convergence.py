"""The convergence table: what it calls paired is."""

import numpy as np

from builder.convergence import sliced_pairs
from temimagenet.imaging import multislice
from temimagenet.imaging.multislice import Accuracy, slice_plan, slices
from temimagenet.specimen import material
from temimagenet.specimen.stack import crystal_stack


def test_thinner_slices_are_compared_on_the_same_displacements(monkeypatch):
    """TiO2 [100], whose planes merge: the displaced atoms of both plans, one after another, are the very same."""
    seen = []
    transmission = multislice._transmission

    def spy(xy_A, numbers, *others):
        seen.append(np.column_stack([xy_A, numbers]))
        return transmission(xy_A, numbers, *others)

    monkeypatch.setattr(multislice, "_transmission", spy)
    accuracy = Accuracy(
        slice_A=0.3, band=1.0, supercell_A=3.0, offsets=1, least_sweeps=2, most_sweeps=2, most_thin_sweeps=0
    )
    one, other = sliced_pairs("TiO2", (1, 0, 0), 9.0, accuracy)
    atoms = np.concatenate(seen)
    half = len(atoms) // 2
    np.testing.assert_array_equal(atoms[:half], atoms[half:])
    assert len(np.unique(atoms, axis=0)) == half, "every atom of every coset and configuration has its own"
    assert len({len(part) for part in seen}) > 1
    np.testing.assert_array_equal(one.k_per_A, other.k_per_A)
    np.testing.assert_array_equal(one.hk, other.hk)
    # Other slices, nearly the same scattering: other displacements change it by tens of per cent.
    change = np.linalg.norm(other.values - one.values) / np.linalg.norm(one.values)
    assert 0.0 < change < 0.05


def test_whole_repeats_of_a_crystal_hold_the_same_atoms_in_any_slices():
    for name, zone in (("DyScO3", (1, 1, 0)), ("TiO2", (1, 0, 0)), ("TiO2", (1, 1, 0))):
        known = material(name)
        stack = crystal_stack(known.atoms(), zone, u_A=known.u_A, name=name, minimum_A=5.0)
        assert stack.period_A is not None
        for repeats in (1, 2, 7):
            end = np.array([repeats * stack.period_A])
            coarse, fine = (
                np.concatenate([step.atoms for step in slice_plan(stack, end, 0.0, slice_A)]) for slice_A in (1.0, 0.3)
            )
            np.testing.assert_array_equal(coarse, fine)
            assert len(coarse) == repeats * len(stack.z_A)
        assert len(slices(stack, 1.0)) < len(slices(stack, 0.3))
