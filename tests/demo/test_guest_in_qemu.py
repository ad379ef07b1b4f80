"""The guest in real QEMUs: it does what its model says, and survives a live migration."""

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.guest import (
    FIRST_PAGE,
    ODD_MEMORY_BYTES,
    STATE_PAGE,
    STEPS_WORD,
    GuestParameters,
    as_pages,
    is_ready,
)
from pipeline.demo.guest_model import Words, fill_kinds, filled_pages
from pipeline.demo.ram_check import compare
from pipeline.errors import KuakaError
from tests.demo.running_guest import QEMU_7_2, QEMU_10_0, RunningGuest, wait_until

pytestmark = pytest.mark.qemu

MIB = 1 << 20
MACHINES = [
    pytest.param(QEMU_7_2, "pc-i440fx-7.2", id="7.2"),
    pytest.param(QEMU_7_2, "q35", id="7.2-q35"),
    pytest.param(QEMU_10_0, "pc-i440fx-7.2", id="10.0-as-7.2"),
    pytest.param(QEMU_10_0, "pc-i440fx-9.0", id="10.0-as-9.0"),
    pytest.param(QEMU_10_0, "pc-i440fx-10.0", id="10.0"),
]


def model_before_first_step(guest: RunningGuest) -> Words:
    """What the guest's RAM must have been when it got ready; its low RAM is taken from it."""
    pages = as_pages(guest.ram).copy()
    pages[STATE_PAGE, STEPS_WORD] = 0
    for first in range(FIRST_PAGE, len(pages), 4096):
        numbers = np.arange(first, min(first + 4096, len(pages)))
        pages[numbers] = filled_pages(guest.parameters, numbers)
    return pages


@pytest.mark.parametrize(("qemu", "machine"), MACHINES)
@pytest.mark.parametrize("memory_mib", [64, 256])
def test_memory_is_what_the_model_says(tmp_path: Path, qemu: str, machine: str, memory_mib: int) -> None:
    parameters = GuestParameters(memory_mib * MIB, dirty_rate_bytes_s=64 * MIB)
    with RunningGuest(tmp_path / "guest", parameters, qemu, machine) as guest:
        guest.wait_ready()
        guest.wait_steps(10_000)
        guest.qmp("stop")
        result = compare(model_before_first_step(guest), guest.ram, parameters)
    assert (result.wrong_pages, result.first_wrong) == (0, ())
    assert result.destination_step >= 10_000


@pytest.mark.parametrize("ratio", [0, 60, 100])
def test_still_guest_holds_the_mix(tmp_path: Path, ratio: int) -> None:
    parameters = GuestParameters(64 * MIB, normal_page_ratio=ratio, dirty_rate_bytes_s=0)
    with RunningGuest(tmp_path / "guest", parameters) as guest:
        guest.wait_ready()
        time.sleep(0.2)
        assert guest.steps == 0
        assert compare(model_before_first_step(guest), guest.ram, parameters).wrong_pages == 0
        normal = as_pages(guest.ram)[FIRST_PAGE:].any(axis=1)
    assert normal.mean() == pytest.approx(ratio / 100, abs=0.01)
    kinds = fill_kinds(parameters, np.arange(FIRST_PAGE, parameters.block_pages))
    assert ((kinds != 0) == normal).all()


def test_low_memory_does_not_change_while_the_guest_dirties(tmp_path: Path) -> None:
    with RunningGuest(tmp_path / "guest", GuestParameters(64 * MIB, dirty_rate_bytes_s=8 * MIB)) as guest:
        guest.wait_ready()
        before = as_pages(guest.ram)[:FIRST_PAGE].copy()
        guest.wait_steps(1000)
        after = as_pages(guest.ram)[:FIRST_PAGE].copy()
    changed = np.argwhere(before != after).tolist()
    assert changed == [[STATE_PAGE, STEPS_WORD]]


@pytest.mark.parametrize("qemu", [pytest.param(QEMU_7_2, id="7.2"), pytest.param(QEMU_10_0, id="10.0")])
@pytest.mark.parametrize("rate_mib_s", [1, 32, 200])
def test_dirty_rate_is_what_was_asked(tmp_path: Path, qemu: str, rate_mib_s: int) -> None:
    def measured(guest: RunningGuest) -> float:
        first, started = guest.steps, time.monotonic()
        time.sleep(0.7)
        return (guest.steps - first) * 4096 / MIB / (time.monotonic() - started)

    with RunningGuest(
        tmp_path / "guest", GuestParameters(64 * MIB, dirty_rate_bytes_s=rate_mib_s * MIB), qemu
    ) as guest:
        guest.wait_ready()
        # a host that is busy with something else holds the guest up now and then, hence three chances
        rates = [measured(guest) for _ in range(3)]
    assert any(rate == pytest.approx(rate_mib_s, rel=0.2) for rate in rates), rates


def test_guest_dirties_only_its_working_set(tmp_path: Path) -> None:
    parameters = GuestParameters(64 * MIB, dirty_rate_bytes_s=16 * MIB, working_set_bytes=4 * MIB)
    with RunningGuest(tmp_path / "guest", parameters) as guest:
        guest.wait_ready()
        guest.wait_steps(4000)
        guest.qmp("stop")
        before = model_before_first_step(guest)
        changed = np.flatnonzero((before != as_pages(guest.ram)).any(axis=1))
        assert compare(before, guest.ram, parameters).wrong_pages == 0
    assert set(changed.tolist()) - {STATE_PAGE} <= set(range(FIRST_PAGE, FIRST_PAGE + 1024))


def test_guest_says_so_when_it_has_another_amount_of_ram(tmp_path: Path) -> None:
    with (
        RunningGuest(tmp_path / "guest", GuestParameters(64 * MIB), memory_bytes=128 * MIB) as guest,
        pytest.raises(KuakaError, match="another amount of RAM"),
    ):
        guest.wait_ready()


@pytest.mark.parametrize(
    ("source_qemu", "destination_qemu", "machine"),
    [
        pytest.param(QEMU_7_2, QEMU_7_2, "pc-i440fx-7.2", id="7.2-to-7.2"),
        pytest.param(QEMU_7_2, QEMU_10_0, "pc-i440fx-7.2", id="7.2-to-10.0"),
        pytest.param(QEMU_10_0, QEMU_7_2, "pc-i440fx-7.2", id="10.0-to-7.2"),
        pytest.param(QEMU_10_0, QEMU_10_0, "pc-i440fx-10.0", id="10.0-to-10.0"),
    ],
)
def test_live_migration_loses_nothing_and_damage_is_reported(
    tmp_path: Path, source_qemu: str, destination_qemu: str, machine: str
) -> None:
    parameters = GuestParameters(96 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=64 * MIB)
    with (
        RunningGuest(tmp_path / "source", parameters, source_qemu, machine) as source,
        RunningGuest(tmp_path / "destination", parameters, destination_qemu, machine, incoming=True) as destination,
    ):
        source.wait_ready()
        source.wait_steps(1000)
        source.migrate_to(destination, channels=2)
        destination.qmp("cont")
        wait_until(lambda: destination.steps > source.steps + 2000, "destination goes on")
        destination.qmp("stop")
        result = compare(source.ram, destination.ram, parameters)
        assert (result.wrong_pages, result.first_wrong) == (0, ())
        assert result.source_step + 2000 < result.destination_step
        for page in (3, 20_000):
            destination.ram[page * 4096 + 100] ^= 0x10
        assert compare(source.ram, destination.ram, parameters).first_wrong == (3, 20_000)


@pytest.mark.long
@pytest.mark.parametrize(("qemu", "machine"), [MACHINES[0], MACHINES[4]])
def test_memory_above_4_gib_is_migrated_and_compared(tmp_path: Path, qemu: str, machine: str) -> None:
    parameters = GuestParameters(4608 * MIB + ODD_MEMORY_BYTES, normal_page_ratio=5, dirty_rate_bytes_s=32 * MIB)
    with (
        RunningGuest(tmp_path / "source", parameters, qemu, machine) as source,
        RunningGuest(tmp_path / "destination", parameters, qemu, machine, incoming=True) as destination,
    ):
        source.wait_ready()
        source.wait_steps(5000)
        before = model_before_first_step(source)
        source.migrate_to(destination, channels=4, timeout_s=60)
        destination.qmp("cont")
        wait_until(lambda: destination.steps > source.steps + 2000, "destination goes on")
        destination.qmp("stop")
        assert is_ready(destination.ram)
        assert compare(source.ram, destination.ram, parameters).wrong_pages == 0
        assert compare(before, destination.ram, parameters).wrong_pages == 0
