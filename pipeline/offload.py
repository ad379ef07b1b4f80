"""Which accelerators a session's channels may use: data that a host gives its workers together with a job.

A host has one credit table and one address for each device; a session has a row of the table for each of the host's
workers and each device, because a worker's channels share what the worker was given. `for_worker` is what one of them
is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.devices.address import DeviceAddress


@dataclass(frozen=True, slots=True)
class SessionDevice:
    """One pool as a session has it: the device, and the row of each worker, in the pool's order."""

    address: DeviceAddress
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SessionOffload:
    """All that a host's workers need to offload one session's work."""

    table: str
    devices: tuple[SessionDevice, ...]

    def for_worker(self, index: int) -> "Offload":
        """What the worker of this index is told."""
        return Offload(self.table, tuple(OffloadDevice(device.address, device.rows[index]) for device in self.devices))


@dataclass(frozen=True, slots=True)
class OffloadDevice:
    """One device for one worker."""

    address: DeviceAddress
    row: int


@dataclass(frozen=True, slots=True)
class Offload:
    """The credit table and the devices of one job."""

    table: str
    devices: tuple[OffloadDevice, ...]

    def device(self, kind: str) -> OffloadDevice | None:
        """The device of a kind, if there is one."""
        return next((device for device in self.devices if device.address.kind == kind), None)


def decode_offload(fields: Mapping[str, Any] | None) -> Offload | None:
    """Back from a job's fields; raises KeyError or TypeError for what is none."""
    if fields is None:
        return None
    return Offload(fields["table"], tuple(_decode_device(device) for device in fields["devices"]))


def _decode_device(fields: Mapping[str, Any]) -> OffloadDevice:
    address = dict(fields["address"])
    address["paths"] = tuple(address["paths"])
    return OffloadDevice(DeviceAddress(**address), fields["row"])


@dataclass(frozen=True, slots=True)
class OffloadCounters:
    """What a session's work came to on one host: pages by who did them, refusals, and time spent waiting for credit."""

    accelerator_pages: int = 0
    cpu_pages: int = 0
    busy_retries: int = 0
    wait_ns: int = 0
    #: The class that its leases were of while the guest ran; None: it never had one.
    service_class: str | None = None
    #: `accelerator_pages` by kind of device.
    by_kind: Mapping[str, int] = field(default_factory=dict)
