"""What a descriptor costs its device, in device-nanoseconds: the one number that grants, audits and emulation share.

cost = fixed + bytes x time per byte, where bytes are those of the uncompressed side: what a compression or a scan
reads, what a decompression may write. That is how devices are rated, and both ends know it before the work is done.
Times per byte are picoseconds, because a device scans a byte in less than a nanosecond and everything is an integer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.devices.device import Operation

_PS_PER_NS = 1000


@dataclass(frozen=True, slots=True)
class OperationCost:
    """One operation on one engine."""

    fixed_ns: int
    per_byte_ps: int

    def cost_ns(self, size_bytes: int) -> int:
        """Device-ns that one descriptor of this size takes; at least one."""
        return max(1, self.fixed_ns + (size_bytes * self.per_byte_ps + _PS_PER_NS - 1) // _PS_PER_NS)


@dataclass(frozen=True, slots=True)
class CostModel:
    """The operations that a device has."""

    operations: Mapping[Operation, OperationCost]

    def supports(self, operation: Operation) -> bool:
        """Whether the device does this at all."""
        return operation in self.operations

    def cost_ns(self, operation: Operation, size_bytes: int) -> int:
        """Device-ns of one descriptor; KeyError for an operation that the device does not have."""
        return self.operations[operation].cost_ns(size_bytes)
