"""Files that a forked child must not keep: it cannot use them, and its copies would hold them open for the device."""

import os
import weakref
from typing import Protocol


class Closable(Protocol):
    """Whatever has files; closing it again does nothing."""

    def close(self) -> None:
        """Close them."""


_open: "weakref.WeakSet[Closable]" = weakref.WeakSet()


def close_in_children(thing: Closable) -> None:
    """Have `thing` closed in every child that is forked while it lives."""
    _open.add(thing)


def _close_inherited() -> None:
    for thing in list(_open):
        thing.close()


os.register_at_fork(after_in_child=_close_inherited)
