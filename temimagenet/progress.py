"""How far long work has come: told to whoever watches, who may end it by an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Watcher", "report", "watched"]

Watcher = Callable[[str, int, int], None]
"""Takes what is being done, how many parts of it are done, and of how many."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Work inside this block, in this thread, tells a watcher of every part; what it raises ends the work.

    Args:
        watcher: called between parts. Networks have a part a tile, fits a part a round.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def report(what: str, done: int, total: int) -> None:
    """Tell the watcher, if there is one.

    Args:
        what: the work, in a word or two.
        done: parts done, from 0.
        total: all of them; an upper bound where their number is not known before.
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher(what, done, total)
