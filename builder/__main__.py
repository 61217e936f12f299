"""Command line of the builder: `python -m builder plan|render|atlas|compare|convergence|validate|portal|...`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builder.atlas import compute_atlas
from builder.compare import draw_comparison
from builder.convergence import convergence_table
from builder.notebooks import execute_notebook
from builder.pictures import draw_pictures
from builder.portal import CHECKOUT, build_leaderboard, build_portal
from builder.render import estimate, render_library
from builder.serve import serve as serve_folder
from temimagenet.atlas import cache_folder, table_tasks
from temimagenet.errors import TEMImageNetError
from temimagenet.imaging.multislice import Accuracy
from temimagenet.recipe import load_recipe

app = typer.Typer(help="Render TEMImageNet libraries and their website.", no_args_is_help=True, add_completion=False)
console = Console()

RecipeName = Annotated[str, typer.Argument(help="A preset (demo, v1) or the path of a recipe in TOML.")]
Dense = Annotated[bool, typer.Option("--dense", help="Store all ten labels, for readers in other languages.")]
Bounds = Annotated[bool, typer.Option("--bounds", help="Store each column's Cramer-Rao bound: seconds an image.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes on this machine; all cores unless given.")]

_VALIDATION = CHECKOUT / "site" / "results" / "validation"
"""What was measured of the shipped weights, kept with the code: every portal shows it."""


_RECORDS = CHECKOUT / "site" / "results" / "leaderboard"
"""Records of the shipped methods, six images a case."""


@app.command()
def plan(recipe: RecipeName, dense: Dense = False, bounds: Bounds = False, workers: Workers = None) -> None:
    """Tell samples, bytes and expected time of a recipe without rendering it."""
    import os

    processes = workers or os.cpu_count() or 1
    loaded = load_recipe(recipe)
    told = estimate(loaded, dense=dense, bounds=bounds, workers=processes)
    table = Table(title=f"recipe {loaded.name}, {'dense' if dense else 'compact'}", show_header=False)
    table.add_row("entries", str(len(loaded.entries)))
    table.add_row("samples", f"{told.samples:,}")
    table.add_row("shards", str(told.shards))
    table.add_row("size", f"{told.bytes / 1e6:,.0f} MB")
    table.add_row("time", f"{told.seconds / 60:.1f} minutes with {processes} processes")
    console.print(table)


@app.command()
def render(
    recipe: RecipeName,
    out: Annotated[Path | None, typer.Option(help="The library's folder; build/library/NAME unless given.")] = None,
    dense: Dense = False,
    bounds: Bounds = False,
    workers: Workers = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to render on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
) -> None:
    """Render a library. Run again after an interruption, it goes on where it stopped."""
    if dry_run:
        plan(recipe, dense, bounds, workers)
        return
    loaded = load_recipe(recipe)
    root = out or Path("build/library") / loaded.name
    manifest = render_library(loaded, root, dense=dense, bounds=bounds, workers=workers, scheduler=scheduler)
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    size = sum(file["bytes"] for file in facts["files"].values())
    console.print(f"{facts['samples']:,} samples, {size / 1e6:,.0f} MB, checksums in {manifest}")


@app.command()
def atlas(
    recipe: Annotated[str, typer.Argument(help="Recipe whose crystals to compute: a preset or a path.")] = "v1",
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of tables; the cache that renders read unless given."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also gather all tables into this file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only Pt, Si and graphene, at twice the error.")] = False,
    tolerance: Annotated[float, typer.Option(min=1e-4, help="Standard error of an image over its mean.")] = 0.01,
    sweeps: Annotated[int, typer.Option(min=1, help="Most sweeps through the whole thickness.")] = 24,
    thin_sweeps: Annotated[int, typer.Option(min=0, help="Most further sweeps through the thinner half.")] = 400,
    keep_pairs: Annotated[bool, typer.Option("--keep-pairs", help="Keep beam pairs, for other aberrations.")] = False,
    device: Annotated[str, typer.Option(help="Where to propagate: cpu or cuda.")] = "cpu",
    workers: Workers = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to compute on.")] = None,
) -> None:
    """Compute the multislice tables of a recipe. Run again after an interruption, it goes on where it stopped."""
    if quick:
        tolerance = max(tolerance, 0.02)
    accuracy = Accuracy(
        tolerance=tolerance, least_sweeps=min(4, sweeps), most_sweeps=sweeps, most_thin_sweeps=thin_sweeps
    )
    tasks = [
        task
        for task in table_tasks(load_recipe(recipe), accuracy)
        if not quick or (task.specimen.kind, task.specimen.material, task.specimen.zone) in _QUICK
    ]
    folder = folder or cache_folder()
    paths = compute_atlas(
        tasks, folder, out=out, keep_pairs=keep_pairs, device=device, workers=workers, scheduler=scheduler
    )
    console.print(f"{len(paths)} tables in {folder}" + (f", gathered in {out}" if out else ""))


_QUICK = (("crystal", "Pt", (1, 1, 0)), ("crystal", "Si", (1, 1, 0)), ("crystal", "graphene", (0, 0, 1)))


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="Folder of the figures.")] = Path("site/docs/multislice"),
) -> None:
    """Redraw the documentation's comparison of both engines from the shipped atlas."""
    for file in draw_comparison(folder):
        console.print(str(file))


@app.command()
def pictures(
    folder: Annotated[Path, typer.Argument(help="Folder of the pictures.")] = Path("site/docs/micrographs"),
) -> None:
    """Redraw the pictures of the documentation's pages on micrographs by running the commands; a minute."""
    for file in draw_pictures(folder):
        console.print(str(file))


@app.command()
def notebooks() -> None:
    """Run the documentation's notebooks and keep what they print and draw; some minutes."""
    for file in sorted((CHECKOUT / "site" / "docs" / "notebooks").glob("*.ipynb")):
        execute_notebook(file)
        console.print(file.name)


@app.command()
def convergence(
    out: Annotated[Path, typer.Argument(help="The table.")] = Path("site/docs/multislice/convergence.md"),
) -> None:
    """Vary the multislice settings one at a time and write the documentation's table; forty minutes."""
    console.print(str(convergence_table(out, on_row=console.print)))


@app.command()
def validate(
    model: Annotated[str, typer.Option(help="A shipped model, or a file of weights that training wrote.")] = "all",
    images: Annotated[int, typer.Option(min=1, help="Images of each entry of the recipe v1.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("build/validation"),
) -> None:
    """Measure what a network reaches, part by part. Run again after an interruption, it goes on where it stopped."""
    from builder.validation.run import validate as measure

    kept, start = [], time.time()
    for part in measure(model, images, out):
        file = out / f"{part.name}.json"
        kept += [file.name] if file.stat().st_mtime < start else []
        table = Table("", "asked", "reached", "", "over", title=part.title, title_justify="left")
        for claim in part.claims:
            verdict = "told" if claim.asked == "–" else "met" if claim.met else "not met"
            table.add_row(claim.what, claim.asked, f"{claim.reached:.3g} {claim.unit}".strip(), verdict, claim.over)
        if part.claims:
            console.print(table)
    if kept:
        console.print(f"measured before, by the same weights: {', '.join(kept)}; without these files it is done anew")
    console.print(f"results in {out}; draw them with: python -m builder portal LIBRARY --validation {out}")


@app.command()
def portal(
    library: Annotated[Path, typer.Argument(help="A rendered library.")],
    out: Annotated[Path, typer.Option(help="Folder of the website.")] = Path("build/portal"),
    data_url: Annotated[str | None, typer.Option(help="Where the library is served, if not beside the pages.")] = None,
    site_url: Annotated[
        str | None, typer.Option(help="Where the pages are served, for sitemap and metadata; they work anywhere.")
    ] = None,
    docs: Annotated[bool, typer.Option(help="Build the documentation too.")] = True,
    records: Annotated[
        Path, typer.Option(help="Folder of the precision benchmark's records; those kept with the code unless given.")
    ] = _RECORDS,
    validation: Annotated[
        Path, typer.Option(help="Folder of the networks' validation; that of the shipped weights unless given.")
    ] = _VALIDATION,
    webgpu: Annotated[
        Path | None,
        typer.Option(help="Folder dist of npm's onnxruntime-web: “Try it” then offers graphics cards; 22 MB more."),
    ] = None,
) -> None:
    """Build the website of a library: static files for any web server. Run again, it makes only what changed."""
    report = build_portal(
        library,
        out,
        data_url=data_url,
        site_url=site_url,
        docs=docs,
        records=records,
        validation=validation,
        webgpu=webgpu,
        on_left_out=_tell_left_out,
    )
    table = Table("part", "files", "size", "made", "reused", title_justify="left")
    for name, part in sorted(report.parts.items(), key=lambda item: -item[1].bytes):
        told = (f"{part.files:,}", f"{part.bytes / 1e6:,.2f} MB", f"{part.made:,}", f"{part.reused:,}")
        table.add_row(name, *told)
    console.print(table)
    console.print(
        f"{report.samples:,} samples, {report.files:,} files, {report.bytes / 1e6:,.1f} MB without the library, "
        f"{report.links:,} links followed, {report.seconds:.1f} s; open with: python -m builder serve {out}"
    )


@app.command()
def leaderboard(
    records: Annotated[Path, typer.Argument(help="Folder of records of the precision benchmark.")] = Path(
        "build/leaderboard"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the website; its other pages stay.")] = Path("build/portal"),
    check: Annotated[bool, typer.Option("--check", help="Score the submitted positions anew; minutes.")] = False,
) -> None:
    """Draw the precision leaderboard."""
    console.print(str(build_leaderboard(records, out, check=check, on_left_out=_tell_left_out)))


def _tell_left_out(text: str) -> None:
    """Tell of a record that the leaderboard leaves out."""
    console.print(f"left out: {text}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def publish(
    library: Annotated[Path, typer.Argument(help="A rendered library.")],
    repo: Annotated[str, typer.Option(help="Repository on the Hugging Face Hub: owner/name.")],
    tag: Annotated[str | None, typer.Option(help="Name of the version; v and the library's version.")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="Weights to publish along; those of the package unless given.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Of a new repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be sent.")] = False,
) -> None:
    """Publish a library on the Hugging Face Hub. Run again after an interruption, it goes on where it stopped.

    HF_TOKEN or `hf auth login` says who you are; what is there already is not sent again.
    """
    from builder import publish as hub

    plan = hub.plan_publication(library, repo, tag=tag, weights=weights or hub.shipped_weights())
    for name, _, size in plan.upload:
        console.print(f"send   {size / 1e6:9.2f} MB  {name}", markup=False, highlight=False)
    for name in plan.delete:
        console.print(f"remove               {name}", markup=False, highlight=False)
    console.print(
        f"{len(plan.upload)} files, {plan.bytes / 1e6:,.1f} MB to send; {len(plan.kept)} are there already; "
        f"tag {plan.tag}{' is there' if plan.tagged else ''}",
        markup=False,
    )
    if not dry_run:
        console.print(f"{repo} is at commit {hub.publish(plan, private=private)}, {plan.tag}", markup=False)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder to serve.")] = Path("build/portal"),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; another is found if it is taken.")] = 8000,
    allow_origin: Annotated[
        str | None, typer.Option(help="Origin of pages that may read the files from another server, or *.")
    ] = None,
) -> None:
    """Serve a website, or a library for one that is served elsewhere, on this machine, with byte ranges."""
    serve_folder(folder, host, port, allow_origin=allow_origin)


@app.command("release-check")
def release_check(
    out: Annotated[Path, typer.Option(help="Folder of the distributions.")] = Path("dist"),
) -> None:
    """Build wheel and sdist, try the wheel in an empty environment, list licences and sizes."""
    from builder.release import check_release, extras

    for line in check_release(out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    table = Table("extra", "distributions more", "MB", title="what `pip install` adds")
    for name, weight in extras().items():
        told = f"without {', '.join(weight.missing)}" if weight.missing else ""
        table.add_row(name or "the package", str(weight.packages), f"{weight.bytes / 1e6:.0f} {told}".strip())
    console.print(table)


def main() -> None:
    """Run the command line; an error of ours is one clear line and exit status 1."""
    try:
        app()
    except (TEMImageNetError, FileNotFoundError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
