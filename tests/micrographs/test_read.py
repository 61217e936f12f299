"""Files as microscopes write them: image, pixel size, and a clear line where there is none."""

import json
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from rsciio.blockfile import file_writer as write_blo
from rsciio.emd import file_writer as write_emd
from rsciio.hspy import file_writer as write_hspy

from temimagenet.errors import MicrographError
from temimagenet.micrographs import list_signals, read_micrograph, to_angstrom
from temimagenet.micrographs.units import is_reciprocal, parse_length

IMAGE = np.arange(12 * 10, dtype=np.uint16).reshape(12, 10) * 7
"""12 rows, 10 columns, nothing symmetric about it."""


def signal(data, scale=0.02, units="nm", title="HAADF", signal_axes=2, signal_type=""):
    """A signal as RosettaSciIO's writers take it."""
    navigation = data.ndim - signal_axes
    axes = [
        {
            "size": size, "index_in_array": number, "name": "zyx"[-1 - number] if number < 3 else "w",
            "scale": 1.0 if number < navigation else scale, "offset": 0.0,
            "units": "" if number < navigation else units, "navigate": number < navigation,
        }
        for number, size in enumerate(data.shape)
    ]  # fmt: skip
    metadata = {"General": {"title": title}, "Signal": {"signal_type": signal_type}}
    return {
        "data": data, "axes": axes, "metadata": metadata, "original_metadata": {}, "attributes": {"_lazy": False},
        "package_info": {}, "tmp_parameters": {}, "models": {}, "learning_results": {},
    }  # fmt: skip


def write_dm(path, images, scale=0.02, units="nm", version=3):
    """A DigitalMicrograph file: tags in groups, numbers little-endian, tags' own sizes big-endian."""
    word = ">q" if version == 4 else ">l"
    codes = {"H": 4, "l": 3, "f": 6, "L": 5}

    def named(kind, name, body, state=b""):
        size = struct.pack(">q", len(body)) if version == 4 else b""
        return struct.pack(">BH", kind, len(name)) + name.encode() + state + size + body

    def listed(tags):
        return struct.pack(word, len(tags)) + b"".join(tags)

    def group(name, tags):
        return named(20, name, listed(tags), b"\0\1")

    def data(name, info, content):
        body = b"%%%%" + struct.pack(word, len(info)) + b"".join(struct.pack(word, part) for part in info) + content
        return named(21, name, body)

    def number(name, code, value):
        return data(name, [codes[code]], struct.pack("<" + code, value))

    def text(name, value):
        return data(name, [20, 4, len(value)], value.encode("utf-16-le"))

    entries = []
    for title, values in images:
        code = {np.dtype("uint16"): ("H", 10), np.dtype("float32"): ("f", 2)}[values.dtype]
        sizes = values.shape[::-1]
        calibrated = [
            group("", [number("Origin", "f", 0.0), number("Scale", "f", scale), text("Units", units)]) for _ in sizes
        ]
        entries.append(
            group("", [
                group("ImageData", [
                    group("Calibrations", [group("Dimension", calibrated)]),
                    data("Data", [20, codes[code[0]], values.size], values.tobytes()),
                    number("DataType", "L", code[1]),
                    group("Dimensions", [number("", "L", size) for size in sizes]),
                    number("PixelDepth", "L", values.itemsize),
                ]),
                group("ImageTags", []),
                text("Name", title),
            ])
        )  # fmt: skip
    root = b"\0\1" + listed([group("ImageList", entries)])
    path.write_bytes(
        struct.pack(">l", version) + struct.pack(word, len(root)) + struct.pack(">l", 1) + root + b"\0" * 8
    )
    return path


def write_ser(path, frames, delta=2e-12):
    """A TIA series file (version 0x210) of 16-bit images; rows from the bottom, as TIA stores them."""
    count, (rows, columns) = len(frames), frames[0].shape
    dimension = struct.pack("<LddLLL", count, 0.0, 1.0, 0, 0, 0)
    start = 30 + len(dimension)
    header = struct.pack("<HHHLLLLLL", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, count, count, start, 1)
    size = 50 + frames[0].nbytes + 8
    first = start + 8 * count
    offsets = [first + number * size for number in range(count)]
    tags = [offset + size - 8 for offset in offsets]
    elements = b"".join(
        struct.pack("<ddLddLHLL", 0.0, delta, 0, 0.0, delta, 0, 2, columns, rows) + frame[::-1].tobytes()
        + struct.pack("<HHL", 0x4152, 0, 0)
        for frame in frames
    )  # fmt: skip
    path.write_bytes(header + dimension + struct.pack(f"<{2 * count}L", *offsets, *tags) + elements)
    return path


def write_velox(path, images, size_m=2e-12, unit="m"):
    """A Velox file: a JSON document for each image, frames along the last axis."""

    def document(value):
        return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)[:, None]

    with h5py.File(path, "w") as file:
        file["Version"] = [json.dumps({"format": "Velox", "version": "10"})]
        operations = file.create_group("Operations/StemInputOperation")
        for number, (title, values) in enumerate(images):
            key = f"{number:032x}"
            frames = values if values.ndim == 3 else values[None]
            told = {
                "BinaryResult": {
                    "PixelSize": {"width": str(size_m), "height": str(size_m)}, "Offset": {"x": "0", "y": "0"},
                    "PixelUnitX": unit, "PixelUnitY": unit, "DetectorIndex": "0",
                },
                "Detectors": {"Detector-0": {"DetectorName": title}}, "Scan": {"FrameTime": "1.0"},
                "Optics": {"AccelerationVoltage": "200000"}, "Core": {}, "Instrument": {"InstrumentModel": "Titan"},
                "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1500000000"}},
            }  # fmt: skip
            image = file.create_group(f"Data/Image/{key}")
            image["Data"] = np.moveaxis(frames, 0, 2)
            image["Metadata"] = np.repeat(document(told), len(frames), axis=1)
            operations[key] = [json.dumps({"dataPath": f"/Data/Image/{key}", "detector": title})]
    return path


def write_mrc(path, values, step_A=0.2):
    """An MRC2014 file of float32 sections."""
    sections = values if values.ndim == 3 else values[None]
    header = bytearray(1024)
    depth, rows, columns = sections.shape
    struct.pack_into("<10l", header, 0, columns, rows, depth, 2, 0, 0, 0, columns, rows, depth)
    struct.pack_into("<6f", header, 40, columns * step_A, rows * step_A, depth * step_A, 90.0, 90.0, 90.0)
    struct.pack_into("<3l", header, 64, 1, 2, 3)
    header[208:212] = b"MAP "
    header[212:216] = b"\x44\x44\0\0"
    path.write_bytes(bytes(header) + sections.astype("<f4").tobytes())
    return path


def write_gatan_tif(path):
    """A TIFF with the calibration tags of DigitalMicrograph."""
    tags = [
        (65003, 2, 0, "nm", True), (65004, 2, 0, "nm", True), (65006, 12, 1, 0.0, True), (65007, 12, 1, 0.0, True),
        (65009, 12, 1, 0.02, True), (65010, 12, 1, 0.02, True),
    ]  # fmt: skip
    tifffile.imwrite(path, IMAGE, extratags=tags, software="DigitalMicrograph")


def write_file(folder, kind):
    """One image of 0.2 A pixels in a format."""
    path = folder / f"image.{kind.split('-')[-1]}"
    {
        "dm3": lambda: write_dm(path, [("HAADF", IMAGE)]),
        "dm4": lambda: write_dm(path, [("HAADF", IMAGE)], version=4),
        "um-dm4": lambda: write_dm(path, [("HAADF", IMAGE)], 2e-5, "µm", version=4),
        "velox-emd": lambda: write_velox(path, [("HAADF", IMAGE)]),
        "berkeley-emd": lambda: write_emd(path, signal(IMAGE)),
        "ser": lambda: write_ser(path, [IMAGE], 2e-11),
        "mrc": lambda: write_mrc(path, IMAGE),
        "hspy": lambda: write_hspy(path, signal(IMAGE)),
        "pm-hspy": lambda: write_hspy(path, signal(IMAGE, 20.0, "pm")),
        "imagej-tif": lambda: tifffile.imwrite(
            path, IMAGE, imagej=True, resolution=(50.0, 50.0), metadata={"unit": "nm"}
        ),
        "gatan-tif": lambda: write_gatan_tif(path),
        "ome-tif": lambda: tifffile.imwrite(
            path, IMAGE, ome=True,
            metadata={"axes": "YX", "PhysicalSizeX": 0.02, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.02,
                      "PhysicalSizeYUnit": "nm"},
        ),
        "tags-tif": lambda: tifffile.imwrite(path, IMAGE, resolution=(5e8, 5e8), resolutionunit="CENTIMETER"),
    }[kind]()  # fmt: skip
    return path


KINDS = (
    "dm3", "dm4", "um-dm4", "velox-emd", "berkeley-emd", "ser", "mrc", "hspy", "pm-hspy", "imagej-tif", "gatan-tif",
    "ome-tif", "tags-tif",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_pixel_size_are_the_files(tmp_path, kind):
    path = write_file(tmp_path, kind)
    if kind == "velox-emd":
        write_velox(path, [("HAADF", IMAGE)], 2e-11)
    found = read_micrograph(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    assert found.image.dtype == np.float32
    assert found.pixel_size_A == pytest.approx(0.2, rel=1e-5)
    assert "file" in found.calibration
    assert read_micrograph(path, pixel_size_A=0.3).calibration == "given by the user"
    assert read_micrograph(path, pixel_size_A=0.3).pixel_size_A == 0.3
    assert not found.notes


@pytest.mark.parametrize(
    ("value", "unit", "angstrom"),
    [
        (1, "nm", 10), (1, "\u00c5", 1), (1, "\u212b", 1), (2, "A", 2), (1, "µm", 1e4), (1, "μm", 1e4), (1, "um", 1e4),
        (10, "pm", 0.1), (1e-10, "m", 1), (1, "nanometers", 10), (1, "[n_m]", 10), (1, "px", None), (1, None, None),
        (1, "1/nm", None), (1, "mrad", None),
    ],
)  # fmt: skip
def test_units_of_length(value, unit, angstrom):
    found = to_angstrom(value, unit)
    assert found is None if angstrom is None else found == pytest.approx(angstrom)


@pytest.mark.parametrize("unit", ["1/nm", "1 / nm", "nm^-1", "Å⁻¹", "1/m", "mrad", "A**-1", "nm-1"])
def test_units_of_diffraction(unit):
    assert is_reciprocal(unit)
    assert not any(is_reciprocal(other) for other in ("nm", "", "Å", "pm"))


@pytest.mark.parametrize(("text", "angstrom"), [("0.13", 0.13), ("13pm", 0.13), ("0.013 nm", 0.13), ("1e-1A", 0.1)])
def test_lengths_as_people_write_them(text, angstrom):
    assert parse_length(text) == pytest.approx(angstrom)


@pytest.mark.parametrize("text", ["0", "-1", "x", "5 1/nm", "", "1.2.3", "nan", "10 px"])
def test_lengths_that_are_none(text):
    with pytest.raises(MicrographError, match="pixel size"):
        parse_length(text)


def stack(folder, kind):
    """Three frames in a format."""
    frames = np.stack([IMAGE, IMAGE + 1, IMAGE + 2]).astype(np.uint16)
    path = folder / f"stack.{kind}"
    {
        "dm3": lambda: write_dm(path, [("stack", frames)]),
        "emd": lambda: write_velox(path, [("HAADF", frames)]),
        "berkeley.emd": lambda: write_emd(path, signal(frames)),
        "pages.tif": lambda: write_pages(path, frames),
        # As a script's `imwrite` takes three frames for colours.
        "planes.tif": lambda: tifffile.imwrite(path, frames, photometric="rgb", planarconfig="separate"),
        "ser": lambda: write_ser(path, list(frames)),
        "mrc": lambda: write_mrc(path, frames),
        "hspy": lambda: write_hspy(path, signal(frames)),
        "tif": lambda: tifffile.imwrite(path, frames, imagej=True, metadata={"axes": "TYX"}),
        "npy": lambda: np.save(path, frames),
    }[kind]()
    return path


def write_pages(path, frames):
    """A TIFF of a page for each frame, not told to be a stack."""
    with tifffile.TiffWriter(path) as file:
        for frame in frames:
            file.write(frame, contiguous=False)


def write_ring(path):
    """A TIFF of two pages, after the second of which comes the second."""
    tifffile.imwrite(path, np.ones((2, 4, 4), np.uint8), photometric="minisblack", metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        second = tiff.pages[1].offset
        after = second + 2 + 12 * len(tiff.pages[1].tags)
    content[after : after + 4] = second.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["dm3", "emd", "ser", "mrc", "hspy", "tif", "pages.tif", "planes.tif", "npy"])
def test_frames_of_a_stack_are_chosen_or_summed(tmp_path, kind):
    path = stack(tmp_path, kind)
    with pytest.raises(MicrographError, match=r"3 frames.*--frame 0 to 2.*sum"):
        read_micrograph(path)
    np.testing.assert_array_equal(read_micrograph(path, frame=1).image, IMAGE + 1)
    np.testing.assert_array_equal(read_micrograph(path, frame="-1").image, IMAGE + 2)
    np.testing.assert_array_equal(read_micrograph(path, frame="sum").image, 3.0 * IMAGE + 3)
    for wrong in (3, "x"):
        with pytest.raises(MicrographError, match="frame"):
            read_micrograph(path, frame=wrong)


def test_a_stack_whose_file_does_not_tell_which_axis_counts_frames(tmp_path):
    np.testing.assert_array_equal(read_micrograph(stack(tmp_path, "berkeley.emd"), frame=1).image, IMAGE + 1)


def test_signals_are_chosen_by_number_or_title(tmp_path):
    path = write_velox(tmp_path / "several.emd", [("BF", IMAGE + 1), ("HAADF", IMAGE), ("DF2", IMAGE + 2)])
    found = read_micrograph(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    assert found.notes == ("The signal HAADF was taken of 3.",)
    np.testing.assert_array_equal(read_micrograph(path, signal=2).image, IMAGE + 2)
    np.testing.assert_array_equal(read_micrograph(path, signal="bf").image, IMAGE + 1)
    with pytest.raises(MicrographError, match=r"no signal 'EDS'.*0: BF .12 x 10, uint16.; 1: HAADF"):
        read_micrograph(path, signal="EDS")
    path = write_dm(tmp_path / "two.dm3", [("first", IMAGE), ("second", IMAGE + 1)])
    assert [part.title for part in list_signals(path)] == ["first", "second"]
    with pytest.raises(MicrographError, match="several signals"):
        read_micrograph(path)
    np.testing.assert_array_equal(read_micrograph(path, signal="second").image, IMAGE + 1)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda f: write_dm(f / "a.dm3", [("DP", IMAGE)], 0.1, "1/nm"), "diffraction patterns"),
        (lambda f: write_hspy(f / "a.hspy", signal(IMAGE, 1.0, "mrad")), "diffraction patterns"),
        (lambda f: write_hspy(f / "a.hspy", signal(np.ones((4, 5, 64)), 0.1, "eV", signal_axes=1, signal_type="EELS")),
         "EELS spectra"),
        (lambda f: write_hspy(f / "a.hspy", signal(np.ones((3, 4, 12, 10)))), "4D-STEM"),
        (lambda f: write_hspy(f / "a.hspy", signal(IMAGE + 1j)), "complex"),
        (lambda f: write_blo(f / "a.blo", signal(np.ones((3, 4, 12, 12), dtype=np.uint8), 0.1, "cm")), "4D-STEM"),
        (lambda f: np.save(f / "a.npy", np.ones((2, 3, 4, 5))), "2 x 3 x 4 x 5"),
        (lambda f: np.save(f / "a.npy", np.array([["a"]])), "type"),
        (lambda f: np.save(f / "a.npy", np.array([[None]])), "npy file, or damaged"),
        (lambda f: (f / "a.dm3").write_bytes(b""), "empty"),
        (lambda f: (f / "a.dm4").write_bytes(b"nonsense" * 9), "not a readable .dm4 file"),
        (lambda f: (f / "a.emd").write_bytes(b"nonsense" * 9), "not a readable .emd file"),
        (lambda f: (f / "a.tif").write_bytes(b"nonsense" * 9), "not a readable .tif file"),
        (lambda f: write_ring(f / "a.tif"), "more pages than can be in it"),
        (lambda f: (f / "a.png").write_bytes(b"nonsense" * 9), "not a readable .png file"),
        (lambda f: (f / "a.ser").write_bytes(b"nonsense" * 9), "not a readable .ser file"),
        (lambda f: (f / "a.emi").write_bytes(b"nonsense" * 9), "needs its ser files"),
        (lambda f: np.save(f / "a.npy", np.float64(1.0)), "an array of one number"),
        (lambda f: (f / "a.doc").write_bytes(b"x"), "files .doc are not read"),
        (lambda f: (f / "a.png").mkdir(), "not a file"),
        (lambda f: np.lib.format.open_memmap(f / "a.npy", "w+", np.uint8, (40000, 40000)), "too large"),
    ],
)  # fmt: skip
def test_what_is_no_micrograph_is_told(tmp_path, made, told):
    made(tmp_path)
    with pytest.raises(MicrographError, match=told):
        read_micrograph(next(tmp_path.iterdir()))


def test_no_such_file():
    with pytest.raises(MicrographError, match="no such file"):
        read_micrograph(Path("nowhere.png"))


def test_sizes_that_cannot_be(tmp_path):
    tifffile.imwrite(tmp_path / "printer.tif", IMAGE, resolution=(72.0, 72.0), resolutionunit="INCH")
    found = read_micrograph(tmp_path / "printer.tif")
    assert found.pixel_size_A is None
    assert "cannot be" in found.calibration
    with pytest.raises(MicrographError, match="--pixel-size"):
        found.calibrated()
    write_hspy(tmp_path / "far.hspy", signal(IMAGE, 5.0))
    assert read_micrograph(tmp_path / "far.hspy").pixel_size_A == 50.0
    with pytest.raises(MicrographError, match="do not resolve columns"):
        read_micrograph(tmp_path / "far.hspy").calibrated()
    oblong = signal(IMAGE)
    oblong["axes"][0]["scale"] = 0.03
    write_hspy(tmp_path / "oblong.hspy", oblong)
    with pytest.raises(MicrographError, match="not square"):
        read_micrograph(tmp_path / "oblong.hspy")
    assert read_micrograph(tmp_path / "oblong.hspy", pixel_size_A=0.2).pixel_size_A == 0.2
    with pytest.raises(MicrographError, match="positive"):
        read_micrograph(tmp_path / "oblong.hspy", pixel_size_A=0.0)


def test_pictures(tmp_path):
    eight = (IMAGE // 8).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "a.png")
    found = read_micrograph(tmp_path / "a.png")
    np.testing.assert_array_equal(found.image, eight)
    assert found.pixel_size_A is None
    assert "8-bit" in found.notes[0]
    Image.fromarray(IMAGE).save(tmp_path / "b.png")
    assert not read_micrograph(tmp_path / "b.png").notes
    np.testing.assert_array_equal(read_micrograph(tmp_path / "b.png").image, IMAGE)
    Image.fromarray(np.stack([eight] * 3, axis=-1)).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "c.png").image, eight)
    Image.fromarray(np.stack([eight, eight, 0 * eight], axis=-1)).save(tmp_path / "d.png")
    assert "colour" in read_micrograph(tmp_path / "d.png").notes[0]
    np.testing.assert_allclose(read_micrograph(tmp_path / "d.png").image, eight * 2.0 / 3.0, rtol=1e-6)
    tifffile.imwrite(tmp_path / "e.tif", np.stack([eight, eight, 0 * eight], axis=-1), photometric="rgb")
    assert "colour" in read_micrograph(tmp_path / "e.tif").notes[0]
    Image.fromarray(eight).save(tmp_path / "f.jpg")
    assert any("JPEG" in note for note in read_micrograph(tmp_path / "f.jpg").notes)


def test_the_reader_of_microscope_files_is_an_extra(tmp_path, monkeypatch):
    path = write_file(tmp_path, "dm3")
    monkeypatch.setitem(__import__("sys").modules, "rsciio.digitalmicrograph", None)
    with pytest.raises(MicrographError, match=r"temimagenet\[io\]"):
        read_micrograph(path)
