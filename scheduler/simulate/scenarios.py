"""The scenarios by name. Each is a study: one contended case, and the points of its sweep.

Seeded randomness only moves the moments of submission; everything else is as given.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from random import Random

from scheduler.core.units import AcceleratorKind, Phase
from scheduler.simulate.fit import SECTION_4_LIVE_BYTES, calibrated
from scheduler.simulate.parameters import PACKET_PAGES
from scheduler.simulate.scenario import Fault, HostSpec, Scenario, VmSpec, Workload

_GIB = 1 << 30
_MS = 1_000_000
_S = 1_000_000_000
#: 100 and 25 Gbit/s in bytes per ns.
_LINK_100G = 12.5
_LINK_25G = 3.125

Parameters = dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Study:
    """`contended` gives the top-level figures; `sweep` are other points of the same question."""

    contended: Scenario
    sweep: tuple[tuple[Parameters, Scenario], ...] = ()


def names() -> list[str]:
    """All scenarios, in the order of the help."""
    return list(_STUDIES)


def study(name: str, seed: int) -> Study:
    """The study of that name. Raises KeyError."""
    return _STUDIES[name](Random(seed))


def hundred_vms(
    rng: Random, *, vms: int, normal: float, link_b_ns: float | None, devices: int, compressed: bool
) -> Scenario:
    """Guests of 1 vCPU and 1 GiB from one host of 192 CPUs to another, all admitted at once, guests idle."""
    kinds = {AcceleratorKind.DSA: devices, AcceleratorKind.IAA: devices if compressed else 0}
    workload = Workload(codec="deflate" if compressed else "none", scan_kind=AcceleratorKind.DSA)
    guests = (VmSpec(f"vm-{index:03}", "a", "b", _GIB, normal, submitted_ns=rng.randrange(_MS)) for index in range(vms))
    return Scenario("hundred-vms", _pair(192, link_b_ns, kinds), tuple(guests), workload, batch_pages=16 * PACKET_PAGES)


def _hundred_vms(rng: Random) -> Study:
    def point(normal: float, link: float | None, devices: int, compressed: bool) -> Scenario:
        return hundred_vms(rng, vms=100, normal=normal, link_b_ns=link, devices=devices, compressed=compressed)

    points = product((False, True), (_LINK_100G, None), (0.0, 0.1, 0.5, 1.0), (1, 2, 4, 8))
    sweep = tuple(
        (_labels(normal, link, devices, compressed), point(normal, link, devices, compressed))
        for compressed, link, normal, devices in points
    )
    return Study(point(0.0, _LINK_100G, 1, compressed=False), sweep)


def _growth(rng: Random) -> Study:
    """The same guests, 1 to 400 of them: where the boundary is, and what it is made of."""

    def points() -> Iterator[tuple[Parameters, Scenario]]:
        cases = ((0.0, 8, False), (0.5, 8, False), (1.0, 8, True), (1.0, 1, True))
        for (normal, devices, compressed), vms in product(cases, (1, 5, 10, 25, 50, 100, 200, 400)):
            scenario = hundred_vms(
                rng, vms=vms, normal=normal, link_b_ns=_LINK_100G, devices=devices, compressed=compressed
            )
            yield {"vms": vms, **_labels(normal, _LINK_100G, devices, compressed)}, scenario

    sweep = tuple(points())
    contended = hundred_vms(rng, vms=400, normal=0.0, link_b_ns=_LINK_100G, devices=8, compressed=False)
    return Study(contended, sweep)


def _labels(normal: float, link_b_ns: float | None, devices: int, compressed: bool) -> Parameters:
    return {
        "normal_page_percent": round(normal * 100),
        "link_gbit_s": "unlimited" if link_b_ns is None else round(link_b_ns * 8),
        "devices": devices,
        "compression": "iaa" if compressed else "none",
    }


def _busy_iaa(rng: Random) -> Study:
    """Section 4's first row: four channels want more than one IAA gives."""
    live = SECTION_4_LIVE_BYTES / (64 * _GIB)
    vm = VmSpec("vm", "a", "b", 64 * _GIB, live, channels=4, submitted_ns=rng.randrange(_MS))
    hosts = _pair(192, _LINK_100G, {AcceleratorKind.IAA: 1})
    return Study(Scenario("busy-iaa", hosts, (vm,), Workload(codec="deflate"), 16 * PACKET_PAGES))


def _qat_threads(rng: Random) -> Study:
    """Section 2: one guest, QATzip, and 4, 8 or 16 threads."""
    parameters = calibrated()
    live = parameters.section_2_live_bytes / (64 * _GIB)
    submitted_ns = rng.randrange(_MS)

    def point(threads: int) -> Scenario:
        vm = VmSpec("vm", "a", "b", 64 * _GIB, live, channels=threads, submitted_ns=submitted_ns)
        hosts = _pair(192, parameters.calibration_link_b_ns, {AcceleratorKind.QAT: 1})
        return Scenario("qat-threads", hosts, (vm,), Workload(codec="qatzip"), 16 * PACKET_PAGES)

    sweep: tuple[tuple[Parameters, Scenario], ...] = tuple(({"threads": count}, point(count)) for count in (4, 8, 16))
    return Study(point(8), sweep)


def _dsa_zero(rng: Random) -> Study:
    """Section 3: one guest of 100 GiB on one DSA device."""
    submitted_ns = rng.randrange(_MS)

    def point(live: float) -> Scenario:
        vm = VmSpec("vm", "a", "b", 100 * _GIB, live, channels=8, submitted_ns=submitted_ns)
        hosts = _pair(192, calibrated().calibration_link_b_ns, {AcceleratorKind.DSA: 1})
        workload = Workload(scan_kind=AcceleratorKind.DSA, early_exit=False)
        return Scenario("dsa-zero", hosts, (vm,), workload, 16 * PACKET_PAGES)

    sweep: tuple[tuple[Parameters, Scenario], ...] = tuple(
        ({"normal_page_percent": percent}, point(percent / 100)) for percent in (0, 50)
    )
    return Study(point(0.0), sweep)


def _priorities(rng: Random) -> Study:
    """Weights 1, 1, 2, 4 on a host with few CPUs and one IAA: guests that write, and images in the background."""
    hosts = _pair(16, _LINK_25G, {AcceleratorKind.IAA: 1})
    guests = [
        VmSpec(
            f"weight-{weight}-{index}",
            "a",
            "b",
            8 * _GIB,
            0.8,
            dirty_bytes_s=64 << 20,
            channels=4,
            weight=weight,
            submitted_ns=rng.randrange(_MS),
        )
        for index, weight in enumerate((1, 1, 2, 4, 1, 1, 2, 4))
    ]
    images = [
        VmSpec(f"image-{index}", "a", "b", 8 * _GIB, 0.8, channels=4, phase=Phase.BACKGROUND) for index in range(2)
    ]
    return Study(Scenario("priorities", hosts, (*guests, *images), Workload(codec="deflate"), 8 * PACKET_PAGES))


def _drain_storm(rng: Random) -> Study:
    """1000 migrations submitted within 10 ms, 20 from each of 50 hosts to one of 50 others."""
    devices = {AcceleratorKind.IAA: 1}
    hosts = [HostSpec(f"{side}-{index:02}", 64, _LINK_25G, devices) for side in ("from", "to") for index in range(50)]
    guests = [
        VmSpec(
            f"vm-{index:04}",
            f"from-{index % 50:02}",
            f"to-{index % 50:02}",
            _GIB,
            0.6,
            dirty_bytes_s=16 << 20,
            submitted_ns=rng.randrange(10 * _MS),
        )
        for index in range(1000)
    ]
    return Study(Scenario("drain-storm", tuple(hosts), tuple(guests), Workload(codec="deflate"), 32 * PACKET_PAGES))


def _device_loss(rng: Random) -> Study:
    """The only IAA of the source goes away under load and comes back two seconds later."""
    hosts = _pair(64, _LINK_100G, {AcceleratorKind.IAA: 1})
    guests = tuple(
        VmSpec(
            f"vm-{index:02}",
            "a",
            "b",
            8 * _GIB,
            0.8,
            dirty_bytes_s=32 << 20,
            channels=4,
            submitted_ns=rng.randrange(_MS),
        )
        for index in range(16)
    )
    faults = (
        Fault(1 * _S, "a", AcceleratorKind.IAA, up=False),
        Fault(3 * _S, "a", AcceleratorKind.IAA, up=True),
    )
    calm = Scenario("device-loss", hosts, guests, Workload(codec="deflate"), 16 * PACKET_PAGES)
    return Study(replace(calm, faults=faults), (({"loss": "none"}, calm),))


def _pair(cpus: int, link_b_ns: float | None, devices: dict[AcceleratorKind, int]) -> tuple[HostSpec, HostSpec]:
    return HostSpec("a", cpus, link_b_ns, devices), HostSpec("b", cpus, link_b_ns, devices)


_STUDIES: dict[str, Callable[[Random], Study]] = {
    "hundred-vms": _hundred_vms,
    "hundred-vms-growth": _growth,
    "busy-iaa": _busy_iaa,
    "qat-threads": _qat_threads,
    "dsa-zero": _dsa_zero,
    "priorities": _priorities,
    "drain-storm": _drain_storm,
    "device-loss": _device_loss,
}
