"""The published migrations, simulated: each row's world, and the table that holds the two side by side."""

from dataclasses import dataclass

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.fit import SECTION_4_LIVE_BYTES, calibrated
from scheduler.simulate.hardware import Fifo, Retry
from scheduler.simulate.parameters import PACKET_PAGES
from scheduler.simulate.policy import Indifferent, Policy
from scheduler.simulate.published import ROWS, Row, Use
from scheduler.simulate.scenario import HostSpec, Scenario, VmSpec, Workload
from scheduler.simulate.world import World

_GIB = 1 << 30
#: A simulated batch is 16 packets here: the rows are gigabytes, and nothing but the run time depends on it.
_BATCH_PAGES = 16 * PACKET_PAGES


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published time and the simulated one; `ratio` is simulated / published."""

    row: Row
    simulated_ms: float
    simulated_cpu_ms: float

    @property
    def ratio(self) -> float:
        return self.simulated_ms / self.row.total_ms

    @property
    def holds(self) -> bool:
        """Within 15 %, where that was promised."""
        return self.row.use is Use.REPORTED or abs(self.ratio - 1) <= 0.15


def compare() -> list[Comparison]:
    """All rows, in the order they were published."""
    return [simulate_row(row) for row in ROWS]


def simulate_row(row: Row) -> Comparison:
    """Run one published migration."""
    world = World(_scenario(row), _policy(row), calibrated())
    world.run()
    source = world.hosts["source"]
    finished_ns = world.migrations[0].finished_ns
    assert finished_ns is not None
    return Comparison(row, finished_ns / 1e6, source.cpus.used() / 1e6)


def _policy(row: Row) -> Policy:
    if row.name == "qpl retry-fallback":
        return Retry()
    if row.name in ("qatzip", "qpl always-wait") or row.name.endswith("dsa"):
        return Fifo()
    return Indifferent()


def _scenario(row: Row) -> Scenario:
    if row.section == 2:
        parameters = calibrated()
        workload = Workload(codec=row.name)
        size, live = 64 * _GIB, parameters.section_2_live_bytes / (64 * _GIB)
        return _world(row, workload, size, live, parameters.calibration_link_b_ns, {AcceleratorKind.QAT: 1})
    if row.section == 3:
        live = 0.5 if row.name.startswith("half") else 0.0
        workload = Workload(scan_kind=AcceleratorKind.DSA, early_exit=False)
        return _world(row, workload, 100 * _GIB, live, calibrated().calibration_link_b_ns, {AcceleratorKind.DSA: 1})
    # 100G between the hosts (the series' cover letter): far from full.
    live = SECTION_4_LIVE_BYTES / (64 * _GIB)
    return _world(row, Workload(codec="deflate"), 64 * _GIB, live, 12.5, {AcceleratorKind.IAA: 1})


def _world(
    row: Row, workload: Workload, size: int, live: float, link_b_ns: float, devices: dict[AcceleratorKind, int]
) -> Scenario:
    hosts = (
        HostSpec("source", link_b_ns=link_b_ns, devices=devices),
        HostSpec("destination", link_b_ns=link_b_ns, devices=devices),
    )
    vm = VmSpec("vm", "source", "destination", size, live, channels=row.channels)
    return Scenario(f"calibration {row.name}", hosts, (vm,), workload, _BATCH_PAGES)
