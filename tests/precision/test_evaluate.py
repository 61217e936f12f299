"""Scores of localizers that know the truth: known errors must give known numbers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import Oracle, columns, noisy
from threadpoolctl import threadpool_info

from temimagenet.errors import LocalizeError, PrecisionError
from temimagenet.localize import GaussianFit, ScanAware, gaussian
from temimagenet.metrics import match
from temimagenet.precision import (
    Estimate,
    Record,
    case_images,
    compare,
    evaluate,
    read_record,
    score_image,
    verify,
    write_record,
)
from temimagenet.precision.records import Result, with_scores
from temimagenet.precision.scores import ALL, SUMS, bootstrap, metrics, total, worst_group


@pytest.fixture(scope="module")
def truth():
    return next(case_images("pt110-displaced-20pm", [0], bounds=False))


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds")
    return list(case_images("pt110-scan-0.10A", range(3), cache=folder))


def told(found, truth):
    return metrics(score_image(found, truth, 0.5).tallies[ALL])


def test_an_oracle_with_known_noise_gets_its_numbers():
    names = ["pt110-displaced-20pm", "pt110-displaced-30pm"]
    record = evaluate(Oracle(noisy(5.0), names, 6), names, images=6, bounds=False)
    for case in names:
        scores = record.scores[case]
        # 480 columns: a standard deviation is known to 3.2 %.
        for name in ("sigma_x_pm", "sigma_y_pm", "rmse_pm", "sigma_relative_pm"):
            assert scores[name].value == pytest.approx(5.0, rel=0.13)
        assert scores["sigma_x_pm"].low < scores["sigma_x_pm"].value < scores["sigma_x_pm"].high
        assert abs(scores["bias_x_pm"].value) < 1.0
        assert scores["z_sd"].value == pytest.approx(1.0, rel=0.1)
        assert scores["response"].value == pytest.approx(1.0, abs=0.05)
        assert scores["recall"].value == scores["precision"].value == scores["jaccard"].value == 1.0
        assert scores["columns_per_s"].value > 0.0
    assert record.response.value == pytest.approx(1.0, abs=0.03)
    assert record.response.low < record.response.value < record.response.high


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_method_that_draws_a_lattice_has_no_response(share):
    case = "srtio3-displaced-20pm"
    record = evaluate(Oracle(noisy(0.0, share), [case], 2), [case], images=2, bounds=False)
    assert record.response.value == pytest.approx(share, abs=1e-9)
    assert record.scores[case]["rmse_pm"].value == pytest.approx(20.0 * (1.0 - share), rel=0.1)


def test_exact_answers_have_an_infinite_efficiency_that_a_record_keeps(bounded, tmp_path):
    exact = [score_image(columns(t.xy_px[t.counts], t.pixel_size_A), t).tallies for t in bounded]
    found = bootstrap([tallies[ALL] for tallies in exact])
    for name in ("efficiency", "efficiency_relative"):
        assert found[name] == Estimate(np.inf, np.inf, np.inf)
    # One exact image of three: many draws without another one.
    rest = [score_image(columns(t.xy_px[t.counts] + 0.1, t.pixel_size_A), t).tallies[ALL] for t in bounded[1:]]
    mixed = bootstrap([exact[0][ALL], *rest])["efficiency"]
    assert mixed.low < mixed.value < mixed.high == np.inf
    none = score_image(columns(np.zeros((0, 2)), bounded[0].pixel_size_A), bounded[0]).tallies[ALL]
    assert np.isnan(metrics(none)["efficiency"])
    same = bootstrap([t[ALL] for t in exact], [t[ALL] for t in exact])
    assert np.isnan(same["efficiency"].value)
    result = Result("pt110-scan-0.10A", 0, 1.0, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int), exact[0])
    record = with_scores(Record("exact", "1", {}, 1, "0", {"cpu": "one"}, "2026-01-01", True, (result,), {}))
    again = read_record(write_record(record, tmp_path))
    assert again.scores["pt110-scan-0.10A"]["efficiency"].value == np.inf


def test_the_exact_group_is_not_the_worst():
    exact = dict.fromkeys(SUMS, 0.0) | {"columns": 9.0, "hits": 9.0, "ratio_n": 18.0}
    poor = exact | {"ratio": 40.0}
    assert worst_group([{ALL: exact, "exact": exact, "poor": poor}])[0] == "poor"


def test_a_shift_of_all_is_bias_alone(truth):
    p = truth.pixel_size_A
    inner = truth.xy_px[truth.counts]
    found = told(columns(inner + np.array([3.0, -2.0]) / (100.0 * p), p), truth)
    assert found["bias_x_pm"] == pytest.approx(3.0)
    assert found["bias_y_pm"] == pytest.approx(-2.0)
    assert found["rmse_pm"] == pytest.approx(np.sqrt(6.5))
    assert found["sigma_x_pm"] == pytest.approx(0.0, abs=1e-4)
    assert found["sigma_relative_pm"] == pytest.approx(0.0, abs=1e-6)
    assert found["response"] == pytest.approx(1.0)
    assert np.isnan(found["z_sd"])


def test_missed_doubled_and_invented_columns_are_counted(truth):
    p = truth.pixel_size_A
    inner = truth.xy_px[truth.counts]
    n = len(inner)
    gap = (inner[0] + inner[np.argsort(np.linalg.norm(inner - inner[0], axis=1))[1]]) / 2.0
    twice = inner[1] + 0.1 / p
    at_border = np.array([[0.0, 100.0]])
    found = told(columns(np.concatenate([inner[1:], gap[None], twice[None], at_border]), p), truth)
    assert found["recall"] == pytest.approx((n - 1) / n)
    assert found["precision"] == pytest.approx((n - 1) / (n + 1))
    assert found["jaccard"] == pytest.approx((n - 1) / (n + 2))
    # The nearer of the two stands for the column.
    assert found["rmse_pm"] == pytest.approx(0.0, abs=1e-9)
    whole = told(columns(truth.xy_px, p), truth)
    assert whole["recall"] == whole["precision"] == 1.0


def test_flagged_columns_are_neither_hits_nor_false(truth):
    p = truth.pixel_size_A
    inner = truth.xy_px[truth.counts]
    xy = np.concatenate([inner, [[np.nan, np.nan], [-50.0, 3.0]]])
    flags = np.zeros(len(xy), dtype=np.int64)
    flags[[0, -1, -2]] = 1
    found = told(columns(xy, p, flags=flags), truth)
    assert found["recall"] == pytest.approx(1.0 - 1.0 / len(inner))
    assert found["precision"] == 1.0
    assert found["flagged"] == pytest.approx(3.0 / len(xy))


def test_only_right_columns_make_a_method_fast(truth):
    p = truth.pixel_size_A
    inner = truth.xy_px[truth.counts]
    y, x = np.mgrid[0:256:4, 0:256:4]
    apart = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    plain = told(columns(inner, p), truth)
    assert plain["columns_per_s"] == pytest.approx(len(inner) / 0.5)
    carpet = told(
        columns(np.concatenate([inner, apart, apart]), p, flags=np.repeat([0, 0, 2], [len(inner), 4096, 4096])), truth
    )
    assert carpet["columns_per_s"] == plain["columns_per_s"]
    assert carpet["precision"] < 0.1


def test_matching_keeps_its_radius_and_makes_most_pairs():
    true = np.array([[0.0, 0.0], [6.0, 0.0], [40.0, 0.0]])
    # Half the way to the neighbour is 0.3 A of 0.1 A pixels; elsewhere the radius is 0.5 A.
    assert match(np.array([[2.9, 0.0]]), true, 0.1)[0].tolist() == [0]
    assert match(np.array([[0.0, 3.1]]), true, 0.1)[0].tolist() == []
    assert match(np.array([[44.9, 0.0]]), true, 0.1)[0].tolist() == [2]
    assert match(np.array([[45.1, 0.0]]), true, 0.1)[0].tolist() == []
    assert match(np.zeros((0, 2)), true, 0.1)[0].tolist() == []
    found = np.array([[41.0, 0.0], [5.5, 0.0], [0.5, 0.0], [0.1, 0.0]])
    pairs = dict(zip(*(part.tolist() for part in match(found, true, 0.1)), strict=True))
    assert pairs == {0: 3, 1: 1, 2: 0}


def test_errors_as_large_as_the_bound_are_efficient(bounded):
    rng = np.random.default_rng(2)
    for factor in (1.0, 2.0):
        tallies = []
        for truth in bounded:
            p, inner = truth.pixel_size_A, np.flatnonzero(truth.counts)
            for _ in range(40):
                error = np.stack(
                    [rng.multivariate_normal(np.zeros(len(inner)), c) for c in truth.covariance_A2], axis=1
                )
                tallies.append(score_image(columns(truth.xy_px[inner] + factor * error / p, p), truth).tallies[ALL])
        found = metrics(total(tallies))
        # Errors of one image go together: 240 means of x and y, not 20,000 columns.
        assert found["efficiency"] == pytest.approx(factor**-2, rel=0.1)
        assert found["efficiency_relative"] == pytest.approx(factor**-2, rel=0.05)
        assert found["bound_pm"] * factor == pytest.approx(found["rmse_pm"], rel=0.05)


def test_missing_some_columns_keeps_the_relative_bound_fair(bounded):
    """The mean is taken off over the matched columns, and so is the bound's."""
    rng = np.random.default_rng(3)
    tallies = []
    for truth in bounded:
        p, inner = truth.pixel_size_A, np.flatnonzero(truth.counts)
        for _ in range(40):
            error = np.stack([rng.multivariate_normal(np.zeros(len(inner)), c) for c in truth.covariance_A2], axis=1)
            few = slice(0, 6)
            tallies.append(score_image(columns((truth.xy_px[inner] + error / p)[few], p), truth).tallies[ALL])
    assert metrics(total(tallies))["efficiency_relative"] == pytest.approx(1.0, rel=0.1)


def test_an_image_given_up_counts_as_nothing_found():
    def answer(truth, rng):
        if truth.spec.index == 1:
            raise LocalizeError("too dark")
        return columns(truth.xy_px, truth.pixel_size_A)

    case = "pt110-10dB"
    record = evaluate(Oracle(answer, [case], 2), [case], images=2, bounds=False)
    assert [result.error for result in record.results] == ["", "too dark"]
    assert record.scores[case]["recall"].value == pytest.approx(0.5, abs=0.03)
    assert record.response is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.xy_px, "returned ndarray: expected FoundColumns"),
        (lambda f: replace(f, xy_px=f.xy_px[:, :1]), r"xy_px of shape .* expected \(N, 2\)"),
        (lambda f: replace(f, xy_px=f.xy_px.astype(complex)), "floating-point"),
        (lambda f: replace(f, xy_px=np.float64(3.0)), "xy_px of shape"),
        (lambda f: replace(f, sigma_px=f.sigma_px[1:]), "sigma_px of shape"),
        (lambda f: replace(f, flags=f.flags[1:]), "flags of shape"),
        (lambda f: replace(f, flags=f.flags * 1.0), "expected integers"),
        (lambda f: replace(f, pixel_size_A=1.0), "pixel size 1.0 A"),
        (lambda f: replace(f, xy_px=np.where(np.arange(len(f))[:, None] == 4, np.nan, f.xy_px)), "column 4 .* finite"),
        (lambda f: replace(f, xy_px=f.xy_px + 250.0), "outside the image"),
        (lambda f: replace(f, sigma_px=np.zeros((len(f), 2))), "above 0, or nan"),
    ],
)
def test_answers_of_the_wrong_form_are_refused(truth, change, message):
    with pytest.raises(PrecisionError, match=message) as caught:
        score_image(change(columns(truth.xy_px, truth.pixel_size_A)), truth)
    assert "pt110-displaced-20pm-00" in str(caught.value)


def _wrong(kind):
    """An answer to image 1 that is none; the other images are answered."""

    def answer(truth, rng):
        found = columns(truth.xy_px, truth.pixel_size_A)
        if truth.spec.index != 1:
            return found
        if isinstance(kind, BaseException):
            raise kind
        return kind(found)

    return answer


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda f: None, "returned NoneType: expected FoundColumns"),
        (lambda f: replace(f, xy_px=f.xy_px * np.nan), "expected finite positions"),
        (lambda f: replace(f, xy_px=f.xy_px + 250.0), "outside the image"),
        (lambda f: replace(f, flags=f.flags[1:]), "flags of shape"),
        (lambda f: replace(f, sigma_px=np.full_like(f.sigma_px, -1.0)), "above 0, or nan"),
        (lambda f: replace(f, sigma_px=[[1.0], [2.0, 3.0]]), "ValueError: "),
        (lambda f: replace(f, pixel_size_A="small"), "Error: "),
        (ZeroDivisionError("one over nothing"), "ZeroDivisionError: one over nothing"),
        (LocalizeError(""), "LocalizeError: "),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_an_image_that_a_method_fails_on_does_not_stop_the_others(kind, message, tmp_path):
    case = "pt110-10dB"
    record = evaluate(Oracle(_wrong(kind), [case], 3), [case], images=3, bounds=False)
    assert [bool(result.error) for result in record.results] == [False, True, False]
    assert message in record.results[1].error
    assert record.errors == 1
    assert [result.tallies[ALL]["hits"] > 0.0 for result in record.results] == [True, False, True]
    assert record.results[1].seconds > 0.0
    again = read_record(write_record(record, tmp_path))
    assert again.results[1].error == record.results[1].error
    assert verify(again) == []


def test_a_method_has_one_thread_and_the_process_its_own_again(monkeypatch):
    case = "pt110-10dB"
    seen, pools = [], []

    class Pool(ThreadPoolExecutor):
        def __init__(self, max_workers, **settings):
            pools.append(max_workers)
            super().__init__(max_workers, **settings)

    class Both:
        name = "Gaussian and scan-aware"

        def __call__(self, image, pixel_size_A):
            seen.append(torch.get_num_threads())
            seen.extend(library["num_threads"] for library in threadpool_info())
            GaussianFit()(image, pixel_size_A)
            # What a method sets lasts for one image.
            found = ScanAware()(image, pixel_size_A)
            torch.set_num_threads(2)
            return found

    monkeypatch.setattr(gaussian, "ThreadPoolExecutor", Pool)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = sorted((library["filepath"], library["num_threads"]) for library in threadpool_info())
        record = evaluate(Both(), [case], images=2, bounds=False)
        assert sorted((library["filepath"], library["num_threads"]) for library in threadpool_info()) == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
    assert pools == [1] * 3
    assert record.machine["threads"] == 1
    assert record.errors == 0


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(2)])
def test_who_interrupts_a_benchmark_stops_it(stop):
    case = "pt110-10dB"
    with pytest.raises(type(stop)):
        evaluate(Oracle(_wrong(stop), [case], 2), [case], images=2, bounds=False)


def test_positions_on_whole_pixels_may_be_integers(truth):
    p = truth.pixel_size_A
    whole = np.rint(truth.xy_px[truth.counts]).astype(np.int32)
    found = score_image(replace(columns(whole, p), xy_px=whole), truth)
    assert np.array_equal(found.error_pm, score_image(columns(whole, p), truth).error_pm)
    assert len(found.error_pm) == len(whole)


def test_answers_are_copied_before_the_method_is_called_again():
    case = "pt110-10dB"
    kept = []

    def answer(truth, rng):
        for earlier in kept:
            earlier[:] = 1.0
        found = columns(truth.xy_px, truth.pixel_size_A)
        kept.append(found.xy_px)
        return found

    record = evaluate(Oracle(answer, [case], 2), [case], images=2, bounds=False)
    assert verify(record) == []


def test_a_method_cannot_change_the_image_it_is_judged_by():
    case = "pt110-10dB"

    class Vandal(Oracle):
        def __call__(self, image, pixel_size_A):
            found = super().__call__(image, pixel_size_A)
            image[:] = 0.0
            return found

    record = evaluate(Vandal(noisy(1.0), [case], 1), [case], images=1, bounds=False)
    assert record.scores[case]["recall"].value == 1.0
    with pytest.raises(PrecisionError, match="31 images"):
        evaluate(Vandal(noisy(1.0), [case], 1), [case], images=31)


def test_intervals_cover_the_truth():
    """95 % intervals of 200 sets of 30 images whose offsets differ from image to image."""
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        tallies = []
        for _ in range(30):
            error = rng.normal(size=20) * 3.0 + rng.normal() * 2.0
            sums = {"hits": 20.0, "columns": 20.0, "x": error.sum(), "xx": (error**2).sum()}
            tallies.append(dict.fromkeys(SUMS, 0.0) | sums)
        interval = bootstrap(tallies, draws=300, seed=trial)["sigma_x_pm"]
        covered += interval.low <= np.sqrt(13.0) <= interval.high
    # Percentile intervals of a standard deviation over 30 images cover a little less than told.
    assert 0.85 <= covered / 200 <= 0.99
    alone = bootstrap(tallies[:1])["sigma_x_pm"]
    assert np.isnan(alone.low)
    assert alone.value > 0.0


def test_two_methods_are_told_apart_on_the_same_images():
    case = "pt110-10dB"
    better = evaluate(Oracle(noisy(3.0), [case], 8, "better"), [case], images=8, bounds=False)
    worse = evaluate(Oracle(noisy(4.0), [case], 8, "worse one"), [case], images=6, bounds=False)
    difference = compare(better, worse)[case]
    assert difference["rmse_pm"].value == pytest.approx(-1.0, abs=0.3)
    assert difference["rmse_pm"].high < 0.0
    same = compare(better, better)[case]["rmse_pm"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    other = evaluate(Oracle(noisy(3.0), ["pt110-15dB"], 1), ["pt110-15dB"], images=1, bounds=False)
    with pytest.raises(PrecisionError, match="share no image"):
        compare(better, other)
    with pytest.raises(PrecisionError, match="case sets 1 and 0"):
        compare(better, replace(other, case_set_version=0))


def test_the_worst_group_is_named():
    case = "srtio3-001"

    def answer(truth, rng):
        noise = np.where(truth.group == "O", 9.0, 2.0)[:, None] / (100.0 * truth.pixel_size_A)
        found = truth.xy_px + noise * rng.normal(size=truth.xy_px.shape)
        return columns(found[truth.counts], truth.pixel_size_A)

    record = evaluate(Oracle(answer, [case], 2), [case], images=2, bounds=False)
    name, found = worst_group([result.tallies for result in record.results])
    assert name == "O"
    assert found["rmse_pm"] == pytest.approx(9.0, rel=0.15)
    assert worst_group([{ALL: record.results[0].tallies[ALL]}]) is None

    def heavy_only(truth, rng):
        return columns(truth.xy_px[truth.group != "O"], truth.pixel_size_A)

    missing = evaluate(Oracle(heavy_only, [case], 1), [case], images=1, bounds=False)
    name, found = worst_group([result.tallies for result in missing.results])
    assert (name, found["recall"]) == ("O", 0.0)
