"""Batches: many images, one job each; one that fails is told and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from temimagenet import __version__
from temimagenet.errors import LocalizeError, MicrographError, TEMImageNetError
from temimagenet.localize.protocol import Localizer
from temimagenet.micrographs.files import (
    FORMATS,
    check_folder,
    encode_columns,
    expand,
    result_names,
    tell_columns,
    write_whole,
)
from temimagenet.micrographs.methods import Located
from temimagenet.micrographs.methods import locate as find
from temimagenet.micrographs.pictures import overlay_png, overlay_svg, png, tiff, to_8bit
from temimagenet.micrographs.read import Micrograph, read_micrograph

__all__ = ["Done", "Opening", "analyse", "enhance", "locate", "report", "run", "strain"]


@dataclass(frozen=True)
class Done:
    """What a job did with one image.

    Attributes:
        contents: what to write, by what follows the image's name in the file's.
        told: numbers and words for the summary.
        notes: what a user should know.
    """

    contents: Mapping[str, bytes | str]
    told: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opening:
    """How images are opened: what `read_micrograph` is told of each."""

    pixel_size_A: float | None = None
    signal: str | None = None
    frame: str | None = None

    def read(self, path: Path) -> Micrograph:
        """One image."""
        return read_micrograph(path, signal=self.signal, frame=self.frame, pixel_size_A=self.pixel_size_A)


_SHOWN = (
    "columns", "flagged", "standard_error_pm", "strained", "classes", "sublattices", "nearest_pm", "maps"
)  # fmt: skip
"""What the summary's table shows of each image, as far as it is told."""

_HEADS = {"standard_error_pm": "error (pm)", "sublattices": "sites", "nearest_pm": "nearest"}

Job = Callable[[Micrograph], Done]


@dataclass
class _Line:
    """One image's line of the summary."""

    image: Path
    seconds: float = 0.0
    error: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def as_json(self) -> str:
        """The line for other programs."""
        told = {"image": str(self.image), "status": "failed" if self.error else "done", **self.told}
        if self.error:
            told["error"] = self.error
        told |= {
            "notes": list(self.notes), "files": [str(file) for file in self.files], "seconds": round(self.seconds, 3)
        }  # fmt: skip
        return json.dumps(told)


def run(verb: str, job: Job, images: Sequence[str], opening: Opening, out: Path, *, jsonl: bool = False) -> int:
    """Do a job with each image and write its files, and a record of how they were made.

    Args:
        verb: the job's name, which ends the record's name: `NAME_locate.json`.
        job: what to do with an image.
        images: files, folders and patterns.
        opening: how to open them.
        out: folder of the results.
        jsonl: print a JSON object for each image instead of a table.

    Returns:
        How many images failed.

    Raises:
        MicrographError: a folder or pattern without images, or results that cannot be written there.
        KeyboardInterrupt: the user ended it; what was done is told first.
    """
    files = expand(images)
    check_folder(out)
    names = result_names(files, lambda name, file: _belongs_to_another(out / f"{name}_{verb}.json", file))
    told, shown = Console(stderr=True), Console()
    lines = []
    columns = (
        TextColumn("{task.description}", table_column=None), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=told, transient=True, disable=not told.is_terminal) as progress:
        bar = progress.add_task(verb, total=len(files))
        try:
            for file, name in zip(files, names, strict=True):
                progress.update(bar, description=escape(file.name[:40]))
                line = _one(verb, job, file, name, opening, out, files)
                lines.append(line)
                if jsonl:
                    print(line.as_json(), flush=True)
                elif line.error:
                    failure = f"{escape(str(file))}: {escape(line.error)}"
                    progress.console.print(f"[bold red]failed:[/] {failure}", soft_wrap=True)
                progress.advance(bar)
        except KeyboardInterrupt:
            progress.stop()
            if not jsonl:
                _show(shown, lines, out, len(files))
            raise
    failed = sum(bool(line.error) for line in lines)
    if not jsonl:
        _show(shown, lines, out, len(files))
    return failed


def _one(
    verb: str, job: Job, file: Path, name: str, opening: Opening, out: Path, inputs: Sequence[Path]
) -> _Line:  # fmt: skip
    """One image, whatever happens."""
    line, start = _Line(file), perf_counter()
    try:
        micrograph = opening.read(file)
        done = job(micrograph)
        record = {
            "source": str(file.resolve()), "signal": micrograph.title, "pixel_size_A": micrograph.pixel_size_A,
            "calibration": micrograph.calibration, "facts": dict(micrograph.facts), **done.told,
            "notes": [*micrograph.notes, *done.notes], "version": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        contents = {**done.contents, f"_{verb}.json": json.dumps(record, indent=1, default=str)}
        line.files = tuple(write_whole(out / f"{name}{end}", part, inputs) for end, part in contents.items())
        line.told, line.notes = done.told, (*micrograph.notes, *done.notes)
    except TEMImageNetError as error:
        line.error = str(error)
    except MemoryError:
        line.error = "not enough memory: crop or bin it"
    except Exception as error:
        line.error = f"unexpected {type(error).__name__}: {error} (please report it)"
    line.seconds = perf_counter() - start
    return line


def _belongs_to_another(record: Path, file: Path) -> bool:
    """Whether results of this name were made of another file."""
    try:
        source = json.loads(record.read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(source != str(file.resolve()))


def _show(console: Console, lines: Sequence[_Line], out: Path, count: int) -> None:
    """The summary: a table of what was done, notes, how many of all that were asked for, and where the files are."""
    done = [line for line in lines if not line.error]
    if done:
        # What is the same for all is in the records.
        heads = [head for head in _SHOWN if any(head in line.told for line in done)]
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("image", overflow="fold")
        for head in heads:
            table.add_column(_HEADS.get(head, head), justify="right")
        table.add_column("seconds", justify="right")
        for line in done:
            cells = (_cell(line.told.get(head)) for head in heads)
            table.add_row(escape(line.image.name), *cells, f"{line.seconds:.1f}")
        console.print(table)
    for note in dict.fromkeys(note for line in done for note in line.notes):
        of = [line.image.name for line in done if note in line.notes]
        console.print(f"[yellow]note[/] ({escape(of[0] if len(of) == 1 else f'{len(of)} images')}): {escape(note)}")
    if count > 1 or not done:
        stopped = ", then stopped" if len(lines) < count else ""
        style = "" if len(done) == count else "bold red"
        console.print(f"{len(done)} of {count} images done{stopped}", style=style)
    if done:
        console.print(f"results are in {escape(str(out))}")


def _cell(value: Any) -> str:
    """A number or word of the table."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def locate(localizer: Localizer, formats: Sequence[str], *, pictures: bool = True) -> Job:
    """The job that finds columns and writes them, with overlays unless no pictures are wanted.

    Raises:
        MicrographError: an unknown format.
    """
    unknown = [form for form in formats if form not in FORMATS]
    if unknown:
        raise MicrographError(f"format {', '.join(unknown)}: expected some of {', '.join(FORMATS)}")

    def job(micrograph: Micrograph) -> Done:
        found = find(localizer, micrograph)
        columns = found.columns
        told = {**tell_columns(columns), "method": found.method}
        facts = {
            "image": micrograph.path.name, "signal": micrograph.title, "calibration": micrograph.calibration, **told,
            "notes": [*micrograph.notes, *found.notes], "version": __version__,
            "unit": "positions from the centre of the first pixel, x along rows, y downwards",
        }  # fmt: skip
        contents: dict[str, bytes | str] = {
            f"_columns.{FORMATS[form][0]}": encode_columns(columns, form, facts) for form in dict.fromkeys(formats)
        }
        if pictures:
            contents["_columns.png"] = overlay_png(micrograph.image, columns)
            contents["_columns.svg"] = overlay_svg(micrograph.image, columns)
        return Done(contents, told, found.notes)

    return job


def strain(localizer: Localizer, reference_px: tuple[float, float, float, float] | None) -> Job:
    """The job that finds columns and writes how the lattice around each is strained, with maps.

    Args:
        localizer: finds the columns.
        reference_px: left, top, right and bottom of the unstrained region in pixels; the whole image where None.
    """
    from temimagenet.analysis import measure_strain
    from temimagenet.micrographs.analyses import check_region, strain_files, strain_notes, tell_strain

    def job(micrograph: Micrograph) -> Done:
        check_region(reference_px, micrograph.image.shape)
        found = find(localizer, micrograph)
        measured = _or_doubt(found, lambda: measure_strain(found.columns, reference_px))
        told = {**tell_columns(found.columns), **tell_strain(measured), "method": found.method}
        return Done(strain_files(measured), told, (*found.notes, *strain_notes(found.columns, reference_px)))

    return job


def analyse(localizer: Localizer, classes: int | None = None) -> Job:
    """The job that finds columns and sorts them: by intensity, by place in the unit cell, and by their neighbours.

    Args:
        localizer: finds the columns.
        classes: number of classes of intensity; told by the data where None.
    """
    from temimagenet.micrographs.analyses import analyse_columns, analysis_files, tell_analysis

    def job(micrograph: Micrograph) -> Done:
        found = find(localizer, micrograph)
        analysis = _or_doubt(found, lambda: analyse_columns(found.columns, classes))
        told = {**tell_columns(found.columns), **tell_analysis(analysis), "method": found.method}
        return Done(analysis_files(found.columns, analysis), told, (*found.notes, *analysis.notes))

    return job


def _or_doubt(found: Located, measure: Callable[[], Any]) -> Any:
    """What is measured of columns; where it cannot be, what is known of how they were found is told, too."""
    try:
        return measure()
    except LocalizeError as error:
        raise LocalizeError(". ".join((str(error), *found.notes)).rstrip(".")) from error


def enhance(model: str, maps: Sequence[str], device: str) -> Job:
    """The job that draws maps and writes them as float32 TIFF and 8-bit PNG.

    Args:
        model: a shipped model, or a file that training wrote.
        maps: tasks (`zoo.TASKS`) or labels; unless given the model's own, of one that does all "denoise" and
            "superresolution".
        device: where to work.

    Raises:
        ModelError: no such model, or a map that it does not draw.
    """
    from temimagenet.errors import ModelError
    from temimagenet.models.predict import load_model
    from temimagenet.models.unet import FINE_MAPS
    from temimagenet.models.zoo import TASKS

    network = load_model(model)
    usual = [name for name in _USUAL if name in network.maps]
    wanted = [TASKS.get(name, name) for name in maps] or usual or list(network.maps)
    missing = [name for name in wanted if name not in network.network.maps]
    if missing:
        known = ", ".join([*TASKS, *(name for name in network.network.maps if name not in TASKS.values())])
        raise ModelError(f"maps {', '.join(missing)}: expected some of {known}")

    def job(micrograph: Micrograph) -> Done:
        size = micrograph.calibrated()
        drawn = network.predict(micrograph.image, size, wanted, device=device)
        contents: dict[str, bytes | str] = {}
        for name, values in drawn.maps.items():
            contents[f"_{name}.tif"] = tiff(values, size / 2.0 if name in FINE_MAPS else size)
            contents[f"_{name}.png"] = png(to_8bit(values, (0.0, 1.0) if "Mask" in name else None))
        return Done(contents, {"maps": ", ".join(wanted), "pixel_size_A": size, "model": model})

    return job


def report(localizer: Localizer, model: str, device: str) -> Job:
    """The job that draws a page on an image: its maps, columns, lattice and errors."""
    from temimagenet.micrographs.page import page
    from temimagenet.models.predict import load_model

    network = load_model(model or "all")

    def job(micrograph: Micrograph) -> Done:
        size = micrograph.calibrated()
        found = find(localizer, micrograph)
        drawn = network.predict(
            micrograph.image, size, [name for name in _USUAL if name in network.network.maps], device=device
        ).maps
        text = page(micrograph, found, drawn, str(model or "all"))
        told = {**tell_columns(found.columns), "method": found.method}
        return Done({"_report.html": text}, told, found.notes)

    return job


_USUAL = ("noNoise", "noNoiseNoBackgroundSuperresolution")
"""Maps that are drawn unless others are asked for."""
