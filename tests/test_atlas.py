"""The atlas of multislice tables and the twins drawn from it."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from temimagenet import OnTheFly, TEMImageNet
from temimagenet import atlas as tables
from temimagenet.atlas import (
    FIGURE_7,
    TableTask,
    check_tables,
    compute_table,
    find_series,
    has_table,
    merge_tables,
    read_pairs,
    table_tasks,
)
from temimagenet.errors import AtlasError, DeviceError, OpticsError, RecipeError, ShardError, SpecimenError
from temimagenet.imaging.multislice import Accuracy, series
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.recipe import Distribution, SpecimenSpec, load_recipe, sample_spec
from temimagenet.render import render, twin_facts
from temimagenet.storage import finish_library, plan_library, read_catalogue, render_shard

QUICK = Accuracy(tolerance=0.5, least_sweeps=1, most_sweeps=1, most_thin_sweeps=0)
SRTIO3 = SpecimenSpec("crystal", "SrTiO3", "", (0, 0, 1))


def _specs(count=40):
    """Specs of the demo that have a table."""
    recipe = load_recipe("demo")
    specs = [sample_spec(recipe, i) for i in range(count)]
    return [spec for spec in specs if has_table(spec.specimen, spec.optics, spec.detector)]


def test_the_shipped_atlas_holds_all_that_gets_tables():
    for name in ("demo", "v1"):
        tables.check_tables(load_recipe(name))
    for task in table_tasks(load_recipe("v1")):
        table = tables._table(task.key)
        assert table is not None
        assert table.facts["fingerprint"] == task.fingerprint
        # What it was computed for is what the registry says today.
        stack = tables.stack_of(task.specimen, task.accuracy)
        for number, u in table.facts["u_A"].items():
            np.testing.assert_allclose(stack.u_A[stack.numbers == int(number)], u, atol=1e-9)
        for pupil in table.pupils.values():
            np.testing.assert_allclose(pupil.cell_A, stack.unit_A, atol=1e-6)
            if task.specimen.kind == "crystal":
                assert pupil.error_of_image().max() <= 1.001 * task.accuracy.tolerance
            assert (pupil.coefficients[:, 0].real > 0.0).all()
            assert (np.diff(pupil.coefficients[:, 0].real) > 0.0).all()
            assert pupil.hk[0].tolist() == [0, 0]
    assert find_series(SRTIO3, FIGURE_7, Detector()).coefficients.shape[0] == len(tables.LADDER_A)


def test_twins_share_everything_but_the_physics():
    specs = _specs()
    assert len(specs) > 20
    for spec in specs[:6]:
        linear, twin = (render([spec], engine=engine)[0] for engine in ("linear", "multislice"))
        assert twin.id == linear.id
        assert twin.dose_e_per_A2 == linear.dose_e_per_A2
        np.testing.assert_array_equal(twin.row_shift_A, linear.row_shift_A)
        for label in ("circularMask", "gaussianMask", "positionRadius"):
            torch.testing.assert_close(twin.labels[label], linear.labels[label], rtol=0, atol=0)
        a, b = ((s.labels["noNoise"] - s.labels["noBackgroundnoNoise"]).numpy() for s in (twin, linear))
        np.testing.assert_allclose(a, b, atol=1e-6 * twin.labels["noNoise"].max().item(), err_msg="background")
        a, b = (s.labels["noBackgroundnoNoise"].double().ravel().numpy() for s in (twin, linear))
        assert not np.array_equal(a, b)
        assert np.corrcoef(a, b)[0, 1] > 0.8
        assert 0.4 < a.mean() / b.mean() < 5.0
        np.testing.assert_array_equal(twin.image, render([spec], engine="multislice")[0].image)


@pytest.mark.parametrize("kind", ["particle", "amorphous"])
def test_finite_and_aperiodic_specimens_have_twins(kind):
    recipe = load_recipe("v1")
    specs = [sample_spec(recipe, index) for index in range(1200)]
    specs = [
        spec for spec in specs if spec.specimen.kind == kind and has_table(spec.specimen, spec.optics, spec.detector)
    ]
    specs = [spec for spec in specs if spec.field_of_view_A >= 20.0]
    assert len({spec.specimen.realisation for spec in specs}) >= 2
    assert len({spec.rotation_deg for spec in specs}) >= 4
    for spec in specs[:8]:
        linear, twin = (
            render([spec], ("noBackgroundnoNoise", "position"), engine=engine)[0] for engine in ("linear", "multislice")
        )
        assert twin.dose_e_per_A2 == linear.dose_e_per_A2
        torch.testing.assert_close(twin.labels["position"], linear.labels["position"], rtol=0, atol=0)
        a, b = (s.labels["noBackgroundnoNoise"].double().ravel().numpy() for s in (twin, linear))
        # A wrong origin, turn or mirror image would leave nothing of this.
        assert np.corrcoef(a, b)[0, 1] > 0.9
        if kind == "particle":
            dark = b < 1e-3 * b.max()
            assert not dark.any() or np.abs(a[dark]).max() < 0.03 * a.max()
        facts = twin_facts(spec.specimen, spec.optics, spec.detector)
        assert facts.correlation > 0.9
        assert 0.8 < facts.mean_ratio < 3.0


def test_thickness_between_rungs_is_interpolated():
    table = find_series(SRTIO3, CONDITIONS[1], Detector())
    low, middle, high = (table.image(t).coefficients for t in (50.0, 55.0, 60.0))
    torch.testing.assert_close(middle, 0.5 * (low + high), rtol=1e-5, atol=1e-9)
    with pytest.raises(OpticsError, match="reaches from 0 to"):
        table.image(1e4)


def test_a_library_holds_twins(tmp_path):
    recipe = replace(load_recipe("demo"), samples=30)
    tasks = plan_library(recipe, samples_per_shard=16)
    assert [task.name for task in tasks] == [
        "shards/linear-00000.h5", "shards/linear-00001.h5", "shards/multislice-00000.h5", "shards/multislice-00001.h5",
    ]  # fmt: skip
    for task in tasks:
        render_shard(task, tmp_path)
    finish_library(tmp_path, recipe, tasks)
    catalogue = read_catalogue(tmp_path)
    twins = catalogue[catalogue["engine"] == "multislice"].set_index("id")
    linear = catalogue[catalogue["engine"] == "linear"].set_index("id").loc[twins.index]
    assert 0 < len(twins) < 30
    assert set(twins["morphology"]) <= {"bulk", "layer", "amorphous", "particle"}
    for field in ("split", "dose_e_per_A2", "columns", "rotation_deg", "psnr_dB"):
        assert (twins[field] == linear[field]).all()
    assert linear["mean_to_linear"].eq(1.0).all()
    assert twins["mean_to_linear"].between(0.4, 5.0).all()
    assert (linear["column_to_linear_min"].eq(1.0) & linear["column_to_linear_max"].eq(1.0)).all()
    assert (twins["column_to_linear_min"] <= twins["column_to_linear_max"]).all()
    assert twins["column_to_linear_min"].between(0.1, 5.0).all()
    assert (twins["column_shift_pm"].dropna() < 60.0).all()
    data = TEMImageNet(tmp_path, split=None, engine="multislice", labels=["noBackgroundnoNoise", "gaussianMask"])
    assert len(data) == len(twins)
    sample = data[0]
    fresh = render([sample.spec], ("noBackgroundnoNoise",), engine="multislice", quantised=True)[0]
    torch.testing.assert_close(sample.image, fresh.image, rtol=0, atol=0)
    torch.testing.assert_close(sample.labels["noBackgroundnoNoise"], fresh.labels["noBackgroundnoNoise"])


def test_on_the_fly_by_multislice():
    stream = iter(OnTheFly("demo", engine="multislice", seed=5))
    specs = [next(stream).spec for _ in range(4)]
    assert all(has_table(spec.specimen, spec.optics, spec.detector) for spec in specs)


def test_tables_are_computed_once_and_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path)
    tables._table.cache_clear()
    # An aperture that no condition has: not in the shipped atlas.
    detector = Detector(90.0, 180.0)
    optics = Optics(200.0, 9.0, 0.8)
    task = TableTask(SRTIO3, (optics,), detector, thickness_A=(4.0, 8.0), accuracy=QUICK)
    with pytest.raises(AtlasError, match="no multislice table for SrTiO3"):
        find_series(SRTIO3, optics, detector)
    path = compute_table(task, tmp_path, keep_pairs=True)
    tables._table.cache_clear()
    stamp = path.stat().st_mtime_ns
    assert compute_table(task, tmp_path) == path
    assert path.stat().st_mtime_ns == stamp
    # The pairs beside it give the same images, and those of a defocus that the table does not hold.
    kept = read_pairs(path)
    table = find_series(SRTIO3, optics, detector)
    np.testing.assert_allclose(series(kept, optics).coefficients, table.coefficients, rtol=1e-5, atol=1e-10)
    # Two layers of atoms are all but incoherent: defocus acts by the transfer function's ratio.
    blurred = replace(optics, defocus_A=60.0)
    q = np.linalg.norm(table.hk[:3] @ np.linalg.inv(table.cell_A).T, axis=1)
    wanted = blurred.otf(q) / optics.otf(q)
    assert wanted[2] < 0.98
    found = series(kept, blurred).coefficients[0, :3].real / table.coefficients[0, :3].real
    np.testing.assert_allclose(found, wanted, rtol=0.01)
    # A defocus that no table holds is drawn from them.
    assert has_table(SRTIO3, blurred, detector)
    np.testing.assert_array_equal(
        find_series(SRTIO3, blurred, detector).coefficients, series(kept, blurred).coefficients
    )
    # Made without pairs, asked for with them: computed anew.
    path.unlink()
    compute_table(task, tmp_path)
    assert not has_table(SRTIO3, blurred, detector)
    compute_table(task, tmp_path, keep_pairs=True)
    assert has_table(SRTIO3, blurred, detector)
    compute_table(replace(task, seed=1), tmp_path)
    with pytest.raises(AtlasError, match="no beam pairs"):
        read_pairs(path)
    with pytest.raises(OpticsError, match="keep-pairs"):
        find_series(SRTIO3, blurred, detector)
    assert path.stat().st_mtime_ns != stamp
    tables._table.cache_clear()
    found = find_series(SRTIO3, optics, detector)
    assert found.thickness_A.tolist() == [4.0, 8.0]
    assert merge_tables([path], tmp_path / "all.h5") > 1000
    with pytest.raises(OpticsError, match="the table holds 9 mrad"):
        find_series(SRTIO3, Optics(200.0, 8.0), detector)
    path.write_bytes(b"not a table")
    tables._table.cache_clear()
    tables._open.cache_clear()
    with pytest.raises(AtlasError, match="damaged"):
        find_series(SRTIO3, optics, detector)
    # Damage beside a shipped table is told in the same way, and old displacements are left aside.
    shipped = tables.table_key(SRTIO3, 200.0, Detector())
    beside = tmp_path / tables._file_name(shipped)
    beside.write_bytes(b"not a table")
    with pytest.raises(AtlasError, match="damaged"):
        has_table(SRTIO3, replace(optics, defocus_A=1.0), Detector())
    compute_table(replace(task, detector=Detector()), tmp_path, keep_pairs=True)
    assert has_table(SRTIO3, replace(optics, defocus_A=1.0), Detector())
    with h5py.File(beside, "r+") as file:
        facts = json.loads(file[shipped].attrs["facts"])
        file[shipped].attrs["facts"] = json.dumps(facts | {"u_A": {"38": 0.5}})
    tables._forget()
    assert not has_table(SRTIO3, replace(optics, defocus_A=1.0), Detector())
    compute_table(task, tmp_path)
    assert list(tmp_path.glob(".*")) == []


def test_what_has_no_table_is_told(tmp_path):
    recipe = load_recipe("demo")
    particle = next(entry for entry in recipe.entries if entry.kind == "particle")
    with pytest.raises(AtlasError, match="holds nothing that gets"):
        OnTheFly(replace(recipe, entries=(particle,)), engine="multislice")
    detector = Detector(50.0, 60.0)
    with pytest.raises(AtlasError, match=r"no multislice table for Pt .*builder atlas"):
        plan_library(replace(recipe, detector=detector))
    text = tmp_path / "r.toml"
    text.write_text('schema = 1\nname = "x"\nsamples = 1\nseed = 1\nengines = ["magic"]\n')
    with pytest.raises(RecipeError, match="engines"):
        load_recipe(text)
    with pytest.raises(ShardError):
        plan_library(recipe, samples_per_shard=-1)
    assert json.dumps(recipe.engines) == '["linear", "multislice"]'


def test_a_zone_axis_with_a_table_by_symmetry_is_told():
    """All of a form [uvw] but one that only looks alike: rutile's a is not its c."""
    for name, zone, held in (
        ("SrTiO3", (1, 0, 0), "zone (0, 0, 1)"), ("Si", (0, -1, 1), "zone (1, 1, 0)"),
        ("DyScO3", (1, -1, 0), "zone (1, 1, 0)"), ("TiO2", (0, 1, 0), "zone (1, 0, 0)"),
    ):  # fmt: skip
        with pytest.raises(AtlasError, match=r"no multislice table for .* by symmetry") as told:
            find_series(SpecimenSpec("crystal", name, "", zone), CONDITIONS[1], Detector())
        assert held in str(told.value)
        assert not has_table(SpecimenSpec("crystal", name, "", zone), CONDITIONS[1], Detector())
    for spec, optics, detector in (
        (SpecimenSpec("crystal", "Pt", "", (1, 1, 1)), CONDITIONS[1], Detector()),
        (SpecimenSpec("crystal", "SrTiO3", "", (1, 0, 0), strain=(0.01, 0.0, 0.0)), CONDITIONS[1], Detector()),
        (SpecimenSpec("crystal", "SrTiO3", "", (1, 0, 0)), CONDITIONS[1], Detector(50.0, 60.0)),
    ):
        with pytest.raises(AtlasError, match="no multislice table") as told:
            find_series(spec, optics, detector)
        assert "symmetry" not in str(told.value)
    recipe = load_recipe("v1")
    entry = next(e for e in recipe.entries if (e.material, e.zone) == ("SrTiO3", (0, 0, 1)) and not any(e.strain))
    with pytest.raises(AtlasError, match=r"ask for zone \(0, 0, 1\)"):
        check_tables(replace(recipe, entries=(replace(entry, zone=(0, 1, 0)),)))


def test_bad_requests_are_told(tmp_path):
    optics, detector = CONDITIONS[1], Detector()
    for pupils in ((), (CONDITIONS[1], CONDITIONS[2])):
        with pytest.raises(OpticsError, match="of one energy"):
            TableTask(SRTIO3, pupils)
    for ladder in ((), (-4.0,), (np.nan,)):
        with pytest.raises(OpticsError, match="rising lengths"):
            compute_table(TableTask(SRTIO3, (optics,), thickness_A=ladder), tmp_path)
    with pytest.raises(OpticsError, match="seed -1"):
        compute_table(TableTask(SRTIO3, (optics,), thickness_A=(4.0,), seed=-1), tmp_path)
    with pytest.raises(DeviceError, match="'gpu'"):
        tables.estimate_seconds(TableTask(SRTIO3, (optics,)), "gpu")
    assert list(tmp_path.iterdir()) == []
    sizeless = SpecimenSpec("particle", "Pt", "", (0, 0, 1))
    for work in (find_series, has_table):
        with pytest.raises(SpecimenError, match="size_A"):
            work(sizeless, optics, detector)
    with pytest.raises(SpecimenError, match="size_A"):
        tables.stack_of(sizeless, QUICK)
    with pytest.raises(SpecimenError, match="Unobtainium"):
        find_series(SpecimenSpec("crystal", "Unobtainium", "", (0, 0, 1)), optics, detector)
    for thickness_A in (-5.0, 0.0, np.nan, np.inf, 1e4):
        spec = replace(SRTIO3, thickness_A=thickness_A)
        assert not has_table(spec, optics, detector)
        with pytest.raises(OpticsError, match="reaches from 0 to"):
            find_series(spec, optics, detector).image(thickness_A)


def test_what_recomputing_cannot_mend_is_told_as_such():
    recipe = load_recipe("v1")
    entry = next(e for e in recipe.entries if e.name == "Pt [110]")
    thick = replace(entry, draw={**entry.draw, "thickness_A": Distribution((400.0,))})
    with pytest.raises(AtlasError, match="end at 200 A"):
        check_tables(replace(recipe, entries=(thick,)))
    spec = next(s for s in (sample_spec(recipe, i) for i in range(800)) if s.specimen.vacancy_fraction)
    with pytest.raises(AtlasError, match="random defects"):
        find_series(spec.specimen, spec.optics, spec.detector)
