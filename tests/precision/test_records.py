"""Records: written, read, checked again; tampering is found and malformed files are told."""

import hashlib
import json
import platform
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from oracles import Oracle, noisy

from temimagenet.errors import PrecisionError
from temimagenet.precision import evaluate, load_localizer, read_record, read_records, verify, write_record
from temimagenet.precision.records import installed_localizers, machine, with_scores

CASES = ["pt110-20dB", "pt110-displaced-20pm"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bounds")


@pytest.fixture(scope="module")
def record(cache):
    return evaluate(Oracle(noisy(2.0), CASES, 2), CASES, images=2, cache=cache, parameters={"noise_pm": 2.0})


@pytest.fixture
def path(record, tmp_path):
    return write_record(record, tmp_path)


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return path


def test_a_record_comes_back_as_it_was_and_holds(record, path, cache):
    again = read_record(path)
    for field in ("method", "version", "parameters", "case_set_version", "library_version", "machine", "date"):
        assert getattr(again, field) == getattr(record, field)
    for a, b in zip(again.results, record.results, strict=True):
        assert (a.case, a.index, a.seconds, a.tallies) == (b.case, b.index, b.seconds, b.tallies)
        assert np.array_equal(a.xy_px, b.xy_px)
        assert np.array_equal(a.sigma_px, b.sigma_px, equal_nan=True)
    assert again.response == record.response
    assert verify(again, cache=cache) == []
    assert write_record(record, path.parent) == path


def test_a_better_score_than_the_results_give_is_found(path, cache):
    def edit(data):
        data["scores"]["pt110-20dB"]["rmse_pm"][0] *= 0.9

    found = verify(read_record(change(path, edit)), cache=cache)
    assert len(found) == 1
    assert "pt110-20dB: rmse_pm is recorded as" in found[0]


def test_sums_that_the_positions_do_not_give_are_found(path, cache):
    def edit(data):
        data["results"][1]["tallies"]["all"]["xx"] *= 0.5

    found = verify(read_record(change(path, edit)), images=[1], cache=cache)
    assert len(found) == 1
    assert "pt110-20dB, image 1: all: xx is recorded as" in found[0]
    # The sums of images that are not checked are believed: the scores do not follow from this one.
    assert any(
        "pt110-20dB: sigma_x_pm is recorded as" in line for line in verify(read_record(path), images=[0], cache=cache)
    )


def test_positions_that_were_moved_are_found(path, cache):
    positions = path.with_suffix(".npz")
    with np.load(positions) as file:
        arrays = dict(file)
    arrays["xy_px"][5] += 0.01
    np.savez_compressed(positions, **arrays)
    with pytest.raises(PrecisionError, match="SHA-256 differs"):
        read_record(path)
    digest = hashlib.sha256(positions.read_bytes()).hexdigest()
    found = verify(read_record(change(path, lambda data: data["positions"].update(sha256=digest))), cache=cache)
    assert any("image 0: all: xx is recorded as" in line for line in found)


def test_a_subset_of_images_is_told(record, cache):
    chosen = replace(record, results=tuple(r for r in record.results if r.index == 1))
    chosen = with_scores(chosen)
    assert chosen.gaps == dict.fromkeys(CASES, (0,))
    assert record.gaps == {}
    found = verify(chosen, cache=cache)
    assert found == [
        f"{case}: 1 images, up to image 1, without 0: expected images 0 to n - 1 without gaps" for case in CASES
    ]
    assert verify(record, images=[0], cache=cache) == []
    asked = verify(record, images=[0, 7], cache=cache)
    assert asked == [f"{case}: images 7 were to be checked, and are not there" for case in CASES]
    assert verify(with_scores(replace(record, results=())), cache=cache) == ["no results"]


def test_an_image_that_counts_twice_is_told(record, cache):
    twice = with_scores(replace(record, results=(*record.results, record.results[0])))
    assert verify(twice, cache=cache) == [f"{CASES[0]}: images 0 have more than one result"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, np.nan, np.inf])
def test_times_that_cannot_be_are_told(record, path, cache, seconds):
    first = replace(record.results[0], seconds=seconds)
    found = verify(replace(record, results=(first, *record.results[1:])), images=[1], cache=cache)
    assert found == [f"{CASES[0]}, image 0: seconds is {seconds:g}, expected more than 0"]
    with pytest.raises(PrecisionError, match="result 0: seconds is"):
        read_record(change(path, lambda data: data["results"][0].update(seconds=seconds)))


def test_scores_follow_from_positions_even_where_sums_and_scores_agree(record, cache):
    def better(result):
        tally = {name: value * (0.5 if name in ("xx", "yy") else 1.0) for name, value in result.tallies["all"].items()}
        return replace(result, tallies=dict(result.tallies) | {"all": tally})

    forged = with_scores(replace(record, results=tuple(map(better, record.results))))
    found = verify(forged, cache=cache)
    assert any("pt110-20dB: rmse_pm is recorded as" in line for line in found)
    more = {case: dict(scores) | {"beauty": scores["recall"]} for case, scores in record.scores.items()}
    found = verify(replace(record, scores=more), cache=cache)
    assert [line.split(" is recorded")[0] for line in found] == [f"{case}: beauty" for case in sorted(CASES)]


def test_an_image_given_up_holds_no_positions(record, cache):
    first = replace(record.results[0], error="too dark")
    found = verify(replace(record, results=(first, *record.results[1:])), cache=cache)
    assert found == [f"{CASES[0]}, image 0: has an error and positions, expected one of them"]


def test_of_two_records_of_one_method_and_version_none_is_taken(record, path):
    other = write_record(replace(record, parameters={"noise_pm": 1.0}), path.parent)
    third = write_record(replace(record, version="another"), path.parent)
    records, problems = read_records(path.parent)
    assert [r.version for r in records] == ["another"]
    first, second = sorted([path, other])
    assert problems == [
        f"{first} and {second}: records of one method and version, oracle ({record.version}); keep one, or rename"
    ]
    other.unlink()
    assert len(read_records(path.parent)[0]) == 2
    assert third.is_file()


def test_another_case_set_is_not_compared(path):
    found = verify(read_record(change(path, lambda data: data.update(case_set_version=0))))
    assert found == ["made for case set 0, this is 1: nothing can be compared"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(schema=7), "schema is 7, expected 1"),
        (lambda d: d.pop("method"), "method is missing"),
        (lambda d: d.update(case_set_version="1"), "case_set_version is '1', expected int"),
        (lambda d: d.update(bounds=1), "bounds is 1, expected bool"),
        (lambda d: d.update(date="yesterday"), "expected YYYY-MM-DD"),
        (lambda d: d["positions"].update(file="../other.npz"), "expected the name of a file beside it"),
        (lambda d: d["positions"].update(file="other.npz"), "cannot be read"),
        (lambda d: d["results"].pop(), "3 results, but positions of 4 images"),
        (lambda d: d["results"][0].update(case="pt111"), "result 0: image 0 of case 'pt111'"),
        (lambda d: d["results"][0].update(index=1), "an image has two results"),
        (lambda d: d["results"][2]["tallies"]["all"].update(best=1.0), "unknown sum 'best'"),
        (lambda d: d["results"][2]["tallies"]["all"].update(xx="0"), "xx is '0', expected a finite number"),
        (lambda d: d["results"][2]["tallies"].pop("all"), "no tally 'all'"),
        (lambda d: d["scores"]["pt110-20dB"].update(rmse_pm=1.0), r"expected \[value, low, high\]"),
        (lambda d: d["scores"]["pt110-20dB"].update(rmse_pm=["a", 1, 2]), "'a', expected a finite number"),
    ],
)
def test_malformed_records_are_told(path, edit, message):
    with pytest.raises(PrecisionError, match=message) as caught:
        read_record(change(path, edit))
    assert path.parent.name in str(caught.value)


def test_files_that_are_no_records_do_not_stop_the_others(path, record):
    path.with_name("broken.json").write_text("{")
    path.with_name("list.json").write_text("[]")
    records, problems = read_records(path.parent)
    assert [r.method for r in records] == [record.method]
    assert len(problems) == 2
    assert "broken.json: cannot be read as JSON" in problems[0]
    assert "holds a list, expected an object" in problems[1]


def test_a_record_names_no_host_and_no_user():
    told = json.dumps(machine())
    assert set(machine()) == {"cpu", "cores", "platform", "python", "numpy", "torch"}
    assert platform.node() not in told


MODULE = """
from dataclasses import dataclass
import numpy as np
from temimagenet.localize import FoundColumns

@dataclass
class Nothing:
    name: str = "finds nothing"
    def __call__(self, image, pixel_size_A):
        none, flags = np.zeros(0), np.zeros(0, dtype=np.int64)
        return FoundColumns(np.zeros((0, 2)), np.zeros((0, 2)), none, none, none, flags, pixel_size_A)

class Wants:
    def __init__(self, model): ...

made = Nothing("made")
number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "outside_method.py").write_text(MODULE)
    info = tmp_path / "outside_method-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside_method\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[temimagenet.localizers]\nnothing = outside_method:Nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield info
    sys.modules.pop("outside_method", None)


def test_localizers_come_by_address_and_by_entry_point(package):
    assert load_localizer("outside_method:Nothing").name == "finds nothing"
    assert load_localizer("outside_method:made").name == "made"
    found = installed_localizers()["nothing"]
    record = evaluate(found, ["pt110-10dB"], images=1, bounds=False)
    assert record.version == "2.5"
    assert record.parameters == {"name": "finds nothing"}
    assert record.scores["pt110-10dB"]["recall"].value == 0.0
    assert np.isnan(record.scores["pt110-10dB"]["rmse_pm"].value)
    (package / "entry_points.txt").write_text("[temimagenet.localizers]\nbad = outside_method:Absent\n")
    with pytest.raises(PrecisionError, match="entry point 'bad'"):
        installed_localizers()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("outside_method", "expected package.module:object"),
        ("no_such_package:Thing", "cannot be imported"),
        ("outside_method:Absent", "has no 'Absent'"),
        ("outside_method:number", "int is no localizer"),
        ("outside_method:Wants", "wants arguments"),
    ],
)
def test_addresses_that_lead_nowhere_are_told(package, address, message):
    with pytest.raises(PrecisionError, match=message):
        load_localizer(address)


def test_settings_of_a_dataclass_are_recorded(tmp_path):
    @dataclass
    class Settings:
        window: float = 2.5
        name: str = "with settings"

        def __call__(self, image, pixel_size_A):
            return oracle(image, pixel_size_A)

    oracle = Oracle(noisy(1.0), ["pt110-10dB"], 1)
    records = [evaluate(Settings(w), ["pt110-10dB"], images=1, bounds=False) for w in (2.5, 3.0)]
    assert records[0].parameters == {"window": 2.5, "name": "with settings"}
    # Other settings are another record.
    assert write_record(records[0], tmp_path) != write_record(records[1], tmp_path)
