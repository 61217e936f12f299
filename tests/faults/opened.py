"""Files that people open, damaged and opened: micrographs in HDF5 and sessions of the app."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from mutations import BYTES
from rsciio.emd import file_writer as write_berkeley
from rsciio.hspy import file_writer as write_hspy

from temimagenet.app.session import open_image
from temimagenet.app.store import is_session, load_session, save_session
from temimagenet.errors import AppError, MicrographError
from temimagenet.localize import FoundColumns
from temimagenet.micrographs import read_micrograph

SHAPE = (24, 20)


def make_opened(folder: Path) -> list[Path]:
    """A small file of each kind, and the image of the session."""
    image = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
    axes = [
        {"size": size, "index_in_array": number, "name": "yx"[number], "scale": 0.02, "offset": 0.0, "units": "nm",
         "navigate": False}
        for number, size in enumerate(SHAPE)
    ]  # fmt: skip
    signal = {
        "data": image, "axes": axes, "metadata": {"General": {"title": "HAADF"}, "Signal": {"signal_type": ""}},
        "original_metadata": {"scan": {"time": 1.0}}, "attributes": {"_lazy": False}, "package_info": {},
        "tmp_parameters": {}, "models": {}, "learning_results": {},
    }  # fmt: skip
    write_berkeley(folder / "berkeley.emd", signal)
    write_hspy(folder / "a.hspy", signal)
    _write_velox(folder / "velox.emd", image)
    np.save(folder / "image.npy", image)
    session = open_image(folder / "image.npy", pixel_size_A=0.2)
    pairs, single = np.ones((5, 2)), np.ones(5)
    columns = FoundColumns(pairs, pairs, single, single, single, np.zeros(5, dtype=np.int64), 0.2)
    save_session(replace(session, maps={"noNoise": image.astype(np.float32)}, columns=columns), folder / "a")
    return sorted(path for path in folder.iterdir() if path.suffix != ".npy")


def _write_velox(path: Path, image: np.ndarray) -> None:
    """A file as Velox writes it: documents of JSON beside a stack of frames, packed."""
    told = {
        "BinaryResult": {
            "PixelSize": {"width": "2e-11", "height": "2e-11"}, "Offset": {"x": "0", "y": "0"}, "PixelUnitX": "m",
            "PixelUnitY": "m", "DetectorIndex": "0",
        },
        "Detectors": {"Detector-0": {"DetectorName": "HAADF"}}, "Scan": {"FrameTime": "1.0"},
        "Optics": {"AccelerationVoltage": "200000"}, "Core": {}, "Instrument": {"InstrumentModel": "Titan"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1500000000"}},
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        file["Version"] = [json.dumps({"format": "Velox", "version": "10"})]
        key = "0" * 32
        group = file.create_group(f"Data/Image/{key}")
        group.create_dataset("Data", data=image[:, :, None], chunks=(*SHAPE, 1), compression=1, maxshape=(*SHAPE, None))
        group["Metadata"] = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)[:, None]
        operations = file.create_group("Operations/StemInputOperation")
        operations[key] = [json.dumps({"dataPath": f"/Data/Image/{key}", "detector": "HAADF"})]


def damaged(source: Path, folder: Path, seed: int) -> Path:
    """A copy of a file, damaged once to three times."""
    draw, content = random.Random(seed), source.read_bytes()
    for _ in range(draw.randint(1, 3)):
        content = BYTES[draw.choice(sorted(BYTES))](bytearray(content), draw) or b"\0"
    path = folder / f"damaged{''.join(source.suffixes)}"
    path.write_bytes(content)
    return path


def opened(path: Path) -> str:
    """What became of opening a file: "read", or the message of the error of ours."""
    try:
        if is_session(path):
            session = load_session(path)
            micrograph, columns = session.micrograph, session.columns
            assert columns is None or columns.to_dataframe().shape[0] == len(columns.flags)
        else:
            micrograph = read_micrograph(path)
    except (AppError, MicrographError) as error:
        return str(error)
    assert micrograph.image.ndim == 2
    assert micrograph.image.dtype in (np.float32, np.float64)
    assert micrograph.pixel_size_A is None or isinstance(micrograph.pixel_size_A, float)
    return "read"


def open_damaged(folder: Path, first: int, last: int) -> Iterator[str]:
    """What became of opening damaged files of seeds `first` to `last`, the kinds in turn.

    That is "read", "refused", "ended" or "hung", the last two of the process apart; otherwise the exception.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = make_opened(folder)
    for seed in range(first, last):
        source = sources[seed % len(sources)]
        try:
            told = opened(damaged(source, folder, seed))
        except Exception as error:
            told = f"{source.name}, seed {seed}: {error!r}"
        else:
            if told != "read":
                told = "ended" if "ended the process" in told else "hung" if "did not end" in told else "refused"
        yield told
