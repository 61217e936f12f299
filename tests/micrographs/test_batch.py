"""Batches on the command line: what is written, what goes on when a file is bad, what is never written over."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from subprocess import run

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from typer.testing import CliRunner

import temimagenet
from temimagenet.cli import app, main
from temimagenet.localize import Flag, FoundColumns
from temimagenet.micrographs import batch, read_micrograph
from temimagenet.micrographs.files import expand, flag_words, result_names
from temimagenet.micrographs.methods import choose_method
from temimagenet.micrographs.pictures import colours, scale_bar

SHAPE, STEP, SIZE = (72, 80), 16.0, 0.1
SPOTS = np.array([(x, y) for y in np.arange(12.3, 70, STEP) for x in np.arange(11.6, 76, STEP)])


def spots(seed=0):
    """A lattice of spots with counting noise."""
    y, x = np.indices(SHAPE)
    clean = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18.0) for a, b in SPOTS)
    return np.random.default_rng(seed).poisson(20.0 + 200.0 * clean).astype(np.float32)


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    """Commands run where they may write."""
    monkeypatch.chdir(tmp_path)


def call(*words, code=0):
    """Run a command; its output."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


def test_columns_in_every_format():
    np.save("a.npy", spots())
    call("locate", "a.npy", "--pixel-size", "10pm", "--method", "gaussian-ls", "--format", "csv,json,hdf5", "--format",
         "mat,xyz")  # fmt: skip
    lines = Path("results/a_columns.csv").read_text().splitlines()
    head, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    xy = np.array([[float(row[head.index("x_px")]), float(row[head.index("y_px")])] for row in rows])
    order = np.lexsort((xy[:, 0].round(), (xy[:, 1] / STEP).round()))
    np.testing.assert_allclose(xy[order], SPOTS, atol=0.5)
    np.testing.assert_allclose([float(row[head.index("x_pm")]) for row in rows], 10.0 * xy[:, 0], rtol=1e-5)
    np.testing.assert_allclose([float(row[head.index("y_pm")]) for row in rows], 10.0 * xy[:, 1], rtol=1e-5)
    for axis in "xy":
        in_px = np.array([float(row[head.index(f"sigma_{axis}_px")]) for row in rows])
        in_pm = np.array([float(row[head.index(f"sigma_{axis}_pm")]) for row in rows])
        np.testing.assert_allclose(in_pm, 10.0 * in_px, rtol=1e-5)
        assert (in_px < 0.5).all()
    assert {row[head.index("flags")] for row in rows} <= {"sound", "cut"}
    told = json.loads(Path("results/a_columns.json").read_text())
    assert [column["x_px"] for column in told["columns"]] == pytest.approx(xy[:, 0], rel=1e-6)
    assert told["pixel_size_A"] == pytest.approx(SIZE)
    assert "least-squares" in told["method"]
    with h5py.File("results/a_columns.h5") as file:
        np.testing.assert_allclose(file["columns/y_px"][()], xy[:, 1], rtol=1e-6)
        assert file["columns/flags"].asstr()[0] in ("sound", "cut")
        assert json.loads(file.attrs["facts"])["image"] == "a.npy"
    mat = loadmat("results/a_columns.mat")
    np.testing.assert_allclose(mat["x_px"].ravel(), xy[:, 0], rtol=1e-6)
    assert mat["flags"][0, 0][0] in ("sound", "cut")
    from ase.io import read

    atoms = read("results/a_columns.xyz", format="extxyz")
    np.testing.assert_allclose(atoms.positions[:, 0], 0.1 * xy[:, 0], atol=1e-5)
    np.testing.assert_allclose(atoms.positions[:, 1], -0.1 * xy[:, 1], atol=1e-5)
    record = json.loads(Path("results/a_locate.json").read_text())
    assert record["columns"] == len(SPOTS)
    assert record["calibration"] == "given by the user"
    assert min(Image.open("results/a_columns.png").size) >= 900
    drawing = ElementTree.parse("results/a_columns.svg")
    assert len(drawing.findall(".//{*}circle")) == len(SPOTS)
    assert not list(Path("results").glob(".*"))


@pytest.mark.parametrize("method", ["auto", "scan-aware", "scan-aware-network", "network", "network-otsu", "gaussian",
                                    "otsu"])  # fmt: skip
def test_methods(method):
    np.save("a.npy", spots())
    told = json.loads(call("locate", "a.npy", "--pixel-size", str(SIZE), "--method", method, "--jsonl"))
    assert told["status"] == "done"
    assert abs(told["columns"] - len(SPOTS)) <= 4
    assert (told["standard_error_pm"] is None) == ("otsu" in method)


def test_one_bad_file_does_not_stop_a_hundred():
    for number in range(97):
        np.save(f"{number:03d}.npy", spots(number))
    Path("unreadable.npy").write_bytes(b"no array")
    Path("empty.npy").write_bytes(b"")
    np.lib.format.open_memmap("huge.npy", "w+", np.uint8, (40000, 40000))
    output = call("locate", ".", "--pixel-size", "0.1", "--method", "otsu", "--jsonl", "--no-pictures", code=1)
    told = {line["image"]: line for line in map(json.loads, output.splitlines())}
    assert len(told) == 100
    assert {name for name, line in told.items() if line["status"] == "failed"} == {
        "unreadable.npy", "empty.npy", "huge.npy"
    }  # fmt: skip
    assert "empty" in told["empty.npy"]["error"]
    assert "too large" in told["huge.npy"]["error"]
    assert len(list(Path("results").glob("*_columns.csv"))) == 97
    table = call("locate", "000.npy", "empty.npy", "--pixel-size", "0.1", "--method", "otsu", code=1)
    assert "1 of 2 images done" in table
    assert "failed: empty.npy: the file is empty" in table


def test_same_names_do_not_collide_and_inputs_stay():
    for folder in ("a", "b", "c"):
        Path(folder).mkdir()
        np.save(f"{folder}/x.npy", spots())
    Image.fromarray(spots().clip(0, 255).astype(np.uint8)).save("a/x.png")
    options = ("--pixel-size", "0.1", "--method", "otsu", "--out", "out", "--no-pictures")
    call("locate", "a", "b", *options)
    names = {path.name.removesuffix("_columns.csv") for path in Path("out").glob("*.csv")}
    assert names == {"a_x_npy", "b_x_npy", "x_png"}
    # Once more is the same files; another x is another.
    call("locate", "a", "b", *options)
    assert len(list(Path("out").glob("*.csv"))) == 3
    call("locate", "a/x.npy", *options)
    call("locate", "c/x.npy", *options)
    sources = {json.loads(path.read_text())["source"] for path in Path("out").glob("*_locate.json")}
    assert len(sources) == 4
    before = Path("a/x.png").read_bytes()
    Path("a/x.png").rename("a/x_columns.png")
    output = call("locate", "a/x.npy", "a/x_columns.png", "--pixel-size", "0.1", "--method", "otsu", "--out", "a",
                  "--jsonl", code=1)  # fmt: skip
    assert "is one of the images" in output
    assert Path("a/x_columns.png").read_bytes() == before


def test_names_of_results():
    files = [Path(name) for name in ("/d/a/x.png", "/d/b/x.png", "/d/b/y.png", "/d/b/y.tif", "/d/b/Z.png", "/d/z.png")]
    names = result_names(files, lambda name, file: False)
    assert names == ["a_x_png", "b_x_png", "y_png", "y_tif", "b_Z_png", "d_z_png"]
    assert result_names(files[:1], lambda name, file: name == "x") == ["x_png"]
    alike = [Path("/d/a/x.png"), Path("/d_a/x.png")]
    assert len(set(result_names(alike, lambda name, file: False))) == 2


def test_files_that_are_meant(tmp_path):
    for name in ("b.png", "a.tif", "notes.txt", "deep/c.dm4", "[odd].png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"x")
    assert [path.name for path in expand(["."])] == ["[odd].png", "a.tif", "b.png"]
    assert [path.name for path in expand(["**/*"])] == ["[odd].png", "a.tif", "b.png", "c.dm4"]
    assert [path.name for path in expand(["[odd].png", "b.png", "./b.png"])] == ["[odd].png", "b.png"]
    assert [path.name for path in expand(["nowhere.png"])] == ["nowhere.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["locate", "a.npy", "--method", "magic"], "method 'magic': expected one of auto, scan-aware"),
        (["locate", "a.npy", "--format", "xls"], "format xls: expected some of csv, json"),
        (["locate", "a.npy", "--pixel-size", "big"], "pixel size 'big'"),
        (["locate", "a.npy", "--model", "m.safetensors", "--method", "otsu"], "uses no network"),
        (["locate", "a.npy", "--method", "faster-rcnn"], "needs --model FILE"),
        (["locate", "*.xyz"], "pattern *.xyz: no image matches"),
        (["locate", "void"], "folder void: no image in it"),
        (["locate", "a.npy", "--device", "foo"], "device 'foo'"),
        (["strain", "a.npy", "--reference", "1,2"], "expected left,top,right,bottom"),
        (["enhance", "a.npy", "--maps", "magic"], "maps magic: expected some of circularMask"),
        (["enhance", "a.npy", "--model", "magic"], "no model 'magic'"),
        (["locate", "a.npy", "--model", "magic"], "error: no model 'magic'"),
        (["locate", "a.npy", "--out", "a.npy"], "a.npy is a file: expected a folder"),
        (["locate", "a.npy", "--out", "a.npy/deeper"], "a.npy is a file: expected a folder"),
        (["adapt", "a.cif", "--out", "run", "--pixel-size", "big"], "pixel size 'big'"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(monkeypatch, capsys, words, told):
    np.save("a.npy", spots())
    Path("void").mkdir()
    monkeypatch.setattr("sys.argv", ["temimagenet", *words])
    with pytest.raises(SystemExit, match="1"):
        main()
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors


def test_images_that_nothing_can_be_found_in_are_told():
    np.save("flat.npy", np.ones((32, 32)))
    np.save("hole.npy", np.where(np.arange(32 * 32).reshape(32, 32) == 40, np.nan, 1.0))
    np.save("a.npy", spots())
    lines = [
        json.loads(line) for line in call("locate", "flat.npy", "hole.npy", "a.npy", "--jsonl", code=1).splitlines()
    ]
    assert "no pixel size" in lines[2]["error"]
    lines = call("locate", "flat.npy", "hole.npy", "--pixel-size", "0.1", "--jsonl", code=1).splitlines()
    assert "constant" in json.loads(lines[0])["error"]
    assert "nan" in json.loads(lines[1])["error"]
    np.save("noise.npy", np.random.default_rng(0).normal(size=(64, 64)))
    told = json.loads(call("locate", "noise.npy", "--pixel-size", "0.1", "--method", "scan-aware", "--jsonl"))
    assert told["columns"] == 0
    (note,) = told["notes"]
    assert note.startswith("No column was found. Is the pixel size right, 10 pm (given by the user)?")
    told = json.loads(
        call("strain", "noise.npy", "--pixel-size", "0.1", "--method", "scan-aware", "--jsonl", code=1)
    )  # fmt: skip
    assert told["error"].startswith("0 columns")
    assert note[:-1] in told["error"]
    # Ten times too fine and too coarse.
    for size, why in (("1pm", "nearer than any"), ("100pm", "farther than expected")):
        told = json.loads(call("locate", "a.npy", "--pixel-size", size, "--method", "gaussian-ls", "--jsonl"))
        (note,) = told["notes"]
        assert why in note


def test_clipped_images_are_told():
    np.save("whole.npy", spots())
    np.save("clipped.npy", np.minimum(spots(), np.quantile(spots(), 0.95)))
    lines = call("locate", "*.npy", "--pixel-size", "0.1", "--method", "gaussian", "--jsonl").splitlines()
    clipped, whole = (" ".join(json.loads(line)["notes"]) for line in lines)
    assert "% of all pixels have the highest value: where an image is clipped" in clipped
    assert "clipped" not in whole


def test_an_answer_that_is_not_fitted_says_so(monkeypatch):
    np.save("a.npy", spots())
    told = json.loads(call("locate", "a.npy", "--pixel-size", "0.1", "--jsonl"))
    assert (told["method"], told["notes"]) == ("auto: network, then scan-aware fit", [])
    monkeypatch.setattr("temimagenet.micrographs.methods.MOST_JOINT", 3)
    told = json.loads(call("locate", "a.npy", "--pixel-size", "0.1", "--jsonl", "--format", "json"))
    assert told["method"].endswith("the network alone")
    assert "not fitted: more than 3" in told["notes"][0]
    written = json.loads(Path("results/a_columns.json").read_text())
    assert (written["method"], written["notes"]) == (told["method"], told["notes"])
    with pytest.warns(UserWarning, match="not fitted: more than 3"):
        choose_method("auto")(spots().astype(float), SIZE)


def test_what_was_done_is_told_when_a_batch_is_stopped(monkeypatch):
    for name in "abc":
        np.save(f"{name}.npy", spots())
    done = []

    def stopped(*words):
        if done:
            raise KeyboardInterrupt
        done.append(words)
        return one(*words)

    one = batch._one
    monkeypatch.setattr(batch, "_one", stopped)
    told = call("locate", ".", "--pixel-size", "0.1", "--method", "otsu", "--no-pictures", code=130)
    assert "1 of 3 images done, then stopped" in told
    assert Path("results/a_columns.csv").exists()


def test_maps_are_written_with_their_pixel_size():
    np.save("a.npy", spots())
    call("enhance", "a.npy", "--pixel-size", "0.1", "--maps", "denoise,gaussianMask,noNoiseUpinterpolation2x")
    clean = read_micrograph("results/a_noNoise.tif")
    assert clean.pixel_size_A == pytest.approx(0.1, rel=1e-4)
    assert clean.image.shape == SHAPE
    assert clean.image.mean() == pytest.approx(spots().mean(), rel=0.1)
    finer = read_micrograph("results/a_noNoiseUpinterpolation2x.tif")
    assert finer.pixel_size_A == pytest.approx(0.05, rel=1e-4)
    assert finer.image.shape == (2 * SHAPE[0], 2 * SHAPE[1])
    assert Image.open("results/a_gaussianMask.png").size == SHAPE[::-1]
    # A model of one map draws that one unless others are asked for.
    told = json.loads(call("enhance", "a.npy", "--pixel-size", "0.1", "--model", "circularMask", "--jsonl"))
    assert told["maps"] == "circularMask"


def test_strain_is_written_and_what_cannot_be_is_told():
    np.save("a.npy", spots())
    call("strain", "a.npy", "--pixel-size", "0.1", "--method", "gaussian-ls", "--reference", "0,0,80,72")
    lines = Path("results/a_strain.csv").read_text().splitlines()
    assert lines[0] == "x_px,y_px,exx,eyy,exy,rotation_deg,reference"
    assert abs(np.mean([float(line.split(",")[2]) for line in lines[1:] if line.split(",")[2]])) < 0.01
    record = json.loads(Path("results/a_strain.json").read_text())
    assert np.linalg.norm(record["a_px"]) == pytest.approx(STEP, abs=0.1)
    assert Image.open("results/a_strain.png").width > 1000
    told = call(
        "strain", "a.npy", "--pixel-size", "0.1", "--method", "otsu", "--reference", "0,0,9,9", "--jsonl", code=1
    )
    assert "a lattice needs" in json.loads(told)["error"]
    told = call("strain", "a.npy", "--pixel-size", "0.1", "--reference", "600,0,700,10", "--jsonl", code=1)
    assert "reference 600,0,700,10: outside the image, 80 pixels wide and 72 high" in json.loads(told)["error"]


def test_columns_are_sorted_and_what_cannot_be_is_told():
    np.save("a.npy", spots())
    told = json.loads(call("analyse", "a.npy", "--pixel-size", "0.1", "--method", "gaussian-ls", "--jsonl"))
    assert told["classes"] == told["sublattices"] == 1
    assert told["lengths_pm"] == pytest.approx([10.0 * STEP] * 2, rel=0.01)
    assert told["nearest_pm"] == pytest.approx(10.0 * STEP, rel=0.02)
    lines = [line.split(",") for line in Path("results/a_analysis.csv").read_text().splitlines()]
    head, rows = lines[0], lines[1:]
    assert len(rows) == len(SPOTS)
    cells = {(row[head.index("cell_a")], row[head.index("cell_b")]) for row in rows if row[head.index("site")] == "0"}
    assert len(cells) == sum(row[head.index("site")] == "0" for row in rows) > 10
    assert all(row[head.index("class")] == ("0" if row[head.index("flags")] == "sound" else "-1") for row in rows)
    for name in ("classes", "lattice", "neighbours"):
        assert Image.open(f"results/a_{name}.png").width > 1000
    forced = json.loads(
        call("analyse", "a.npy", "--pixel-size", "0.1", "--method", "gaussian-ls", "--jsonl", "--classes", "2")
    )
    assert forced["classes"] == 2
    # A few have neighbours alone.
    np.save("few.npy", spots()[:56, :64])
    told = json.loads(call("analyse", "few.npy", "--pixel-size", "0.1", "--method", "gaussian-ls", "--jsonl"))
    assert "classes" not in told
    assert "sublattices" not in told
    assert [note.split(":")[0] for note in told["notes"]] == ["No classes of intensity", "No lattice"]


def test_a_report_needs_nothing_else():
    np.save("a & <b>.npy", spots())
    call("report", "a & <b>.npy", "--pixel-size", "0.1", "--method", "scan-aware")
    page = Path("results/a & <b>_report.html").read_text()
    assert "a &amp; &lt;b&gt;.npy" in page
    assert "<b>.npy" not in page
    assert page.count("<circle") == len(SPOTS)
    assert "Lattice precision" in page
    for title in ("Classes of intensity", "Lattice and sublattices", "Neighbours", "Strain"):
        assert f"<h2>{title}</h2>" in page
    assert "site 0" in page
    assert "class 0" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)[^"']*["']|url\(|@import|<script""", page)


def test_flags_in_words():
    assert flag_words(0) == "sound"
    assert flag_words(int(Flag.CUT | Flag.FAINT)) == "cut, faint"


def test_colours_and_scale_bars():
    assert colours(np.array([0.0, 1.0, np.nan])) == ["#440154", "#fde725", "#bbbbbb"]
    assert scale_bar(512, 0.13) == (pytest.approx(10.0 / 0.13), "1 nm")
    assert scale_bar(100, 0.02)[1] == "20 pm"
    assert len(FoundColumns.none(0.1)) == 0


def test_the_version_is_told():
    assert temimagenet.__version__ in call("--version")
    done = run([sys.executable, "-m", "temimagenet", "--version"], capture_output=True, text=True, check=True)
    assert temimagenet.__version__ in done.stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys, temimagenet, temimagenet.cli as c\n"
        "try: c.app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'pandas', 'h5py', 'matplotlib', 'rsciio', 'ase'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    home = Path(temimagenet.__file__).parents[1]
    done = run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "locate" in done.stdout
