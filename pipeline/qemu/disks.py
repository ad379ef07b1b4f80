"""Which of a guest's disks would stay behind: kuaka moves memory, so both ends must reach the same disks.

Pure functions on what `query-block` answers: a list of devices, each with `device`, `qdev` and, where a medium is in
it, `inserted` with `ro`, `file`, `node-name` and `image.filename`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

#: One disk by all that a spec may call it: its file first, then its node, device and qdev id.
DiskNames = tuple[str, ...]


def writable_disks(blocks: Sequence[Mapping[str, Any]]) -> tuple[DiskNames, ...]:
    """The disks that the guest may write to."""
    # An empty drive has nothing inserted.
    return tuple(
        tuple(dict.fromkeys(_names(block, inserted)))
        for block in blocks
        if (inserted := block.get("inserted")) and not inserted.get("ro")
    )


def unshared_disks(disks: Sequence[DiskNames], shared: Collection[str]) -> tuple[str, ...]:
    """Those of `disks` that `shared` does not name, each by its first name."""
    return tuple(
        next(iter(names), "a disk without a name") for names in disks if not any(name in shared for name in names)
    )


def refusal(unshared: Sequence[str]) -> str:
    """Why a guest with these disks cannot go, and what to do."""
    shown = ", ".join(unshared[:3])
    return f"it writes to {shown}, not said to be shared: declare it in disks with shared: true, or say sharedStorage"


def _names(block: Mapping[str, Any], inserted: Mapping[str, Any]) -> Iterator[str]:
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
