"""A host's accelerators with the real service in this process: what sessions are told, and what becomes of devices."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.errors import SpecError
from pipeline.fleet.host_accelerators import HostAccelerators
from pipeline.fleet.orders import TransferTerms
from scheduler.client import Transport, Unreachable
from scheduler.core.machine import Scheduler
from scheduler.core.units import Phase
from scheduler.credit import boottime_ns
from scheduler.service import SchedulerService
from scheduler.ticks import Tick, TickAnswer
from tests.scheduler.epoch_memory import EpochMemory

DEVICES = Path(__file__).parents[2] / "examples" / "devices"
SESSION = "ab" * 16


def terms(codec: CodecId = CodecId.DEFLATE, session: str = SESSION) -> TransferTerms:
    return TransferTerms(session, 4, codec, None, 300, 15.0, None, "fleet", 3)


def real_service() -> tuple[SchedulerService, Transport]:
    service = SchedulerService(EpochMemory(), Scheduler, boottime_ns)

    async def transport(tick: Tick) -> TickAnswer:
        return service.tick(tick)

    return service, transport


async def nobody(_tick: Tick) -> TickAnswer:
    raise Unreachable("nobody is there")


@asynccontextmanager
async def accelerators(folder: Path, file: Path | None, transport: Transport) -> AsyncIterator[HostAccelerators]:
    made = HostAccelerators("h", folder, file, lambda: transport)
    try:
        await made.start(2)
        yield made
    finally:
        await made.stop()


def flows(service: SchedulerService) -> list[tuple[str, str, int]]:
    pools = service.statistics().core.pools
    return [(flow.flow, flow.tenant, flow.weight) for pool in pools for flow in pool.flows]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen")


def test_session_gets_a_row_for_each_worker_and_its_flow_ends_with_it(tmp_path: Path) -> None:
    async def story() -> None:
        service, transport = real_service()
        async with accelerators(tmp_path, DEVICES / "iaa-small.yaml", transport) as host:
            offload = host.open("vm", terms(), Phase.PRECOPY, sending=True)
            assert offload is not None
            (device,) = offload.devices
            assert device.address.kind == "iaa"
            assert len(set(device.rows)) == 2
            await until(lambda: flows(service) == [(f"{SESSION}/send", "fleet", 3)])
            assert (await host.close(SESSION)) is not None
            await until(lambda: flows(service) == [])
            assert await host.close(SESSION) is None

    asyncio.run(story())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codec", "makes", "decodes"),
    [
        (CodecId.DEFLATE, ["iaa", "qat"], ["iaa"]),
        (CodecId.QAT, ["qat"], ["qat"]),
        (CodecId.QAT_RAW, ["qat"], ["iaa"]),
    ],
)
def test_session_has_the_devices_that_make_or_decode_its_streams(
    tmp_path: Path, codec: CodecId, makes: list[str], decodes: list[str]
) -> None:
    async def story() -> None:
        _, transport = real_service()
        async with accelerators(tmp_path, DEVICES / "iaa-and-qat.yaml", transport) as host:
            for session, sending, kinds in (("ab" * 16, True, makes), ("cd" * 16, False, decodes)):
                offload = host.open("vm", terms(codec, session), Phase.PRECOPY, sending=sending)
                assert offload is not None
                assert [device.address.kind for device in offload.devices] == kinds

    asyncio.run(story())


@pytest.mark.parametrize("codec", [CodecId.NONE, CodecId.ZSTD])
def test_device_is_offered_only_for_what_it_makes(tmp_path: Path, codec: CodecId) -> None:
    async def story() -> None:
        _, transport = real_service()
        async with accelerators(tmp_path, DEVICES / "iaa-small.yaml", transport) as host:
            assert host.open("vm", terms(codec), Phase.PRECOPY, sending=True) is None

    asyncio.run(story())


def test_scan_is_offered_by_a_dsa_to_senders_of_any_codec(tmp_path: Path) -> None:
    async def story() -> None:
        _, transport = real_service()
        async with accelerators(tmp_path, DEVICES / "dsa.yaml", transport) as host:
            offload = host.open("vm", terms(CodecId.ZSTD), Phase.PRECOPY, sending=True)
            assert offload is not None
            assert [device.address.kind for device in offload.devices] == ["dsa"]
            assert host.open("vm", terms(CodecId.ZSTD, "cd" * 16), Phase.PRECOPY, sending=False) is None
            # What the scan did is no page that was coded.
            counters = host.counters(SESSION)
            assert counters is not None
            assert counters.accelerator_pages == counters.cpu_pages == 0

    asyncio.run(story())


def test_host_without_devices_offers_nothing_and_never_looks_for_a_scheduler(tmp_path: Path) -> None:
    async def story() -> None:
        host = HostAccelerators("h", tmp_path, None, lambda: pytest.fail("looked for a scheduler"))
        await host.start(2)
        assert host.open("vm", terms(), Phase.PRECOPY, sending=True) is None
        assert host.counters(SESSION) is None
        await host.stop()

    asyncio.run(story())


def test_host_whose_scheduler_cannot_be_reached_works_all_the_same(tmp_path: Path) -> None:
    async def story() -> None:
        async with accelerators(tmp_path, DEVICES / "iaa-small.yaml", nobody) as host:
            assert host.open("vm", terms(), Phase.PRECOPY, sending=True) is not None
            host.stopped(SESSION)
            assert await host.close(SESSION) is not None

    asyncio.run(story())


@pytest.mark.parametrize(
    ("shares", "promised", "cap", "expected"),
    [
        ("", 50, 0, (50, 0)),
        ("", 0, 30, (0, 30)),
        ("  shares: [{name: vm, reservationPercent: 10, capPercent: 40}]\n", 0, 0, (20, 80)),
        ("  shares: [{name: vm, reservationPercent: 10, capPercent: 40}]\n", 30, 25, (25, 25)),
    ],
)
def test_promise_and_cap_of_spec_and_device_hold_both(
    tmp_path: Path, shares: str, promised: int, cap: int, expected: tuple[int, int]
) -> None:
    """All in percent of one engine of two."""
    file = tmp_path / "device.yaml"
    file.write_text((DEVICES / "iaa-small.yaml").read_text() + shares)
    told = replace(terms(), reservation_ns_s=promised * 10**7, cap_ns_s=cap * 10**7)

    async def story() -> None:
        service, transport = real_service()
        folder = tmp_path / "host"
        folder.mkdir()
        async with accelerators(folder, file, transport) as host:
            host.open("vm", told, Phase.PRECOPY, sending=True)
            await until(lambda: bool(flows(service)))
            (flow,) = host._flows[SESSION]
            assert (flow.opened.reservation_ns_s, flow.opened.cap_ns_s) == tuple(each * 10**7 for each in expected)

    asyncio.run(story())


def test_stopped_guest_is_critical_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        service, transport = real_service()
        async with accelerators(tmp_path, DEVICES / "iaa-small.yaml", transport) as host:
            host.open("vm", terms(), Phase.PRECOPY, sending=True)
            await until(lambda: bool(flows(service)))
            host.stopped(SESSION)
            await until(lambda: service.statistics().core.pools[0].flows[0].service_class.name == "CRITICAL")

    asyncio.run(story())


def test_device_that_dies_is_closed_and_offered_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        service, transport = real_service()
        async with accelerators(tmp_path, DEVICES / "iaa-small.yaml", transport) as host:
            (device,) = host._devices
            device._process.kill()
            await until(lambda: not service.statistics().core.pools[0].up)
            assert host.open("vm", terms(), Phase.PRECOPY, sending=True) is None

    asyncio.run(story())


def test_file_that_is_none_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("kind: nonsense\n")

    async def story() -> None:
        with pytest.raises(SpecError, match=r"wrong\.yaml"):
            async with accelerators(tmp_path, wrong, nobody):
                pytest.fail("it was taken")

    asyncio.run(story())
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]
