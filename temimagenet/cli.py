"""The command line `temimagenet`: what a user needs besides Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from temimagenet.errors import ModelError, TEMImageNetError

# Commands import what they need: torch takes seconds, and help should not.
if TYPE_CHECKING:
    from temimagenet import atlas as tables
    from temimagenet.micrographs.batch import Job, Opening

app = typer.Typer(help="Atoms in electron micrographs.", no_args_is_help=True, add_completion=False)
console = Console()


def _tell_version(wanted: bool) -> None:
    """Print the version and end, where it is asked for."""
    if wanted:
        from temimagenet import __version__

        console.print(f"temimagenet {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end.")
    ] = False,
) -> None:
    """Atoms in electron micrographs."""


@app.command()
def atlas(
    structure: Annotated[Path, typer.Argument(help="Structure file (CIF).")],
    zone: Annotated[str, typer.Option(help="Zone axis along the beam.")] = "[001]",
    tolerance: Annotated[float, typer.Option(min=1e-4, help="Standard error of an image over its mean.")] = 0.01,
    device: Annotated[str, typer.Option(help="Where to propagate: cpu or cuda.")] = "cpu",
    keep_pairs: Annotated[
        bool, typer.Option("--keep-pairs", help="Keep beam pairs: any defocus and aberrations after the fact.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
) -> None:
    """Compute multislice tables of a crystal, for `OnTheFly(..., engine="multislice")`. Kept in the user's cache."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from temimagenet import atlas as tables
    from temimagenet.device import check_device
    from temimagenet.imaging.multislice import Accuracy
    from temimagenet.recipe import recipe_for_structure

    folder = tables.cache_folder()
    check_device(device)
    tables.check_folder(folder)
    wanted = tables.table_tasks(recipe_for_structure(structure, zone), Accuracy(tolerance=tolerance))
    tasks = [task for task in wanted if not tables.is_computed(task, folder, keep_pairs=keep_pairs)]
    if not tasks:
        console.print(f"all tables are in {folder} already")
        return
    seconds = [tables.estimate_seconds(task, device) for task in tasks]
    for task, (least, most) in zip(tasks, seconds, strict=True):
        energy = task.pupils[0].energy_keV
        console.print(f"{energy:g} keV, {len(task.pupils)} apertures: {least / 60:.1f} to {most / 60:.1f} minutes")
    least, most = (sum(part) / 60.0 for part in zip(*seconds, strict=True))
    console.print(
        f"most crystals take one to three times the least: {least:.1f} to {3.0 * least:.1f} minutes on {device}; at "
        f"worst, where thin layers stay noisy, {most:.0f}"
    )
    console.print(f"tables go to {folder}", markup=False)
    if not yes and not typer.confirm("start?", default=True):
        raise typer.Exit(1)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for task in tasks:
            most_sweeps = task.accuracy.most_sweeps + task.accuracy.most_thin_sweeps
            bar = progress.add_task(f"{task.pupils[0].energy_keV:g} keV", total=most_sweeps)

            def advance(sweeps: int, error: float, bar: object = bar, task: tables.TableTask = task) -> None:
                text = f"{task.pupils[0].energy_keV:g} keV, standard error {100 * error:.2f} %"
                progress.update(bar, completed=sweeps, description=text)  # type: ignore[arg-type]

            tables.compute_table(task, folder, keep_pairs=keep_pairs, device=device, on_progress=advance)
            progress.update(bar, completed=most_sweeps)
    console.print(
        f"done: OnTheFly({str(structure)!r}, {zone!r}, engine='multislice') draws from these tables", markup=False
    )


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, logs, weights, model card.")],
    preset: Annotated[
        str, typer.Option(help="fast (two CPU cores, some two hours), paper, gpu, or faster-rcnn.")
    ] = "fast",
    task: Annotated[
        str,
        typer.Option(help="circularMask, gaussianMask, superresolution, denoise, denoise-background, or all at once."),
    ] = "all",
    data: Annotated[
        str | None, typer.Option(help="on-the-fly, shards (--library), or mixed; the preset's unless given.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe or CIF file to render on the fly.")] = None,
    zone: Annotated[str | None, typer.Option(help="Zone axis of a CIF file.")] = None,
    library: Annotated[str | None, typer.Option(help="Folder of a rendered library.")] = None,
    network: Annotated[str | None, typer.Option(help="atomnet, unet or faster-rcnn.")] = None,
    loss: Annotated[str | None, typer.Option(help="mse, chi10 or chi100.")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Weights to begin with: a file or atomnet; imagenet for a Faster R-CNN.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the whole run.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the library instead.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.")] = None,
    precision: Annotated[str | None, typer.Option(help="As Lightning spells it: 32-true, bf16-mixed.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that render or read.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and examples.")] = None,
    device: Annotated[str, typer.Option(help="Lightning's accelerator: cpu, gpu or auto.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many devices, or which.")] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    rounds: Annotated[int | None, typer.Option(min=1, help="Stop after so many rounds; go on with --resume.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a network; stop it when you like and go on with --resume."""
    from temimagenet.models.train import settings_for
    from temimagenet.models.train import train as run

    if zone is not None and not (recipe or "").lower().endswith(".cif"):
        raise ModelError(f"zone {zone}: of a structure; name its CIF file by --recipe")
    if epochs is not None and steps is None:
        steps = 0
    if steps and epochs is None:
        epochs = 0
    chosen = settings_for(
        preset, task, data=data, recipe=recipe, zone=zone, library=library, network=network, loss=loss,
        start_from=start_from, steps=steps, epochs=epochs, batch=batch, learning_rate=learning_rate,
        precision=precision, workers=workers, seed=seed,
    )  # fmt: skip
    many: int | str = int(devices) if devices.isdigit() else devices
    weights = run(chosen, out, resume=resume, device=device, devices=many, nodes=nodes, most_rounds=rounds)
    if weights.is_file():
        console.print(f"done: load_model({str(weights)!r}); {weights.parent / 'model_card.md'} tells how it went")
    else:
        console.print("stopped before the end: go on with --resume", markup=False)


@app.command()
def adapt(
    structure: Annotated[Path, typer.Argument(help="Structure file (CIF) of the crystal.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    zone: Annotated[str, typer.Option(help="Zone axis along the beam.")] = "[001]",
    pixel_size: Annotated[
        str, typer.Option(help="Edge of your images' pixels: 0.13 (angstrom), 13pm, 0.013nm; several unless given.")
    ] = "",
    optics: Annotated[
        str, typer.Option(help="keV,mrad,source size in angstrom, such as 200,24,0.9; those of v1 unless given.")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps of eight examples, a second each on a core.")] = 150,
    start_from: Annotated[str, typer.Option(help="Weights to begin with.")] = "atomnet",
    images: Annotated[int, typer.Option(min=1, help="Images to judge by, before and after.")] = 24,
    device: Annotated[str, typer.Option(help="Lightning's accelerator: cpu, gpu or auto.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Teach the shipped network one crystal, and tell what that brings."""
    from rich.table import Table

    from temimagenet.micrographs.units import parse_length
    from temimagenet.models.adapt import adapt as run
    from temimagenet.models.adapt import adapt_settings

    try:
        numbers = tuple(float(part) for part in optics.split(",")) if optics else ()
    except ValueError as error:
        raise ModelError(f"optics {optics!r}: expected three numbers, such as 200,24,0.9") from error
    if structure.suffix.lower() != ".cif":
        raise ModelError(f"{structure}: expected a structure file (.cif)")
    if zone.isdigit():
        zone = f"[{zone}]"
    size = parse_length(pixel_size) if pixel_size else 0.0
    chosen = adapt_settings(structure, zone, pixel_size_A=size, optics=numbers, steps=steps, start_from=start_from)
    done = run(chosen, out, images=images, resume=resume, device=device)
    table = Table(title=f"{images} rendered images that were not learnt from")
    for head in ("", "recall", "precision", "error (pm)", "denoised (dB)", "as seen (dB)"):
        table.add_column(head)
    for name, row in (("before", done.before), ("after", done.after)):
        table.add_row(
            name, f"{row.recall:.3f}", f"{row.precision:.3f}", f"{row.rmse_pm:.2f}", f"{row.denoised_dB:.2f}",
            f"{row.seen_dB:.2f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"load_model({str(done.weights)!r})", markup=False)


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="Folder of TEMImageNet v1.3, which holds image/00001.png.")],
    out: Annotated[Path, typer.Argument(help="Folder of the library.")],
    origin: Annotated[float, typer.Option(help="Number of the first row and column in the files of positions.")] = 1.0,
    engine: Annotated[str, typer.Option(help="What rendered the images: linear or multislice.")] = "linear",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Write the published TEMImageNet v1.3 as a library. Run again after an interruption, it goes on."""
    from typing import cast, get_args

    from temimagenet.bar import progress_bar
    from temimagenet.errors import DatasetError
    from temimagenet.recipe import Engine
    from temimagenet.storage.published import PublishedFolder, convert_published

    if engine not in get_args(Engine):
        raise DatasetError(f"unknown engine {engine!r}: expected one of {', '.join(get_args(Engine))}")
    found = PublishedFolder.open(folder, origin, cast(Engine, engine))
    if found.absent:
        console.print(f"absent: {', '.join(found.absent)}", markup=False)
    with progress_bar() as progress:
        bar = progress.add_task("converting", total=len(found.numbers))

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        manifest, left_out = convert_published(found, out, workers=workers, on_samples=advance)
    if left_out:
        some = ", ".join(f"{number:05d}" for number in left_out[:5])
        console.print(f"left out: {len(left_out)} images that lack what others have, such as {some}", markup=False)
    console.print(f"done: TEMImageNet({str(out)!r}); checksums in {manifest}", markup=False)


Images = Annotated[list[str], typer.Argument(help="Files, folders or patterns.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; made where there is none.")]
PixelSize = Annotated[
    str,
    typer.Option(help="Edge of a pixel: 0.13 (angstrom), 13pm, 0.013nm. The file's own unless given."),
]
SignalOption = Annotated[str | None, typer.Option("--signal", help="Of a file with several: number or part of title.")]
FrameOption = Annotated[str | None, typer.Option("--frame", help="Of a stack: number, -1 for the last, or sum.")]
Method = Annotated[
    str,
    typer.Option(
        help="auto, scan-aware, scan-aware-network, network, network-otsu, gaussian (Poisson), gaussian-ls, otsu or "
        "faster-rcnn. auto: a network finds the columns, a fit of all of them with the rows' displacements measures "
        "them, adds what they leave over and drops what is nothing; above 4,000 columns the network does all."
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="Shipped model, or a file that training wrote.")]
Device = Annotated[str, typer.Option(help="Where networks work: cpu, cuda, cuda:1 or what else torch has.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="Print a JSON object for each image instead of a table.")]


@app.command()
def locate(
    images: Images,
    pixel_size: PixelSize = "",
    method: Method = "auto",
    model: ModelOption = "",
    out: Out = Path("results"),
    format: Annotated[list[str], typer.Option(help="csv, json, hdf5, mat or xyz; several: csv,mat.")] = ["csv"],  # noqa: B006
    pictures: Annotated[bool, typer.Option(help="Draw the columns on the image, as PNG and SVG.")] = True,
    signal: SignalOption = None,
    frame: FrameOption = None,
    device: Device = "cpu",
    jsonl: JsonLines = False,
) -> None:
    """Find atomic columns: positions with standard errors, and pictures of them."""
    from temimagenet.micrographs import batch
    from temimagenet.micrographs.methods import choose_method

    formats = [part.strip().lower() for text in format for part in text.split(",")]
    job = batch.locate(choose_method(method, model, device), formats, pictures=pictures)
    _run("locate", job, images, _opening(pixel_size, signal, frame), out, device, jsonl)


@app.command()
def enhance(
    images: Images,
    pixel_size: PixelSize = "",
    model: ModelOption = "all",
    maps: Annotated[
        str,
        typer.Option(
            help="denoise, denoise-background, superresolution, circularMask, gaussianMask, or other labels; several "
            "with commas. Unless given that of --model; denoise,superresolution where it draws all."
        ),
    ] = "",
    out: Out = Path("results"),
    signal: SignalOption = None,
    frame: FrameOption = None,
    device: Device = "cpu",
    jsonl: JsonLines = False,
) -> None:
    """Clean images, or draw other maps of them, by a network: float TIFF with pixel size, and PNG."""
    from temimagenet.micrographs import batch

    job = batch.enhance(model, [name.strip() for name in maps.split(",") if name.strip()], device)
    _run("enhance", job, images, _opening(pixel_size, signal, frame), out, device, jsonl)


@app.command()
def report(
    images: Images,
    pixel_size: PixelSize = "",
    method: Method = "auto",
    model: ModelOption = "",
    out: Out = Path("results"),
    signal: SignalOption = None,
    frame: FrameOption = None,
    device: Device = "cpu",
    jsonl: JsonLines = False,
) -> None:
    """Write a page on each image: maps, columns by intensity, errors, lattice. One HTML file, complete in itself."""
    from temimagenet.micrographs import batch
    from temimagenet.micrographs.methods import choose_method, uses_network

    # A model draws the maps too, but for Faster R-CNN, which draws none.
    localizer = choose_method(method, model if uses_network(method) else "", device)
    job = batch.report(localizer, "" if method == "faster-rcnn" else model, device)
    _run("report", job, images, _opening(pixel_size, signal, frame), out, device, jsonl)


@app.command()
def strain(
    images: Images,
    pixel_size: PixelSize = "",
    reference: Annotated[
        str,
        typer.Option(help="Unstrained region in pixels: left,top,right,bottom. The whole image's mean unless given."),
    ] = "",
    method: Method = "auto",
    model: ModelOption = "",
    out: Out = Path("results"),
    signal: SignalOption = None,
    frame: FrameOption = None,
    device: Device = "cpu",
    jsonl: JsonLines = False,
) -> None:
    """Map strain and rotation of the lattice, column by column, against a region of the same image."""
    from temimagenet.micrographs import batch
    from temimagenet.micrographs.analyses import parse_region
    from temimagenet.micrographs.methods import choose_method

    job = batch.strain(choose_method(method, model, device), parse_region(reference))
    _run("strain", job, images, _opening(pixel_size, signal, frame), out, device, jsonl)


@app.command()
def analyse(
    images: Images,
    pixel_size: PixelSize = "",
    classes: Annotated[
        int, typer.Option(min=0, help="Number of classes of intensity; 0: as many as the data tell apart, up to 6.")
    ] = 0,
    method: Method = "auto",
    model: ModelOption = "",
    out: Out = Path("results"),
    signal: SignalOption = None,
    frame: FrameOption = None,
    device: Device = "cpu",
    jsonl: JsonLines = False,
) -> None:
    """Sort columns by intensity and into sublattices, fit the lattice, and measure distances to neighbours."""
    from temimagenet.micrographs import batch
    from temimagenet.micrographs.methods import choose_method

    job = batch.analyse(choose_method(method, model, device), classes or None)
    _run("analyse", job, images, _opening(pixel_size, signal, frame), out, device, jsonl)


def _opening(pixel_size: str, signal: str | None, frame: str | None) -> Opening:
    """How images are opened, from the options."""
    from temimagenet.micrographs.batch import Opening
    from temimagenet.micrographs.units import parse_length

    return Opening(parse_length(pixel_size) if pixel_size else None, signal, frame)


def _run(verb: str, job: Job, images: list[str], opening: Opening, out: Path, device: str, jsonl: bool) -> None:
    """Do a job with every image; exit status 1 where one failed."""
    import logging

    from temimagenet.device import check_device
    from temimagenet.micrographs import batch

    check_device(device)
    for reader in ("rsciio", "tifffile"):
        # What they say of damaged files is told in the summary.
        logging.getLogger(reader).setLevel(logging.CRITICAL)
    if batch.run(verb, job, images, opening, out, jsonl=jsonl):
        raise typer.Exit(1)


@app.command("app")
def desktop(
    file: Annotated[Path | None, typer.Argument(help="A micrograph, or a session that was saved.")] = None,
    pixel_size: PixelSize = "",
    signal: SignalOption = None,
    frame: FrameOption = None,
) -> None:
    """Open the desktop app: napari with a dock that finds, refines and analyses columns, and points to edit."""
    from temimagenet.app.launch import launch
    from temimagenet.micrographs.units import parse_length

    launch(file, signal=signal, frame=frame, pixel_size_A=parse_length(pixel_size) if pixel_size else None)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="all, circularMask, gaussianMask, superresolution, denoise, denoise-background, or a file of weights."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The file, such as all.onnx or all.pt2.")],
    format: Annotated[
        str | None, typer.Option(help="onnx, or torch: a program of torch.export. By the file's ending unless given.")
    ] = None,
) -> None:
    """Write a network for other programs: ONNX of any image size, or a program of torch.export for C++."""
    from temimagenet.models import load_model
    from temimagenet.models.export import export_model

    export_model(load_model(model), out, format)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", markup=False)


@app.command()
def repack(
    library: Annotated[Path, typer.Argument(help="A library.")],
    out: Annotated[Path, typer.Argument(help="Folder of the copy.")],
    labels: Annotated[
        str, typer.Option(help="Maps to store, separated by commas; those of the library unless given.")
    ] = "",
) -> None:
    """Write a library anew for fast reading: nothing compressed, chosen labels drawn once and stored."""
    from temimagenet.storage import repack_library

    names = [name.strip() for name in labels.split(",") if name.strip()]
    manifest = repack_library(library, out, names or None, lambda name: console.print(name, markup=False))
    console.print(f"checksums in {manifest}", markup=False)


def main() -> None:
    """Run the command line; an error of ours is one clear line and exit status 1."""
    try:
        app()
    except TEMImageNetError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
