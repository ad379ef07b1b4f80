"""How a peer does what descriptors say: at once, with seeded chances of trouble, or at an emulated device's pace.

A descriptor names addresses of this process, as it does for hardware. Two ranges are known, the data that may be read
and the records that may be written: an address outside of them is a page fault, as it would be, and nothing is touched.
"""

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import DESCRIPTOR, Operation, Status
from scheduler.devices.dsa.descriptors import (
    COMPARE_FLAGS,
    COMPLETION_BYTES,
    FLAGS_MASK,
    OPCODE_SHIFT,
    Completion,
    DsaCompletions,
    DsaDescriptors,
    Opcode,
)
from scheduler.devices.emulated.client import EmulatedDevice
from scheduler.devices.emulated.schedule import PER_MILLION

#: Longest sleep of a peer before it looks whether it should end.
_LOOK_NS = 20_000_000
#: Between two tries at an emulated queue that is full.
_BUSY_S = 0.0002
#: (256,): completions of an emulated device's statuses.
_COMPLETIONS = np.full(256, Completion.HARDWARE_ERROR, dtype=np.uint8)
_COMPLETIONS[[Status.OK, Status.PAGE_FAULT]] = Completion.SUCCESS, Completion.PAGE_FAULT


@dataclass(frozen=True, slots=True)
class PeerMemory:
    """What the descriptors of one device object may name."""

    data: NDArray[np.uint8]
    records: DsaCompletions

    def offsets(self, batch: DsaDescriptors) -> NDArray[np.uint64]:
        """(n,) places of the sources in `data`; an address before it wraps to one far behind."""
        offsets: NDArray[np.uint64] = batch["source"] - np.uint64(self.data.ctypes.data)
        return offsets

    def judge(self, batch: DsaDescriptors) -> NDArray[np.uint8]:
        """(n,) completions of what cannot be done, `Completion.NONE` of what can: a comparison with zero."""
        offsets, sizes, limit = self.offsets(batch), batch["transfer_bytes"], np.uint64(len(self.data))
        # Where the first part fails the difference wraps, and does not matter.
        inside = (offsets <= limit) & (sizes <= limit - offsets)
        completions = np.where(inside, Completion.NONE, Completion.PAGE_FAULT).astype(np.uint8)
        completions[sizes == 0] = Completion.BAD_TRANSFER_SIZE
        completions[batch["flags_opcode"] & FLAGS_MASK != COMPARE_FLAGS] = Completion.BAD_FLAGS
        known = (batch["flags_opcode"] >> OPCODE_SHIFT == Opcode.COMPVAL) & (batch["pattern"] == 0)
        completions[~known] = Completion.BAD_OPCODE
        return completions

    def complete(self, batch: DsaDescriptors, completions: NDArray[np.uint8], differs: NDArray[Any]) -> None:
        """Write the completion records, status last; a record that is none of ours is lost, as hardware loses it."""
        places, rest = np.divmod(
            batch["completion_address"] - np.uint64(self.records.ctypes.data), np.uint64(COMPLETION_BYTES)
        )
        ours = (rest == 0) & (places < len(self.records))
        places, sources = places[ours], batch["source"][ours]
        self.records["result"][places] = differs[ours]
        self.records["fault_address"][places] = np.where(completions[ours] == Completion.PAGE_FAULT, sources, 0)
        self.records["status"][places] = completions[ours]


class Execution(Protocol):
    """What a peer's thread calls for every read of its FIFO."""

    @property
    def taken(self) -> int:
        """Descriptors so far that no longer wait here: complete, or in the `occupancy`."""

    @property
    def occupancy(self) -> int:
        """Entries of a queue behind this one that are taken, all its clients' together."""

    def execute(self, batch: DsaDescriptors, memory: PeerMemory, ended: threading.Event) -> None:
        """Complete all of `batch`, or return early once `ended`. Raises `DeviceDown`."""

    def close(self) -> None:
        """Let go of what it has open."""


@dataclass(frozen=True, slots=True)
class Disturbances:
    """Chances of a descriptor, per million: the queue is busy, a page fault, an error of the device."""

    busy_per_million: int = 0
    fault_per_million: int = 0
    error_per_million: int = 0
    seed: int = 1


class DirectExecution:
    """Instantly, in this process."""

    def __init__(self, disturbances: Disturbances) -> None:
        self._disturbances = disturbances
        self._generator = np.random.default_rng((disturbances.seed, 1))
        self.taken = 0

    @property
    def occupancy(self) -> int:
        return 0

    def execute(self, batch: DsaDescriptors, memory: PeerMemory, ended: threading.Event) -> None:
        completions = memory.judge(batch)
        differs = np.zeros(len(batch), dtype=np.uint8)
        self._disturb(completions)
        offsets = memory.offsets(batch)
        for index in np.flatnonzero(completions == Completion.NONE).tolist():
            start, size = int(offsets[index]), int(batch["transfer_bytes"][index])
            # Half a microsecond per page, a quarter of what a call of numpy costs.
            differs[index] = memory.data[start : start + size].tobytes() != bytes(size)
        completions[completions == Completion.NONE] = Completion.SUCCESS
        # First: who sees them complete must not see the queue still full of them.
        self.taken += len(batch)
        memory.complete(batch, completions, differs)

    def close(self) -> None:
        """Nothing is open."""

    def _disturb(self, completions: NDArray[np.uint8]) -> None:
        faults, errors = self._disturbances.fault_per_million, self._disturbances.error_per_million
        drawn = self._generator.integers(0, PER_MILLION, len(completions))
        sound = completions == Completion.NONE
        completions[sound & (drawn < faults + errors)] = Completion.HARDWARE_ERROR
        completions[sound & (drawn < faults)] = Completion.PAGE_FAULT


class EmulatedExecution:
    """On an emulated device, whose memory is the data: its queue, its time, its faults, its results."""

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device
        self.taken = 0

    @property
    def occupancy(self) -> int:
        return self._device.occupancy

    def execute(self, batch: DsaDescriptors, memory: PeerMemory, ended: threading.Event) -> None:
        completions = memory.judge(batch)
        bad = completions != Completion.NONE
        if bad.any():
            self.taken += int(bad.sum())
            memory.complete(batch[bad], completions[bad], np.zeros(len(batch), dtype=np.uint8)[bad])
        rest = batch[~bad]
        while len(rest) and not ended.is_set():
            accepted = self._submit(rest, memory)
            if not accepted:
                ended.wait(_BUSY_S)
                continue
            self.taken += accepted
            while not self._device.wait(_LOOK_NS):
                if ended.is_set():
                    return
            differs = self._device.output_bytes[:accepted]
            memory.complete(rest[:accepted], _COMPLETIONS[self._device.status[:accepted]], differs)
            rest = rest[accepted:]

    def close(self) -> None:
        self._device.close()

    def _submit(self, batch: DsaDescriptors, memory: PeerMemory) -> int:
        jobs = np.zeros(len(batch), dtype=DESCRIPTOR)
        jobs["source"] = memory.offsets(batch)
        jobs["source_bytes"] = batch["transfer_bytes"]
        return self._device.submit(Operation.ZERO_SCAN, jobs)
