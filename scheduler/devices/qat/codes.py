"""What QATzip's numbers mean: results of calls, states of sessions. Positive ones say that software stands in.

Two questions are asked of them. When a session is set up: is there hardware behind it? The session's own state says so;
the call's result does not, it is 0 where software was allowed to step in. After a call: what became of the job?
"""

from enum import IntEnum

from scheduler.devices.device import Operation, Status


class Code(IntEnum):
    """Results and session states that are told apart; there are more, which mean that the device is of no use."""

    OK = 0
    DUPLICATE = 1
    FORCE_SW = 2
    PARAMS = -1
    FAIL = -2
    BUF_ERROR = -3
    DATA_ERROR = -4
    TIMEOUT = -5
    NO_HW = 11
    NO_MDRV = 12
    NO_INST_ATTACH = 13
    LOW_MEM = 14
    LOW_DEST_MEM = 15
    INTEGRITY = -100
    NOSW_NO_HW = -101
    NOSW_NO_MDRV = -102
    NOSW_NO_INST_ATTACH = -103
    NOSW_LOW_MEM = -104


_NO_HARDWARE = "no QAT hardware that this process may use: enable a device with service dc (kuaka devices check)"
_NO_DRIVER = "no memory driver for QAT: load the kernel's vfio-pci or usdm driver"
_NO_INSTANCE = "no free QAT instance: give this process one in qatmgr's POLICY, or end what holds them"
_NO_MEMORY = "not enough pinned memory for QAT: raise the limit of locked memory, or add huge pages"
_REASONS = {
    Code.NO_HW: _NO_HARDWARE,
    Code.NOSW_NO_HW: _NO_HARDWARE,
    Code.NO_MDRV: _NO_DRIVER,
    Code.NOSW_NO_MDRV: _NO_DRIVER,
    Code.NO_INST_ATTACH: _NO_INSTANCE,
    Code.NOSW_NO_INST_ATTACH: _NO_INSTANCE,
    Code.LOW_MEM: _NO_MEMORY,
    Code.NOSW_LOW_MEM: _NO_MEMORY,
}

_JOBS = {
    Code.OK: Status.OK,
    # Software did it although it was told not to: the caller's own is three times as fast.
    Code.FORCE_SW: Status.FAILED,
    Code.FAIL: Status.FAILED,
    Code.DATA_ERROR: Status.FAILED,
    Code.INTEGRITY: Status.FAILED,
    # Another thread has the instance, or the memory: true of this call only.
    Code.NO_INST_ATTACH: Status.PAGE_FAULT,
    Code.NOSW_NO_INST_ATTACH: Status.PAGE_FAULT,
    Code.LOW_MEM: Status.PAGE_FAULT,
    Code.LOW_DEST_MEM: Status.PAGE_FAULT,
    Code.NOSW_LOW_MEM: Status.PAGE_FAULT,
}
#: States of a session whose work hardware does; NO_INST_ATTACH is what one busy call leaves behind.
_LIVE_STATES = (Code.OK, Code.NO_INST_ATTACH)


def why_no_hardware(result: int, state: int) -> str | None:
    """Why qzInit or a set-up that ended so gives no hardware: one line, or None where it does."""
    if result in (Code.OK, Code.DUPLICATE) and state == Code.OK:
        return None
    code = state if result in (Code.OK, Code.DUPLICATE) else result
    return _REASONS.get(Code(code)) if code in _REASONS else f"QATzip gives no hardware: code {code}"


def status_of(operation: Operation, result: int, state: int) -> Status | None:
    """How a job ended whose call gave `result` and left the session in `state`; None: the device has gone."""
    if result == Code.BUF_ERROR:
        # A page that does not compress, or a stream that holds more than was announced.
        return Status.OVERFLOW if operation is Operation.COMPRESS else Status.FAILED
    if result == Code.OK and state not in _LIVE_STATES:
        return None
    return _JOBS.get(Code(result)) if result in _JOBS else None
