"""Recipes: what a library draws, as a validated file of distributions, and the `SampleSpec`s they resolve to."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from temimagenet.errors import OpticsError, RecipeError, TEMImageNetError
from temimagenet.imaging.background import Background, BackgroundKind, draw_background
from temimagenet.imaging.linear import Contrast
from temimagenet.imaging.optics import CONDITIONS, Detector, Optics
from temimagenet.imaging.scan import Scan, ScanNoise
from temimagenet.specimen import MATERIALS, material, orient, parse_zone, structure_from_text
from temimagenet.specimen.random_specimen import RANDOM_CENTRE_A, RANDOM_RADIUS_A, SPACING_RANGE_A

__all__ = [
    "DRAWN_OPTICS",
    "Distribution",
    "Engine",
    "Entry",
    "Recipe",
    "SampleSpec",
    "SpecimenSpec",
    "load_recipe",
    "presets",
    "recipe_for_structure",
    "sample_spec",
    "spec_from_json",
    "spec_to_json",
    "specimen_spec",
]

EntryKind = Literal["crystal", "particle", "amorphous", "random"]
SpecimenKind = EntryKind | Literal["unknown"]
Split = Literal["train", "test", "heldout"]
Engine = Literal["linear", "multislice"]
"""`linear`: columns times the transfer function; `multislice`: the atlas of scattering-matrix tables."""

TRAIN_SHARE = 0.75
"""Share of samples in `train`, the rest is `test` (Lin et al. 2021)."""

SHEET_CELL_A = 60.0
"""Period of the amorphous sheets: sqrt(2) times the largest field that shows no atom twice is 42 A."""

DRAWN_OPTICS = 0
"""The condition that stands for optics drawn from `energy_keV`, `aperture_mrad` and `source_size_A`."""

RANDOM_REALISATIONS = 2**31
"""Different specimens of an entry of random ones, unless it says otherwise: in practice each sample has its own."""

RANDOM_CELL_A = 2.0 * (RANDOM_RADIUS_A - np.sqrt(2.0) * (8.0 + RANDOM_CENTRE_A))
"""What a turned field on a random specimen must fit in: its disc without 8 A of margin and the shift of the centre."""


@dataclass(frozen=True)
class SpecimenSpec:
    """Everything that decides the specimen of a sample.

    Attributes:
        kind: "crystal", "particle", "amorphous" or "random"; "unknown" of images that others made, which cannot be
            rendered.
        material: name in `temimagenet.specimen.MATERIALS`; "" with a CIF and for random specimens.
        cif: text of a structure file, or "".
        zone: zone axis [uvw] along the beam.
        thickness_A: thickness of a bulk crystal; None for layers, particles and films.
        realisation: which random particle, film or defect arrangement; None for a perfect crystal.
        seed: seed of that realisation.
        size_A: particle diameter, or spacing of the columns of a random specimen.
        strain: homogeneous strain (exx, eyy, exy) in the projected plane.
        vacancy_fraction: fraction of columns that lack atoms.
        displacement_A: standard deviation per axis of static column displacements.
    """

    kind: SpecimenKind
    material: str
    cif: str
    zone: tuple[int, int, int]
    thickness_A: float | None = None
    realisation: int | None = None
    seed: int = 0
    size_A: float | None = None
    strain: tuple[float, float, float] = (0.0, 0.0, 0.0)
    vacancy_fraction: float = 0.0
    displacement_A: float = 0.0


@dataclass(frozen=True)
class SampleSpec:
    """One sample, fully resolved: a pure value from which any engine renders the same specimen, scan and noise.

    Attributes:
        id: name, the same in every engine's library ("demo-000012").
        index: position in the recipe.
        entry: the recipe entry's name.
        split: "train", "test" or "heldout".
        specimen: what is imaged.
        condition: number of the imaging condition; 0 where the optics were drawn.
        optics: probe and source.
        detector: annular detector.
        contrast: contrast of the linear engine.
        image_size: rows and columns.
        field_of_view_A: edge of the field; the pixel size is this over `image_size`.
        rotation_deg: scan rotation.
        offset_A: specimen point under pixel (0, 0).
        scan_noise: distribution of the row shifts.
        scan_seed: seed of the row shifts.
        background: background in clean peaks.
        psnr_dB: peak signal-to-noise ratio, from which the dose follows on the linear twin; nan of an unknown specimen.
        noise_seed: seed of the Poisson counts.
        mask_radius_A: radius of the columns' masks where it is not that of the optics.
    """

    id: str
    index: int
    entry: str
    split: Split
    specimen: SpecimenSpec
    condition: int
    optics: Optics
    detector: Detector
    contrast: Contrast
    image_size: int
    field_of_view_A: float
    rotation_deg: float
    offset_A: tuple[float, float]
    scan_noise: ScanNoise
    scan_seed: int
    background: Background
    psnr_dB: float
    noise_seed: int
    mask_radius_A: float | None = None

    @property
    def pixel_size_A(self) -> float:
        """Pixel size in angstrom."""
        return self.field_of_view_A / self.image_size

    @property
    def radius_A(self) -> float:
        """Radius of the columns' masks in angstrom."""
        return self.optics.column_radius_A if self.mask_radius_A is None else self.mask_radius_A

    @property
    def scan(self) -> Scan:
        """The ideal raster, without scan noise."""
        return Scan((self.image_size, self.image_size), self.pixel_size_A, self.rotation_deg, self.offset_A)


@dataclass(frozen=True)
class Distribution:
    """What a number or name is drawn from: one of `choices` with equal chance, or evenly between two bounds.

    Attributes:
        choices: values to choose from, or empty.
        minimum: lower bound, with `maximum`, where `choices` is empty.
        maximum: upper bound.
    """

    choices: tuple[Any, ...] = ()
    minimum: float = 0.0
    maximum: float = 0.0

    def draw(self, rng: np.random.Generator) -> Any:
        """One value; takes one number from the generator in either form."""
        fraction = rng.random()
        if self.choices:
            return self.choices[int(fraction * len(self.choices))]
        return self.minimum + fraction * (self.maximum - self.minimum)

    def smallest(self) -> float:
        """The smallest number that can be drawn."""
        return float(min(self.choices) if self.choices else self.minimum)

    def largest(self) -> float:
        """The largest number that can be drawn."""
        return float(max(self.choices) if self.choices else self.maximum)


@dataclass(frozen=True)
class Entry:
    """One kind of specimen in a recipe.

    Attributes:
        name: for people and the catalogue ("SrTiO3 [110]").
        kind: "crystal", "particle", "amorphous" or "random".
        material: registry name, or "" with a CIF and for random specimens.
        cif: text of the structure file, or "".
        zone: zone axis.
        draw: distributions of this entry: the recipe's with the entry's own on top.
        share: how many samples it gets for one of an entry of share 1.
        heldout: its samples form the `heldout` split.
        realisations: number of different random particles, films, defect arrangements or random specimens.
        specimen_seed: seed of those realisations: entries of equal kind, material, zone axis and `size_A` then show the
            same ones in every recipe; None takes the recipe's seed and the entry's name.
        cell_A: vacuum cell of a particle: the field turned by 45 degrees must fit in it.
        strain: homogeneous strain (exx, eyy, exy).
        vacancy_fraction: fraction of columns that lack atoms.
        displacement_A: standard deviation per axis of static column displacements.
    """

    name: str
    kind: EntryKind
    material: str
    cif: str
    zone: tuple[int, int, int]
    draw: Mapping[str, Distribution]
    share: int = 1
    heldout: bool = False
    realisations: int = 64
    specimen_seed: int | None = None
    cell_A: float = 72.0
    strain: tuple[float, float, float] = (0.0, 0.0, 0.0)
    vacancy_fraction: float = 0.0
    displacement_A: float = 0.0

    @property
    def random(self) -> bool:
        """Whether the specimen differs from realisation to realisation."""
        return self.kind != "crystal" or self.vacancy_fraction > 0.0 or self.displacement_A > 0.0


@dataclass(frozen=True)
class Recipe:
    """A library to draw: entries, conditions and how many samples of which size.

    Attributes:
        name: short name, part of every sample's id.
        seed: the library's seed.
        samples: number of samples.
        image_size: rows and columns of an image.
        contrast: contrast of the linear engine.
        detector: annular detector.
        conditions: optics by number.
        entries: kinds of specimen.
        engines: engines that render it; multislice twins exist for crystals, layers, films and seeded particles.
    """

    name: str
    seed: int
    samples: int
    image_size: int
    contrast: Contrast
    detector: Detector
    conditions: Mapping[int, Optics]
    entries: tuple[Entry, ...]
    engines: tuple[Engine, ...] = ("linear",)

    def to_json(self) -> str:
        """The resolved recipe as JSON, structure files included; equal recipes give equal text."""
        return json.dumps(asdict(self), sort_keys=True)


_DRAWN: dict[str, Any] = {
    "condition": int,
    "field_of_view_A": float,
    "rotation_deg": float,
    "thickness_A": float,
    "background": str,
    "background_level": float,
    "psnr_dB": float,
    "scan_sigma_A": float,
    "scan_modulation": str,
    "scan_form": str,
    "size_A": float,
    "energy_keV": float,
    "aperture_mrad": float,
    "source_size_A": float,
}
_OPTICS = ("energy_keV", "aperture_mrad", "source_size_A")
_SIZED = ("particle", "random")
_TOP = {
    "schema",
    "name",
    "seed",
    "samples",
    "image_size",
    "contrast",
    "detector_mrad",
    "draw",
    "conditions",
    "entry",
    "engines",
}
_ENTRY = {
    "name", "kind", "material", "cif", "zone", "draw", "share", "heldout", "realisations", "cell_A", "strain",
    "vacancy_fraction", "displacement_A", "specimen_seed",
}  # fmt: skip
_POSITIVE = ("field_of_view_A", "thickness_A", "size_A")
_NON_NEGATIVE = ("background_level", "scan_sigma_A")
_RANGES: Mapping[str, tuple[float, float]] = {
    "field_of_view_A": (-np.inf, 1000.0), "thickness_A": (-np.inf, 1e5), "background_level": (-np.inf, 1000.0),
    "psnr_dB": (-60.0, 120.0), "scan_sigma_A": (-np.inf, 100.0), "rotation_deg": (-3600.0, 3600.0),
}  # fmt: skip
"""Beyond these nothing could be drawn in a computer's memory or range of numbers."""

_MOST_SAMPLES = 10**9
_MOST_PIXELS = 4096

_SPECS = 8192
"""Specifications kept once read, of some 3 kB each: to read one takes as long as to read an image."""

_MOST_SHARE = 1000
_MOST_CELL_A = 2000.0


def presets() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("temimagenet") / "data" / "recipes"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe: the name of a preset, or the path of a TOML file.

    Raises:
        RecipeError: no such preset or file, not TOML, an unknown or missing key, or a value out of range; the message
            names the file and the key.
    """
    if isinstance(source, str) and source in presets():
        text = (resources.files("temimagenet") / "data" / "recipes" / f"{source}.toml").read_text(encoding="utf-8")
        return _parse(text, f"preset {source}", Path.cwd())
    path = Path(source)
    if not path.is_file():
        raise RecipeError(
            f"no recipe {str(source)!r}: expected a TOML file or one of the presets {', '.join(presets())}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: cannot be read as UTF-8 text ({error})") from error
    return _parse(text, str(path), path.parent)


def recipe_for_structure(path: str | Path, zone: Any = (0, 0, 1), seed: int = 0, **draw: Any) -> Recipe:
    """An endless-training recipe for one structure file: the `v1` distributions on a single entry.

    Args:
        path: CIF file.
        zone: zone axis, such as "[110]" or (1, 1, 0).
        seed: seed of the draws.
        draw: distributions to set differently, such as `psnr_dB={"min": 10, "max": 20}`.

    Raises:
        RecipeError, SpecimenError: the structure, the zone or a distribution cannot be used.
    """
    base = load_recipe("v1")
    text = _structure_text(Path(path), str(path))
    common = dict(base.entries[0].draw) | _distributions(draw, f"recipe for {path}")
    entry = Entry(f"{Path(path).stem} {_zone_text(parse_zone(zone))}", "crystal", "", text, parse_zone(zone), common)
    recipe = replace(base, name=Path(path).stem, seed=seed, entries=(entry,))
    _check_entry(entry, recipe, f"recipe for {path}")
    return recipe


def sample_spec(recipe: Recipe, index: int) -> SampleSpec:
    """Resolve sample `index`: a pure function of (recipe, index), whatever was drawn before.

    Raises:
        RecipeError: `index` is negative.
    """
    if index < 0:
        raise RecipeError(f"sample index {index}: expected 0 or more")
    slots = [entry for entry in recipe.entries for _ in range(entry.share)]
    entry = slots[index % len(slots)]
    rng = np.random.Generator(np.random.Philox(key=[recipe.seed, index]))
    drawn = {key: entry.draw[key].draw(rng) for key in _DRAWN if key in entry.draw}
    realisation = int(rng.integers(entry.realisations))
    place = rng.random(2)
    scan_seed, noise_seed = (int(s) for s in rng.integers(2**62, size=2))

    if drawn["condition"] == DRAWN_OPTICS:
        optics = Optics(*(float(drawn[key]) for key in _OPTICS))
    else:
        optics = recipe.conditions[drawn["condition"]]
    field_A = float(drawn["field_of_view_A"])
    thickness_A = float(drawn["thickness_A"]) if entry.kind == "crystal" and not _is_layer(entry) else None
    specimen = specimen_spec(recipe, entry, realisation, thickness_A)
    scan = Scan((recipe.image_size,) * 2, field_A / recipe.image_size, float(drawn["rotation_deg"]))
    if entry.kind == "particle":
        # The particle's centre, the origin, lies up to 0.4 of its size from the centre of the field.
        centre = (place - 0.5) * 0.8 * cast(float, specimen.size_A)
        offset = centre - scan.to_specimen_A(np.full((1, 2), (recipe.image_size - 1) / 2.0))[0]
    elif entry.kind == "random":
        centre = (2.0 * place - 1.0) * RANDOM_CENTRE_A
        offset = centre - scan.to_specimen_A(np.full((1, 2), (recipe.image_size - 1) / 2.0))[0]
    else:
        offset = place * SHEET_CELL_A
    modulation = drawn["scan_modulation"]
    spec = SampleSpec(
        id=f"{recipe.name}-{index:06d}",
        index=index,
        entry=entry.name,
        split="heldout",
        specimen=specimen,
        condition=int(drawn["condition"]),
        optics=optics,
        detector=recipe.detector,
        contrast=recipe.contrast,
        image_size=recipe.image_size,
        field_of_view_A=field_A,
        rotation_deg=float(drawn["rotation_deg"]),
        offset_A=(float(offset[0]), float(offset[1])),
        scan_noise=ScanNoise(
            float(drawn["scan_sigma_A"]),
            None if modulation == "constant" else modulation,
            form=drawn["scan_form"],
        ),
        scan_seed=scan_seed,
        background=draw_background(drawn["background"], float(drawn["background_level"]), rng),
        psnr_dB=float(drawn["psnr_dB"]),
        noise_seed=noise_seed,
    )
    return spec if entry.heldout else replace(spec, split=_split(spec))


def specimen_spec(recipe: Recipe, entry: Entry, realisation: int, thickness_A: float | None) -> SpecimenSpec:
    """The specimen of an entry: realisation number `realisation` of a random one, or the crystal of a thickness."""
    seed = 0
    if entry.random and entry.specimen_seed is None:
        seed = _stable_hash(recipe.seed, entry.name, realisation)
    elif entry.random:
        seed = _stable_hash(entry.specimen_seed, entry.kind, entry.material, entry.cif, entry.zone, realisation)
    size_A = None
    if entry.kind in _SIZED:
        # A stream of its own: the shape is drawn from the seed itself.
        size_A = float(entry.draw["size_A"].draw(np.random.Generator(np.random.Philox(key=[seed, 1]))))
    return SpecimenSpec(
        entry.kind,
        entry.material,
        entry.cif,
        entry.zone,
        thickness_A,
        realisation if entry.random else None,
        seed,
        size_A,
        entry.strain,
        entry.vacancy_fraction,
        entry.displacement_A,
    )


def spec_to_json(spec: SampleSpec) -> str:
    """A spec as JSON, keys sorted; a PSNR that nobody knows is null."""
    fields = asdict(spec)
    if spec.mask_radius_A is None:
        del fields["mask_radius_A"]
    if math.isnan(spec.psnr_dB):
        fields["psnr_dB"] = None
    return json.dumps(fields, sort_keys=True)


@lru_cache(maxsize=_SPECS)
def spec_from_json(text: str) -> SampleSpec:
    """The spec that `spec_to_json` wrote; who reads samples again and again gets the same object.

    Raises:
        RecipeError: the text is not a spec.
    """
    try:
        data = json.loads(text)
        specimen = data["specimen"]
        data["specimen"] = SpecimenSpec(
            **specimen | {"zone": tuple(specimen["zone"]), "strain": tuple(specimen["strain"])}
        )
        background = {key: _tuples(value) for key, value in data["background"].items()}
        spec = SampleSpec(
            **data
            | {
                "optics": Optics(**data["optics"]),
                "detector": Detector(**data["detector"]),
                "scan_noise": ScanNoise(**data["scan_noise"]),
                "background": Background(**background),
                "offset_A": tuple(data["offset_A"]),
                "psnr_dB": math.nan if data["psnr_dB"] is None else data["psnr_dB"],
            }
        )
        _check_spec(spec)
    except (TypeError, LookupError, ValueError, AttributeError, ArithmeticError, RecursionError, OpticsError) as error:
        raise RecipeError(f"not a sample's specification: {error}") from error
    return spec


def _check_spec(spec: SampleSpec) -> None:
    """Raise `ValueError` for what no recipe resolves to."""
    numbers = (spec.field_of_view_A, spec.rotation_deg, *spec.offset_A)
    texts = (
        spec.id,
        spec.entry,
        spec.split,
        spec.contrast,
        spec.specimen.kind,
        spec.specimen.material,
        spec.specimen.cif,
    )
    whole = (spec.index, spec.condition, spec.image_size, spec.scan_seed, spec.noise_seed, *spec.specimen.zone)
    if not all(isinstance(text, str) for text in texts) or spec.split not in get_args(Split):
        raise ValueError("names or the split are none")
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in whole):
        raise ValueError("numbers that must be whole are not")
    if not np.isfinite(numbers).all() or spec.field_of_view_A <= 0.0 or len(numbers) != 4:
        raise ValueError("the field of view, rotation or offset cannot be")
    if not 1 <= spec.image_size <= _MOST_PIXELS:
        raise ValueError(f"image_size {spec.image_size}")
    if not 0.0 < spec.radius_A < np.inf:
        raise ValueError(f"a mask's radius of {spec.radius_A} A")


def _tuples(value: Any) -> Any:
    """Lists, as JSON gives them, back to tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _split(spec: SampleSpec) -> Split:
    """train or test, by a hash of specimen and scan: noise, dose and engine do not matter, twins stay together.

    A random one (particle, film, defects, random specimen) goes as a whole, by its realisation.
    """
    key: tuple[Any, ...] = (spec.entry, spec.specimen.seed)
    if spec.specimen.realisation is None:
        scan = (spec.condition, spec.field_of_view_A, spec.rotation_deg, spec.offset_A)
        key += (spec.specimen.thickness_A, *scan)
    return "train" if _stable_hash(*key) < TRAIN_SHARE * 2**62 else "test"


def _stable_hash(*parts: Any) -> int:
    """A 62-bit integer from values, the same on every machine and run."""
    digest = hashlib.sha256(json.dumps(parts, default=str).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def _is_layer(entry: Entry) -> bool:
    """Whether the entry is a single layer of the registry (a CIF is always bulk)."""
    return bool(entry.material) and material(entry.material).morphology == "layer"


def _zone_text(zone: tuple[int, int, int]) -> str:
    """[uvw] as crystallographers write it: "[110]", "[1-10]"."""
    return "[" + "".join(str(i) for i in zone) + "]" if max(map(abs, zone)) < 10 else str(list(zone))


def _parse(text: str, where: str, folder: Path) -> Recipe:
    """A recipe from TOML text; structure paths are relative to `folder`."""
    try:
        return _parsed(tomllib.loads(text), where, folder)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from error
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise RecipeError(f"{where}: a value that cannot be used: {error}") from error


def _parsed(data: dict[str, Any], where: str, folder: Path) -> Recipe:
    """A recipe from what its file holds."""
    _known_keys(data, _TOP, where)
    if data.get("schema") != 1:
        raise RecipeError(f"{where}: schema is {data.get('schema')!r}, expected 1")
    name = _typed(data, "name", str, where)
    if not name or not all(c.isalnum() or c in "._-" for c in name):
        raise RecipeError(f"{where}: name {name!r} may hold letters, digits, '.', '_' and '-' only")
    samples = _typed(data, "samples", int, where)
    image_size = _typed(data, "image_size", int, where, 256)
    seed = _typed(data, "seed", int, where)
    if not 1 <= samples <= _MOST_SAMPLES or not 8 <= image_size <= _MOST_PIXELS or not 0 <= seed < 2**63:
        raise RecipeError(
            f"{where}: expected samples >= 1 and <= {_MOST_SAMPLES}, image_size 8 to {_MOST_PIXELS} and seed 0 to "
            "2^63 - 1"
        )
    contrast = _typed(data, "contrast", str, where, "adf")
    if contrast not in get_args(Contrast):
        raise RecipeError(f"{where}: contrast {contrast!r}, expected one of {', '.join(get_args(Contrast))}")
    engines = _typed(data, "engines", list, where, ["linear"])
    if not engines or any(engine not in get_args(Engine) for engine in engines) or len(set(engines)) < len(engines):
        raise RecipeError(f"{where}: engines {engines}, expected a list of {', '.join(get_args(Engine))}")
    common = _distributions(_typed(data, "draw", dict, where), f"{where}, [draw]")
    try:
        detector = Detector(*(float(a) for a in _typed(data, "detector_mrad", list, where, [98.0, 196.0])))
        conditions = dict(CONDITIONS)
        for number, optics in _typed(data, "conditions", dict, where, {}).items():
            if int(number) == DRAWN_OPTICS:
                raise ValueError(f"condition {DRAWN_OPTICS} stands for optics drawn from {', '.join(_OPTICS)}")
            conditions[int(number)] = Optics(**optics)
    except (TypeError, ValueError, OpticsError) as error:
        raise RecipeError(f"{where}: detector_mrad or conditions cannot be used: {error}") from error
    raw = _typed(data, "entry", list, where)
    if not raw:
        raise RecipeError(f"{where}: no [[entry]], expected at least one")
    entries = tuple(_entry(item, common, f"{where}, entry {i + 1}", folder) for i, item in enumerate(raw))
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RecipeError(f"{where}: two entries are named {twice!r}; give one another name")
    recipe = Recipe(
        name, seed, samples, image_size, cast(Contrast, contrast), detector, conditions, entries, tuple(engines)
    )
    for i, entry in enumerate(entries):
        _check_entry(entry, recipe, f"{where}, entry {i + 1} ({entry.name})")
    return recipe


def _entry(data: Any, common: Mapping[str, Distribution], where: str, folder: Path) -> Entry:
    """One [[entry]] table."""
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: expected a table")
    _known_keys(data, _ENTRY, where)
    kind = _typed(data, "kind", str, where, "crystal")
    if kind not in get_args(EntryKind):
        raise RecipeError(f"{where}: kind {kind!r}, expected one of {', '.join(get_args(EntryKind))}")
    has_cif, has_material = "cif" in data, "material" in data
    if kind == "random" and (has_cif or has_material or "zone" in data):
        raise RecipeError(f"{where}: a random specimen has neither material, cif nor zone")
    if has_cif == has_material and kind not in ("amorphous", "random"):
        raise RecipeError(f"{where}: expected either material (one of {', '.join(MATERIALS)}) or cif")
    try:
        zone = parse_zone(data.get("zone", (0, 0, 1)))
        cif = _structure_text(folder / str(data["cif"]), where) if has_cif else ""
    except TEMImageNetError as error:
        raise RecipeError(f"{where}: {error}") from error
    name = material_name = str(data.get("material", Path(str(data.get("cif", "graphene"))).stem))
    if kind == "particle":
        name = f"{name} particle"
    name = {"amorphous": "amorphous graphene", "random": "random"}.get(kind, f"{name} {_zone_text(zone)}")
    no_material = has_cif or kind == "random"
    strain = tuple(float(e) for e in _typed(data, "strain", list, where, [0.0, 0.0, 0.0]))
    if len(strain) != 3 or not all(abs(part) <= 0.3 for part in strain):
        raise RecipeError(f"{where}: strain {list(strain)}, expected [exx, eyy, exy] within +-0.3")
    entry = Entry(
        _typed(data, "name", str, where, name),
        cast(EntryKind, kind),
        "" if no_material else ("graphene" if kind == "amorphous" else material_name),
        cif,
        zone,
        dict(common) | _distributions(_typed(data, "draw", dict, where, {}), f"{where}, draw"),
        _typed(data, "share", int, where, 1),
        _typed(data, "heldout", bool, where, False),
        _typed(data, "realisations", int, where, RANDOM_REALISATIONS if kind == "random" else 64),
        _typed(data, "specimen_seed", (int, type(None)), where, None),
        float(_typed(data, "cell_A", (int, float), where, 72.0)),
        (strain[0], strain[1], strain[2]),
        float(_typed(data, "vacancy_fraction", (int, float), where, 0.0)),
        float(_typed(data, "displacement_A", (int, float), where, 0.0)),
    )
    if not 1 <= entry.share <= _MOST_SHARE or not 1 <= entry.realisations < 2**62:
        raise RecipeError(
            f"{where}: share {entry.share}, realisations {entry.realisations}: expected 1 or more, shares up to "
            f"{_MOST_SHARE}"
        )
    if not 0.0 < entry.cell_A <= _MOST_CELL_A:
        raise RecipeError(f"{where}: cell_A {entry.cell_A:g}, expected above 0 and up to {_MOST_CELL_A:g}")
    if not 0.0 <= entry.vacancy_fraction < 1.0 or not 0.0 <= entry.displacement_A < 1.0:
        raise RecipeError(f"{where}: expected vacancy_fraction and displacement_A from 0 to below 1")
    return entry


def _check_entry(entry: Entry, recipe: Recipe, where: str) -> None:
    """Raise `RecipeError` where an entry cannot be drawn in full: what a render would only find late."""
    needless: tuple[str, ...] = () if entry.kind in _SIZED else ("size_A",)
    if "condition" in entry.draw and DRAWN_OPTICS not in entry.draw["condition"].choices:
        needless += _OPTICS
    missing = [key for key in _DRAWN if key not in entry.draw and key not in needless]
    if missing:
        raise RecipeError(f"{where}: no distribution for {', '.join(missing)}; add it to [draw] or to the entry")
    unknown = [c for c in entry.draw["condition"].choices if c not in recipe.conditions and c != DRAWN_OPTICS]
    if unknown or not entry.draw["condition"].choices:
        known = ", ".join(map(str, recipe.conditions))
        raise RecipeError(f"{where}: condition {unknown or 'range'}: expected a list of numbers among {known}")
    for key, allowed in (
        ("background", get_args(BackgroundKind)),
        ("scan_modulation", ("line-frequency", "constant")),
        ("scan_form", ("beam", "published")),
    ):
        wrong = [value for value in entry.draw[key].choices if value not in allowed]
        if wrong or not entry.draw[key].choices:
            raise RecipeError(f"{where}: {key} {wrong or 'range'}: expected a list among {', '.join(allowed)}")
    try:
        if DRAWN_OPTICS in entry.draw["condition"].choices:
            for end in (Distribution.smallest, Distribution.largest):
                Optics(*(end(entry.draw[key]) for key in _OPTICS))
        if entry.kind not in ("amorphous", "random"):
            orient(structure_from_text(entry.cif) if entry.cif else material(entry.material).atoms(), entry.zone)
    except TEMImageNetError as error:
        raise RecipeError(f"{where}: {error}") from error
    field_A = entry.draw["field_of_view_A"].largest()
    cells_A = {"particle": entry.cell_A, "amorphous": SHEET_CELL_A, "random": RANDOM_CELL_A}
    cell_A = cells_A.get(entry.kind, np.inf)
    if np.sqrt(2.0) * field_A > cell_A:
        raise RecipeError(
            f"{where}: a field of view of {field_A:g} A, {np.sqrt(2.0) * field_A:.1f} A when turned by 45 degrees, "
            f"is larger than the specimen's cell of {cell_A:g} A; lower field_of_view_A"
            + (" or raise cell_A" if entry.kind == "particle" else "")
        )
    if entry.kind == "particle" and entry.draw["size_A"].largest() > entry.cell_A:
        raise RecipeError(f"{where}: a particle of {entry.draw['size_A'].largest():g} A does not fit its cell")
    if entry.kind == "random":
        low, high = entry.draw["size_A"].smallest(), entry.draw["size_A"].largest()
        if low < SPACING_RANGE_A[0] or high > SPACING_RANGE_A[1]:
            raise RecipeError(
                f"{where}: size_A from {low:g} to {high:g}: expected column spacings of {SPACING_RANGE_A[0]:g} to "
                f"{SPACING_RANGE_A[1]:g} A"
            )
        if any(entry.strain) or entry.vacancy_fraction or entry.displacement_A:
            raise RecipeError(f"{where}: strain, vacancies and displacements of a random specimen are drawn with it")


def _distributions(data: Mapping[str, Any], where: str) -> dict[str, Distribution]:
    """[draw]: a list is a choice, {min, max} an even spread, a single value itself."""
    _known_keys(data, set(_DRAWN), where)
    result = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            _known_keys(value, {"min", "max"}, f"{where}, {key}")
            numbers = [value.get("min"), value.get("max")]
            if _DRAWN[key] is not float or not all(_is_number(v) for v in numbers) or numbers[0] > numbers[1]:  # type: ignore[operator]
                raise RecipeError(
                    f"{where}: {key} = {dict(value)}: expected {{ min = number, max = number }}, min <= max"
                )
            result[key] = Distribution((), float(numbers[0]), float(numbers[1]))  # type: ignore[arg-type]
            low, high = result[key].minimum, result[key].maximum
        else:
            values = value if isinstance(value, list) else [value]
            fits = _is_number if _DRAWN[key] is float else lambda v, kind=_DRAWN[key]: isinstance(v, kind)  # type: ignore[misc]
            if not values or not all(fits(v) for v in values):
                raise RecipeError(f"{where}: {key} = {value!r}: expected {_DRAWN[key].__name__} values")
            result[key] = Distribution(tuple(_DRAWN[key](v) for v in values))
            if _DRAWN[key] is not float:
                continue
            low, high = min(result[key].choices), max(result[key].choices)
        if not np.isfinite([low, high, *result[key].choices]).all():
            raise RecipeError(f"{where}: {key} must be finite")
        if key in _RANGES and not _RANGES[key][0] <= low <= high <= _RANGES[key][1]:
            raise RecipeError(
                f"{where}: {key} from {low:g} to {high:g}: expected {_RANGES[key][0]:g} to {_RANGES[key][1]:g}"
            )
        if (key in _POSITIVE and low <= 0.0) or (key in _NON_NEGATIVE and low < 0.0):
            raise RecipeError(f"{where}: {key} = {low:g}: expected {'above 0' if key in _POSITIVE else '0 or more'}")
    return result


def _is_number(value: Any) -> bool:
    """A TOML integer or float, not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _known_keys(data: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raise `RecipeError` naming the first unknown key."""
    for key in data:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}, expected one of {', '.join(sorted(known))}")


_REQUIRED: Any = object()


def _typed(data: Mapping[str, Any], key: str, kind: Any, where: str, default: Any = _REQUIRED) -> Any:
    """data[key] if it is of the kind, or the default."""
    value = data.get(key, default)
    if value is _REQUIRED:
        raise RecipeError(f"{where}: {key} is missing")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        expected = kind.__name__ if isinstance(kind, type) else "number"
        raise RecipeError(f"{where}: {key} = {value!r}, expected {expected}")
    return value


def _structure_text(path: Path, where: str) -> str:
    """The text of a structure file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: structure file {path} cannot be read ({error})") from error
    if not text.strip():
        raise RecipeError(f"{where}: structure file {path} is empty")
    return text
