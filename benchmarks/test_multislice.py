"""What a multislice table and a library of twins cost, against abTEM scanning probes.

Run with `pytest benchmarks/test_multislice.py -s`; about ten minutes on two cores. One thread for both.
"""

from __future__ import annotations

import time

import abtem
import numpy as np
import torch
from ase import Atoms
from threadpoolctl import threadpool_limits

from temimagenet.atlas import has_table
from temimagenet.imaging.fourier import half_plane_indices
from temimagenet.imaging.multislice import Accuracy, Series, beam_pairs, series
from temimagenet.imaging.optics import CONDITIONS, Detector
from temimagenet.recipe import load_recipe, sample_spec
from temimagenet.render import render
from temimagenet.specimen import material
from temimagenet.specimen.stack import crystal_stack

LADDER_A = (20.0, 40.0)
RUNS = 6
PHONONS = 8
"""Configurations an image: what the reference images beside the design were averaged over (3 to 5 % a point)."""

ATLAS_CORE_HOURS = 4.0
"""An upper bound of what all shipped tables took (docs: multislice)."""


def _abtem_runs() -> tuple[float, Series, int]:
    """Si [110] as abTEM's own pipeline does it: seconds a configuration, its image and error, probes x slices."""
    a = material("Si").atoms().cell.lengths()[0]
    sites = [(0.0, 0.0, 0.0), (0.25, 0.0, 0.5), (0.5, 0.5, 0.5), (0.75, 0.5, 0.0)]
    unit = Atoms("Si4", scaled_positions=sites, cell=[a, a / 2**0.5, a / 2**0.5], pbc=True)
    edges = unit.cell.lengths()
    planes = 2 * int(np.ceil(LADDER_A[-1] / edges[2]))
    atoms = unit.repeat((2, 3, planes // 2))
    optics = CONDITIONS[1]
    steps = [int(np.ceil(2.0 * optics.q_max_per_A * edge)) + 1 for edge in edges[:2]]
    exits = tuple(round(t / float(edges[2] / 2)) - 1 for t in LADDER_A)
    hk = half_plane_indices(np.diag(edges[:2]), optics.q_max_per_A)
    phonons = abtem.FrozenPhonons(atoms, num_configs=RUNS, sigmas={"Si": 0.0793}, seed=1)
    collected, seconds = [], []
    for configuration in phonons:
        begin = time.perf_counter()
        potential = abtem.Potential(
            configuration, gpts=288, slice_thickness=edges[2] / 2, parametrization="lobato", projection="infinite",
            exit_planes=exits,
        )  # fmt: skip
        probe = abtem.Probe(energy=optics.energy_keV * 1e3, semiangle_cutoff=optics.aperture_mrad, soft=False)
        scan = abtem.GridScan(start=(0, 0), end=tuple(edges[:2]), gpts=tuple(steps), endpoint=False)
        annular = abtem.AnnularDetector(inner=98, outer=196)
        image = np.asarray(probe.scan(potential, scan=scan, detectors=annular, lazy=False).array)
        seconds.append(time.perf_counter() - begin)
        transform = np.fft.fft2(image, axes=(-2, -1)) / np.prod(steps)
        collected.append(transform[:, hk[:, 0] % steps[0], hk[:, 1] % steps[1]])
    images = np.array(collected)
    mean = images.mean(axis=0)
    variance = (np.abs(images - mean) ** 2).sum(axis=0) / (RUNS - 1) / RUNS
    table = Series(np.diag(edges[:2]), hk, np.array(LADDER_A), mean, variance)
    return float(np.median(seconds)), table, steps[0] * steps[1] * planes


def test_a_table_and_a_library() -> None:
    """Seconds of one core to 1 % for the same images, then 15,000 twins of their own probe positions each."""
    torch.set_num_threads(1)
    known = material("Si")
    stack = crystal_stack(known.atoms(), (1, 1, 0), u_A=known.u_A, name="Si", minimum_A=Accuracy().supercell_A)
    pupils = (CONDITIONS[1], CONDITIONS[3], CONDITIONS[5])
    with threadpool_limits(1):
        ours = []
        for seed in range(3):
            begin = time.perf_counter()
            pairs = beam_pairs(stack, 200.0, 24.0, Detector(), LADDER_A, watch=pupils, seed=seed)
            ours.append(time.perf_counter() - begin)
        reached = series(pairs, CONDITIONS[1]).error_of_image(CONDITIONS[1].source_size_A)
        with abtem.config.set({"dask.lazy": False}):
            each, theirs, probes = _abtem_runs()
    # A user of abTEM may average over the plane group too.
    error = theirs.error_of_image(CONDITIONS[1].source_size_A) / len(stack.operations) ** 0.5
    needed = RUNS * (error.max() / 0.01) ** 2
    print(
        f"\nSi [110], 200 keV, {LADDER_A[0]:g} and {LADDER_A[1]:g} A, to a standard error of 1 % of the mean, one core"
        f"\n  here: {np.median(ours):.0f} s ({min(ours):.0f} to {max(ours):.0f}, three seeds) for three apertures and "
        f"any aberrations; reached {100 * reached.max():.2f} %"
        f"\n  abTEM {abtem.__version__}: {each:.1f} s a configuration, {RUNS} of them leave {100 * error.max():.1f} % "
        f"after symmetrising: {needed:.0f} are needed, {needed * each:.0f} s for one aperture"
        f"\n  ratio {needed * each / np.median(ours):.0f}"
    )

    recipe = load_recipe("v1")
    specs = [sample_spec(recipe, index) for index in range(400)]
    specs = [spec for spec in specs if has_table(spec.specimen, spec.optics, spec.detector)]
    render(specs, ("gaussianMask",), engine="multislice")
    begin = time.perf_counter()
    render(specs, ("gaussianMask",), engine="multislice")
    rate = len(specs) / (time.perf_counter() - begin)
    twins = 15000 * len(specs) // 400
    thick = np.mean([spec.specimen.thickness_A or 3.0 for spec in specs])
    one = each / probes
    direct = twins * 256**2 * thick / 1.5 * PHONONS * one
    here = ATLAS_CORE_HOURS * 3600.0 + twins / rate
    print(
        f"  {twins:,} twins of 256 x 256: directly {twins:,} x 65,536 probes x {thick / 1.5:.0f} slices x {PHONONS} "
        f"configurations x {1e6 * one:.0f} us = {direct / 3.15e7:.0f} years of a core, on the small cell above for "
        f"every field of view; here {ATLAS_CORE_HOURS:g} h of tables + {twins / rate:.0f} s at {rate:.0f} images/s: "
        f"ratio {direct / here:,.0f}"
    )
    assert direct > here > 0.0
