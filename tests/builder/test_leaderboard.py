"""The leaderboard from records made by hand: whatever a record holds, the others are drawn and the page is whole."""

import hashlib
import io
import json
import re
import zipfile
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest

from builder.leaderboard import leaderboard_facts, leaderboard_text, rows
from builder.portal import build_leaderboard
from temimagenet.precision import CASE_SET_VERSION, Record, write_record
from temimagenet.precision.records import Result, with_scores
from temimagenet.precision.scores import ALL, SUMS, chance_limit

COLUMNS = 40.0


def tally(rng, spread=1.0, response=1.0, seconds=0.5):
    """Sums of an image of 40 columns whose bound is 2 pm; errors are the bound times `spread`."""
    square = 2.0 * COLUMNS * 4.0 * spread**2 * rng.uniform(0.9, 1.1)
    ratio = square / 4.0
    told = {
        "columns": COLUMNS, "hits": COLUMNS, "reported": COLUMNS, "seconds": seconds,
        "xx": square / 2.0, "yy": square / 2.0, "relative_xx": square / 2.0, "relative_yy": square / 2.0,
        "relative_n": COLUMNS, "ratio": ratio, "ratio_n": 2.0 * COLUMNS, "relative_ratio": ratio,
        "relative_ratio_n": 2.0 * COLUMNS, "bound": 8.0 * COLUMNS, "bound_n": 2.0 * COLUMNS, "uu": 1e4,
        "um": 1e4 * response * rng.uniform(0.99, 1.01),
    }  # fmt: skip
    return dict.fromkeys(SUMS, 0.0) | told


def made(method="a method", version="1", images=range(8), cases=("pt110-20dB", "pt110-displaced-20pm"), **settings):
    """A record of sums that no images were needed for."""
    rng = np.random.default_rng(0)
    results = tuple(
        Result(case, i, 0.5, np.zeros((2, 2)), np.full((2, 2), np.nan), np.zeros(2, dtype=np.int64),
               {ALL: tally(rng, **settings)})
        for case in cases for i in images
    )  # fmt: skip
    machine = {"cpu": "a processor", "cores": 2, "threads": 1}
    return with_scores(Record(method, version, {}, CASE_SET_VERSION, "0.1.0", machine, "2026-01-01", True, results, {}))


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def with_positions(path, content):
    """Positions of other bytes, and the record's sum of them."""
    path.with_suffix(".npz").write_bytes(content)
    change(path, lambda d: d["positions"].update(sha256=hashlib.sha256(content).hexdigest()))


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _cut(path):
    with_positions(path, path.with_suffix(".npz").read_bytes()[:-60])


def _bit(path):
    """The compressed data of one array are changed, the archive's list is not."""
    content = bytearray(path.with_suffix(".npz").read_bytes())
    with zipfile.ZipFile(path.with_suffix(".npz")) as file:
        entry = file.getinfo("xy_px.npy")
    start = entry.header_offset + 60
    content[start : start + 20] = bytes(20)
    with_positions(path, bytes(content))


PARTS = {
    "count": np.full(16, 2), "xy_px": np.zeros((32, 2)), "sigma_px": np.ones((32, 2)),
    "flags": np.zeros(32, dtype=int),
}  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _bit,
        lambda p: with_positions(p, b""),
        lambda p: with_positions(p, b"PK\x03\x04 not an archive"),
        lambda p: with_positions(p, archive(**(PARTS | {"count": np.r_[np.full(15, 2), -2]}))),
        lambda p: with_positions(p, archive(**(PARTS | {"count": np.r_[np.full(14, 2), 8, -4]}))),
        lambda p: with_positions(p, archive(**(PARTS | {"count": np.array(32)}))),
        lambda p: with_positions(p, archive(**(PARTS | {"xy_px": np.zeros((32, 2), dtype=complex)}))),
        lambda p: with_positions(p, archive(**(PARTS | {"flags": np.full(32, np.nan)}))),
        lambda p: with_positions(p, archive(**(PARTS | {"xy_px": np.full((32, 2), None)}))),
        lambda p: p.with_suffix(".npz").unlink(),
        lambda p: p.write_text("[" * 100_000),
        lambda p: p.write_text("1" * 10_000),
        lambda p: p.write_bytes(b"\xff\xfe\x00"),
        lambda p: change(p, lambda d: d["positions"].update(file="")),
        lambda p: change(p, lambda d: d["positions"].update(file="a\0b")),
        lambda p: change(p, lambda d: d.update(method="\ud800")),
        lambda p: change(p, lambda d: d.update(version="1\n2")),
        lambda p: change(p, lambda d: d.update(method=" ")),
        lambda p: change(p, lambda d: d["machine"].pop("cpu")),
        lambda p: change(p, lambda d: d["machine"].update(cpu=["fast"])),
        lambda p: change(p, lambda d: d["machine"].update(threads="\ud800")),
        lambda p: change(p, lambda d: d["scores"].update({"no such case": {}})),
        lambda p: change(p, lambda d: d["results"][0]["tallies"].update({"\ud800": {}})),
        lambda p: change(p, lambda d: d["results"][0]["tallies"]["all"].update(xx=10**400)),
        lambda p: change(p, lambda d: d["results"][0].update(seconds=float("nan"))),
    ],
)  # fmt: skip
def test_a_damaged_record_is_named_and_the_others_are_drawn(damage, tmp_path):
    folder = tmp_path / "records"
    write_record(made("whole"), folder)
    path = write_record(made("damaged"), folder)
    damage(path)
    told = []
    page = build_leaderboard(folder, tmp_path / "site", on_left_out=told.append).read_text(encoding="utf-8")
    assert len(told) == 1
    assert told[0].startswith(path.stem)
    assert f"<li>{escape(told[0][:60])}" in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert page.count('<th scope="row">whole') == 3
    assert "a processor (threads: 1)." in page
    assert '<th scope="row">damaged' not in page


def test_the_command_line_names_what_is_left_out(tmp_path, capsys):
    from builder.__main__ import leaderboard

    write_record(made("whole"), tmp_path / "records").with_name("list [bold].json").write_text("[]")
    leaderboard(tmp_path / "records", tmp_path / "site")
    assert "left out: list [bold].json: holds a list, expected an object" in capsys.readouterr().out


def test_names_are_shown_as_they_are(tmp_path):
    names = [
        "$\\frac{1$",
        "costs $5 or $6",
        "_private",
        "a<b>&\"'",
        "#010203",
        'id="x" url(#y)',
        "{{ 7 * 7 }}",
        "5 Å α",
    ]
    for name in names:
        write_record(made(name), tmp_path)
    facts = leaderboard_facts(tmp_path)
    assert not facts["left_out"]
    legends = [re.findall(r"<text[^>]*>([^<]*)</text>", plot["svg"]) for plot in facts["plots"]]
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    for name in names:
        literal = escape(name, quote=False)
        assert all(literal in legend for legend in legends)
        assert page.count('<th scope="row">' + escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) == 3


@pytest.mark.parametrize("response", [0.0, 0.85, 1.2])
def test_a_method_that_does_not_follow_columns_is_shown_below_without_a_rank(response, tmp_path):
    write_record(made("honest", spread=1.5), tmp_path)
    write_record(made("rigid", spread=1.0, response=response), tmp_path)
    facts = leaderboard_facts(tmp_path)
    assert [row.record.method for row in facts["rows"]] == ["honest", "rigid"]
    assert facts["rows"][1].share > facts["rows"][0].share
    assert facts["rows"][0].doubts == ()
    assert "is not shown to lie between 0.9 and 1.1" in facts["rows"][1].doubts[0]
    for table in facts["case_tables"]:
        assert [(line["method"], line["ranked"]) for line in table["lines"]] == [("honest", True), ("rigid", False)]
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    assert "not ranked: its response" in page
    text = leaderboard_text([row.record for row in facts["rows"]])
    assert "not ranked: rigid: its response" in text
    assert [line.split()[0] for line in text.splitlines() if "honest" in line or "rigid" in line][:2] == ["1", "-"]


def test_a_method_that_finds_nothing_is_named(tmp_path):
    record = made("blind")
    nothing = {ALL: dict.fromkeys(SUMS, 0.0) | {"columns": COLUMNS, "seconds": 0.5}}
    results = tuple(replace(r, tallies=nothing, error="too dark") for r in record.results)
    write_record(with_scores(replace(record, results=results)), tmp_path)
    facts = leaderboard_facts(tmp_path)
    assert facts["rows"] == []
    assert facts["left_out"] == [
        "blind (1): nothing was found where columns are displaced; 16 images with errors",
    ]


def test_a_response_of_one_image_is_not_shown():
    assert "response" in rows([made(images=range(1))])[0].doubts[0]


@pytest.mark.parametrize(
    ("spread", "images", "plausible"),
    [
        (0.0, 2, False),
        (0.0, 1, False),
        (1e-9, 2, False),
        (0.1, 2, False),
        (0.6, 30, False),
        (1.0, 2, True),
        (0.8, 2, True),
        (0.9, 30, True),
        (3.0, 30, True),
    ],
)
def test_errors_smaller_than_the_images_allow_are_marked_and_not_ranked(spread, images, plausible):
    row = rows([made(spread=spread, images=range(images))])[0]
    said = [doubt for doubt in row.doubts if doubt.startswith("implausible: an efficiency of ")]
    assert len(said) == (not plausible)
    if spread == 0.0:
        assert row.share == np.inf
        assert "efficiency of inf" in said[0]


def test_a_method_at_the_bound_is_seldom_called_implausible():
    """Errors of an image that are all one: two numbers an image, for the worst case of chance."""
    rng = np.random.default_rng(1)
    above = 0
    for _ in range(2000):
        tallies = []
        for columns in (20.0, 60.0, 100.0):
            square = columns * (rng.normal(size=2) ** 2).sum()
            tallies.append(dict.fromkeys(SUMS, 0.0) | {"ratio": square, "ratio_n": 2.0 * columns})
        efficiency = sum(t["ratio_n"] for t in tallies) / sum(t["ratio"] for t in tallies)
        above += efficiency > chance_limit(tallies)
    # One in a thousand; the distribution of a mean of unequal parts is an approximation.
    assert above <= 8
    assert chance_limit([dict.fromkeys(SUMS, 0.0)]) == np.inf


def test_a_record_without_bounds_is_not_ranked():
    assert rows([replace(made(), bounds=False)])[0].doubts == ("its record was made without bounds",)


def test_a_record_of_chosen_images_is_marked_and_not_ranked(tmp_path):
    write_record(made("whole", images=range(4)), tmp_path)
    write_record(made("chosen", images=(0, 2, 5)), tmp_path)
    facts = leaderboard_facts(tmp_path)
    whole, chosen = facts["rows"]
    assert (whole.images, whole.doubts) == ((4, 4), ())
    assert chosen.doubts[0] == "incomplete: images 1, 3, 4 of pt110-20dB lack"
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    assert "not ranked: incomplete: images 1, 3, 4" in page
    assert "<td>2, 4 each</td>" in page
    assert "2 x 4 " in leaderboard_text([whole.record])


def test_what_cannot_be_printed_is_written_out(tmp_path):
    record = made("fragile")
    results = (replace(record.results[0], error="\x1b[31m\ud800 dark"), *record.results[1:])
    write_record(with_scores(replace(record, results=results)), tmp_path)
    Path(tmp_path, "odd\udce4\x1b.json").write_text("[]")
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    assert 'title="pt110-20dB, image 0: \\x1b[31m\\ud800 dark"' in page
    assert "<li>odd\\udce4\\x1b.json: holds a list" in page
    assert "\x1b" not in page + leaderboard_text([record])


def test_errors_are_counted_and_the_first_is_told(tmp_path):
    record = made("fragile")
    failed = [replace(r, error="<b>no</b> luck" if r.index > 5 else "") for r in record.results]
    write_record(with_scores(replace(record, results=tuple(failed))), tmp_path)
    (row,) = leaderboard_facts(tmp_path)["rows"]
    assert row.record.errors == 4
    text = leaderboard_text([row.record])
    assert "first error: fragile: pt110-20dB, image 6: <b>no</b> luck" in text
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    assert "<td>4</td>\n<td>2, 8 each</td>" in page
    assert page.count('title="pt110-displaced-20pm, image 6: &lt;b&gt;no&lt;/b&gt; luck">2 errors') == 1


@pytest.mark.parametrize(
    ("cases", "drawn", "lacking"),
    [
        (("srtio3-displaced-10pm",), [], ["Precision against dose", "Precision against scan noise"]),
        (("pt110-displaced-20pm", "pt110-10dB"), ["dose"], ["Precision against scan noise"]),
        (("pt110-displaced-20pm", "pt110-scan-0.10A"), ["scan-noise"], ["Precision against dose"]),
        (("pt110-displaced-20pm", "pt110-20dB"), ["dose", "scan-noise"], []),
    ],
)
def test_a_plot_without_a_case_is_left_out_and_told(cases, drawn, lacking, tmp_path):
    write_record(made("only", cases=cases), tmp_path)
    facts = leaderboard_facts(tmp_path)
    assert [plot["key"] for plot in facts["plots"]] == drawn
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(drawn)
    assert re.findall(r"<p>([^<]*) is not drawn: no method", page) == lacking
    assert ('class="plots"' in page) == bool(drawn)
    assert page.count('<th scope="row">only') == 1 + len(cases)


def test_without_records_the_page_says_so(tmp_path):
    facts = leaderboard_facts(tmp_path)
    assert facts["rows"] == facts["plots"] == facts["not_drawn"] == facts["case_tables"] == []
    page = build_leaderboard(tmp_path, tmp_path / "site").read_text(encoding="utf-8")
    assert "No records yet." in page
    assert "<figure>" not in page
    assert "is not drawn" not in page
