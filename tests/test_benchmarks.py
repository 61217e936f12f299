"""Programs that no test runs, benchmarks and the fuzzer, still find what they import of this repository."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted([*(CHECKOUT / "benchmarks").glob("*.py"), CHECKOUT / "tests/faults/fuzz.py"])


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_what_it_imports_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("builder", "temimagenet"):
            module = import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    import_module(f"{node.module}.{name.name}")
