"""A progress bar for the terminal: what is done of how much, time passed and time left."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar"]


def progress_bar(*, of_bytes: bool = False) -> Progress:
    """A bar that counts things, or bytes."""
    done = DownloadColumn() if of_bytes else MofNCompleteColumn()
    return Progress(TextColumn("{task.description}"), BarColumn(), done, TimeElapsedColumn(), TimeRemainingColumn())
