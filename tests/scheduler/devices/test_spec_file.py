"""Device files: the presets are what they say, and a mistake is one line with the file, the field and what to do."""

from pathlib import Path

import pytest

from scheduler.core.events import PoolSettings
from scheduler.core.units import AcceleratorKind
from scheduler.devices.device import Operation
from scheduler.devices.emulated.schedule import Disturbance, DisturbanceKind
from scheduler.devices.spec import EmulatedDeviceSpec
from scheduler.devices.spec_file import MAX_DEVICES, MAX_FILE_BYTES, DeviceSpecError, load_devices, parse_devices
from tests.conftest import ROOT

PRESETS = ROOT / "examples/devices"
GOOD = """
apiVersion: kuaka/v1
kind: EmulatedDevice
metadata: {name: x}
spec:
  kind: iaa
  size: 64
  criticalSlots: 16
  engines: 2
  operations: {compress: {fixedNs: 500, nsPerByte: 0.5}}
"""


def spec_with(more: str) -> str:
    return GOOD + "".join(f"  {line}\n" for line in more.splitlines())


def one(text: str) -> EmulatedDeviceSpec:
    (device,) = parse_devices(text, "f.yaml")
    return device


def refusal(text: str) -> str:
    with pytest.raises(DeviceSpecError) as error:
        parse_devices(text, "f.yaml")
    line = str(error.value)
    assert line.startswith("f.yaml: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", ["iaa", "dsa", "qat", "iaa-small"])
def test_presets_load_under_their_own_names(name: str) -> None:
    (device,) = load_devices(PRESETS / f"{name}.yaml")
    assert device.metadata.name == name
    assert device.pool_settings("host").pool == f"host/{name.split('-', maxsplit=1)[0]}/0"


def rate_gb_s(name: str, operation: Operation, size_bytes: int) -> float:
    (device,) = load_devices(PRESETS / f"{name}.yaml")
    return device.spec.engines * size_bytes / device.cost().cost_ns(operation, size_bytes)


def test_presets_run_at_the_published_rates() -> None:
    assert 3.0 <= rate_gb_s("iaa", Operation.COMPRESS, 4096) <= 3.4
    assert rate_gb_s("iaa", Operation.DECOMPRESS, 2 << 20) == pytest.approx(30, rel=0.02)
    assert rate_gb_s("dsa", Operation.ZERO_SCAN, 4096) == pytest.approx(27, rel=0.02)
    assert rate_gb_s("qat", Operation.COMPRESS, 65536) == pytest.approx(3.5, rel=0.02)
    assert rate_gb_s("qat", Operation.COMPRESS, 64 << 20) == pytest.approx(5.6, rel=0.02)


def test_small_preset_is_at_most_200_mb_a_second_either_way() -> None:
    for operation in (Operation.COMPRESS, Operation.DECOMPRESS):
        assert 0.19 <= rate_gb_s("iaa-small", operation, 4096) <= 0.2


def test_declared_device_becomes_a_pool_and_a_queue() -> None:
    device = one(
        spec_with(
            "threshold: 48\n"
            "pool: {leaseMs: 10, horizonMs: 100.5, bulkFloorPercent: 12.5}\n"
            "schedule: [{atSeconds: 1.5, stallMs: 20}, {atSeconds: 2, disableMs: 1}]"
        )
    )
    pool = device.pool_settings("a")
    assert (pool.kind, pool.slots, pool.critical_slots, pool.engines) == (AcceleratorKind.IAA, 48, 16, 2)
    assert (pool.lease_ns, pool.horizon_ns, pool.bulk_floor) == (10_000_000, 100_500_000, 125)
    assert device.queue_settings().slots == 48
    assert device.cost().cost_ns(Operation.COMPRESS, 4096) == 500 + 2048
    assert not device.cost().supports(Operation.ZERO_SCAN)
    assert device.disturbances() == (
        Disturbance(DisturbanceKind.STALL, 1_500_000_000, 20_000_000),
        Disturbance(DisturbanceKind.DISABLE, 2_000_000_000, 1_000_000),
    )


def test_shares_are_device_time_of_all_engines() -> None:
    device = one(spec_with("shares: [{name: db, weight: 4, reservationPercent: 10, capPercent: 50}]"))
    assert device.share_of("db") == (4, 200_000_000, 1_000_000_000)
    assert device.share_of("another") == (1, 0, 0)


def test_defaults_are_those_of_the_scheduler() -> None:
    assert one(GOOD).pool_settings("a") == PoolSettings("a/iaa/0", "a", AcceleratorKind.IAA, 64, 16, 2)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GOOD.replace("kind: iaa", "kind: gpu"), "spec.kind: 'gpu' cannot be: it should be 'dsa', 'iaa' or 'qat'"),
        (GOOD.replace("kind: EmulatedDevice", "kind: Fleet"), "kind: 'Fleet' cannot be"),
        (GOOD.replace("nsPerByte: 0.5", "nsPerByte: 0"), "spec.operations.compress.nsPerByte: 0 cannot be"),
        (GOOD.replace("nsPerByte: 0.5", "nsPerByte: -1"), "spec.operations.compress.nsPerByte: -1 cannot be"),
        (GOOD.replace("nsPerByte: 0.5", "nsPerByte: .nan"), "nsPerByte: nan is not a number that could be meant"),
        (GOOD.replace("fixedNs: 500", "fixedNs: '500'"), "fixedNs: '500' is not a whole number"),
        (GOOD.replace("compress:", "encrypt:"), "spec.operations.encrypt"),
        (GOOD.replace("{compress: {fixedNs: 500, nsPerByte: 0.5}}", "{}"), "spec.operations: {} cannot be"),
        (
            GOOD.replace("engines: 2", "engines: 0"),
            "spec.engines: 0 cannot be: it should be greater than or equal to 1",
        ),
        (GOOD.replace("size: 64", "size: 0"), "spec.size: 0 cannot be"),
        (GOOD.replace("size: 64", "size: true"), "spec.size: True is not a whole number"),
        (GOOD.replace("  size: 64\n", ""), "spec.size: is missing: add it"),
        (GOOD.replace("metadata: {name: x}", "metadata: {name: 'a b'}"), "metadata.name: 'a b' cannot be"),
        (spec_with("colour: red"), "spec.colour: is not a field of a device"),
        (spec_with("threshold: 65"), "spec: threshold 65 is above size 64"),
        (spec_with("threshold: 16"), "spec: criticalSlots 16 leave none of 16 slots"),
        (spec_with("pool: {leastWindow: 49}"), "spec: pool.leastWindow 49 is above the 48 general slots"),
        (spec_with("pool: {bulkFloorPercent: 90, backgroundFloorPercent: 11}"), "add up to 101 %"),
        (spec_with("pool: {bulkFloorPercent: 101}"), "spec.pool.bulkFloorPercent: 101 cannot be"),
        (spec_with("pool: {leaseMs: 251}"), "pool.leaseMs 251 is above pool.horizonMs"),
        (spec_with("pool: {leaseMs: 0}"), "spec.pool.leaseMs: 0 cannot be"),
        (spec_with("faults: {pageFaultsPerMillion: 1000001}"), "pageFaultsPerMillion: 1000001 cannot be"),
        (spec_with("schedule: [{atSeconds: 1}]"), "spec.schedule[0]: says neither or both"),
        (spec_with("schedule: [{atSeconds: 1, stallMs: 1, disableMs: 1}]"), "says neither or both"),
        (spec_with("schedule: [{atSeconds: -1, stallMs: 1}]"), "spec.schedule[0].atSeconds: -1 cannot be"),
        (spec_with("shares: [{name: db, weight: -1}]"), "spec.shares[0].weight: -1 cannot be"),
        (spec_with("shares: [{name: db, weight: 0}]"), "spec.shares[0].weight: 0 cannot be"),
        (spec_with("shares: [{name: db}, {name: db}]"), "shares: db is there twice"),
        (spec_with("shares: [{name: db, reservationPercent: 9, capPercent: 8}]"), "db: reservationPercent is above"),
        (
            spec_with("shares: [{name: db, reservationPercent: 40}, {name: web, reservationPercent: 21}]"),
            "reservations of 61 % (db, web) are beyond capacity: at most 60 %",
        ),
        (GOOD + "---" + GOOD, "x and x are both the iaa on socket 0"),
        (GOOD + "---" + GOOD.replace("iaa", "qat"), "metadata.name: x is there twice"),
        (GOOD + "---\n[]", "document: [] is not a mapping"),
        (("---" + GOOD) * (MAX_DEVICES + 1), f"has {MAX_DEVICES + 1} documents"),
        ("", "or an empty one"),
        ("- a\n- b", "document: ['a', 'b'] is not a mapping"),
        ("a: [", "line 2:"),
        ("a: 1\na: 2", "line 2: 'a' is given twice"),
        ("a: &x 1\nb: *x", "line 2: has an alias"),
        ("[" * 100_000, "nested more than 16 deep"),
        ("a: 2026-02-30", "is not YAML"),
        ("? [1, 2]\n: 3", "line 1:"),
        ("? {a: 1}\n: 3", "line 1:"),
    ],
)
def test_mistake_is_refused_by_name_in_one_line(text: str, what: str) -> None:
    assert what in refusal(text)


def test_reservations_up_to_capacity_are_taken() -> None:
    one(spec_with("shares: [{name: db, reservationPercent: 40}, {name: web, reservationPercent: 20}]"))


def test_two_kinds_of_device_in_one_file_are_two_pools() -> None:
    second = GOOD.replace("iaa", "qat").replace("name: x", "name: y")
    devices = parse_devices(GOOD + "---" + second, "f.yaml")
    assert [device.pool_settings("h").pool for device in devices] == ["h/iaa/0", "h/qat/0"]


def test_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"name: \xe4")
    (tmp_path / "large").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    for name, what in (
        ("none", "cannot be read: No such file"),
        (".", "is not a file"),
        ("latin", "is not UTF-8"),
        ("large", "is larger than 256 KiB"),
    ):
        with pytest.raises(DeviceSpecError, match=what):
            load_devices(tmp_path / name)
