"""The folders of TEMImageNet v1.3, as published with Lin et al. (2021): found, read as samples, converted to shards."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from temimagenet import __version__
from temimagenet.errors import DatasetError, LabelError
from temimagenet.imaging.background import Background
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.imaging.scan import Scan, ScanNoise
from temimagenet.labels import MAPS, SCALARS, SCALED, SMALL_RADIUS, Columns, Scaled, check_labels, point_label
from temimagenet.recipe import TRAIN_SHARE, Engine, SampleSpec, SpecimenSpec, Split
from temimagenet.render import Sample
from temimagenet.storage.library import check_place, close_library, shard_is_whole
from temimagenet.storage.shard import SCHEMA, write_shard

__all__ = ["PublishedFolder", "condition_of", "convert_published", "published_radius_A"]

IMAGES = 14_364
"""Images of v1.3, numbered from 1: four fields of view one after another."""

FIELD_IMAGES = 3_591
"""Images of each field of view."""

_LAST_OF_CONDITION = ((1071, 1), (2142, 2), (2961, 3), (3402, 5), (3591, 6))
"""Within a field of view: the last image of each imaging condition."""

_FOLDERS: Mapping[str, str] = {
    "image": "image",
    **{name: name for name in MAPS},
    "position": "position",
    "positionRadius": "positionRadius",
    "radius": "radius",
    "smallRadius": "smallradius",
}
_COLUMNS: Mapping[str, int] = {"position": 2, "positionRadius": 3, "radius": 1, "smallRadius": 1}
_FILE = re.compile(r"(\d{5})\.(png|txt)")
_ENTRY = "TEMImageNet v1.3"
_SHARD_SAMPLES = 100
_GREYS = 255.0


def condition_of(number: int) -> int:
    """Imaging condition of image `number` of v1.3, a key of `CONDITIONS`.

    Raises:
        DatasetError: v1.3 has no such image.
    """
    if not 1 <= number <= IMAGES:
        raise DatasetError(f"image {number:05d}: TEMImageNet v1.3 has 00001 to {IMAGES:05d}")
    within = (number - 1) % FIELD_IMAGES + 1
    return next(condition for last, condition in _LAST_OF_CONDITION if within <= last)


def published_radius_A(optics: Optics) -> float:
    """Mask radius in angstrom that the published files follow: sqrt((0.25 lambda / alpha)^2 + (source / 2)^2)."""
    diffraction = 0.25 * optics.wavelength_A / (optics.aperture_mrad * 1e-3)
    return float(np.hypot(diffraction, 0.5 * optics.source_size_A))


def _split(number: int) -> Split:
    """train or test: the publication keeps no split. Images of the same place in each field of view stay together."""
    digest = hashlib.sha256(f"{_ENTRY} {(number - 1) % FIELD_IMAGES}".encode()).digest()
    return "train" if int.from_bytes(digest[:8], "big") < TRAIN_SHARE * 2**64 else "test"


@dataclass(frozen=True)
class PublishedFolder:
    """A folder in the layout of v1.3: `image/%05d.png`, a folder a label, `position/%05d.txt`.

    Attributes:
        root: the folder.
        origin: number of the first row and column in the files of positions.
        engine: what rendered the images.
        numbers: images in order.
        present: which images each label exists of; a label that is not there at all is missing here, too.
    """

    root: Path
    origin: float
    engine: Engine
    numbers: tuple[int, ...]
    present: Mapping[str, frozenset[int]]

    @classmethod
    def open(cls, root: str | Path, origin: float = 1.0, engine: Engine = "linear") -> PublishedFolder:
        """Look through a folder; no file is opened.

        Raises:
            DatasetError: there are no images, or some that v1.3 does not have.
        """
        folder = Path(root)
        found: dict[str, frozenset[int]] = {}
        for label, name in _FOLDERS.items():
            ending = "txt" if label in _COLUMNS else "png"
            place = folder / name
            files = (_FILE.fullmatch(file.name) for file in place.iterdir()) if place.is_dir() else ()
            numbers = frozenset(int(match[1]) for match in files if match and match[2] == ending)
            if numbers:
                found[label] = numbers
        if "image" not in found:
            raise DatasetError(
                f"{folder}: no images of TEMImageNet v1.3; expected {folder / 'image'}/00001.png and a folder a label"
            )
        images = found.pop("image")
        for number in (min(images), max(images)):
            condition_of(number)
        return cls(folder, float(origin), engine, tuple(sorted(images)), found)

    @property
    def absent(self) -> tuple[str, ...]:
        """Labels and scalars that the folder has of no image."""
        return tuple(name for name in _FOLDERS if name != "image" and name not in self.present)

    def lacking(self, label: str) -> tuple[int, ...]:
        """Images without a label that others have."""
        return tuple(number for number in self.numbers if number not in self.present.get(label, ()))

    def complete(self, labels: Sequence[str]) -> tuple[int, ...]:
        """Images that have all of some labels.

        Raises:
            LabelError: unknown label, or one that no image has; the message says which are there.
        """
        for name in check_labels(tuple(labels)):
            if name not in self.present:
                there = ", ".join(self.present) or "none"
                raise LabelError(f"{self.root}: no folder {_FOLDERS[name]} for label {name}; the labels there: {there}")
        return tuple(n for n in self.numbers if all(n in self.present[name] for name in labels))

    def catalogue(self) -> pd.DataFrame:
        """A row an image: number, id, split, condition and its optics, field_of_view (the first to fourth quarter)."""
        rows = []
        for number in self.numbers:
            optics = CONDITIONS[condition_of(number)]
            rows.append(
                {
                    "number": number,
                    "id": f"{number:05d}",
                    "split": _split(number),
                    "engine": self.engine,
                    "condition": condition_of(number),
                    "energy_keV": optics.energy_keV,
                    "aperture_mrad": optics.aperture_mrad,
                    "source_size_A": optics.source_size_A,
                    "field_of_view": (number - 1) // FIELD_IMAGES + 1,
                }
            )
        return pd.DataFrame(rows)

    def sample(self, number: int, labels: Sequence[str] = ()) -> Sample:
        """Read an image with labels.

        Positions become (x, y) with the first pixel's centre at 0, maps float32 from 0 to 1 (8-bit values over 255,
        masks 0 and 1), the image grey values from 0 to 255. The pixel size is the radius in angstrom that the
        condition tells over the file's in pixels. Not known, and nan: dose, PSNR, clean peak, row displacements,
        weights and atoms of columns. Without files of positions there are no columns.

        Raises:
            LabelError: unknown label, or the image lacks one, or a radius, from which the pixel size follows.
            DatasetError: a file is missing or damaged, or two files do not agree.
        """
        wanted = check_labels(tuple(labels))
        for name in wanted:
            if number not in self.present.get(name, ()):
                raise LabelError(f"{self._path(name, number)}: missing, so image {number:05d} has no label {name}")
        grey = self._picture("image", number)
        if grey.shape[0] != grey.shape[1]:
            raise DatasetError(f"{self._path('image', number)}: {grey.shape} pixels, expected as many rows as columns")
        size = grey.shape[0]
        xy, radius_px, small_px = self._points(number, size)
        if np.isnan(radius_px):
            raise LabelError(
                f"{self._path('radius', number)}: missing, and neither smallradius nor positionRadius tells it, "
                "so the pixel size is not known"
            )
        optics = CONDITIONS[condition_of(number)]
        radius_A = published_radius_A(optics)
        pixel_size_A = radius_A / radius_px
        unknown = np.full(len(xy), np.nan)
        columns = Columns(xy, pixel_size_A, unknown, unknown.copy(), np.zeros(len(xy), np.int64), ("unknown",))
        drawn: dict[str, torch.Tensor] = {}
        scaled: dict[str, Scaled] = {}
        for name in wanted:
            if name == "smallRadius":
                drawn[name] = torch.tensor(small_px, dtype=torch.float64)
            elif name not in MAPS:
                drawn[name] = point_label(name, columns, (size, size), radius_A)
            else:
                values = self._picture(name, number)
                expected = 2 * size if "2x" in name else size
                if values.shape != (expected, expected):
                    raise DatasetError(
                        f"{self._path(name, number)}: {values.shape} pixels, expected {(expected, expected)}"
                    )
                if name in SCALED:
                    scaled[name] = Scaled(values.astype(np.uint16), 0.0, 1.0 / _GREYS)
                    drawn[name] = scaled[name].restore()
                else:
                    drawn[name] = torch.from_numpy((values > _GREYS / 2.0).astype(np.float32))
        spec = SampleSpec(
            id=f"v1.3-{number:05d}",
            index=number,
            entry=_ENTRY,
            split=_split(number),
            specimen=SpecimenSpec("unknown", "", "", (0, 0, 1)),
            condition=condition_of(number),
            optics=optics,
            detector=Detector(98.0, 196.0),
            contrast="adf",
            image_size=size,
            field_of_view_A=pixel_size_A * size,
            rotation_deg=0.0,
            offset_A=(0.0, 0.0),
            scan_noise=ScanNoise(form="published"),
            scan_seed=0,
            background=Background("constant"),
            psnr_dB=float("nan"),
            noise_seed=0,
            mask_radius_A=radius_A,
        )
        return Sample(
            spec,
            torch.from_numpy(grey.astype(np.float32)),
            drawn,
            columns,
            None,
            Scan((size, size), pixel_size_A),
            float("nan"),
            float("nan"),
            np.full((size, 2), np.nan),
            scaled,
            self.engine,
        )

    def _path(self, label: str, number: int) -> Path:
        """The file of a label."""
        return self.root / _FOLDERS[label] / f"{number:05d}.{'txt' if label in _COLUMNS else 'png'}"

    def _picture(self, label: str, number: int) -> NDArray[np.uint8]:
        """(rows, columns) grey values of an 8-bit PNG, checked by its own checksums."""
        path = self._path(label, number)
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                picture.verify()
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                if picture.mode != "L":
                    raise DatasetError(f"{path}: picture of mode {picture.mode}, expected 8-bit grey values")
                return np.array(picture)
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: missing; get this file of TEMImageNet v1.3 again") from error
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{path}: damaged ({error}); get this file of TEMImageNet v1.3 again") from error

    def _table(self, label: str, number: int) -> NDArray[np.float64]:
        """(K, columns) finite numbers of a text file."""
        path, width = self._path(label, number), _COLUMNS[label]
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: missing; get this file of TEMImageNet v1.3 again") from error
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: damaged ({error}); get this file of TEMImageNet v1.3 again") from error
        rows = []
        for line, text in enumerate(lines, start=1):
            try:
                row = [float(word) for word in text.split()]
            except ValueError:
                row = []
            if text.strip() and (len(row) != width or not np.isfinite(row).all()):
                raise DatasetError(f"{path}, line {line}: {text[:40]!r}, expected {width} finite numbers")
            if row:
                rows.append(row)
        return np.array(rows, dtype=np.float64).reshape(-1, width)

    def _points(self, number: int, size: int) -> tuple[NDArray[np.float64], float, float]:
        """(K, 2) positions (x, y) from 0, and both radii, in pixels; what several files tell is compared."""
        there = [name for name in _COLUMNS if number in self.present.get(name, ())]
        tables = {name: self._table(name, number) for name in there}
        places = {name: tables[name][:, :2] for name in ("position", "positionRadius") if name in tables}
        if len(places) == 2:
            self._compare("position", "positionRadius", number, *places.values())
        place = next(iter(places.values()), np.zeros((0, 2)))
        if np.abs(place).max(initial=0.0) > 2 * size:
            raise DatasetError(
                f"{self._path(next(iter(places)), number)}: a position of {np.abs(place).max():g} pixels in an image "
                f"of {size}; get this file of TEMImageNet v1.3 again"
            )
        radii: dict[str, float] = {}
        for name in ("radius", "smallRadius"):
            if name in tables:
                radii[name] = self._one_radius(name, number, tables[name][:, 0], len(place) if places else None)
        if "positionRadius" in tables and len(place):
            third = self._one_radius("positionRadius", number, tables["positionRadius"][:, 2], None)
            if not np.isclose(radii.setdefault("radius", third), third, rtol=1e-2):
                raise DatasetError(
                    f"{self._path('positionRadius', number)}: radius {third:g}, {self._path('radius', number)} says "
                    f"{radii['radius']:g}"
                )
        small = radii.get("smallRadius", float("nan"))
        radius = radii.get("radius", small / SMALL_RADIUS)
        return np.ascontiguousarray(place[:, ::-1] - self.origin), radius, small

    def _compare(
        self, one: str, other: str, number: int, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> None:
        """Raise `DatasetError` where two files tell different positions."""
        paths = f"{self._path(one, number)} and {self._path(other, number)}"
        if len(first) != len(second):
            raise DatasetError(f"{paths}: {len(first)} and {len(second)} lines, expected as many")
        if len(first) and np.abs(first - second).max() > 1.0:
            raise DatasetError(f"{paths}: positions differ by {np.abs(first - second).max():g} pixels")

    def _one_radius(self, label: str, number: int, values: NDArray[np.float64], columns: int | None) -> float:
        """The radius that a file tells, once or once a column."""
        path = self._path(label, number)
        if not len(values) or (columns is not None and len(values) not in (1, columns)):
            expected = "1 or more" if columns is None else f"1 or {columns}, as there are positions"
            raise DatasetError(f"{path}: {len(values)} lines, expected {expected}")
        if values.min() <= 0.0 or np.ptp(values) > 1e-2 * values.max():
            raise DatasetError(f"{path}: radii from {values.min():g} to {values.max():g}, expected one above 0")
        return float(values[0])


@dataclass(frozen=True)
class _ConvertTask:
    """One shard to convert: which images and which maps."""

    folder: PublishedFolder
    number: int
    images: tuple[int, ...]
    maps: tuple[str, ...]

    @property
    def name(self) -> str:
        """Path of the shard inside the library."""
        return f"shards/{self.folder.engine}-{self.number:05d}.h5"

    @property
    def fingerprint(self) -> str:
        """Digest of names, sizes and times of all files that go in."""
        folder = self.folder
        parts: list[object] = [SCHEMA, __version__, folder.origin, folder.engine, self.maps]
        for image in self.images:
            for label in ("image", *self.maps, *_COLUMNS):
                if label == "image" or image in folder.present.get(label, ()):
                    facts = folder._path(label, image).stat()
                    parts.append((label, image, facts.st_size, facts.st_mtime_ns))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def samples(self) -> Iterator[Sample]:
        """The samples in order."""
        return (self.folder.sample(image, self.maps) for image in self.images)


def _convert(task: _ConvertTask, out: Path, recipe_json: str) -> int:
    """Write a shard, unless it is there; returns its number of samples."""
    path, fingerprint = out / task.name, task.fingerprint
    if not shard_is_whole(path, fingerprint):
        write_shard(
            path,
            task.samples(),
            len(task.images),
            engine=task.folder.engine,
            recipe_json=recipe_json,
            task=fingerprint,
            dense=set(task.maps) == set(MAPS),
            maps=task.maps,
        )
    return len(task.images)


def convert_published(
    folder: PublishedFolder,
    out: str | Path,
    *,
    name: str = "temimagenet-v1.3",
    workers: int = 1,
    samples_per_shard: int = _SHARD_SAMPLES,
    on_samples: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Path, tuple[int, ...]]:
    """Write a folder of v1.3 as a library of shards. Run again after an interruption, it goes on where it stopped.

    Every map that the folder has is stored without loss. `position`, `positionRadius`, `radius` and `smallRadius`
    (0.7 of the radius) follow from the columns.

    Args:
        folder: what to convert.
        out: the library's folder.
        name: the library's name.
        workers: processes.
        samples_per_shard: samples in a shard.
        on_samples: called with the number of finished samples and of all.

    Returns:
        The manifest's path, and images left out since they lack a map that others have, or their positions or radius.

    Raises:
        LabelError: the folder has no positions or no radii, or no image has all that the folder has.
        DatasetError: a file is damaged; finished shards stay.
        ShardError: the disk is full or cannot be written, or `out` holds a library of another name.
    """
    places = next((label for label in ("position", "positionRadius") if label in folder.present), None)
    radii = next((label for label in ("radius", "positionRadius", "smallRadius") if label in folder.present), None)
    if places is None or radii is None:
        lacks = "position or positionRadius" if places is None else "radius, smallradius or positionRadius"
        raise LabelError(f"{folder.root}: no folder {lacks}; a library needs columns and their pixel size")
    maps = tuple(label for label in MAPS if label in folder.present)
    images = folder.complete((*maps, places, radii))
    if not images:
        raise LabelError(f"{folder.root}: no image has all of {', '.join((*maps, places, radii))}")
    recipe_json = json.dumps(
        {
            "name": name,
            "converted_from": _ENTRY,
            "origin": folder.origin,
            "maps": maps,
            "absent": [label for label in folder.absent if label not in SCALARS],
        },
        sort_keys=True,
    )
    root = Path(out)
    check_place(root, name)
    tasks = [
        _ConvertTask(folder, number, images[start : start + samples_per_shard], maps)
        for number, start in enumerate(range(0, len(images), samples_per_shard))
    ]
    done = 0
    if workers == 1:
        for task in tasks:
            done += _convert(task, root, recipe_json)
            on_samples(done, len(images))
    else:
        with ProcessPoolExecutor(workers) as pool:
            for future in as_completed([pool.submit(_convert, task, root, recipe_json) for task in tasks]):
                done += future.result()
                on_samples(done, len(images))
    manifest = close_library(root, name, recipe_json, [task.name for task in tasks])
    return manifest, tuple(sorted(set(folder.numbers) - set(images)))
