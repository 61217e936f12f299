"""The atlas: multislice images as tables of Fourier coefficients, shipped with the package or cached."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import platformdirs
from ase import Atoms
from ase.data import chemical_symbols

from temimagenet import __version__
from temimagenet.device import check_device
from temimagenet.errors import AtlasError, OpticsError, SpecimenError
from temimagenet.imaging.finite import WINDOW_A, film_series, particle_series
from temimagenet.imaging.multislice import Accuracy, BeamPairs, Series, beam_pairs, series
from temimagenet.imaging.multislice import estimate_seconds as _estimate
from temimagenet.imaging.optics import Detector, Optics
from temimagenet.imaging.scattering import lobato_coefficients
from temimagenet.recipe import Entry, Recipe, SpecimenSpec, specimen_spec
from temimagenet.specimen import MATERIALS, material, particle_stack, sheet_stack, shipped_sheet, structure_from_text
from temimagenet.specimen.amorphous import SHIPPED_SHEETS
from temimagenet.specimen.crystal import equivalent_zones
from temimagenet.specimen.stack import PlaneOperation, Stack, crystal_stack

__all__ = [
    "LADDER_A",
    "Table",
    "TableTask",
    "cache_folder",
    "check_folder",
    "check_tables",
    "compute_table",
    "estimate_seconds",
    "find_series",
    "has_table",
    "is_computed",
    "merge_tables",
    "read_pairs",
    "stack_of",
    "table_tasks",
    "tables_digest",
]

LADDER_A = tuple(float(t) for t in range(20, 201, 10))
"""Thicknesses of the tables in angstrom."""

SHIPPED = "atlas.h5"

PARTICLE_CONFIGURATIONS = 6
"""Frozen-phonon configurations of a particle: each takes a minute or two of a core."""

PARTICLE_MARGIN_A = 5.0
"""Vacuum between a particle and the edge of its cell."""

ON_NEW_TABLES: list[Callable[[], None]] = []
"""What else to clear when tables were written: caches of what was drawn from them."""

_MANY = 1000

_ATLAS_SEED = 20211


@dataclass(frozen=True)
class TableTask:
    """One table to compute: a specimen at one energy, under several pupils.

    Attributes:
        specimen: what is imaged; a crystal's thickness is not used.
        pupils: optics of one energy, source size included: it decides how fine the statistics must be.
        detector: annular detector.
        thickness_A: ladder; ignored but for bulk crystals.
        accuracy: what to spend; a particle gets `PARTICLE_CONFIGURATIONS`, a film is averaged in closed form.
        seed: seed of displacements and offsets.
    """

    specimen: SpecimenSpec
    pupils: tuple[Optics, ...]
    detector: Detector = Detector()  # noqa: RUF009 - frozen
    thickness_A: tuple[float, ...] = LADDER_A
    accuracy: Accuracy = Accuracy()  # noqa: RUF009 - frozen
    seed: int = _ATLAS_SEED

    def __post_init__(self) -> None:
        """Raise `OpticsError` unless there are pupils, all of one energy."""
        energies = sorted({optics.energy_keV for optics in self.pupils})
        if len(energies) != 1:
            raise OpticsError(f"table of pupils at {energies} keV: expected one pupil or more, of one energy")

    @property
    def key(self) -> str:
        """Name of the table: specimen, zone, strain, energy and detector."""
        return table_key(self.specimen, self.pupils[0].energy_keV, self.detector)

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the table."""
        stack = stack_of(self.specimen, self.accuracy)
        atoms = [np.round(part, 6).tolist() for part in (stack.unit_A, stack.cell_A, stack.xy_A, stack.z_A, stack.u_A)]
        parts: tuple[Any, ...] = (__version__, asdict(self), atoms, stack.numbers.tolist())
        if self.specimen.kind == "particle":
            parts += (PARTICLE_CONFIGURATIONS, WINDOW_A)
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Table:
    """Multislice images of one specimen at one energy.

    Attributes:
        key: specimen, zone, strain, energy and detector.
        facts: how it was made: supercell, seed, sweeps, accuracy, code version, displacements.
        pupils: a `Series` for each aperture and aberrations.
    """

    key: str
    facts: Mapping[str, Any]
    pupils: Mapping[tuple[float, float, float, float], Series]


def table_key(specimen: SpecimenSpec, energy_keV: float, detector: Detector) -> str:
    """Name under which a specimen's table is kept.

    Raises:
        SpecimenError: a particle has no diameter.
    """
    optics = f"{energy_keV:g} keV {detector.inner_mrad:g}-{detector.outer_mrad:g} mrad"
    if specimen.kind == "amorphous":
        return f"amorphous {specimen.material} sheet {(specimen.realisation or 0) % SHIPPED_SHEETS} {optics}"
    what = specimen.material or "cif-" + hashlib.sha256(specimen.cif.encode()).hexdigest()[:16]
    zone = ",".join(map(str, specimen.zone))
    if specimen.kind == "particle":
        return f"{what} [{zone}] particle {_size_A(specimen):.4f} A seed {specimen.seed} {optics}"
    strain = "" if not any(specimen.strain) else " strain " + ",".join(f"{e:g}" for e in specimen.strain)
    return f"{what} [{zone}]{strain} {optics}"


def _size_A(specimen: SpecimenSpec) -> float:
    """A particle's diameter."""
    if specimen.size_A is None:
        raise SpecimenError(f"particle of {specimen.material}: expected size_A, its diameter in angstrom")
    return specimen.size_A


def _file_name(key: str) -> str:
    """A table's own file."""
    return key.replace(" ", "_").replace(",", ".") + ".h5"


def _shipped() -> Path:
    """The tables that come with the package."""
    return Path(str(resources.files("temimagenet") / "data" / SHIPPED))


def _defective(specimen: SpecimenSpec) -> bool:
    """Whether it is a random specimen or a crystal with random defects, of which no table is made."""
    return specimen.kind == "random" or (specimen.kind == "crystal" and specimen.realisation is not None)


def _pupil(optics: Optics) -> tuple[float, float, float, float]:
    """What distinguishes pupils of one energy."""
    return (optics.aperture_mrad, optics.defocus_A, optics.C3_mm, optics.C5_mm)


def stack_of(specimen: SpecimenSpec, accuracy: Accuracy) -> Stack:
    """The specimen of a specification in three dimensions; a particle in a cell with vacuum.

    Raises:
        AtlasError: it is a crystal with random defects, of which no table can be made.
        SpecimenError: the structure or zone axis cannot be used.
    """
    if _defective(specimen):
        what = specimen.material or specimen.kind
        raise AtlasError(f"{what}: no multislice tables of random specimens and crystals with random defects")
    if specimen.kind == "amorphous":
        return sheet_stack(shipped_sheet((specimen.realisation or 0) % SHIPPED_SHEETS))
    if specimen.kind == "particle":
        rng = np.random.Generator(np.random.Philox(specimen.seed))
        size = _size_A(specimen)
        return particle_stack(specimen.material, specimen.zone, size_A=size, rng=rng, margin_A=PARTICLE_MARGIN_A)
    atoms, u = _structure(specimen)
    return crystal_stack(
        atoms, specimen.zone, u_A=u, strain=specimen.strain, minimum_A=accuracy.supercell_A, name=specimen.material
    )


def _structure(specimen: SpecimenSpec) -> tuple[Atoms, Mapping[str, float] | None]:
    """A crystal's unit cell and its displacements; None if they are only known by element."""
    if specimen.cif:
        return structure_from_text(specimen.cif), None
    known = material(specimen.material)
    return known.atoms(), known.u_A


def _specimens(recipe: Recipe, entry: Entry) -> list[SpecimenSpec]:
    """The specimens of an entry that get tables: a crystal, every film, the particles of a fixed seed."""
    if entry.kind == "crystal":
        return (
            []
            if entry.random
            else [SpecimenSpec(entry.kind, entry.material, entry.cif, entry.zone, strain=entry.strain)]
        )
    if entry.kind == "random" or (entry.kind == "particle" and entry.specimen_seed is None):
        return []
    count = min(entry.realisations, SHIPPED_SHEETS) if entry.kind == "amorphous" else entry.realisations
    specimens = [specimen_spec(recipe, entry, number, None) for number in range(count)]
    # A film's seed decides nothing: the shipped sheets are what they are.
    return [replace(s, seed=0) if s.kind == "amorphous" else s for s in specimens]


def table_tasks(recipe: Recipe, accuracy: Accuracy = Accuracy()) -> tuple[TableTask, ...]:  # noqa: B008 - frozen
    """The tables that a recipe's twins need, one for each specimen and energy.

    Crystals and layers, the films that come with the package, and particles whose entry has a `specimen_seed`: other
    particles are too many, and crystals with random defects have no tables.
    """
    tasks = []
    for entry in recipe.entries:
        # Equal pupils with different sources share a series; the sharpest source decides the statistics.
        by_energy: dict[float, dict[tuple[float, ...], Optics]] = {}
        # Drawn optics have no tables: they are never the same twice.
        for number in sorted(set(entry.draw["condition"].choices) & set(recipe.conditions)):
            optics = recipe.conditions[number]
            kept = by_energy.setdefault(optics.energy_keV, {})
            pupil = _pupil(optics)
            if pupil not in kept or optics.source_size_A < kept[pupil].source_size_A:
                kept[pupil] = optics
        extra = (entry.material, entry.zone) == ("SrTiO3", (0, 0, 1)) and not any(entry.strain)
        if extra and FIGURE_7.energy_keV in by_energy:
            by_energy[FIGURE_7.energy_keV][_pupil(FIGURE_7)] = FIGURE_7
        for specimen in _specimens(recipe, entry):
            for pupils in by_energy.values():
                tasks.append(TableTask(specimen, tuple(pupils.values()), recipe.detector, accuracy=accuracy))
    return tuple(tasks)


FIGURE_7 = Optics(200.0, 20.0, 0.9, defocus_A=80.0, C3_mm=0.0257)
"""Aberrated probe of Lin et al. (2021), Fig. 7, for SrTiO3 [001]."""


def is_computed(task: TableTask, folder: Path, *, keep_pairs: bool = False) -> bool:
    """Whether a folder holds a table that was made by the very same task, with its beam pairs where they are wanted."""
    path = folder / _file_name(task.key)
    if not path.is_file():
        return False
    try:
        with h5py.File(path) as file:
            same = json.loads(cast(str, file[task.key].attrs["facts"]))["fingerprint"] == task.fingerprint
            return bool(same and ("pairs" in file or not keep_pairs or task.specimen.kind != "crystal"))
    except (OSError, KeyError, ValueError, RuntimeError):
        return False


def check_folder(folder: Path) -> None:
    """Make a folder, and see that files can be written there, before any work is done.

    Raises:
        AtlasError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AtlasError(f"{folder}: no folder that tables can be written to ({error.strerror or error})") from error


def compute_table(
    task: TableTask,
    folder: Path,
    *,
    keep_pairs: bool = False,
    device: str = "cpu",
    on_progress: Callable[[int, float], None] = lambda sweeps, error: None,
) -> Path:
    """Compute a table into a folder, unless it is there already and was made by the very same task.

    Args:
        task: what to compute.
        folder: where tables are kept, a file each.
        keep_pairs: also keep the beam pairs, from which images of any aberrations follow (tens of MB).
        device: where waves are propagated.
        on_progress: called with the number of sweeps and the largest standard error over its mean.

    Returns:
        The table's path.

    Raises:
        AtlasError, SpecimenError, OpticsError: the table cannot be made, the folder cannot be written to, or the disk
            is full.
        DeviceError: there is no such device.
    """
    path = folder / _file_name(task.key)
    fingerprint = task.fingerprint
    if is_computed(task, folder, keep_pairs=keep_pairs):
        return path
    check_device(device)
    check_folder(folder)
    stack = stack_of(task.specimen, task.accuracy)
    pairs: BeamPairs | None = None
    if task.specimen.kind == "crystal":
        pairs = beam_pairs(
            stack,
            task.pupils[0].energy_keV,
            max(optics.aperture_mrad for optics in task.pupils),
            task.detector,
            task.thickness_A,
            accuracy=task.accuracy,
            watch=task.pupils,
            seed=task.seed,
            device=device,
            on_progress=on_progress,
        )
        found = [series(pairs, optics) for optics in task.pupils]
        sweeps = [int((pairs.reach > rung).sum()) for rung in range(len(pairs.thickness_A))]
    elif task.specimen.kind == "particle":
        sweeps = [PARTICLE_CONFIGURATIONS]
        found = particle_series(
            stack,
            task.pupils,
            task.detector,
            configurations=PARTICLE_CONFIGURATIONS,
            accuracy=task.accuracy,
            seed=task.seed,
            device=device,
            on_progress=lambda done: on_progress(done, float("nan")),
        )
    else:
        sweeps = []
        found = film_series(stack, task.pupils, task.detector)
    facts = {
        "fingerprint": fingerprint,
        "code_version": __version__,
        "name": stack.name,
        "energy_keV": task.pupils[0].energy_keV,
        "detector_mrad": [task.detector.inner_mrad, task.detector.outer_mrad],
        "seed": task.seed,
        "accuracy": asdict(task.accuracy),
        "supercell_A": stack.cell_A.tolist(),
        "lean_A": stack.lean_A,
        "operations": len(stack.operations),
        "u_A": {str(n): float(stack.u_A[stack.numbers == n][0]) for n in np.unique(stack.numbers)},
        "sweeps_by_rung": sweeps,
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with h5py.File(partial, "w") as file:
            group = file.create_group(task.key)
            group.attrs["facts"] = json.dumps(facts)
            group["unit_A"], group["thickness_A"] = stack.unit_A, found[0].thickness_A
            for number, (optics, item) in enumerate(zip(task.pupils, found, strict=True)):
                _write_series(group.create_group(f"pupil{number}"), optics, item)
            if keep_pairs and pairs is not None:
                _write_pairs(file.create_group("pairs"), pairs)
        partial.replace(path)
    except OSError as error:
        raise AtlasError(f"cannot write {path}: {error}; nothing was left there") from error
    finally:
        partial.unlink(missing_ok=True)
        _forget()
    return path


def estimate_seconds(task: TableTask, device: str = "cpu") -> tuple[float, float]:
    """Least and most seconds that a table will take on this machine.

    Raises:
        SpecimenError: an element has no scattering factor.
    """
    widest = max(optics.aperture_mrad for optics in task.pupils)
    stack = stack_of(task.specimen, task.accuracy)
    for number in np.unique(stack.numbers).tolist():
        lobato_coefficients(number)
    return _estimate(stack, task.pupils[0].energy_keV, widest, task.detector, task.thickness_A, task.accuracy, device)


def _write_series(group: h5py.Group, optics: Optics, table: Series) -> None:
    """One pupil's coefficients in single precision, and the standard error of its images with this source."""
    group.attrs["pupil"] = _pupil(optics)
    group.attrs["source_size_A"] = optics.source_size_A
    group.create_dataset("hk", data=table.hk, compression="gzip", compression_opts=9, shuffle=True)
    # Columns of coefficients vary smoothly with thickness: transposed they compress better.
    values = table.coefficients.T.astype(np.complex64)
    if len(table.hk) > _MANY:
        # Thousands of coefficients of noise do not compress: they are cut to 2e-6 of the mean, 0.01 % of an image.
        step = 2.0 ** np.floor(np.log2(2e-6 * abs(values[0, 0])))
        values = (np.round(values / step) * step).astype(np.complex64)
    group.create_dataset("coefficients", data=values, compression="gzip", compression_opts=9, shuffle=True)
    group["standard_error"] = table.error_of_image(optics.source_size_A).astype(np.float32)


_PAIR_ARRAYS = (
    "unit_A", "thickness_A", "k_per_A", "configuration", "sweep", "first", "second", "hk", "reach", "mesh_per_A",
)  # fmt: skip


def _write_pairs(group: h5py.Group, pairs: BeamPairs) -> None:
    """Beam pairs, for aberrations chosen later."""
    for name in _PAIR_ARRAYS:
        group.create_dataset(name, data=getattr(pairs, name), compression="gzip", shuffle=True)
    group.create_dataset("values", data=pairs.values.astype(np.complex64), compression="gzip", shuffle=True)
    group["rotations"] = np.array([operation.rotation for operation in pairs.operations])
    group["translations_A"] = np.array([operation.translation_A for operation in pairs.operations])
    group.attrs.update(
        name=pairs.name,
        energy_keV=pairs.energy_keV,
        aperture_mrad=pairs.aperture_mrad,
        detector_mrad=(pairs.detector.inner_mrad, pairs.detector.outer_mrad),
        lean_A=pairs.lean_A,
        seed=pairs.seed,
        accuracy=json.dumps(asdict(pairs.accuracy)),
    )


def read_pairs(path: Path) -> BeamPairs:
    """The beam pairs that `compute_table(..., keep_pairs=True)` left beside a table.

    `imaging.multislice.series` turns them into images of any defocus and aberrations within their aperture.

    Raises:
        AtlasError: the file is missing, damaged or holds no beam pairs.
    """
    try:
        with h5py.File(path) as file:
            group = file["pairs"]
            facts = dict(group.attrs)
            rotations, translations = np.asarray(group["rotations"]), np.asarray(group["translations_A"])
            return BeamPairs(
                name=str(facts["name"]),
                operations=tuple(PlaneOperation(r, t) for r, t in zip(rotations, translations, strict=True)),
                energy_keV=float(facts["energy_keV"]),
                aperture_mrad=float(facts["aperture_mrad"]),
                detector=Detector(*map(float, facts["detector_mrad"])),
                values=np.asarray(group["values"]).astype(np.complex128),
                lean_A=float(facts["lean_A"]),
                seed=int(facts["seed"]),
                accuracy=Accuracy(**json.loads(str(facts["accuracy"]))),
                **{name: np.asarray(group[name]) for name in _PAIR_ARRAYS},
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise AtlasError(f"{path}: no beam pairs can be read ({error}); compute the table with keep_pairs") from error


def merge_tables(paths: Sequence[Path], out: Path) -> int:
    """Gather tables, without their beam pairs, into one file as the package ships it.

    Returns:
        Its size in bytes.

    Raises:
        AtlasError: a table is damaged.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with h5py.File(partial, "w") as merged:
            for path in sorted(paths):
                with h5py.File(path) as file:
                    for key in file:
                        if key != "pairs":
                            file.copy(key, merged)
        partial.replace(out)
    except (OSError, KeyError) as error:
        raise AtlasError(f"cannot gather tables into {out}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    _forget()
    return out.stat().st_size


def cache_folder() -> Path:
    """Where a user's own tables are kept."""
    return Path(platformdirs.user_cache_dir("temimagenet")) / "atlas"


@lru_cache(maxsize=8)
def _open(path: Path) -> h5py.File:
    """An open file of tables."""
    return h5py.File(path)


@lru_cache(maxsize=256)
def _table(key: str) -> Table | None:
    """A table by name, from the package or the user's cache; None if there is none."""
    for path in (_shipped(), cache_folder() / _file_name(key)):
        if not path.is_file():
            continue
        try:
            file = _open(path)
            if key in file and (path == _shipped() or _current(key, file[key])):
                return _read(key, file[key])
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            remedy = "install the package anew" if path == _shipped() else "delete it and compute the table again"
            raise AtlasError(f"{path}: damaged ({error}); {remedy}") from error
    return None


def _read(key: str, group: h5py.Group) -> Table:
    """A table from its group."""
    unit, thickness = np.asarray(group["unit_A"]), np.asarray(group["thickness_A"])
    pupils = {}
    for name in group:
        if not name.startswith("pupil"):
            continue
        item = group[name]
        coefficients = np.asarray(item["coefficients"]).T.astype(np.complex128)
        hk = np.asarray(item["hk"], dtype=np.int16)
        error = np.asarray(item["standard_error"], dtype=np.float64)
        # Only the image's standard error is kept, source included: all of it is put on the mean.
        variance = np.zeros(coefficients.shape)
        variance[:, 0] = (error * coefficients[:, 0].real) ** 2
        pupil = tuple(float(v) for v in item.attrs["pupil"])
        pupils[cast(tuple[float, float, float, float], pupil)] = Series(unit, hk, thickness, coefficients, variance)
    return Table(key, json.loads(cast(str, group.attrs["facts"])), pupils)


@lru_cache(maxsize=512)
def _turned(key: str, optics: Optics) -> Series | None:
    """The series under optics that no table holds, from beam pairs in the user's cache; None if there are none."""
    path = cache_folder() / _file_name(key)
    if not path.is_file():
        return None
    try:
        with h5py.File(path) as file:
            usable = "pairs" in file and float(file["pairs"].attrs["aperture_mrad"]) >= optics.aperture_mrad
            if not usable or not _current(key, file[key]):
                return None
    except (OSError, KeyError, ValueError) as error:
        raise AtlasError(f"{path}: damaged ({error}); delete the file") from error
    return series(read_pairs(path), optics)


def _current(key: str, group: h5py.Group) -> bool:
    """Whether a kept table was made with the displacements that the registry has today."""
    name = key.split(" [")[0]
    if name not in MATERIALS:
        return True
    known = material(name).u_A
    kept = json.loads(cast(str, group.attrs["facts"]))["u_A"]
    return all(abs(known[chemical_symbols[int(number)]] - u) < 1e-9 for number, u in kept.items())


def _lookup(key: str, optics: Optics) -> Series | None:
    """The series of a table under given optics: one of its pupils, or made of beam pairs kept beside it."""
    table = _table(key)
    if table is not None and _pupil(optics) in table.pupils:
        return table.pupils[_pupil(optics)]
    return _turned(key, replace(optics, source_size_A=0.0))


def _forget() -> None:
    """Look at the files anew: tables were written."""
    for clear in (_open.cache_clear, _table.cache_clear, _turned.cache_clear, *ON_NEW_TABLES):
        clear()


def has_table(specimen: SpecimenSpec, optics: Optics, detector: Detector) -> bool:
    """Whether a multislice image of this specimen can be drawn: its table exists and reaches its thickness."""
    if _defective(specimen):
        return False
    found = _lookup(table_key(specimen, optics.energy_keV, detector), optics)
    if found is None:
        return False
    return specimen.thickness_A is None or 0.0 < specimen.thickness_A <= float(np.nanmax(found.thickness_A))


def check_tables(recipe: Recipe) -> None:
    """See that everything of a recipe that should have multislice tables has them, before any work is done.

    Raises:
        AtlasError: tables are missing or too thin, or no entry of the recipe gets any; the message names them.
    """
    tasks = table_tasks(recipe)
    if not tasks:
        raise AtlasError(
            f"recipe {recipe.name} holds nothing that gets multislice tables: those are made of perfect crystals, "
            "layers and films, and of particles whose entry has a specimen_seed"
        )
    missing, thin = [], set()
    for task in tasks:
        for pupil in task.pupils:
            if pupil is FIGURE_7:
                continue
            found = _lookup(task.key, pupil)
            if found is None:
                missing.append(f"{task.key}, {_told(pupil)}{_turned_hint(task.specimen, pupil, task.detector)}")
                continue
            reach = float(found.thickness_A[-1])
            if not np.isnan(reach):
                deepest = max(
                    entry.draw["thickness_A"].largest()
                    for entry in recipe.entries
                    if (entry.material, entry.cif, entry.zone)
                    == (task.specimen.material, task.specimen.cif, task.specimen.zone)
                )
                if deepest > reach:
                    thin.add(f"{task.key} (thickness_A reaches {deepest:g} A)")
    if thin:
        raise AtlasError(
            f"recipe {recipe.name}: multislice tables end at {LADDER_A[-1]:g} A: {'; '.join(sorted(thin))}. Draw "
            "thinner specimens, or take multislice out of the recipe's engines"
        )
    if missing:
        raise AtlasError(
            f"recipe {recipe.name}: no multislice table for {'; '.join(missing)}. Compute them with `python -m builder "
            "atlas RECIPE` or, for one structure file, `temimagenet atlas FILE --zone ...`; or take multislice out of "
            "the recipe's engines"
        )


def tables_digest(recipe: Recipe) -> str:
    """SHA-256 of what made the tables of a recipe, shipped and kept ones: part of what decides a multislice shard."""
    found = {task.key: _table(task.key) for task in table_tasks(recipe)}
    parts = {key: None if table is None else table.facts["fingerprint"] for key, table in found.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_series(specimen: SpecimenSpec, optics: Optics, detector: Detector) -> Series:
    """The series of a specimen under given optics: from its table, or from beam pairs kept in the user's cache.

    Raises:
        AtlasError: there is no table for it; the message says how to compute one.
        OpticsError: the table does not hold these optics, and no beam pairs do.
        SpecimenError: the material is unknown, the structure cannot be read, or a particle has no diameter.
    """
    key = table_key(specimen, optics.energy_keV, detector)
    found = None if _defective(specimen) else _lookup(key, optics)
    if found is not None:
        return found
    table = None if _defective(specimen) else _table(key)
    if table is None and _defective(specimen):
        raise AtlasError(f"{key}: random specimens and crystals with random defects have no multislice tables")
    if table is None:
        raise AtlasError(
            f"no multislice table for {key}{_turned_hint(specimen, optics, detector)}: compute tables of a recipe with "
            "`python -m builder atlas RECIPE`, of one crystal with `temimagenet atlas STRUCTURE.cif --zone ...`"
        )
    known = "; ".join(f"{a:g} mrad, defocus {d:g} A, C3 {c:g} mm, C5 {e:g} mm" for a, d, c, e in table.pupils)
    hint = ". For others of a crystal keep its beam pairs: compute the table with --keep-pairs"
    raise OpticsError(
        f"{key}: no images for {_told(optics)}; the table holds {known}" + (hint if specimen.kind == "crystal" else "")
    )


def _turned_hint(specimen: SpecimenSpec, optics: Optics, detector: Detector) -> str:
    """Which zone axis that is this one by symmetry has a table, as part of a message; "" if none has."""
    if specimen.kind != "crystal" or any(specimen.strain):
        return ""
    for zone in equivalent_zones(_structure(specimen)[0], specimen.zone):
        if _lookup(table_key(replace(specimen, zone=zone), optics.energy_keV, detector), optics) is not None:
            asked, held = (",".join(map(str, z)) for z in (specimen.zone, zone))
            return f" (there is one for [{held}], which is [{asked}] by symmetry: ask for zone {zone})"
    return ""


def _told(optics: Optics) -> str:
    """A pupil in words."""
    return (
        f"{optics.aperture_mrad:g} mrad, defocus {optics.defocus_A:g} A, C3 {optics.C3_mm:g} mm, C5 {optics.C5_mm:g} mm"
    )
