"""A library on disk: planned as shard tasks, rendered in any order, closed by a catalogue and a manifest."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from temimagenet import __version__
from temimagenet.atlas import check_tables, has_table, tables_digest
from temimagenet.errors import ShardError, TEMImageNetError
from temimagenet.recipe import Engine, Recipe, SampleSpec, sample_spec
from temimagenet.render import Sample, render, twin_facts
from temimagenet.specimen import material, structure_from_text
from temimagenet.storage.shard import (
    CITATION,
    COLUMN_FIELDS,
    DENSE_MAPS,
    LICENCE,
    SCHEMA,
    Shard,
    replacing,
    sha256_of,
    sidecar_path,
    write_shard,
)

__all__ = [
    "CATALOGUE",
    "MANIFEST",
    "ShardTask",
    "check_catalogue",
    "check_manifest",
    "check_place",
    "close_library",
    "finish_library",
    "open_shard",
    "plan_library",
    "read_catalogue",
    "read_manifest",
    "render_shard",
    "shard_is_done",
    "shard_is_whole",
    "sidecar_sha256",
    "verify_library",
]

CATALOGUE = "catalogue.parquet"
MANIFEST = "manifest.json"
RECIPE = "recipe.json"

SHARD_SAMPLES = 200
"""Samples in a compact shard: below 64 MB at up to 0.3 MB a sample."""

DENSE_SHARD_SAMPLES = 56
"""Samples in a dense shard, of about 1 MB each."""

_OURS = re.compile(r"(linear|multislice)-\d+\.(h5|json)|\..+\.partial")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_COMPACT_LABELS = ("noNoise", "noBackgroundnoNoise")


@dataclass(frozen=True)
class ShardTask:
    """One shard to render: a pure function of (recipe, range, engine, layout).

    Attributes:
        recipe: the library's recipe.
        engine: which engine renders it.
        number: number of the shard.
        start: index of the first sample.
        stop: index after the last sample.
        dense: whether all maps are stored.
        bounds: whether the columns' bounds are stored.
    """

    recipe: Recipe
    engine: Engine
    number: int
    start: int
    stop: int
    dense: bool
    bounds: bool = False

    @property
    def name(self) -> str:
        """Path of the shard inside the library."""
        return f"shards/{self.engine}-{self.number:05d}.h5"

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the shard's content."""
        parts = (SCHEMA, __version__, self.recipe.to_json(), self.engine, self.start, self.stop, self.dense)
        tables = (tables_digest(self.recipe),) if self.engine == "multislice" else ()
        bounds = ("bounds",) if self.bounds else ()
        return hashlib.sha256(json.dumps(parts + tables + bounds).encode()).hexdigest()

    @cached_property
    def indices(self) -> tuple[int, ...]:
        """Samples of the shard: all in its range, or by multislice those of which the atlas has a table."""
        span = range(self.start, self.stop)
        if self.engine == "linear":
            return tuple(span)
        specs = (sample_spec(self.recipe, index) for index in span)
        return tuple(spec.index for spec in specs if has_table(spec.specimen, spec.optics, spec.detector))


def plan_library(
    recipe: Recipe, *, dense: bool = False, bounds: bool = False, samples_per_shard: int | None = None
) -> tuple[ShardTask, ...]:
    """Cut a recipe into shard tasks.

    Args:
        recipe: what to draw.
        dense: store all maps.
        bounds: store the columns' bounds with linear images; multislice twins have none.
        samples_per_shard: samples in a shard.

    Raises:
        ShardError: `samples_per_shard` is not positive, or bounds are asked for and no image is linear.
        AtlasError: a multislice table is missing.
    """
    size = samples_per_shard or (DENSE_SHARD_SAMPLES if dense else SHARD_SAMPLES)
    if size < 1:
        raise ShardError(f"{size} samples a shard: expected 1 or more")
    if bounds and "linear" not in recipe.engines:
        raise ShardError(f"recipe {recipe.name} has no linear images: only those have bounds; leave bounds out")
    if "multislice" in recipe.engines:
        check_tables(recipe)
    tasks = (
        ShardTask(
            recipe, engine, number, start, min(start + size, recipe.samples), dense, bounds and engine == "linear"
        )
        for engine in recipe.engines
        for number, start in enumerate(range(0, recipe.samples, size))
    )
    return tuple(task for task in tasks if task.indices)


def render_shard(task: ShardTask, root: Path, on_sample: Callable[[], None] = lambda: None) -> Path:
    """Render a shard into a library folder, unless it is there already, whole and of the same task.

    Args:
        task: what to render.
        root: the library's folder.
        on_sample: called after each sample, for a progress bar.

    Returns:
        The shard's path.

    Raises:
        ShardError: the disk is full or cannot be written; nothing half-written is left.
        SpecimenError, OpticsError: a sample cannot be rendered.
    """
    path = root / task.name
    if shard_is_done(task, root):
        return path
    labels = DENSE_MAPS if task.dense else _COMPACT_LABELS

    def samples() -> Iterator[Sample]:
        for index in task.indices:
            try:
                spec = sample_spec(task.recipe, index)
                yield render([spec], labels, engine=task.engine, quantised=True, bounds=task.bounds)[0]
            except TEMImageNetError as error:
                raise type(error)(f"sample {index} of recipe {task.recipe.name}: {error}") from error

    write_shard(
        path,
        samples(),
        len(task.indices),
        engine=task.engine,
        recipe_json=task.recipe.to_json(),
        task=task.fingerprint,
        dense=task.dense,
        on_sample=on_sample,
    )
    return path


def shard_is_done(task: ShardTask, root: Path) -> bool:
    """Whether a task's shard exists with the right checksum and was made by the very same task."""
    return shard_is_whole(root / task.name, task.fingerprint)


def shard_is_whole(path: Path, fingerprint: str) -> bool:
    """Whether a shard exists with the right checksum and was made by the work of this fingerprint."""
    try:
        sidecar = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
        return bool(
            sidecar["task"] == fingerprint
            and path.stat().st_size == sidecar["bytes"]
            and sha256_of(path) == sidecar["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def finish_library(root: Path, recipe: Recipe, tasks: tuple[ShardTask, ...]) -> Path:
    """Write the catalogue, the recipe and the manifest of a library whose shards are all there.

    Shards and temporary files that do not belong to the tasks are removed.

    Returns:
        The manifest's path.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    for task in tasks:
        if not shard_is_done(task, root):
            raise ShardError(f"{root / task.name}: missing or damaged; run the render again to complete the library")
    return close_library(root, recipe.name, recipe.to_json(), [task.name for task in tasks])


def check_place(root: Path, name: str) -> None:
    """See that a folder holds no finished library of another name, before it is written to.

    Raises:
        ShardError: it does.
    """
    try:
        there = json.loads((root / MANIFEST).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there != name:
        raise ShardError(f"{root} holds library {there!r}, which {name!r} would replace: name another folder")


def close_library(root: Path, name: str, recipe_json: str, shards: Sequence[str]) -> Path:
    """Write the catalogue, the recipe and the manifest of whole shards; others and temporary files are removed.

    Returns:
        The manifest's path.

    Raises:
        ShardError: the folder holds another library, the disk is full or cannot be written.
    """
    check_place(root, name)
    wanted = {*shards, *(sidecar_path(Path(shard)).as_posix() for shard in shards)}
    remove_others(root, wanted)
    rows = [row for shard in shards for row in _catalogue_rows(root, shard)]
    frame = pd.DataFrame(rows)
    with replacing(root / CATALOGUE) as partial:
        pq.write_table(
            pa.Table.from_pandas(frame, preserve_index=False), partial, compression="snappy", write_page_checksum=True
        )
    with replacing(root / RECIPE) as partial:
        partial.write_text(recipe_json, encoding="utf-8")
    files = {}
    for file_name in sorted(wanted | {CATALOGUE, RECIPE}):
        path = root / file_name
        files[file_name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": __version__,
        "licence": LICENCE,
        "citation": CITATION,
        "samples": len(frame),
        "files": files,
    }
    with replacing(root / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return root / MANIFEST


def remove_others(root: Path, wanted: Collection[str]) -> None:
    """Remove shards, sidecars and temporary files of a library but those wanted; files of other names are not ours."""
    for file in [*(root / "shards").iterdir(), *root.glob(".*.partial")]:
        if file.relative_to(root).as_posix() not in wanted and _OURS.fullmatch(file.name):
            file.unlink()


def read_manifest(root: Path) -> dict[str, Any]:
    """A library's manifest.

    Raises:
        ShardError: the folder is not a finished library, or of a newer schema.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise ShardError(f"{root}: not a finished library, {MANIFEST} is missing; render it or point to its folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); render or download the library anew") from error
    manifest = check_manifest(content, str(path))
    for name in manifest["files"]:
        if not _leads_inside(root, name):
            raise ShardError(f"{path}: file name {name!r} points outside the library; do not use this library")
    return manifest


def check_manifest(content: bytes, where: str) -> dict[str, Any]:
    """A manifest from its text.

    Args:
        content: the text.
        where: where it is from, for messages.

    Raises:
        ShardError: it is damaged, of a newer schema, or names files outside the library.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        schema, files = int(manifest["schema"]), manifest["files"]
        fit = all(isinstance(manifest[key], str) for key in ("name", "version")) and CATALOGUE in files
        for facts in files.values():
            fit = fit and _SHA256.fullmatch(facts["sha256"]) is not None and isinstance(facts["bytes"], int)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ShardError(f"{where}: damaged ({error}); render or download the library anew") from error
    if schema > SCHEMA:
        raise ShardError(f"{where}: schema {schema}, this version of temimagenet reads up to {SCHEMA}; upgrade it")
    for name in files:
        if not _is_inside(name):
            raise ShardError(f"{where}: file name {name!r} points outside the library; do not use this library")
    if not fit:
        raise ShardError(f"{where}: damaged, a name, version, size or digest is none; render or download it anew")
    return manifest


def _is_inside(name: str) -> bool:
    """Whether a file of this name lies in a library, on every system."""
    path = PureWindowsPath(name)
    return bool(path.parts) and not (path.drive or path.root or set("\\:\0") & set(name)) and ".." not in path.parts


def _leads_inside(root: Path, name: str) -> bool:
    """Whether a file of this name lies in a library, whatever links there are."""
    try:
        return (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def verify_library(root: Path, on_file: Callable[[str], None] = lambda name: None) -> int:
    """Check every file of a library against its manifest.

    Args:
        root: the library's folder.
        on_file: called with each file's name before it is read, for a progress bar.

    Returns:
        Number of files checked.

    Raises:
        ShardError: a file is missing or its SHA-256 differs; the message names it.
    """
    files = read_manifest(root)["files"]
    for name, facts in files.items():
        on_file(name)
        path = root / name
        if not path.is_file():
            if path.with_name(f"{path.name}.part").is_file():
                raise ShardError(
                    f"{path}: downloaded in part; give download=True with verify=True to check what is there"
                )
            raise ShardError(f"{path}: missing, {MANIFEST} names it; render or download it anew")
        found = sha256_of(path)
        if found != facts["sha256"]:
            raise ShardError(
                f"{path}: SHA-256 is {found}, the manifest says {facts['sha256']}; render or download it anew"
            )
    return len(files)


def open_shard(root: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> Shard:
    """A shard of a library, whose sidecar must be the one that the manifest has the digest of.

    Args:
        root: the library's folder.
        name: path of the shard inside it.
        files: `files` of the library's manifest.

    Raises:
        ShardError: the library has no such shard, or it is missing, damaged or not what its sidecar says.
    """
    return Shard(root / name, sidecar_sha256(root / MANIFEST, name, files))


def sidecar_sha256(where: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """The SHA-256 that the sidecar of a shard must have.

    Raises:
        ShardError: the manifest does not have both of them.
    """
    sidecar = sidecar_path(Path(name)).as_posix()
    if name not in files or sidecar not in files:
        raise ShardError(f"{where}: {name} or its sidecar is not in it; render or download the library anew")
    return str(files[sidecar]["sha256"])


def read_catalogue(root: Path) -> pd.DataFrame:
    """The library's catalogue: a row a sample and engine.

    Raises:
        ShardError: the catalogue is missing, damaged, or not the one that the manifest names.
    """
    manifest = read_manifest(root)
    path = root / CATALOGUE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: missing or cannot be read ({error}); render or download it anew") from error
    return check_catalogue(content, manifest["files"], str(path))


def check_catalogue(content: bytes, files: Mapping[str, Mapping[str, Any]], where: str) -> pd.DataFrame:
    """A catalogue from its file's content.

    Args:
        content: the content.
        files: `files` of the library's manifest.
        where: where it is from, for messages.

    Raises:
        ShardError: it is damaged, not the one that the manifest names, or names shards that the manifest does not.
    """
    if hashlib.sha256(content).hexdigest() != files[CATALOGUE]["sha256"]:
        raise ShardError(f"{where}: SHA-256 differs from the manifest's; render or download it anew")
    try:
        frame: pd.DataFrame = pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pandas()
        places = frame[["id", "engine", "split", "shard", "row", "sha256"]]
        fit = pd.api.types.is_integer_dtype(places["row"]) and not places.isna().to_numpy().any()
        unknown = sorted({str(name) for name in places["shard"].unique()} - set(files))
    # Arrow and pandas fail on damaged files in many ways.
    except Exception as error:
        raise ShardError(f"{where}: damaged ({error}); render or download it anew") from error
    if unknown or not fit:
        told = f"names {unknown[0]!r}, which is not in the manifest" if unknown else "does not tell where samples lie"
        raise ShardError(f"{where}: {told}; render or download it anew")
    return frame


def _catalogue_rows(root: Path, name: str) -> list[dict[str, Any]]:
    """Catalogue rows of a shard, read back from the shard itself."""
    with Shard(root / name) as shard:
        numbers = zip(
            shard.text("sha256"),
            shard.numbers("dose_e_per_A2").tolist(),
            shard.numbers("clean_peak").tolist(),
            shard.numbers("columns_inside").tolist(),
            shard.numbers("columns"),
            strict=True,
        )
        specs = [shard.spec(row) for row in range(len(shard))]
        return [
            {
                **_spec_fields(spec),
                **_unknown_fields(spec),
                "engine": shard.engine,
                "shard": name,
                "row": row,
                "dose_e_per_A2": dose,
                "clean_peak": peak,
                "columns": columns,
                **_against_linear(shard.engine, spec),
                "sha256": digest,
                **_bound_fields(table),
            }
            for row, (spec, (digest, dose, peak, columns, table)) in enumerate(zip(specs, numbers, strict=True))
        ]


def _against_linear(engine: str, spec: SampleSpec) -> dict[str, float]:
    """A multislice twin's mean over the linear one's, and how far its column maxima lie from the true positions."""
    if spec.specimen.kind == "unknown":
        names = ("mean_to_linear", "column_to_linear_min", "column_to_linear_max", "column_shift_pm")
        return dict.fromkeys(names, np.nan)
    if engine == "linear":
        return {
            "mean_to_linear": 1.0,
            "column_to_linear_min": 1.0,
            "column_to_linear_max": 1.0,
            "column_shift_pm": np.nan,
        }
    told = twin_facts(spec.specimen, spec.optics, spec.detector)
    return {
        "mean_to_linear": told.mean_ratio,
        "column_to_linear_min": told.column_ratio[0],
        "column_to_linear_max": told.column_ratio[1],
        "column_shift_pm": told.column_shift_pm,
    }


def _unknown_fields(spec: SampleSpec) -> dict[str, Any]:
    """What nobody knows of an image that others made."""
    if spec.specimen.kind != "unknown":
        return {}
    words = dict.fromkeys(("background", "material", "contrast", "scan_modulation"), "unknown")
    numbers = ("background_level", "rotation_deg", "offset_x_A", "offset_y_A", "scan_sigma_A")
    return {**words, "zone": "", **dict.fromkeys(numbers, np.nan)}


def _bound_fields(table: NDArray[np.float64]) -> dict[str, float]:
    """The median of the columns' bounds in x and y; nothing where there are none."""
    bounds_A = table[:, [COLUMN_FIELDS.index("crlb_x_A"), COLUMN_FIELDS.index("crlb_y_A")]]
    return {} if np.isnan(bounds_A).all() else {"crlb_median_pm": 100.0 * float(np.nanmedian(bounds_A))}


def _spec_fields(spec: SampleSpec) -> dict[str, Any]:
    """The catalogue's columns that follow from the spec alone."""
    what, optics, noise = spec.specimen, spec.optics, spec.scan_noise
    modulation = noise.modulation or "constant"
    return {
        "id": spec.id,
        "index": spec.index,
        "split": spec.split,
        "entry": spec.entry,
        "material": _material_name(spec),
        "formula": "" if what.kind in ("random", "unknown") else _formula(what.material, what.cif),
        "zone": "" if what.kind in ("amorphous", "random") else "[" + "".join(map(str, what.zone)) + "]",
        "morphology": _morphology(spec),
        "thickness_A": np.nan if what.thickness_A is None else what.thickness_A,
        "realisation": pd.NA if what.realisation is None else what.realisation,
        "condition": spec.condition,
        "energy_keV": optics.energy_keV,
        "aperture_mrad": optics.aperture_mrad,
        "source_size_A": optics.source_size_A,
        "defocus_A": optics.defocus_A,
        "C3_mm": optics.C3_mm,
        "C5_mm": optics.C5_mm,
        "detector_inner_mrad": spec.detector.inner_mrad,
        "detector_outer_mrad": spec.detector.outer_mrad,
        "contrast": spec.contrast,
        "field_of_view_A": spec.field_of_view_A,
        "pixel_size_A": spec.pixel_size_A,
        "image_size": spec.image_size,
        "rotation_deg": spec.rotation_deg,
        "offset_x_A": spec.offset_A[0],
        "offset_y_A": spec.offset_A[1],
        "scan_sigma_A": noise.sigma_A,
        "scan_modulation": modulation if noise.sigma_A > 0.0 else "none",
        "scan_form": noise.form,
        "background": spec.background.kind,
        "background_level": _background_level(spec),
        "psnr_dB": spec.psnr_dB,
        "radius_A": spec.radius_A,
    }


def _material_name(spec: SampleSpec) -> str:
    """Registry name, or the entry's without its zone for a user's structure."""
    return spec.specimen.material or spec.entry.split(" [")[0]


def _morphology(spec: SampleSpec) -> str:
    """bulk, layer, particle, amorphous or random."""
    if spec.specimen.kind != "crystal":
        return spec.specimen.kind
    return "layer" if spec.specimen.thickness_A is None else "bulk"


def _formula(name: str, cif: str) -> str:
    """Chemical formula of a registry material or a structure file."""
    if name:
        return material(name).formula
    return str(structure_from_text(cif).get_chemical_formula(empirical=True))


def _background_level(spec: SampleSpec) -> float:
    """The sum of a background's amplitudes, in clean peaks."""
    background = spec.background
    slopes = sum(abs(slope) for slope in background.slope) if background.kind == "ramp" else 0.0
    return (
        background.level * (background.kind != "ramp")
        + slopes
        + sum(term[0] for term in background.stripes + background.blobs)
    )
