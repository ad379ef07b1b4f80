"""The C client of an emulated device as a test calls it: `emulated_client.h` by ctypes."""

import ctypes
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import MAX_DESCRIPTORS, Descriptors, Operation


class CClient:
    """One `struct kuaka_device`; OSError with the C side's errno where it cannot be opened."""

    def __init__(self, library: Path, path: Path, data_bytes: int) -> None:
        self._c = ctypes.CDLL(str(library), use_errno=True)
        for name, result, arguments in (
            ("open", ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t]),
            ("slots", ctypes.c_uint, [ctypes.c_void_p]),
            ("occupancy", ctypes.c_uint, [ctypes.c_void_p]),
            ("memory", ctypes.c_void_p, [ctypes.c_void_p]),
            ("status", ctypes.c_void_p, [ctypes.c_void_p]),
            ("output_bytes", ctypes.c_void_p, [ctypes.c_void_p]),
            (
                "submit",
                ctypes.c_int,
                [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint],
            ),
            ("wait", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
            ("close", None, [ctypes.c_void_p]),
        ):
            function = getattr(self._c, f"kuaka_device_{name}")
            function.restype, function.argtypes = result, arguments
        self._device = self._c.kuaka_device_open(str(path).encode(), data_bytes)
        if not self._device:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.slots = int(self._c.kuaka_device_slots(self._device))
        self.memory = self._array(self._c.kuaka_device_memory(self._device), ctypes.c_uint8, data_bytes)
        self.status = self._array(self._c.kuaka_device_status(self._device), ctypes.c_uint8, MAX_DESCRIPTORS)
        self.output_bytes = self._array(
            self._c.kuaka_device_output_bytes(self._device), ctypes.c_uint32, MAX_DESCRIPTORS
        )

    @property
    def occupancy(self) -> int:
        return int(self._c.kuaka_device_occupancy(self._device))

    def submit(self, operation: Operation, descriptors: Descriptors, first: int = 0, count: int | None = None) -> int:
        number = len(descriptors) if count is None else count
        return int(self._c.kuaka_device_submit(self._device, operation, descriptors.ctypes.data, number, first))

    def wait(self, timeout_ns: int) -> int:
        return int(self._c.kuaka_device_wait(self._device, timeout_ns))

    def close(self) -> None:
        self._c.kuaka_device_close(self._device)

    @staticmethod
    def _array(address: int, kind: type, count: int) -> NDArray[np.generic]:
        return np.ctypeslib.as_array((kind * count).from_address(address))
