"""libqpl's C ABI: where the library is found, what is checked before it is used, and what its numbers mean here.

The library is named by KUAKA_LIBQPL, or it is the soname that the dynamic linker knows (ldconfig, LD_LIBRARY_PATH).
What it is taken for is checked: its version (1.6 is the first that submits through write() where a portal may not be
mapped, and 2 would be another ABI), its symbols, its job sizes, what `qpl_init_job` says and does, and once per process
a job of which every field that is used here is known beforehand (`device.py`).

Only two paths are known here. `auto` is not: libqpl then does on this thread, unasked and untold, whatever the queue
has no room for. The hardware path without hardware becomes the software path and says so only by a return code and by
the job's `path`, so both are looked at (`Library.init`).

Calls keep the interpreter's lock (`PyDLL`): none of them waits, each takes well under a microsecond, and giving the
lock up around each would let another thread have it 256 times per batch, for up to 5 ms a time. A library that asks
somebody else, as the stand-in does, is loaded by `CDLL`.
"""

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import DeviceUnavailable, Operation, Status

ENVIRONMENT_VARIABLE: Final = "KUAKA_LIBQPL"
SONAME: Final = "libqpl.so.1"
OLDEST_VERSION: Final = (1, 6)
#: The first that is another ABI.
NEWER_VERSION: Final = (2, 0)

#: `qpl_job` of x86-64; each field stands where libqpl 1.6 has it.
JOB: Final = np.dtype(
    {
        "names": [
            "next_in_ptr", "available_in", "total_in", "next_out_ptr", "available_out", "total_out", "op", "flags",
            "crc", "xor_checksum", "last_bit_offset", "level", "statistics_mode", "huffman_table", "dictionary",
            "mini_block_size", "idx_array", "idx_max_size", "idx_num_written", "decomp_end_processing",
            "ignore_start_bits", "ignore_end_bits", "crc64_poly", "crc64", "next_src2_ptr", "available_src2",
            "src1_bit_width", "src2_bit_width", "num_input_elements", "out_bit_width", "param_low", "param_high",
            "drop_initial_bytes", "initial_output_index", "parser", "first_index_min_value", "last_index_max_value",
            "sum_value", "numa_id", "data_ptr", "path",
        ],
        "formats": [
            "<u8", "<u4", "<u4", "<u8", "<u4", "<u4", "<u4", "<u4",
            "<u4", "<u4", "<u4", "<u4", "<u4", "<u8", "<u8",
            "<u4", "<u8", "<u4", "<u4", "u1",
            "u1", "u1", "<u8", "<u8", "<u8", "<u4",
            "<u4", "<u4", "<u4", "<u4", "<u4", "<u4",
            "<u4", "<u4", "<u4", "<u4", "<u4",
            "<u4", "<i4", ("<u8", (5,)), "<u4",
        ],
        "offsets": [
            0, 8, 12, 16, 24, 28, 32, 36,
            40, 44, 48, 52, 56, 64, 72,
            80, 88, 96, 100, 104,
            105, 106, 112, 120, 128, 136,
            140, 144, 148, 152, 156, 160,
            164, 168, 172, 176, 180,
            184, 188, 192, 232,
        ],
        "itemsize": 240,
    }
)  # fmt: skip
#: What changes from job to job: the first bytes of `JOB`, written at once.
JOB_REQUEST: Final = np.dtype(
    [(name, JOB.fields[name][0]) for name in JOB.names[:7]] if JOB.fields and JOB.names else []
)
#: No path needs less, and none is known to need more than a quarter of this.
_MOST_JOB_BYTES: Final = 4 << 20

OP_DECOMPRESS: Final = 0
OP_COMPRESS: Final = 1
#: By `Operation`.
OP_OF: Final = {Operation.COMPRESS: OP_COMPRESS, Operation.DECOMPRESS: OP_DECOMPRESS}
FLAG_FIRST: Final = 0x1
FLAG_LAST: Final = 0x2
FLAG_OMIT_VERIFY: Final = 0x4000
#: The one that hardware has.
LEVEL: Final = 1

OK: Final = 0
BEING_PROCESSED: Final = 1
MORE_OUTPUT_NEEDED: Final = 2
QUEUES_ARE_BUSY: Final = 5
READ_PAGE_FAULT: Final = 303
WRITE_PAGE_FAULT: Final = 431
#: From here on: there is no hardware path in this process.
INITIALISATION_ERRORS: Final = 500
_NO_HARDWARE: Final = {
    500: "this machine's IAA cannot be used (kernel, IOMMU or the submission by write() refuses)",
    501: "libaccel-config.so.1 is not found: install libaccel-config1",
    502: "libaccel-config failed: load idxd, and look whether this process may read /sys/bus/dsa/devices",
    503: "there is no enabled shared work queue that this process may open: see `kuaka devices check`",
}


class Path(IntEnum):
    """Who does the work."""

    HARDWARE = 1
    #: The caller's CPU, inside the submission; for tests and benchmarks only.
    SOFTWARE = 2


def _status_table() -> NDArray[np.uint8]:
    table = np.full((len(OP_OF), INITIALISATION_ERRORS + 1), Status.FAILED, dtype=np.uint8)
    table[:, OK] = Status.OK
    table[:, BEING_PROCESSED] = Status.PENDING
    table[:, [READ_PAGE_FAULT, WRITE_PAGE_FAULT]] = Status.PAGE_FAULT
    # A stream that holds more than was announced is none; a page that does not fit does not compress.
    table[Operation.COMPRESS, MORE_OUTPUT_NEEDED] = Status.OVERFLOW
    return table


_STATUS = _status_table()


def statuses(operations: NDArray[np.uint8], codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What libqpl's codes are in the words of `Status`, by `Operation`.

    Busy says here that a job's next descriptor was refused (dynamic Huffman, verification, a fault that libqpl would
    try again). libqpl takes such a job for one under way for ever after, so it has failed, and the caller does it.
    """
    return _STATUS[operations, np.minimum(codes, INITIALISATION_ERRORS)]


class Library:
    """A loaded libqpl that has passed its checks. Raises `DeviceUnavailable`, in one line, where it does not."""

    def __init__(self, name: str, loader: Callable[[str], ctypes.CDLL]) -> None:
        self.name = name
        try:
            self.handle = loader(name)
        except OSError as error:
            raise DeviceUnavailable(
                f"libqpl cannot be loaded: {error}; install it (libqpl 1.6 or newer), or set {ENVIRONMENT_VARIABLE}"
            ) from None
        get_version: Callable[[], bytes | None] = self._function("qpl_get_library_version", ctypes.c_char_p)
        self.version = _checked_version(name, get_version() or b"")
        self._get_job_size = self._function("qpl_get_job_size", None, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))
        self._init_job = self._function("qpl_init_job", None, ctypes.c_uint32, ctypes.c_void_p)
        self._fini_job = self._function("qpl_fini_job", None, ctypes.c_void_p)
        #: Queue the job at an address; a code. `qpl_wait_job` is not bound: it has no end.
        self.submit: Callable[[int], int] = self._function("qpl_submit_job", None, ctypes.c_void_p)
        #: How that job is; a code. Never again once it has ended: libqpl would count its output twice.
        self.check: Callable[[int], int] = self._function("qpl_check_job", None, ctypes.c_void_p)
        #: Whether a job's fields were found where `JOB` has them.
        self.layout_verified = False

    def job_bytes(self, path: Path) -> int:
        """Memory that one job takes, its head included."""
        size = ctypes.c_uint32()
        code = self._get_job_size(path, ctypes.byref(size))
        if code != OK or not JOB.itemsize < size.value <= _MOST_JOB_BYTES:
            raise DeviceUnavailable(
                f"{self.name}: qpl_get_job_size answers {code} and {size.value} bytes: not libqpl 1.x"
            )
        return size.value

    def init(self, path: Path, address: int, head: NDArray[np.void]) -> None:
        """Make a job of the memory at `address`; `head` is a view of its first bytes.

        Raises `DeviceUnavailable` for whatever is not a job of this path: libqpl makes one of the software path where
        there is no hardware, and that would compress on this thread as if the device had.
        """
        code = self._init_job(path, address)
        if code in _NO_HARDWARE:
            raise DeviceUnavailable(f"IAA: {_NO_HARDWARE[code]} (libqpl {self.version}, code {code})")
        if code != OK:
            raise DeviceUnavailable(f"{self.name}: qpl_init_job answers {code}")
        if head["path"] != path:
            raise DeviceUnavailable(f"{self.name}: qpl_init_job made a job of path {head['path']} instead of {path:d}")

    def fini(self, address: int) -> None:
        """Give back what libqpl holds for the job; nothing of it may be in flight."""
        self._fini_job(address)

    def _function(self, name: str, result: type[ctypes.c_char_p] | None, *arguments: type[Any]) -> Callable[..., Any]:
        try:
            function = self.handle[name]
        except AttributeError:
            raise DeviceUnavailable(f"{self.name} has no {name}: it is not libqpl 1.6 or newer") from None
        function.argtypes = arguments
        # Codes are small: as an int they cost no conversion of their own.
        function.restype = result or ctypes.c_int
        return function


@cache
def system_library() -> Library:
    """This machine's libqpl, loaded and looked at once per process."""
    return load()


def load(environment: Mapping[str, str] = os.environ, loader: Callable[[str], ctypes.CDLL] = ctypes.PyDLL) -> Library:
    """This machine's libqpl; raises `DeviceUnavailable`."""
    return Library(environment.get(ENVIRONMENT_VARIABLE) or SONAME, loader)


def _checked_version(name: str, answer: bytes) -> str:
    text = answer.decode(errors="replace")
    numbers = re.match(r"v?(\d+)\.(\d+)", text)
    if not numbers or not OLDEST_VERSION <= (int(numbers[1]), int(numbers[2])) < NEWER_VERSION:
        raise DeviceUnavailable(f"{name} is version {text[:40]!r}: install libqpl 1.6 or a newer 1.x")
    return text
