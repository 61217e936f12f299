"""The command line `temimagenet`: what a user needs besides Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from temimagenet import atlas as tables
from temimagenet.device import check_device
from temimagenet.errors import TEMImageNetError
from temimagenet.imaging.multislice import Accuracy
from temimagenet.recipe import recipe_for_structure

app = typer.Typer(help="Atoms in electron micrographs.", no_args_is_help=True, add_completion=False)
console = Console()


@app.callback()
def _root() -> None:
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


def main() -> None:
    """Run the command line; an error of ours is one clear line and exit status 1."""
    try:
        app()
    except TEMImageNetError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
