"""`read_micrograph`: an image and its pixel size from the files that microscopes, viewers and scripts write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from temimagenet.errors import MicrographError
from temimagenet.hdf5 import check_heaps, check_self_contained
from temimagenet.isolated import Answer, read_apart
from temimagenet.micrographs.units import PixelSize, is_reciprocal, pixel_size, to_angstrom

T = TypeVar("T")

__all__ = ["SUFFIXES", "Micrograph", "Signal", "choose_signal", "list_signals", "read_micrograph"]

_ROSETTA: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".dm3": ("digitalmicrograph", {"lazy": True}),
    ".dm4": ("digitalmicrograph", {"lazy": True}),
    ".emd": ("emd", {"lazy": True, "select_type": "images"}),
    ".ser": ("tia", {"lazy": True}),
    ".emi": ("tia", {"lazy": True}),
    ".mrc": ("mrc", {"lazy": True}),
    ".hspy": ("hspy", {"lazy": True}),
    ".blo": ("blockfile", {"lazy": True}),
    ".tif": ("tiff", {"lazy": True}),
    ".tiff": ("tiff", {"lazy": True}),
}
"""Modules of RosettaSciIO by suffix, and what they are called with."""

_HDF5 = (".emd", ".hspy")
"""Files that could lead to other files, and on which HDF5 itself may crash or hang: read in a process apart."""

_PILLOW = (".png", ".jpg", ".jpeg", ".bmp")

SUFFIXES: tuple[str, ...] = (*_ROSETTA, *_PILLOW, ".npy")
"""Files that can be read."""

_LEAST_DIRECTORY_BYTES = 18
"""Of a page of a TIFF."""

_MOST_PIXELS = 2**26
"""8192 x 8192: more would not fit in the memory of most computers while columns are fitted."""

_SEEN_A = 1.0
"""Columns are not resolved by larger pixels."""


@dataclass(frozen=True, eq=False)
class Signal:
    """One of the things that a file holds.

    Attributes:
        title: its name, such as "HAADF".
        data: (rows, columns) or (frames, rows, columns), perhaps still on disk: `numpy.asarray` reads all of it, an
            index a frame.
        scales: steps of rows and columns in `units`.
        units: their units, as the file has them.
        where: where the calibration stands.
        refused: why no image can be taken from it; empty where one can.
        facts: what else the file tells of it.
        notes: what a user should know before trusting it.
    """

    title: str
    data: Any
    scales: tuple[float, float] = (1.0, 1.0)
    units: tuple[object, object] = (None, None)
    where: str = "file"
    refused: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of frames; 1 of a single image."""
        return int(self.data.shape[0]) if self.data.ndim == 3 else 1

    def __str__(self) -> str:
        """What it is, in words."""
        if self.refused:
            return f"{self.title} ({self.refused})"
        size = " x ".join(str(edge) for edge in self.data.shape[-2:])
        return f"{self.title} ({f'{self.frames} frames of ' if self.data.ndim == 3 else ''}{size}, {self.data.dtype})"


@dataclass(frozen=True, eq=False)
class Micrograph:
    """One image, ready for a localizer.

    Attributes:
        image: (rows, columns) float32 where that holds the file's values exactly, else float64.
        pixel_size_A: edge of a pixel in angstrom; None where neither the file nor the user told.
        calibration: where the pixel size comes from, or why there is none.
        title: name of the signal.
        path: the file.
        facts: what the file tells besides: date, instrument, voltage.
        notes: what a user should know before trusting it, in sentences.
    """

    image: Float[NDArray[np.floating], "rows columns"]
    pixel_size_A: float | None
    calibration: str
    title: str
    path: Path
    facts: Mapping[str, Any]
    notes: tuple[str, ...]

    def calibrated(self) -> float:
        """The pixel size in angstrom.

        Raises:
            MicrographError: it is not known, or columns cannot be seen with such pixels.
        """
        if self.pixel_size_A is None:
            raise MicrographError(
                f"no pixel size ({self.calibration}): give it, --pixel-size 0.1 (in angstrom) or --pixel-size 10pm"
            )
        if self.pixel_size_A > _SEEN_A:
            raise MicrographError(
                f"pixels of {self.pixel_size_A:.4g} A ({self.calibration}) do not resolve columns; where this is wrong "
                "give the pixel size: --pixel-size 0.1 (in angstrom) or --pixel-size 10pm"
            )
        return self.pixel_size_A


def read_micrograph(
    path: str | Path,
    *,
    signal: int | str | None = None,
    frame: int | str | None = None,
    pixel_size_A: float | None = None,
) -> Micrograph:
    """Read one image.

    Reads dm3, dm4, emd (Velox, Berkeley), ser, emi, mrc, hspy, blo, tif, png, jpg, bmp and npy files; all but the last
    four need the extra `io` (RosettaSciIO).

    Args:
        path: the file.
        signal: which of several: its number from 0, or a part of its title. Unless given, the only image, or the only
            one with "HAADF" in its title.
        frame: which of a stack: its number, from 0 or from the end (-1), or "sum" for all, added as they lie.
        pixel_size_A: pixel size in angstrom; the file's own unless given.

    Raises:
        MicrographError: the file cannot be read, holds no image (a spectrum, diffraction patterns), or several of which
            none was chosen; pixels that are not square.
    """
    file = Path(path)
    if pixel_size_A is not None:
        if not 0.0 < pixel_size_A < np.inf:
            raise MicrographError(f"pixel size {pixel_size_A} A: expected a positive length")
        pixel_size_A = float(pixel_size_A)
    _check_there(file)
    if file.suffix.lower() not in _HDF5:
        return _read(file, signal, frame, pixel_size_A)
    told, arrays = _apart(_micrograph_apart, file, signal=signal, frame=frame, pixel_size_A=pixel_size_A)
    return Micrograph(arrays[0], **{**told, "notes": tuple(told["notes"])}, path=file)


def list_signals(path: str | Path) -> list[Signal]:
    """What a file holds, without reading more than it must.

    Raises:
        MicrographError: there is no such file, or it cannot be read.
    """
    file = Path(path)
    _check_there(file)
    if file.suffix.lower() not in _HDF5:
        return _list(file)
    told, _ = _apart(_signals_apart, file)
    return [
        Signal(
            **{**each, "scales": tuple(each["scales"]), "units": tuple(each["units"]), "notes": tuple(each["notes"])},
            data=_Stored(file, number, tuple(shape), np.dtype(kind)),
        )
        for number, (each, shape, kind) in enumerate(told)
    ]


def _check_there(file: Path) -> None:
    """Raise `MicrographError` where there is no file with something in it."""
    if not file.is_file():
        raise MicrographError("no such file" if not file.exists() else "not a file")
    if not file.stat().st_size:
        raise MicrographError("the file is empty")


def _apart(reader: Callable[..., Answer], file: Path, **options: Any) -> Answer:
    """What a reader below says of a file, in a process of its own."""
    try:
        return read_apart(reader, file, MicrographError, **options)
    except OSError as error:
        raise MicrographError(f"cannot be read in a process of its own ({error})") from error


def _micrograph_apart(
    file: Path, signal: int | str | None, frame: int | str | None, pixel_size_A: float | None
) -> Answer:
    """A micrograph's fields but its path, and its image."""
    found = _read(file, signal, frame, pixel_size_A)
    return {name: getattr(found, name) for name in ("pixel_size_A", "calibration", "title", "facts", "notes")}, [
        found.image
    ]


def _signals_apart(file: Path) -> Answer:
    """Fields, shape and type of each signal."""
    names = ("title", "scales", "units", "where", "refused", "facts", "notes")
    return [
        ({name: getattr(each, name) for name in names}, each.data.shape, each.data.dtype.str) for each in _list(file)
    ], []


def _data_apart(file: Path, number: int, frame: int | None) -> Answer:
    """Values of a signal, or one of its frames."""
    data = _list(file)[number].data
    return None, [_attempt(file, lambda: np.asarray(data if frame is None else data[frame]))]


@dataclass(frozen=True)
class _Stored:
    """Values that are still in their file, to be read in a process apart."""

    file: Path
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, frame: int) -> NDArray[Any]:
        """Values of one frame."""
        return _apart(_data_apart, self.file, number=self.number, frame=int(frame))[1][0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All values."""
        return _apart(_data_apart, self.file, number=self.number, frame=None)[1][0].astype(dtype or self.dtype)


def _read(file: Path, signal: int | str | None, frame: int | str | None, pixel_size_A: float | None) -> Micrograph:
    """`read_micrograph` in this process."""
    chosen, notes = choose_signal(_list(file), signal)
    rows, columns = chosen.data.shape[-2:]
    if rows * columns > _MOST_PIXELS:
        raise MicrographError(
            f"{rows} x {columns} pixels: too large, at most {_MOST_PIXELS // 2**20} million; crop or bin it"
        )
    if pixel_size_A is not None:
        size = PixelSize(pixel_size_A, "given by the user")
    else:
        size = pixel_size(chosen.scales, chosen.units, chosen.where)
    image = _attempt(file, lambda: _image(chosen, frame))
    return Micrograph(
        image, size.size_A, size.source, chosen.title, file, chosen.facts, (*chosen.notes, *notes, *_doubts(chosen))
    )


def _list(file: Path) -> list[Signal]:
    """`list_signals` in this process."""
    suffix = file.suffix.lower()
    if suffix in _ROSETTA:
        found = _attempt(file, lambda: _rosetta(file, suffix))
    elif suffix in _PILLOW:
        found = _attempt(file, lambda: _picture(file))
    elif suffix == ".npy":
        found = _attempt(file, lambda: _array(file))
    else:
        raise MicrographError(f"files {suffix or 'without a suffix'} are not read; expected {', '.join(SUFFIXES)}")
    if not found:
        beside = "; an emi file needs its ser files beside it" if suffix == ".emi" else ""
        raise MicrographError(f"the file holds no image{beside}")
    return found


def _attempt(file: Path, read: Callable[[], T]) -> T:
    """Call a reader; whatever it fails with on a damaged file is an error of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except MicrographError:
        raise
    except MemoryError as error:
        raise MicrographError("not enough memory to read it, or it is damaged and only seems large") from error
    except Exception as error:
        told = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {told[0]}" if told else type(error).__name__
        raise MicrographError(f"not a readable {file.suffix} file, or damaged ({reason})") from error


def choose_signal(signals: Sequence[Signal], wanted: int | str | None) -> tuple[Signal, tuple[str, ...]]:
    """The signal that is asked for, and what to say of the choice, in sentences.

    Args:
        signals: what a file holds.
        wanted: number or part of a title; as in `read_micrograph` where None.

    Raises:
        MicrographError: there is none, or several.
    """
    listed = "; ".join(f"{number}: {signal}" for number, signal in enumerate(signals))
    if isinstance(wanted, str) and wanted.isdigit():
        wanted = int(wanted)
    notes: tuple[str, ...] = ()
    if isinstance(wanted, int):
        found = [signals[wanted]] if 0 <= wanted < len(signals) else []
    elif wanted is not None:
        found = [signal for signal in signals if wanted.lower() in signal.title.lower()]
        found = [signal for signal in found if signal.title.lower() == wanted.lower()] or found
    else:
        found = [signal for signal in signals if not signal.refused] or list(signals[:1])
        annular = [signal for signal in found if "haadf" in signal.title.lower()]
        if len(found) > 1 and len(annular) == 1:
            found = annular
            notes = (f"The signal {annular[0].title} was taken of {len(signals)}.",)
    if not found:
        raise MicrographError(f"no signal {wanted!r}; the file holds {listed}")
    if len(found) > 1:
        asked = "several signals" if wanted is None else f"several signals {wanted!r}"
        raise MicrographError(f"{asked}: choose one by number or title (--signal); the file holds {listed}")
    if found[0].refused:
        raise MicrographError(f"no image: {found[0]}")
    return found[0], notes


def _image(signal: Signal, frame: int | str | None) -> Float[NDArray[np.floating], "rows columns"]:
    """The image of a signal."""
    data, frames = signal.data, signal.frames
    if isinstance(frame, str) and frame != "sum":
        try:
            frame = int(frame)
        except ValueError as error:
            raise MicrographError(f"frame {frame!r}: expected a number or 'sum'") from error
    if data.ndim == 3:
        if frame is None and frames > 1:
            raise MicrographError(
                f"a stack of {frames} frames: choose one (--frame 0 to {frames - 1}) or their sum, which corrects no "
                "drift (--frame sum)"
            )
        if frame == "sum":
            total = np.zeros(data.shape[1:])
            for number in range(frames):
                total += np.asarray(data[number])
            data = total
        else:
            data = data[_in_range(frame or 0, frames)]
    elif frame is not None and frame != "sum":
        _in_range(frame, 1)
    values = np.asarray(data)
    if values.ndim != 2 or not values.size:
        # A damaged header may leave axes that hold nothing.
        raise MicrographError(f"an array of {' x '.join(str(edge) for edge in values.shape)}: expected an image")
    exact = np.result_type(values.dtype, np.float32) == np.float32
    return values.astype(np.float32 if exact else np.float64)


def _in_range(frame: int | str, frames: int) -> int:
    """The number of a frame that there is."""
    number = int(frame)
    if not -frames <= number < frames:
        raise MicrographError(f"frame {number}: there are {frames}, 0 to {frames - 1}")
    return number


def _doubts(signal: Signal) -> tuple[str, ...]:
    """What a user should know of numbers like these."""
    if signal.data.dtype in (np.uint8, np.int8):
        return (
            "8-bit values: rescaled, perhaps clipped or changed in contrast by whoever exported them; positions are "
            "good, intensities are those of the picture.",
        )
    return ()


def _rosetta(file: Path, suffix: str) -> list[Signal]:
    """Signals of a file that RosettaSciIO reads."""
    module, options = _ROSETTA[suffix]
    try:
        reader = import_module(f"rsciio.{module}")
        import_module({"tiff": "tifffile"}.get(module, "dask"))
    except ImportError as error:
        raise MicrographError(f"{suffix} files need RosettaSciIO: pip install 'temimagenet[io]'") from error
    if suffix in _HDF5:
        import h5py

        if h5py.is_hdf5(file):
            check_heaps(file)
            with h5py.File(file, "r") as opened:
                check_self_contained(opened)
    if module == "tiff" and (planes := _planes(file)):
        return [_tiff_calibrated(planes, file)]
    try:
        parts = reader.file_reader(str(file), **options)
    except ValueError:
        # Some kinds of data, colour pictures of DigitalMicrograph for one, cannot be left on the disk.
        parts = reader.file_reader(str(file), **{**options, "lazy": False})
    found = [_signal(part, file) for part in parts]
    if module == "tiff":
        found = [_tiff_calibrated(signal, file) for signal in _one_stack(found)]
    return found


def _planes(file: Path) -> Signal | None:
    """The planes of a colour TIFF that has them one after the other, which RosettaSciIO does not read; None of others.

    Scripts write stacks of three or four frames so: what has more than 8 bits is taken for one.
    """
    from tifffile import PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage

    with TiffFile(file) as tiff:
        with suppress(IndexError):
            # A page has a directory of one entry at least; a chain that comes back to its beginning never ends.
            tiff.pages[file.stat().st_size // _LEAST_DIRECTORY_BYTES + 1]
            raise MicrographError("damaged: it names more pages than can be in it")
        page, shape = tiff.pages[0], tiff.series[0].shape
        apart = isinstance(page, TiffPage) and (page.photometric, page.planarconfig) == (
            PHOTOMETRIC.RGB, PLANARCONFIG.SEPARATE
        )  # fmt: skip
        if not apart or len(shape) != 3:
            return None
        if int(np.prod(shape[1:])) > _MOST_PIXELS:
            raise MicrographError(f"{shape[1]} x {shape[2]} pixels: too large; crop or bin it")
        values = tiff.series[0].asarray()
    if values.dtype != np.uint8:
        return Signal(file.stem, values, where="tif file")
    grey, notes = _grey(np.moveaxis(values, 0, -1))
    return Signal(file.stem, grey, where="tif file", notes=notes)


def _one_stack(found: list[Signal]) -> list[Signal]:
    """Pages of a TIFF that are alike, as the frames of one stack."""
    first = found[0]
    alike = all(not page.refused and page.data.ndim == 2 and page.data.shape == first.data.shape for page in found)
    if len(found) < 2 or not alike:
        return found
    from dask import array

    frames: Any = array.stack([page.data for page in found])  # type: ignore[no-untyped-call]
    return [replace(first, data=frames)]


def _signal(part: Mapping[str, Any], file: Path) -> Signal:
    """A signal of RosettaSciIO as ours."""
    data, told = part["data"], part.get("metadata", {})
    title = str(told.get("General", {}).get("title", "") or file.stem)
    axes = sorted(part["axes"], key=lambda axis: axis.get("index_in_array", 0) or 0)
    if any("index_in_array" not in axis for axis in axes):
        axes = list(part["axes"])
    names = data.dtype.names
    notes: tuple[str, ...] = ()
    if names:
        data, notes = _grey(np.stack([np.asarray(data[name]) for name in names], axis=-1))
    # Axes of a single place are none.
    axes = [axis for axis in axes if int(axis["size"]) > 1]
    data = data.reshape([edge for edge in data.shape if edge > 1])
    inner = [axis for axis in axes if not axis.get("navigate", False)]
    signal_type = str(told.get("Signal", {}).get("signal_type", ""))
    # DigitalMicrograph's spectrum images are marked by a change of axes that HyperSpy would make.
    if len(part.get("post_process", ())) > 1 or any(axis.get("units") in ("eV", "keV") for axis in axes):
        inner = []
    if file.suffix.lower() == ".emd" and len(inner) == len(axes) == 3:
        # Berkeley's files do not tell which axes are an image's: the first, where it is no length, counts frames.
        inner = inner[to_angstrom(1.0, axes[0].get("units")) is None :]
    refused = _refusal(data, axes, inner, signal_type)
    if refused:
        return Signal(title, data, refused=refused)
    down, across = inner
    scales = (float(down.get("scale", 1.0)), float(across.get("scale", 1.0)))
    return Signal(
        title, data, scales, (down.get("units"), across.get("units")), f"metadata of the {file.suffix[1:]} file",
        facts=_facts(part), notes=notes,
    )  # fmt: skip


def _refusal(data: Any, axes: Sequence[Mapping[str, Any]], inner: Sequence[Mapping[str, Any]], signal_type: str) -> str:
    """Why no image can be taken; empty where one can."""
    shape = " x ".join(str(edge) for edge in data.shape)
    if len(inner) == 3:
        return f"a volume, {shape}"
    if len(inner) != 2 or signal_type.startswith(("EDS", "EELS")):
        return f"{f'{signal_type} ' if signal_type else ''}spectra, {shape}"
    if any(is_reciprocal(axis.get("units") or "") for axis in inner):
        return f"diffraction patterns, {shape}, with axes in {inner[0].get('units')}"
    if data.ndim > 3 or len(axes) > 3:
        return f"an image at each of many places, {shape}: 4D-STEM or a map, not a micrograph"
    if np.issubdtype(data.dtype, np.complexfloating):
        return f"complex numbers, {shape}: a Fourier transform or a wave"
    return ""


def _facts(part: Mapping[str, Any]) -> dict[str, Any]:
    """Date, instrument and settings, as far as they are told."""
    told, raw = part.get("metadata", {}), part.get("original_metadata", {})
    facts: dict[str, Any] = {
        key: told["General"][key] for key in ("date", "time", "authors") if told.get("General", {}).get(key)
    }
    facts.update(_leaves(told.get("Acquisition_instrument", {}).get("TEM", {})))
    for source, (target, *change) in dict(part.get("mapping") or {}).items():
        value: Any = raw
        for key in source.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None or not target.startswith(("Acquisition_instrument", "General")):
            continue
        try:
            value = change[0](value) if change and change[0] else value
        except Exception:
            continue
        if isinstance(value, str | int | float) and value != "":
            facts.setdefault(target.rsplit(".", 1)[-1], value)
    return facts


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Names and values of a tree's leaves."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found.update(_leaves(value))
        elif isinstance(value, str | int | float) and value != "":
            found[str(key)] = value
    return found


def _tiff_calibrated(signal: Signal, file: Path) -> Signal:
    """A TIFF's signal, calibrated by ImageJ, OME or the resolution tags where no maker's tag tells a unit."""
    if signal.refused or to_angstrom(1.0, signal.units[0]) is not None:
        return signal
    from xml.etree import ElementTree

    from tifffile import TiffFile, TiffPage

    with TiffFile(file) as tiff:
        page = tiff.pages[0]
        tags = {tag.name: tag.value for tag in page.tags} if isinstance(page, TiffPage) else {}
        description, imagej = tiff.ome_metadata, tiff.imagej_metadata or {}
    pixels = ElementTree.fromstring(description).find(".//{*}Pixels") if description else None
    if pixels is not None and "PhysicalSizeX" in pixels.attrib:
        told = pixels.attrib
        scales = (float(told.get("PhysicalSizeY", told["PhysicalSizeX"])), float(told["PhysicalSizeX"]))
        units = (told.get("PhysicalSizeYUnit", "um"), told.get("PhysicalSizeXUnit", "um"))
        return replace(signal, scales=scales, units=units, where="OME description of the tif file")
    unit = imagej.get("unit") or {2: "inch", 3: "cm"}.get(int(tags.get("ResolutionUnit", 1)))
    if unit and all(tags.get(name, (0, 0))[0] for name in ("XResolution", "YResolution")):
        down, across = (tags[name][1] / tags[name][0] for name in ("YResolution", "XResolution"))
        where = "ImageJ's description" if "unit" in imagej else "resolution tags"
        return replace(signal, scales=(down, across), units=(unit, unit), where=f"{where} in the tif file")
    return signal


def _picture(file: Path) -> list[Signal]:
    """The image of a png, jpg or bmp file."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = 2 * _MOST_PIXELS
    with Image.open(file) as opened:
        rows, columns = opened.height, opened.width
        if rows * columns > _MOST_PIXELS:
            raise MicrographError(f"{rows} x {columns} pixels: too large; crop or bin it")
        values = np.asarray(opened if opened.mode in ("1", "L", "F", "I", "I;16", "I;16B") else opened.convert("RGBA"))
    lossy = file.suffix.lower() in (".jpg", ".jpeg")
    notes: tuple[str, ...] = ("JPEG is lossy: blocks of 8 x 8 pixels show in what is fitted.",) if lossy else ()
    if values.ndim == 3:
        values, told = _grey(values)
        notes += told
    where = f"{file.suffix[1:]} file"
    return [Signal(file.stem, values, where=where, notes=notes)]


def _grey(colours: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(rows, columns, 3 or 4) colours as (rows, columns) grey, transparency left out, and what to say of it."""
    seen = colours[..., :3]
    if (seen == seen[..., :1]).all():
        return np.ascontiguousarray(seen[..., 0]), ()
    note = "A colour picture: its channels are averaged; false colours, scale bars and labels are no signal."
    return seen.mean(axis=-1, dtype=np.float32), (note,)


def _array(file: Path) -> list[Signal]:
    """The array of an npy file."""
    values = np.load(file, mmap_mode="r", allow_pickle=False)
    where = "npy file"
    shape = " x ".join(str(edge) for edge in values.shape)
    if values.ndim == 3 and values.shape[-1] in (3, 4) and values.dtype == np.uint8:
        grey, notes = _grey(values)
        return [Signal(file.stem, grey, where=where, notes=notes)]
    refused = ""
    if values.ndim not in (2, 3):
        refused = f"an array of {shape or 'one number'}: expected an image or a stack of frames"
    elif not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        refused = f"values of type {values.dtype}: expected real numbers"
    return [Signal(file.stem, values, where=where, refused=refused)]
