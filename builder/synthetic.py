"""A catalogue of many made-up samples out of a small one, to see how the portal copes with it."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["many_samples"]


def many_samples(catalogue: pd.DataFrame, rows: int, seed: int = 0) -> pd.DataFrame:
    """Draw samples with replacement; number them anew, and give each its own noise, dose and jitter.

    Args:
        catalogue: a library's; shards and rows stay, so that pictures are found.
        rows: how many.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)
    many = catalogue.iloc[draw.integers(len(catalogue), size=rows)].reset_index(drop=True)
    return many.assign(
        index=np.arange(rows),
        id=[f"many-{number:06d}" for number in range(rows)],
        psnr_dB=draw.uniform(8.0, 30.0, rows),
        dose_e_per_A2=10.0 ** draw.normal(5.5, 1.0, rows),
        columns=draw.integers(2, 900, rows),
        scan_sigma_A=draw.uniform(0.0, 0.3, rows),
        field_of_view_A=draw.choice([8.0, 10.0, 20.0, 30.0, 40.0], rows),
        rotation_deg=draw.choice([0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0], rows),
        condition=draw.integers(1, 7, rows),
    )
