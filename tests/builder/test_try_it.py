"""The page that runs the network in the browser: it computes what Python computes, reads files, and sends nothing."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import KDTree

from builder.ledger import Ledger
from builder.portal import build_portal
from builder.try_it import model_facts, write_model
from temimagenet.errors import PortalError
from temimagenet.models import TASKS, Prediction, load_model
from temimagenet.models.columns import LEAST_CHANCE
from temimagenet.models.inputs import choose_grid, levels
from temimagenet.precision import case_images
from temimagenet.storage import read_catalogue

DATA = Path(__file__).resolve().parents[1] / "data"
MAPS = tuple(TASKS.values())

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The page, which asks the server for its own files and sends it nothing, or the test fails."""
    page = browser.new_context(accept_downloads=True).new_page()
    page.set_default_timeout(60_000)
    trouble: list[str] = []

    def look(request: Any) -> None:
        if request.url.startswith("blob:"):
            return
        plain = request.method == "GET" and request.post_data is None and "?" not in request.url
        if not (plain and request.url.startswith(server)):
            trouble.append(f"{request.method} {request.url}")

    page.context.on("request", look)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.goto(f"{server}try.html")
    yield page
    page.context.close()
    assert trouble == []


@pytest.fixture(autouse=True)
def _single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python works in single precision here, as browsers do; on some processors it would take half."""
    monkeypatch.setattr("temimagenet.models.predict.halves_well", lambda device: False)


def _packed(array: NDArray[Any]) -> str:
    """An array's bytes as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _unit(name: str, image: NDArray[np.float64], pixel: float) -> float:
    """What one of the network's unit is in the image's."""
    if "Mask" in name:
        return 1.0
    grid = choose_grid((image.shape[0], image.shape[1]), pixel)
    return levels(grid.resample(image)).deviation * (30.0 if name == TASKS["superresolution"] else 1.0)


def _assert_same(
    found: dict[str, NDArray[Any]], xy: NDArray[Any], told: Prediction, image: NDArray[Any], pixel: float
) -> None:
    """Maps within 1e-3 of the network's unit, positions within 1e-3 pixel, every column with its partner."""
    for name in MAPS:
        apart = np.abs(found[name] - told.maps[name]).max() / _unit(name, image.astype(float), pixel)
        assert apart < 1e-3, f"{name}: {apart}"
    assert told.columns is not None
    assert xy.shape == told.columns.xy_px.shape
    # Rounding may exchange columns of nearly the same chance.
    away, partner = KDTree(told.columns.xy_px).query(xy)
    assert away.max() < 1e-3
    assert len(np.unique(partner)) == len(xy)


PREDICT = """async ([text, rows, columns, pixel, tile]) => {
    const { predict } = await import('./assets/try-network.js');
    const { env, InferenceSession, Tensor } = await import('./vendor/onnxruntime-web/ort.wasm.min.mjs');
    env.wasm.numThreads = 1;
    const facts = await (await fetch('model/network.json')).json();
    const model = new Uint8Array(await (await fetch('model/' + facts.file)).arrayBuffer());
    const session = await InferenceSession.create(model);
    const run = async (pixels, high, wide) => {
        const answer = await session.run({ image: new Tensor('float32', pixels, [1, 1, high, wide]) });
        return Object.fromEntries(Object.entries(answer).map(([name, { data }]) => [name, data]));
    };
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const image = { data: new Float64Array(bytes.buffer), rows, columns };
    const tiles = [];
    const found = await predict(run, image, pixel, { ...facts, tile_px: tile }, (...part) => tiles.push(part));
    const text_ = (map) => {
        const raw = new Uint8Array(map.buffer);
        let out = '';
        for (let i = 0; i < raw.length; i += 8192) out += String.fromCharCode(...raw.subarray(i, i + 8192));
        return btoa(out);
    };
    return {
        maps: Object.fromEntries(Object.entries(found.maps).map(([name, map]) => [name, text_(map)])),
        columns: found.columns,
        tiles,
    };
}"""


@pytest.mark.parametrize(
    ("pixel", "tile", "tiles"),
    [(0.107, 1024, 1), (0.31, 1024, 1), (0.035, 1024, 1), (0.107, 256, 4)],
    ids=["as it is", "interpolated", "binned", "in tiles"],
)
def test_every_route_of_the_browser_is_pythons(page: Any, pixel: float, tile: int, tiles: int) -> None:
    size = {0.31: (72, 61), 0.035: (301, 260)}.get(pixel, (300, 281) if tiles > 1 else (121, 150))
    y, x = np.indices(size) * pixel
    clean = np.exp(3.0 * (np.cos(2 * np.pi * (x + 0.3 * y) / 2.3) + np.cos(2 * np.pi * y / 2.1) - 2.0))
    image = np.random.default_rng(0).poisson(40.0 * clean + 5.0).astype(float)
    image[5, 7] = 4000.0
    found = page.evaluate(PREDICT, [_packed(image), *size, pixel, tile])
    told = load_model("all").predict(image, pixel, MAPS, tile_px=tile)
    maps = {
        name: np.frombuffer(base64.b64decode(text), np.float32).reshape(size) for name, text in found["maps"].items()
    }
    assert found["tiles"][-1] == [tiles, tiles]
    assert told.columns is not None
    assert len(told.columns.chance) > 10
    heard = [c for c in found["columns"] if c["chance"] >= LEAST_CHANCE]
    _assert_same(maps, np.array([[c["x_px"], c["y_px"]] for c in heard]), told, image, pixel)
    for key, expected in (
        ("sigma_x_px", told.columns.sigma_px[:, 0]), ("intensity", told.columns.intensity),
        ("intensity_sigma", told.columns.intensity_sigma), ("chance", told.columns.chance),
    ):  # fmt: skip
        np.testing.assert_allclose([c[key] for c in heard], expected, rtol=1e-3)


def _wait_for(page: Any, text: str, where: str = "#readout") -> None:
    """Until an element says something."""
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.textContent.includes(text)", arg=[where, text]
    )


def _take_home(page: Any, button: str) -> bytes:
    """What a button saves."""
    with page.expect_download() as caught:
        page.get_by_role("button", name=button).click()
    return Path(caught.value.path()).read_bytes()


def _micrograph() -> tuple[str, bytes, NDArray[Any], float]:
    """The gold micrograph as it is shipped."""
    data = (DATA / "gold_grain_boundary.png").read_bytes()
    return "gold.png", data, np.asarray(Image.open(io.BytesIO(data)).convert("L")), 0.13


def _rendered() -> tuple[str, bytes, NDArray[Any], float]:
    """A rendered image with scan noise, as a PNG of 16 bits."""
    truth = next(case_images("pt110-scan-0.10A", [0], bounds=False))
    counts = np.asarray(truth.image).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(counts).save(buffer, "PNG")
    return "rendered.png", buffer.getvalue(), counts, truth.pixel_size_A


@pytest.mark.parametrize("make", [_micrograph, _rendered])
def test_a_visitor_gets_what_python_gives(
    page: Any, make: Callable[[], tuple[str, bytes, NDArray[Any], float]]
) -> None:
    name, data, image, pixel = make()
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": data})
    _wait_for(page, name, "#drop")
    page.get_by_label("Pixel size in Å").fill(str(pixel))
    page.get_by_role("button", name="Find the columns").click()
    _wait_for(page, "Done in")
    told = load_model("all").predict(image, pixel, MAPS)
    rows = list(csv.DictReader(io.StringIO(_take_home(page, "Columns (CSV)").decode())))
    maps = {}
    for name in MAPS:
        page.get_by_label("Show").select_option(name)
        maps[name] = np.load(io.BytesIO(_take_home(page, "This map (NPY)")))
    _assert_same(maps, np.array([[float(row["x_px"]), float(row["y_px"])] for row in rows]), told, image, pixel)
    picture = Image.open(io.BytesIO(_take_home(page, "This map (PNG)")))
    assert picture.size == image.shape[::-1]
    page.get_by_label("Least chance").fill("0.9")
    assert told.columns is not None
    most = int((told.columns.chance >= 0.9).sum())
    _wait_for(page, f"{most:,} columns", "#count")


def test_the_example_needs_two_clicks(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.get_by_role("button", name="Take an example").click()
    _wait_for(page, "The example’s own", "#source")
    page.get_by_role("button", name="Find the columns").click()
    _wait_for(page, "Done in")
    page.locator("#view").hover()
    _wait_for(page, "value")
    assert [(found["id"], found["nodes"]) for found in Axe().run(page).response["violations"]] == []
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("show", "marks", "chance", "closer")]
    assert np.ptp([box["y"] + box["height"] / 2 for box in boxes]) < 5  # the controls stand in one row


def _tag(name: str, body: bytes, wide: bool, kind: int) -> bytes:
    """A tag of a DigitalMicrograph file."""
    return struct.pack(">BH", kind, len(name)) + name.encode() + (struct.pack(">Q", len(body)) if wide else b"") + body


def _dm(image: NDArray[Any], scale: float, unit: str, version: int, order: str = "<") -> bytes:
    """A DigitalMicrograph file of one image and a thumbnail, as the format's description has it."""
    wide = version == 4
    kinds = {"int16": (2, 1), "float32": (6, 2), "uint16": (4, 10), "int32": (3, 7), "uint8": (8, 6)}
    letters = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f"}

    def number(value: int) -> bytes:
        return struct.pack(">Q" if wide else ">I", value)

    def data(*info: int, body: bytes) -> bytes:
        return b"%%%%" + number(len(info)) + b"".join(map(number, info)) + body

    def single(kind: int, value: float) -> bytes:
        return data(kind, body=struct.pack(order + letters[kind], value))

    def group(**tags: tuple[int, bytes]) -> bytes:
        body = b"".join(_tag(name.strip("_"), part, wide, kind) for name, (kind, part) in tags.items())
        return b"\x01\x00" + number(len(tags)) + body

    def listed(array: NDArray[Any]) -> dict[str, tuple[int, bytes]]:
        inner, told = kinds[array.dtype.name]
        axis = (20, group(Origin=(21, single(6, 0.0)), Scale=(21, single(6, scale)), Units=(21, text(unit))))
        return {
            "Calibrations": (20, group(Dimension=(20, group(_=axis, __=axis)))),
            "Data": (21, data(20, inner, array.size, body=array.astype(array.dtype.newbyteorder(order)).tobytes())),
            "DataType": (21, single(5, told)),
            "Dimensions": (20, group(_=(21, single(5, array.shape[1])), __=(21, single(5, array.shape[0])))),
        }

    def text(value: str) -> bytes:
        return data(20, 4, len(value), body=value.encode("utf-16-le" if order == "<" else "utf-16-be"))

    images = group(
        _=(20, group(ImageData=(20, group(**listed(np.zeros((8, 8), np.uint8)))))),
        __=(20, group(ImageData=(20, group(**listed(image))))),
    )
    point = data(15, 0, 2, 0, 6, 0, 6, body=struct.pack(order + "ff", 1.0, 2.0))
    many = data(20, 15, 0, 2, 0, 2, 0, 2, 3, body=bytes(12))
    root = group(Point=(21, point), Many=(21, many), ImageList=(20, images))
    return struct.pack(">I", version) + number(len(root)) + struct.pack(">I", order == "<") + root + bytes(8)


READ = """async (files) => {
    const { readImage } = await import('./assets/try-image.js');
    const out = [];
    for (const [name, text] of files) {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        try {
            const { data, ...facts } = await readImage(new File([bytes], name));
            out.push({ ...facts, data: [...data] });
        } catch (error) {
            out.push({ error: error.message });
        }
    }
    return out;
}"""


def _tiff(array: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def _picture(array: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """A file that the Python imaging library writes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def _npy(array: NDArray[Any]) -> bytes:
    """A file that NumPy writes."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_files_of_many_kinds_are_read_bit_by_bit(page: Any) -> None:
    draw = np.random.default_rng(1)
    deep = draw.integers(0, 65536, (37, 52)).astype(np.uint16)
    deep[5:20] = 7
    flat = (deep >> 8).astype(np.uint8)
    real = draw.normal(size=(37, 52)).astype(np.float32)
    big = np.tile(deep, (4, 4))
    imagej = {"imagej": True, "resolution": (80.0, 80.0), "metadata": {"unit": "nm"}}
    thermo = [(34682, 2, 0, "[Scan]\nPixelWidth=1.1e-011\n", True)]
    cases: list[tuple[bytes, NDArray[Any], float | None]] = [
        (_picture(flat), flat, None), (_picture(deep), deep, None),
        (_picture(np.stack([flat] * 3, -1)), flat, None),
        (_tiff(flat), flat, None), (_tiff(deep, byteorder=">"), deep, None), (_tiff(real), real, None),
        (_tiff(real.astype(np.float64)), real, None), (_tiff(deep.astype(np.int32) - 9), deep.astype(int) - 9, None),
        (_tiff(deep, **imagej), deep, 0.125), (_tiff(deep, extratags=thermo), deep, 0.11),
        (_tiff(deep, resolution=(1e9, 1e9), resolutionunit="CENTIMETER"), deep, 0.1),
        (_tiff(deep, tile=(16, 32)), deep, None), (_tiff(deep, rowsperstrip=5), deep, None),
        (_tiff(deep, compression="zlib", predictor=True), deep, None),
        (_picture(big, "TIFF", compression="tiff_lzw"), big, None),
        (_picture(flat, "TIFF", compression="packbits"), flat, None),
        (_tiff(np.stack([flat] * 3, -1), photometric="rgb"), flat, None),
        (_npy(real), real, None), (_npy(np.asfortranarray(deep)), deep, None), (_npy(flat > 9), flat > 9, None),
        (_npy(real.astype(">f8")), real, None), (_npy(deep.astype(np.int64)), deep, None),
        (_dm(real, 0.011, "nm", 3), real, 0.11), (_dm(deep, 11.0, "pm", 4), deep, 0.11),
        (_dm(deep.astype(np.int32), 0.5, "1/nm", 4), deep, None), (_dm(deep, 1.1e-5, "µm", 3, ">"), deep, 0.11),
    ]  # fmt: skip
    found = page.evaluate(READ, [[f"{i}.bin", base64.b64encode(data).decode()] for i, (data, _, _) in enumerate(cases)])
    for i, ((_, image, pixel), read) in enumerate(zip(cases, found, strict=True)):
        assert "error" not in read, (i, read["error"])
        np.testing.assert_array_equal(np.reshape(read["data"], (read["rows"], read["columns"])), image, err_msg=str(i))
        assert read["pixelSizeA"] == (None if pixel is None else pytest.approx(pixel, rel=1e-6)), i


def test_cut_and_odd_files_are_told_in_a_sentence(page: Any) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (37, 52)).astype(np.uint16)
    plain = b"\x03\x01\x03\x00\x01\x00\x00\x00"
    odd = {
        "empty.png": (b"", "is empty"),
        "words.txt": (b"not an image", "not an image that can be read here"),
        "cut.png": (_picture(deep)[:300], ""),
        "cut.tif": (_tiff(deep)[:900], "damaged or ends too early"),
        "cut.npy": (_npy(deep)[:900], "damaged or ends too early"),
        "cut.dm3": (_dm(deep, 1.0, "nm", 3)[:900], "damaged or ends too early"),
        "cut.dm4": (_dm(deep, 1.0, "nm", 4)[:200], "damaged or ends too early"),
        "cube.npy": (_npy(np.zeros((2, 3, 4))), "3 dimensions"),
        "text.npy": (_npy(np.array([["a"]])), "save real numbers"),
        "huge.npy": (_npy(deep).replace(b"(37, 52), }        ", b"(37000, 52000), }  "), "too many"),
        "jpeg.tif": (_tiff(deep).replace(plain + b"\x01", plain + b"\x07"), "compression 7"),
    }  # fmt: skip
    found = page.evaluate(READ, [[name, base64.b64encode(data).decode()] for name, (data, _) in odd.items()])
    for (name, (_, told)), read in zip(odd.items(), found, strict=True):
        assert read.get("error", "nothing").startswith(name), (name, read)
        assert told in read["error"], (name, read)


DROP = """([name, text]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
    const drop = new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer });
    document.querySelector('#drop').dispatchEvent(drop);
}"""


def test_bad_drops_are_told_and_the_page_goes_on(page: Any) -> None:

    def give(name: str, data: bytes) -> None:
        page.evaluate(DROP, [name, base64.b64encode(data).decode()])

    def find(pixel: str) -> None:
        page.get_by_label("Pixel size in Å").fill(pixel)
        page.get_by_role("button", name="Find the columns").click()

    give("notes.txt", b"hello")
    _wait_for(page, "not an image that can be read here", "#notice")
    give("flat.npy", _npy(np.full((64, 64), 7.0)))
    _wait_for(page, "flat.npy", "#drop")
    find("0.1")
    _wait_for(page, "Every pixel is 7", "#notice")
    holes = np.random.default_rng(0).normal(size=(64, 64))
    holes[3, 4] = np.nan
    give("holes.npy", _npy(holes))
    _wait_for(page, "holes.npy", "#drop")
    find("0.1")
    _wait_for(page, "1 pixel is not a number", "#notice")
    huge = np.zeros((4200, 4200), np.uint8)
    huge[0, 0] = 255
    give("huge.png", _picture(huge))
    _wait_for(page, "huge.png", "#drop")
    find("0.1")
    _wait_for(page, "4200 x 4200 pixels of 0.1 Å are more than this page can take", "#notice")
    give("good.npy", _npy(np.random.default_rng(0).poisson(9.0, (64, 64)).astype(float)))
    _wait_for(page, "good.npy", "#drop")
    for pixel, told in (("", "Enter the pixel size"), ("2", "not resolved"), ("0.0001", "less than half an ångström")):
        find(pixel)
        _wait_for(page, told, "#notice")
    give("notes.txt", b"hello")
    _wait_for(page, "not an image that can be read here", "#notice")
    assert "good.npy" in page.locator("#drop").inner_text()
    find("0.1")
    _wait_for(page, "Done in")
    assert page.locator("#notice").is_hidden()


def test_the_model_that_is_served_is_small_and_its_constants_are_pythons(server: str, page: Any) -> None:
    facts = page.evaluate("async () => (await fetch('model/network.json')).json()")
    assert {key: facts[key] for key in model_facts()} == json.loads(json.dumps(model_facts()))
    size = page.evaluate(
        "async (name) => (await (await fetch('model/' + name)).arrayBuffer()).byteLength", facts["file"]
    )
    assert size < 5.5e6


@pytest.mark.slow
def test_a_graphics_card_gives_what_python_gives(browser: Any, serving: Any, library: Path, tmp_path: Path) -> None:
    """Needs `make build/tools/node_modules/onnxruntime-web`; Chromium's own software stands in for the card."""
    package = Path(__file__).resolve().parents[2] / "build/tools/node_modules/onnxruntime-web/dist"
    build_portal(library, tmp_path / "site", docs=False, webgpu=package)
    image = _rendered()[2][:64, :64]
    with serving(tmp_path / "site") as address:
        card = browser.browser_type.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"],
        )
        page = card.new_page()
        page.set_default_timeout(300_000)
        asked: list[str] = []
        page.context.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}try.html")
        page.get_by_label("on the graphics card (WebGPU)").check()
        buffer = _npy(image)
        page.locator("#file").set_input_files({"name": "a.npy", "mimeType": "", "buffer": buffer})
        _wait_for(page, "a.npy", "#drop")
        page.get_by_label("Pixel size in Å").fill("0.12")
        page.get_by_role("button", name="Find the columns").click()
        _wait_for(page, "Done in")
        assert any(url.endswith(".jsep.wasm") for url in asked)
        assert all(url.startswith((address, "blob:")) for url in asked)
        maps = {}
        for name in MAPS:
            page.get_by_label("Show").select_option(name)
            maps[name] = np.load(io.BytesIO(_take_home(page, "This map (NPY)")))
        rows = list(csv.DictReader(io.StringIO(_take_home(page, "Columns (CSV)").decode())))
        card.close()
    told = load_model("all").predict(image, 0.12, MAPS)
    _assert_same(maps, np.array([[float(row["x_px"]), float(row["y_px"])] for row in rows]), told, image, 0.12)


def test_graphics_cards_are_offered_only_with_their_runtime(page: Any, library: Path, tmp_path: Path) -> None:
    assert page.locator("#webgpu").count() == 0
    (tmp_path / "ort.webgpu.min.mjs").write_text("export {}")
    for folder, told in ((tmp_path, "of another version or damaged"), (tmp_path / "none", "missing")):
        with pytest.raises(PortalError, match=rf"ort\.webgpu\.min\.mjs: {told}"), Ledger(tmp_path) as ledger:
            write_model(ledger, library, read_catalogue(library), tmp_path, folder)
