"""Which of a guest's disks would stay behind: kuaka moves memory, so both ends must reach the same disks.

Pure functions on what `query-block` answers: a list of devices, each with `device`, `qdev` and, where a medium is in
it, `inserted` with `ro`, `file`, `node-name` and `image.filename`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any


def unshared_disks(blocks: Sequence[Mapping[str, Any]], shared: Collection[str]) -> tuple[str, ...]:
    """Disks that the guest may write to and that `shared` does not name, by what a spec would call them.

    `shared`: files, node names, devices or qdev ids of disks that the destination reaches, too.
    """
    found = []
    for block in blocks:
        inserted = block.get("inserted")
        if not inserted or inserted.get("ro"):
            # An empty drive, or one that the guest cannot write to.
            continue
        names = list(_names(block, inserted))
        if not set(names) & set(shared):
            found.append(names[0] if names else "a disk without a name")
    return tuple(found)


def _names(block: Mapping[str, Any], inserted: Mapping[str, Any]) -> Iterator[str]:
    """The file first: people know it."""
    image = inserted.get("image") or {}
    for name in (
        inserted.get("file"),
        image.get("filename"),
        inserted.get("node-name"),
        block.get("device"),
        block.get("qdev"),
    ):
        if name:
            yield str(name)
