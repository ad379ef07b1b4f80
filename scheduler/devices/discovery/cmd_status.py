"""Why the last command to an idxd device failed: the driver's own codes (IDXD_SCMD_*), which the device never gives."""

#: What a queue or device lacks when it cannot be enabled.
_WORDS = {
    0x8003_0000: "a queue belongs to no group",
    0x8004_0000: "a queue has no name",
    0x8006_0000: "a shared queue has no threshold",
    0x800C_0000: "the kernel or the IOMMU has no support for shared queues",
    0x800E_0000: "a queue has no size",
    0x8020_0000: "a queue has no driver_name",
}


def command_problem(status: int) -> str:
    """A status that is not 0, in words."""
    return f"the last command to it failed: {_WORDS.get(status, 'the idxd driver knows why')} ({status:#x})"
