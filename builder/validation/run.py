"""Measures a network part by part into a folder; parts that are there already stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from builder.validation import denoising, detection, intensity, micrographs, speed
from builder.validation.detection import ASKED_RECALL, Finder, Tally, Verdict, by_localizer, judge
from builder.validation.images import Truth, limits_of, resolvable, truth_of, unseen_specs, with_noise
from builder.validation.micrographs import Micrograph
from builder.validation.pictures import micrograph_pictures, sample_pictures
from builder.validation.report import Claim, Part, Picture, Table, read_part, write_part
from temimagenet import __version__
from temimagenet.errors import ModelError, PrecisionError
from temimagenet.imaging.optics import CONDITIONS
from temimagenet.labels import MAPS
from temimagenet.localize import FoundColumns, NetworkColumns
from temimagenet.micrographs.methods import Automatic
from temimagenet.models import FINE_MAPS, PLAIN_MAPS, Model, load_model
from temimagenet.recipe import Recipe, SampleSpec, load_recipe
from temimagenet.render import Sample, render

__all__ = ["EMPTY_A_KIND", "PARTS", "Bench", "load_complete", "validate"]

_VERSION = 5
"""Raised whenever a part is measured in another way."""

EMPTY_A_KIND = 10
"""Images without columns of each kind, for each image of an entry."""

_SHOWN = ("Co3O4 [110]", "Au [110]", "SrTiO3 [001] strained", "Si [110] defective")

_DATA = Path(__file__).resolve().parents[2] / "tests" / "data"


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what.

    Attributes:
        name: name or file of the model.
        model: the network.
        images: number of images of each entry.
        folder: folder of the results.
        recipe: whose entries are drawn.
    """

    name: str
    model: Model
    images: int
    folder: Path
    recipe: Recipe

    @property
    def origin(self) -> dict[str, Any]:
        """What a result depends on."""
        return {
            "weights": _digest(self.model), "images": self.images, "recipe": self.recipe.name,
            "version": __version__, "validation": _VERSION,
        }  # fmt: skip

    @property
    def specs(self) -> dict[str, list[SampleSpec]]:
        """Images of each entry that are not for training."""
        return unseen_specs(self.recipe, self.images)

    @property
    def remembered(self) -> Path:
        """Where bounds and filtered images are kept, which no network changes."""
        return self.folder / "remembered"

    @property
    def pictures(self) -> Path:
        """Where pictures are written."""
        return self.folder / "pictures"

    def part(
        self, name: str, title: str, how: str, claims: Sequence[Claim] = (), tables: Sequence[Table] = (),
        pictures: Sequence[Picture] = (),
    ) -> Part:  # fmt: skip
        """A part of the report."""
        return Part(name, title, how, tuple(claims), tuple(tables), tuple(pictures), self.origin)


def _digest(model: Model) -> str:
    """The first digits of a digest of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_complete(name: str) -> Model:
    """A network that draws every map and finds columns.

    Raises:
        ModelError: there is none of that name, or it does only a part of that.
    """
    model = load_model(name)
    missing = [label for label in PLAIN_MAPS + FINE_MAPS if label not in model.network.maps]
    if missing or not hasattr(model.network, "columns"):
        raise ModelError(
            f"model {name}: it draws {', '.join(model.network.maps)}; validation needs a network that draws every map "
            "and finds columns"
        )
    return replace(model, maps=model.network.maps)


def _by_network(bench: Bench) -> Finder:
    """What the network finds by itself."""
    return by_localizer(NetworkColumns(bench.name))


def _detection(bench: Bench) -> Part:
    """Columns found of every entry."""
    claims, tables = _found(bench, _by_network(bench))
    how = (
        "Images of every entry of the library’s recipe that are not for training, 256 × 256 pixels, under all its "
        "conditions, with scan noise of 0.2 Å rms per axis. A column is asked for if the image can tell where it is: "
        "its Cramér-Rao bound, rms per axis, is below 25 pm and below a third of the distance to the nearest other "
        "column. It counts as found within half that distance, at most 0.5 Å. Columns that cannot be resolved are left "
        "out, and what is found within a spot’s radius of one is not false. Columns nearer to the border than a spot’s "
        "radius do not count. Recall is told by how many standard deviations a column stands above the noise, too, "
        "beside that of an ideal observer, who fits all else and has no lattice to go by. Held-out entries are not in "
        "the library’s training split; the "
        "recipe training draws Si [110] with other defects and SrTiO3 [001] without strain."
    )
    return bench.part("detection", "Columns found", how, claims, tables)


def _found(bench: Bench, find: Finder) -> tuple[tuple[Claim, ...], tuple[Table, ...]]:
    """What is found of the columns of every entry, at each signal-to-noise ratio."""
    specs, tallies, faintness = bench.specs, {}, {}
    for psnr_dB in ASKED_RECALL:
        tallies[psnr_dB], faintness[psnr_dB] = detection.tally_entries(find, specs, psnr_dB, bench.remembered)
    claims = chain.from_iterable(
        detection.detection_claims(found, bench.recipe, psnr_dB) for psnr_dB, found in tallies.items()
    )
    return tuple(claims), (detection.detection_table(tallies, bench.recipe), detection.faintness_table(faintness))


def _located(bench: Bench) -> Part:
    """Columns found by the network and the fit that follows it."""
    localizer = Automatic(bench.name)
    find = by_localizer(localizer)
    claims, tables = _found(bench, find)
    counts = detection.count_false(find, EMPTY_A_KIND * bench.images)
    claims += detection.false_claims(counts)
    measured: list[micrographs.Evenness] = []
    for micrograph in micrographs.MICROGRAPHS:
        image = micrographs.read_micrograph(_DATA / micrograph.file)
        found = localizer(image, micrograph.pixel_size_A)
        told, both = _beside_fits(found, "network, then scan-aware fit", image, micrograph)
        claims += told
        measured += both
    how = (
        "The same images, those without columns and the micrographs below, by the default of temimagenet locate: the "
        "network finds columns, a fit of all of them with the displacements of the rows leaves out those that do not "
        "stand above the noise, finds others in what it leaves over, and measures them."
    )
    tables += (detection.false_table(counts), micrographs.evenness_table(measured))
    return bench.part("located", "Columns found by the network and the fit after it", how, claims, tables)


def _false_columns(bench: Bench) -> Part:
    """Columns found where there are none."""
    counts = detection.count_false(_by_network(bench), EMPTY_A_KIND * bench.images)
    how = (
        "Images without columns, pixels of 0.06 to 0.2 Å and 2 to 200 electrons each on average: constant, ramp-like "
        "and non-linear backgrounds, the speckle of a film, and amorphous carbon of 20 to 200 Å, whose atoms lie "
        "anywhere, 2 to 20 an Å². Whatever is found is false."
    )
    return bench.part(
        "false-columns", "False columns", how, detection.false_claims(counts), (detection.false_table(counts),)
    )


def _denoising(bench: Bench) -> Part:
    """Denoising against filters."""
    images = denoising.denoise(bench.model, list(chain.from_iterable(bench.specs.values())), bench.remembered)
    how = (
        f"The same images at {denoising.INPUT_DB:g} dB as the recipe defines it, with the scan noise that it draws, "
        "0 to 0.3 Å. The network’s noNoise and three filters are held against the clean image, background included. "
        "Every filter has its best setting on each very image, found by looking at the truth, and for each measure its "
        "own: no filter does so well in practice. Filters do not straighten rows."
    )
    claims, table = denoising.denoising_claims(images), denoising.denoising_table(images)
    return bench.part("denoising", "Denoising", how, claims, (table,))


def _intensity(bench: Bench) -> Part:
    """Integrated intensities."""
    images = intensity.measure_sums(bench.model, bench.specs, bench.remembered)
    how = (
        "The images of detection at 20 dB. Each map is summed over the pixels nearest to each resolvable column and "
        "within 1.5 spot radii of it, as is the truth; each image’s mean is 1. The slope is that of the line through "
        "the origin: 1 keeps intensities, less loses them. The first map has its background; without, images whose "
        "spots run into each other do not tell how much of their mean is columns."
    )
    claims, table = intensity.intensity_claims(images), intensity.intensity_table(images, bench.recipe)
    return bench.part("intensity", "Intensities", how, claims, (table,))


def _marks(found: Any, verdict: Verdict, truth: Truth) -> dict[str, Any]:
    """Positions to be drawn: what was found, missed, and false."""
    return {
        "found": found[~verdict.false],
        "missed": truth.xy_px[verdict.asked & ~verdict.hit],
        "false": found[verdict.false],
    }


def _multislice(bench: Bench) -> Part:
    """The aberrated image of SrTiO3."""
    name = "SrTiO3 [001]"
    by_kind: dict[str, Tally] = {"Sr": Tally(), "TiO": Tally(), "Sr and TiO": Tally()}
    pictures: tuple[Picture, ...] = ()
    for number, spec in enumerate(bench.specs[name]):
        sample = detection.aberrated_sample(spec)
        found = _by_network(bench)(sample.image.numpy(), sample.pixel_size_A)
        for kind in by_kind:
            by_kind[kind] += judge(found, detection.aberrated_truth(sample, kind.split(" and "))).tally
        if number == 0:
            truth = detection.aberrated_truth(sample)
            marks = _marks(found, judge(found, truth), truth)
            title = "SrTiO3 [001], aberrated, multislice"
            pictures = sample_pictures(bench.model, sample, marks, bench.pictures, "multislice", title)
    both = by_kind.pop("Sr and TiO")
    least, over = ASKED_RECALL[20.0], f"{both.asked} columns, images: {bench.images}"
    claims = [
        Claim("Recall, Sr and TiO columns", both.recall, least, over=over),
        Claim("Precision, Sr and TiO columns", both.precision, least, over=over),
    ]
    claims += [
        Claim(f"Recall, {kind} columns", tally.recall, least, over=f"{tally.asked} columns")
        for kind, tally in by_kind.items()
    ]
    how = (
        "SrTiO3 [001], 100 Å thick, by multislice: 200 keV, 20 mrad, defocus 80 Å, C3 0.0257 mm, 98 to 196 mrad, the "
        "aberrated probe of Fig. 7 of Lin et al. (2021), whose spots have halos; 20 dB, scan noise of 0.2 Å rms. "
        "Training sees no aberrations and no multislice image. Pure oxygen columns are not asked for, nor false. The "
        "true masks and superresolution are drawn from the columns."
    )
    return bench.part("multislice", "Aberrated multislice image", how, claims, (), pictures)


def _beside_fits(
    found: FoundColumns, method: str, image: Float[NDArray[np.float64], "rows columns"], micrograph: Micrograph
) -> tuple[tuple[Claim, ...], list[micrographs.Evenness]]:
    """What a method found in a micrograph against the marks, and how evenly, beside Gaussian fits."""
    fitted = micrographs.fitted(image, micrograph.pixel_size_A)
    both = [
        micrographs.evenness(columns, micrograph, name)
        for name, columns in ((method, found), ("Gaussian fit, least squares", fitted))
    ]
    marked = micrographs.annotation_claims(found.xy_px, micrograph, _DATA)
    return (*marked, *micrographs.evenness_claims(*both)), both


def _micrographs(bench: Bench) -> Part:
    """Experimental images."""
    measured: list[micrographs.Evenness] = []
    claims: list[Claim] = []
    pictures: list[Picture] = []
    localizer = NetworkColumns(bench.name)
    for micrograph in micrographs.MICROGRAPHS:
        image = micrographs.read_micrograph(_DATA / micrograph.file)
        found = localizer(image, micrograph.pixel_size_A)
        told, both = _beside_fits(found, "network", image, micrograph)
        claims += told
        measured += both
        stem = Path(micrograph.file).stem.replace(".", "_")
        pictures += micrograph_pictures(
            bench.model, image, micrograph.pixel_size_A, bench.pictures, stem, micrograph.title
        )
    how = (
        "Two micrographs published with Lin et al. (2021). Their columns were marked by looking at each (tests/data); "
        "a found column is false if it is more than 0.45 Å from every mark, those near the border left out. Precise "
        "positions are unknown; that neighbours in a crystal are evenly apart is a measure of precision without them "
        "(lattice precision)."
    )
    return bench.part("micrographs", "Micrographs", how, claims, (micrographs.evenness_table(measured),), pictures)


def _shown_sample(bench: Bench, spec: SampleSpec) -> Sample:
    """An image as one would take it: 20 A wide, the first condition, 15 dB, rows displaced by 0.2 A rms."""
    sharp = replace(spec, condition=1, optics=CONDITIONS[1], field_of_view_A=20.0)
    return render([with_noise(sharp, 15.0)], MAPS)[0]


def _heldout(bench: Bench) -> Part:
    """Pictures of held-out images."""
    pictures: list[Picture] = []
    for name in _SHOWN:
        sample = _shown_sample(bench, bench.specs[name][0])
        truth = truth_of(sample, resolvable(sample.columns.xy_A, limits_of(sample, bench.remembered).xy_A))
        found = _by_network(bench)(sample.image.numpy(), sample.pixel_size_A)
        stem = "".join(letter if letter.isalnum() else "_" for letter in name)
        marks = _marks(found, judge(found, truth), truth)
        pictures += sample_pictures(bench.model, sample, marks, bench.pictures, stem, name)
    how = (
        "Structures of the library’s held-out split, 20 Å wide at 15 dB with scan noise of 0.2 Å rms per axis: the "
        "image with the columns found (red rings), missed (yellow) and false (blue), then every map, the network’s "
        "left of the true one in the same greys."
    )
    return bench.part("held-out", "Held-out images", how, pictures=pictures)


def _speed(bench: Bench) -> Part:
    """Time of one image."""
    measured = speed.measure_speed(bench.model)
    how = (
        "All maps and columns of one image, from its pixels to arrays in its own unit, on the processor named. The "
        "arithmetic of the convolutions is counted and held against what matrix products reach there."
    )
    return bench.part("speed", "Speed", how, speed.speed_claims(measured), (speed.speed_table(measured),))


PARTS: Mapping[str, Callable[[Bench], Part]] = {
    "detection": _detection,
    "located": _located,
    "false-columns": _false_columns,
    "denoising": _denoising,
    "intensity": _intensity,
    "multislice": _multislice,
    "micrographs": _micrographs,
    "held-out": _heldout,
    "speed": _speed,
}
"""What is measured, in the order of the report."""


def validate(name: str, images: int, folder: Path, recipe: Recipe | None = None) -> Iterator[Part]:
    """Measure a model, one part after another. A part that a folder holds of the same weights is read.

    Args:
        name: name or file of the model.
        images: images of each entry.
        folder: folder of the results: a JSON file for each part, `pictures`, and `remembered`, what no network changes.
        recipe: whose entries are drawn; "v1" unless given.

    Raises:
        ModelError: there is no such model, or it does not draw every map.
        PrecisionError: the folder cannot be written to.
    """
    bench = Bench(name, load_complete(name), images, folder, recipe or load_recipe("v1"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrecisionError(f"{folder}: no folder that results can be written to ({error.strerror})") from error
    for key, measure in PARTS.items():
        part = read_part(folder / f"{key}.json")
        if part is None or dict(part.origin) != bench.origin:
            part = measure(bench)
            write_part(part, folder)
        yield part
