"""TEMImageNet: atomic-resolution ADF-STEM images with exact ground truth, as PyTorch datasets.

Names are loaded when first used, so that `import temimagenet` itself is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "LABELS": "temimagenet.labels",
    "Columns": "temimagenet.labels",
    "OnTheFly": "temimagenet.datasets",
    "PublishedTEMImageNet": "temimagenet.published",
    "Recipe": "temimagenet.recipe",
    "Sample": "temimagenet.render",
    "SampleSpec": "temimagenet.recipe",
    "TEMImageNet": "temimagenet.datasets",
    "TEMImageNetError": "temimagenet.errors",
    "collate": "temimagenet.datasets",
    "load_recipe": "temimagenet.recipe",
    "loader": "temimagenet.loading",
    "plot": "temimagenet.datasets",
    "sample_spec": "temimagenet.recipe",
}

if TYPE_CHECKING:
    from temimagenet.datasets import OnTheFly, TEMImageNet, collate, plot
    from temimagenet.errors import TEMImageNetError
    from temimagenet.labels import LABELS, Columns
    from temimagenet.loading import loader
    from temimagenet.published import PublishedTEMImageNet
    from temimagenet.recipe import Recipe, SampleSpec, load_recipe, sample_spec
    from temimagenet.render import Sample

__all__ = [
    "LABELS",
    "Columns",
    "OnTheFly",
    "PublishedTEMImageNet",
    "Recipe",
    "Sample",
    "SampleSpec",
    "TEMImageNet",
    "TEMImageNetError",
    "__version__",
    "collate",
    "load_recipe",
    "loader",
    "plot",
    "sample_spec",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'temimagenet' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return __all__
