"""What an agent tells its workers of a device; `opening` makes a device of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """One pool's device as every process of its host may open it."""

    #: dsa, iaa or qat.
    kind: str
    #: The emulated device's socket; of DSA, the nodes of its queues, of which each thread takes one; else nothing.
    paths: tuple[str, ...]
    #: Entries of its queues, all together.
    slots: int
    emulated: bool = False
    #: Of an emulated one, its stand-in library; None: it has none.
    stand_in: str | None = None
    #: Where its queues are; -1: wherever.
    numa_node: int = -1
