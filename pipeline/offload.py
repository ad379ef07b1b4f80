"""Which accelerators a session's channels may use: data that a host gives its workers together with a job.

A host has one credit table and one socket for each device; a session has a row of the table for each of the host's
workers and each device, because a worker's channels share what the worker was given. `for_worker` is what one of them
is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionDevice:
    """One pool as a session has it: the device's socket, and the row of each worker, in the pool's order."""

    kind: str
    socket: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SessionOffload:
    """All that a host's workers need to offload one session's work."""

    table: str
    devices: tuple[SessionDevice, ...]

    def for_worker(self, index: int) -> "Offload":
        """What the worker of this index is told."""
        devices = (OffloadDevice(device.kind, device.socket, device.rows[index]) for device in self.devices)
        return Offload(self.table, tuple(devices))


@dataclass(frozen=True, slots=True)
class OffloadDevice:
    """One device for one worker."""

    kind: str
    socket: str
    row: int


@dataclass(frozen=True, slots=True)
class Offload:
    """The credit table and the devices of one job."""

    table: str
    devices: tuple[OffloadDevice, ...]


def decode_offload(fields: Mapping[str, Any] | None) -> Offload | None:
    """Back from a job's fields; raises KeyError or TypeError for what is none."""
    if fields is None:
        return None
    return Offload(fields["table"], tuple(OffloadDevice(**device) for device in fields["devices"]))


@dataclass(frozen=True, slots=True)
class OffloadCounters:
    """What a session's work came to on one host: pages by who did them, refusals, and time spent waiting for credit."""

    accelerator_pages: int = 0
    cpu_pages: int = 0
    busy_retries: int = 0
    wait_ns: int = 0
    #: The class that its leases were of while the guest ran; None: it never had one.
    service_class: str | None = None
