"""What a run comes to: the figures of the JSON output, from the world when it has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

from scheduler.simulate.migration import Span
from scheduler.simulate.world import World

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class VmResult:
    """One migration: its time runs from submission."""

    name: str
    weight: int
    submitted_ns: int
    time_ns: int
    downtime_ns: int
    failed: bool
    rounds: int
    #: Bytes of work (scanned, compressed, decompressed) that devices and CPUs did for it.
    device_bytes: int
    cpu_bytes: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """One policy's figures."""

    policy: str
    vms: tuple[VmResult, ...]
    makespan_ns: int
    wire_bytes: int
    #: All CPU time of migrations, at both ends, spinning included.
    cpu_ns: int
    #: Share of its capacity that each device worked, over the makespan.
    device_utilisation: dict[str, float]
    busy_retries: int
    critical_waits_ns: tuple[int, ...]
    memory_bytes: int
    trace: tuple[tuple[int, str, str], ...]

    @property
    def failed(self) -> int:
        return sum(vm.failed for vm in self.vms)

    @property
    def times_ns(self) -> list[int]:
        return [vm.time_ns for vm in self.vms]

    @property
    def mean_ns(self) -> float:
        return sum(self.times_ns) / len(self.vms)

    @property
    def worst_ns(self) -> int:
        return max(self.times_ns)

    def critical_wait_p99_ns(self) -> int:
        """Of the batches sent while a guest stood still: how long until a device began; 0 where none did any."""
        return percentile(self.critical_waits_ns, 99) if self.critical_waits_ns else 0

    def jain(self) -> float:
        """Fairness of speed by weight: 1 / (n x the sum of the squared shares); 1 is even, 1/n is one has all."""
        speeds = [1e9 / vm.time_ns / vm.weight for vm in self.vms]
        return sum(speeds) ** 2 / (len(speeds) * sum(speed * speed for speed in speeds))

    def as_json(self) -> dict[str, Any]:
        """As `kuaka simulate -o json` prints it."""
        times = [time_ns / 1e9 for time_ns in self.times_ns]
        downtimes = [vm.downtime_ns / 1e6 for vm in self.vms]
        return {
            "vm_time_s": {
                "mean": sum(times) / len(times),
                "p50": percentile(times, 50),
                "p99": percentile(times, 99),
                "max": max(times),
            },
            "downtime_ms": {
                "p50": percentile(downtimes, 50),
                "p99": percentile(downtimes, 99),
                "max": max(downtimes),
            },
            "failed": self.failed,
            "makespan_s": self.makespan_ns / 1e9,
            "wire_bytes": self.wire_bytes,
            "cpu_s": self.cpu_ns / 1e9,
            "device_utilisation": self.device_utilisation,
            "busy_retries": self.busy_retries,
            "critical_wait_ms_p99": self.critical_wait_p99_ns() / 1e6,
            "jain": self.jain(),
        }


def percentile(values: Sequence[_Number], percent: int) -> _Number:
    """The smallest value that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def collect(world: World) -> RunResult:
    """Of a world that has run to its end."""
    vms = []
    for migration in world.migrations:
        assert migration.finished_ns is not None
        spec = migration.spec
        vms.append(
            VmResult(
                name=spec.name,
                weight=spec.weight,
                submitted_ns=spec.submitted_ns,
                time_ns=migration.finished_ns - spec.submitted_ns,
                downtime_ns=migration.downtime_ns,
                failed=migration.failed,
                rounds=migration.rounds,
                device_bytes=round(migration.device_bytes),
                cpu_bytes=round(migration.cpu_bytes),
                spans=tuple(migration.spans),
            )
        )
    first_ns = min(vm.submitted_ns for vm in vms)
    makespan_ns = max(vm.submitted_ns + vm.time_ns for vm in vms) - first_ns
    devices = [device for host in world.hosts.values() for device in host.all_devices()]
    return RunResult(
        policy=world.policy.name,
        vms=tuple(vms),
        makespan_ns=makespan_ns,
        wire_bytes=round(sum(migration.wire_bytes for migration in world.migrations)),
        cpu_ns=round(sum(host.cpus.used() for host in world.hosts.values())),
        device_utilisation={device.name: device.busy_ns() / (makespan_ns * device.engines) for device in devices},
        busy_retries=sum(migration.busy_retries for migration in world.migrations),
        critical_waits_ns=tuple(wait for migration in world.migrations for wait in migration.critical_waits_ns),
        memory_bytes=sum(migration.spec.memory_bytes for migration in world.migrations),
        trace=tuple(world.trace),
    )
