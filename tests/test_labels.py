"""The ten labels against their definitions, drawn independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temimagenet.errors import LabelError
from temimagenet.labels import LABELS, Columns, check_labels, column_map, point_label, quantise

SHAPE = (48, 64)


def columns(xy: list[tuple[float, float]], pixel: float = 0.1) -> Columns:
    n = len(xy)
    return Columns(
        np.array(xy, dtype=float).reshape(-1, 2),
        pixel,
        np.linspace(1.0, 2.0, n),
        np.ones(n),
        np.zeros(n, dtype=np.int64),
        ("X",),
    )


@settings(max_examples=50, deadline=None)
@given(
    xy=st.lists(st.tuples(st.floats(-8, 72), st.floats(-8, 56)), min_size=1, max_size=8),
    radius=st.floats(0.05, 1.2),
)
def test_circular_masks_are_one_within_the_radius_and_zero_outside(xy, radius):
    marks = columns(xy)
    j, i = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))
    nearest = np.min([np.hypot(j - x, i - y) for x, y in xy], axis=0)
    for name, share in (("circularMask", 1.0), ("smallcircularMask", 0.7)):
        mask = column_map(name, marks, SHAPE, radius).numpy()
        assert set(np.unique(mask)) <= {0.0, 1.0}
        edge = np.abs(nearest - share * radius / 0.1) < 1e-4
        assert np.array_equal(mask[~edge] == 1.0, (nearest <= share * radius / 0.1)[~edge])


def test_gaussian_mask_has_unit_peaks_and_a_fwhm_of_a_fifth_of_an_angstrom():
    marks = columns([(20.0, 10.0), (40.0, 30.0)], pixel=0.05)
    mask = column_map("gaussianMask", marks, SHAPE, 0.5).numpy()
    assert mask[10, 20] == pytest.approx(1.0, abs=1e-6)
    assert mask[30, 40] == pytest.approx(1.0, abs=1e-6)
    assert mask[10, 22] == pytest.approx(0.5, abs=1e-6)  # 2 pixels = 0.1 A = half the FWHM
    assert mask[32, 40] == pytest.approx(0.5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(20, 40), y=st.floats(20, 28), pixel=st.floats(0.03, 0.2))
def test_superresolution_keeps_each_columns_weight(x, y, pixel):
    marks = columns([(x, y)], pixel)
    sharp = column_map("noNoiseNoBackgroundSuperresolution", marks, SHAPE, 0.5).double()
    assert float(sharp.sum()) * pixel**2 == pytest.approx(1.0, rel=1e-5)
    i, j = np.unravel_index(int(sharp.argmax()), SHAPE)
    assert abs(j - x) <= 0.51
    assert abs(i - y) <= 0.51


def test_positions_are_those_on_the_image_area_and_in_its_pixels():
    marks = columns([(0.0, 0.0), (-0.6, 3.0), (63.4, 47.4), (63.6, 5.0), (10.0, 47.6)])
    assert point_label("position", marks, SHAPE, 0.5).tolist() == [[0.0, 0.0], [63.4, 47.4]]
    assert point_label("positionRadius", marks, SHAPE, 0.5)[:, 2].tolist() == [5.0, 5.0]
    assert float(point_label("radius", marks, SHAPE, 0.5)) == 5.0
    assert float(point_label("smallRadius", marks, SHAPE, 0.5)) == pytest.approx(3.5)


def test_quantised_maps_are_within_half_a_step():
    values = torch.rand(64, 64) * 3.0 - 1.0
    scaled = quantise(values)
    assert scaled.integers.dtype == np.uint16
    assert (scaled.restore() - values).abs().max() <= 0.51 * scaled.step
    assert scaled.step <= 3.0 / 65535
    flat = quantise(torch.full((4, 4), 2.5))
    assert torch.equal(flat.restore(), torch.full((4, 4), 2.5))


def test_unknown_labels_are_named():
    with pytest.raises(LabelError, match="unknown label 'circularmask'"):
        check_labels(["circularmask"])
    assert check_labels(list(LABELS)) == LABELS
    assert len(LABELS) == 10
