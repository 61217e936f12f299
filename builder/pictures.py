"""Pictures of the documentation's pages on micrographs: what the command line makes of one rendered image."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory

import ase.io
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure
from PIL import Image

from builder.film import EXAMPLE, render_film
from temimagenet.micrographs.batch import Job, Opening, analyse, enhance, locate, report, run, strain
from temimagenet.micrographs.methods import choose_method
from temimagenet.micrographs.pictures import png, tiff, to_8bit

__all__ = ["draw_pictures"]

_WIDE = 900
"""Edge of the pictures; a page of the documentation is no wider."""


def draw_pictures(folder: Path) -> list[Path]:
    """Render the example film, run the commands on it, and keep what they draw as WebP.

    Args:
        folder: where the pictures go.

    Returns:
        The files.
    """
    made = render_film(EXAMPLE)
    folder.mkdir(parents=True, exist_ok=True)
    # The reference is the substrate, short of the boundary.
    edge = EXAMPLE.boundary * made.image.shape[1] - 40.0
    localizer = choose_method("auto")
    jobs: dict[str, Job] = {
        "locate": locate(localizer, ["csv", "xyz"]),
        "enhance": enhance("all", ["denoise", "superresolution"], "cpu"),
        "strain": strain(localizer, (0.0, 0.0, edge, made.image.shape[0] - 1.0)),
        "analyse": analyse(localizer),
        "report": report(localizer, "", "cpu"),
    }
    with TemporaryDirectory() as name:
        results = Path(name)
        source = results / "film.tif"
        source.write_bytes(tiff(made.image, made.pixel_size_A))
        for verb, job in jobs.items():
            run(verb, job, [str(source)], Opening(), results)
        drawn = {
            "image": png(to_8bit(made.image)),
            **{
                end: (results / f"film_{file}.png").read_bytes()
                for end, file in {
                    "locate": "columns", "denoised": "noNoise", "superresolution": "noNoiseNoBackgroundSuperresolution",
                    "strain": "strain", "classes": "classes", "lattice": "lattice", "neighbours": "neighbours",
                }.items()
            },
        }  # fmt: skip
        drawn["ase"] = _in_ase(results / "film_columns.xyz")
        page = (results / "film_report.html").read_text(encoding="utf-8")
    # The distributions: the first plot of the page.
    found = re.search(r'class="plot"><img alt="[^"]*" src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    drawn["report"] = b64decode(found[1])
    return [_kept(folder / f"{name}.webp", picture) for name, picture in drawn.items()]


def _in_ase(file: Path) -> bytes:
    """A part of the columns of an XYZ file as ASE draws them, as PNG."""
    columns = ase.io.read(file)
    assert isinstance(columns, ase.Atoms)
    middle = columns.positions.mean(axis=0)
    near = (abs(columns.positions - middle)[:, :2] < [25.0, 12.0]).all(axis=1)
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    axes = figure.subplots()
    plot_atoms(columns[near], axes, radii=0.7)
    axes.set_xlabel("x (A)")
    axes.set_ylabel("y (A)")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    return drawn.getvalue()


def _kept(file: Path, picture: bytes) -> Path:
    """A picture, no wider than a page, as WebP."""
    opened = Image.open(io.BytesIO(picture)).convert("RGB")
    if opened.width > _WIDE:
        opened = opened.resize((_WIDE, round(_WIDE * opened.height / opened.width)), Image.Resampling.LANCZOS)
    opened.save(file, "webp", quality=80, method=6)
    return file
