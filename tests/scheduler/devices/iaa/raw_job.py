"""One libqpl job as C code has it: nothing between the test and the library but `JOB`."""

import ctypes

import numpy as np

from scheduler.devices.iaa.libqpl import (
    FLAG_FIRST,
    FLAG_LAST,
    FLAG_OMIT_VERIFY,
    JOB,
    OP_COMPRESS,
    OP_DECOMPRESS,
    Library,
)

AUTO, HARDWARE, SOFTWARE = range(3)
FLAGS = FLAG_FIRST | FLAG_LAST | FLAG_OMIT_VERIFY


class RawJob:
    """A job of a path; `init_code` is what `qpl_init_job` said."""

    def __init__(self, library: Library, path: int) -> None:
        self._library = library
        self.memory = ctypes.create_string_buffer(1 << 20)
        self.head = np.frombuffer(self.memory, dtype=JOB, count=1)[0:1]
        self.init_code = library.handle.qpl_init_job(path, self._address)

    @property
    def _address(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(ctypes.addressof(self.memory))

    def describe(self, op: int, source: bytes, capacity_bytes: int, flags: int = FLAGS, level: int = 1) -> None:
        self.source = np.frombuffer(source, dtype=np.uint8)
        self.output = np.zeros(capacity_bytes, dtype=np.uint8)
        self.head["next_in_ptr"], self.head["available_in"] = self.source.ctypes.data, len(source)
        self.head["next_out_ptr"], self.head["available_out"] = self.output.ctypes.data, capacity_bytes
        self.head["op"], self.head["flags"], self.head["level"] = op, flags, level

    def compress(self, source: bytes, capacity_bytes: int, flags: int = FLAGS, level: int = 1) -> int:
        """Execute; the code."""
        self.describe(OP_COMPRESS, source, capacity_bytes, flags, level)
        return self.execute()

    def decompress(self, stream: bytes, capacity_bytes: int) -> int:
        """Execute; the code."""
        self.describe(OP_DECOMPRESS, stream, capacity_bytes)
        return self.execute()

    def execute(self) -> int:
        return int(self._library.handle.qpl_execute_job(self._address))

    def submit(self) -> int:
        return int(self._library.handle.qpl_submit_job(self._address))

    def check(self) -> int:
        return int(self._library.handle.qpl_check_job(self._address))

    def check_until_ended(self) -> int:
        for _ in range(10_000_000):
            if (code := self.check()) != 1:
                return code
        raise AssertionError("has not ended")

    @property
    def written(self) -> bytes:
        return self.output[: int(self.head["total_out"][0])].tobytes()

    def field(self, name: str) -> int:
        return int(self.head[name][0])
