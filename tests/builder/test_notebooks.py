"""The documentation's notebooks: run from top to bottom, shown with their pictures, kept as they ran."""

from pathlib import Path

import pytest

from builder.film import EXAMPLE, render_film
from builder.notebooks import execute_notebook, stage_docs
from temimagenet.errors import ShardError

nbformat = pytest.importorskip("nbformat")

DOCS = Path(__file__).resolve().parents[2] / "site" / "docs"
BOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

QUICK = {"locate": {}, "train": {"STEPS": 1, "IMAGES": 1}, "evaluate": {"IMAGES": 1}}


@pytest.fixture
def runnable(tmp_path, monkeypatch):
    """A copy of a notebook where the data of a checkout are found; kernels take the package from this checkout."""
    folder = tmp_path / "site" / "docs" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "tests").symlink_to(DOCS.parents[1] / "tests")
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parents[1]))

    def copied(name):
        file = folder / name
        file.write_bytes((DOCS / "notebooks" / name).read_bytes())
        return file

    return copied


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_notebooks_run_from_top_to_bottom(runnable, book):
    file = runnable(book.name)
    execute_notebook(file, **QUICK[book.stem])
    ran = nbformat.read(file, as_version=4)
    nbformat.validate(ran)
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == number + 1 for number, cell in enumerate(code))
    assert any("image/png" in part.get("data", {}) for cell in code for part in cell.outputs)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_what_is_shown_is_from_one_run_of_the_whole_notebook(book):
    shown = nbformat.read(book, as_version=4)
    code = [cell for cell in shown.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [part for cell in code for part in cell.outputs]
    assert not [part for part in outputs if part.output_type == "error" or part.get("name") == "stderr"]
    assert any("image/png" in part.get("data", {}) for part in outputs)
    assert book.stat().st_size < 1_000_000
    assert not [part for part in outputs if "/tmp/" in str(part) or "/home/" in str(part)]


def test_a_cell_that_fails_is_told(runnable):
    file = runnable("evaluate.ipynb")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(book, file)
    with pytest.raises(ShardError, match="ZeroDivisionError"):
        execute_notebook(file)


def test_notebooks_become_pages_with_pictures(tmp_path):
    before = {file: file.stat().st_mtime_ns for file in DOCS.rglob("*")}
    staged = stage_docs(DOCS, tmp_path / "docs")
    assert {file: file.stat().st_mtime_ns for file in DOCS.rglob("*")} == before
    assert not list(staged.rglob("*.ipynb"))
    assert {file.relative_to(DOCS) for file in DOCS.rglob("*.md")} <= {
        file.relative_to(staged) for file in staged.rglob("*.md")
    }
    for book in BOOKS:
        text = (staged / "notebooks" / f"{book.stem}.md").read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"site/docs/notebooks/{book.name}" in text
        pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![png](")]
        assert pictures
        assert 'class="dataframe"' not in text  # the documentation's own style is for tables without a class
        assert all((staged / "notebooks" / picture).stat().st_size > 1000 for picture in pictures)


def test_the_same_seed_draws_the_same_film():
    one, other = (render_film(EXAMPLE, seed=3) for _ in range(2))
    assert (one.image == other.image).all()
    assert (one.kind == other.kind).all()
    assert set(one.kind) == {"Sr", "TiO", "O", "Ba"}
    assert not (one.film & (one.xy_px[:, 0] < 0.5 * EXAMPLE.shape[1])).any()
    assert not ((one.kind == "Ba") & ~one.film).any()
