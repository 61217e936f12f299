"""Notebooks of the documentation: executed, and turned into Markdown pages with their pictures for mkdocs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from temimagenet.errors import ShardError

__all__ = ["execute_notebook", "stage_docs"]


def execute_notebook(file: Path, **parameters: object) -> None:
    """Run a notebook in its own folder and write it with what it printed and drew.

    Args:
        file: the notebook.
        parameters: values instead of those in its cell tagged "parameters".

    Raises:
        ShardError: a cell failed; the message ends with its traceback.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = nbformat.read(file, as_version=4)
    if parameters:
        place = 1 + next(n for n, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ()))
        lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        book.cells.insert(place, nbformat.v4.new_code_cell(lines))
    client = NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise ShardError(f"notebook {file.name} fails: {error}") from error
    for cell in book.cells:
        # Times of execution and progress bars change with every run.
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [part for part in cell.outputs if part.get("name") != "stderr"]
    nbformat.write(book, file)


def stage_docs(source: Path, folder: Path) -> Path:
    """Copy the documentation's sources, each notebook as a Markdown page with its pictures beside it.

    Args:
        source: the sources; left as they are.
        folder: where the copy goes; emptied first.

    Returns:
        The copy.
    """
    from nbconvert import MarkdownExporter

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints"))
    exporter = MarkdownExporter()
    for file in sorted(source.glob("notebooks/*.ipynb")):
        place = folder / file.relative_to(source).with_suffix(".md")
        place.parent.mkdir(parents=True, exist_ok=True)
        names = {"output_files_dir": f"{file.stem}_files", "unique_key": file.stem}
        text, resources = exporter.from_filename(str(file), resources=names)
        for name, picture in resources["outputs"].items():
            (place.parent / name).parent.mkdir(exist_ok=True)
            (place.parent / name).write_bytes(picture)
        told = (
            f"!!! note\n    The notebook is `site/docs/notebooks/{file.name}` of a checkout; the values of its first "
            "cell are yours to change.\n"
        )
        # pandas styles each table anew, by an attribute that HTML no longer has; the pages have their own style.
        text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
        text = text.replace('<table border="1" class="dataframe">', "<table>").replace("<th></th>", "<td></td>")
        title, _, rest = text.lstrip().partition("\n")
        place.write_text(f"{title}\n\n{told}{rest}", encoding="utf-8")
    return folder
