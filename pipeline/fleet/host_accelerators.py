"""A host's part in sharing its accelerators: its devices, the credit table of its workers, and the scheduler's client.

Every session that may use a device has a flow on it, one to send and one to receive; what the workers may do is in the
table, which the client fills ten times a second by what the scheduler answers. Nothing here can fail a migration: no
device, no scheduler, no row left in the table all mean that the CPU does the work.
"""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pipeline.codecs.codec import CodecId
from pipeline.errors import KuakaError
from pipeline.fleet.host_devices import HostDevice, start_devices
from pipeline.fleet.orders import TransferTerms
from pipeline.fleet.places import DeviceChoice
from pipeline.fleet.ticket_desk import FlowTickets, TicketFlow, has_tickets
from pipeline.offload import OffloadCounters, SessionDevice, SessionOffload
from pipeline.offloaded import DSA, IAA, QAT
from scheduler.client import PERIOD_NS, SchedulerClient, Transport
from scheduler.core.units import PERMILLE, Phase
from scheduler.credit_table import CreditError, CreditTable
from scheduler.devices.device import Operation
from scheduler.flow_split import PathTerms
from scheduler.pool_work import PoolWork
from scheduler.ticks import OpenFlow

#: Two flows of each of a host's migrations, for every worker, and as many that have just ended.
_ROWS = 4096
#: Raw bytes for one on the wire: a page alone, and a packet in one stream (docs/devices.md).
_DEVICE_RATIO_PERMILLE, _CPU_RATIO_PERMILLE = 1580, 2000
_INCARNATION_BITS = 63

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Flow:
    opened: OpenFlow
    device: HostDevice
    #: Whether it counts in its migration's result: a zero scan is not work on pages that travel.
    coding: bool
    service_class: str | None = None


@dataclass(frozen=True, slots=True)
class AcceleratorStatistics:
    """A host's accelerators as its scheduler's client sees them."""

    #: How long ago the scheduler answered; None: never.
    silent_ns: int | None
    work: Mapping[str, PoolWork]
    #: The kind of each pool that there is or was.
    kinds: Mapping[str, str]
    #: Pools whose queue stands.
    overloaded: Mapping[str, bool]


class HostAccelerators:
    """The accelerators of one agent, on its loop."""

    def __init__(
        self, host: str, directory: Path, devices: DeviceChoice, connect: Callable[[], Transport] | None = None
    ) -> None:
        """`connect` finds the scheduler; without it, or without `devices`, the CPU does everything."""
        self._host = host
        self._directory = directory
        self._choice = devices
        self._connect = connect
        self._workers = 0
        self._devices: Sequence[HostDevice] = ()
        self._open_pools: set[str] = set()
        self._client: SchedulerClient | None = None
        self._table: CreditTable | None = None
        self._flows: dict[str, list[_Flow]] = {}
        self._ticking: asyncio.Task[None] | None = None
        #: One tick at a time.
        self._turn = asyncio.Lock()
        self._soon = asyncio.Event()

    async def start(self, workers: int) -> None:
        """Start the devices, and the ticks that keep them shared among so many workers. Raises `KuakaError`."""
        if self._connect is None:
            return
        self._devices = await start_devices(self._choice, self._host, self._directory)
        if not self._devices:
            return
        self._workers = workers
        try:
            self._table = CreditTable.create(self._directory / "credit", _ROWS)
        except (CreditError, OSError) as error:
            raise KuakaError(f"host {self._host}: no credit table for its accelerators: {error}") from None
        incarnation = secrets.randbits(_INCARNATION_BITS)
        self._client = SchedulerClient(self._host, incarnation, self._table, self._connect())
        psutil.cpu_percent(None)
        await self._tick()
        self._ticking = asyncio.create_task(self._keep_ticking())

    def open(self, vm: str, terms: TransferTerms, phase: Phase, *, sending: bool) -> SessionOffload | None:
        """Let a session use what there is for it; None where there is nothing."""
        if self._client is None or self._table is None:
            return None
        told: list[SessionDevice] = []
        for device, coding in self._useful(terms.codec, sending=sending):
            opened = _flow(vm, terms, device, phase, sending=sending)
            try:
                rows = self._client.open_flow(opened, self._workers)
            except (CreditError, ValueError) as error:
                _log.warning("%s: %s", self._host, error)
                continue
            self._client.describe_path(opened.flow, opened.pool, self._path(terms))
            self._flows.setdefault(terms.session, []).append(_Flow(opened, device, coding))
            told.append(SessionDevice(device.address, rows))
        if not told:
            return None
        # The first lease is there before the first pages are.
        self._soon.set()
        return SessionOffload(str(self._table.path), tuple(told))

    def takes_tickets(self, codec: CodecId) -> bool:
        """Whether a device would code what leaves with this codec, and a scheduler answers that has tickets for it."""
        client = self._client
        there = client is not None and client.silent_ns is not None
        return there and any(
            coding and has_tickets(device.settings) for device, coding in self._useful(codec, sending=True)
        )

    def ticket_desk(self, session: str) -> FlowTickets | None:
        """Where a session asks for its downtime ticket; None where nothing that codes its pages gives any."""
        flows = [
            TicketFlow(flow.opened.flow, flow.device.settings, flow.device.cost)
            for flow in self._flows.get(session, ())
            if flow.coding and has_tickets(flow.device.settings)
        ]
        if self._client is None or self._client.silent_ns is None or not flows:
            return None
        return FlowTickets(self._client, flows, self._soon.set)

    def stopped(self, session: str) -> None:
        """The session's guest stands still: its flows are CRITICAL from now on, and the scheduler is told at once."""
        for flow in self._flows.get(session, ()):
            flow.opened = replace(flow.opened, phase=Phase.STOPPED)
            if self._client is not None:
                with contextlib.suppress(CreditError):
                    self._client.open_flow(flow.opened, self._workers)
        self._soon.set()

    def raise_weight(self, session: str, factor: int) -> bool:
        """Multiply a session's weight in all its pools; whether it has any."""
        flows = self._flows.get(session, ())
        for flow in flows:
            flow.opened = replace(flow.opened, weight=flow.opened.weight * factor)
            if self._client is not None:
                with contextlib.suppress(CreditError):
                    self._client.open_flow(flow.opened, self._workers)
        self._soon.set()
        return bool(flows)

    def counters(self, session: str) -> OffloadCounters | None:
        """What a session has come to here as of the last tick; None where it has no accelerator."""
        flows = self._flows.get(session)
        if self._client is None or not flows:
            return None
        told = [
            (flow.device.address.kind, counted)
            for flow in flows
            if flow.coding and (counted := self._client.counted(flow.opened.flow, flow.opened.pool)) is not None
        ]
        return OffloadCounters(
            sum(part.accelerator_pages for _, part in told),
            sum(part.cpu_pages for _, part in told),
            sum(part.busy_retries for _, part in told),
            sum(part.wait_ns for _, part in told),
            next((flow.service_class for flow in flows if flow.coding and flow.service_class is not None), None),
            {kind: part.accelerator_pages for kind, part in told},
        )

    def statistics(self) -> AcceleratorStatistics | None:
        """A snapshot; None where there is no accelerator."""
        client = self._client
        if client is None:
            return None
        kinds = {device.settings.pool: device.address.kind for device in self._devices}
        overloaded = {pool: said.stop_admission for pool, said in client.backpressure.items()}
        return AcceleratorStatistics(client.silent_ns, client.work(), kinds, overloaded)

    async def close(self, session: str) -> OffloadCounters | None:
        """The session is over: its final counters, and its slots go to others."""
        if self._client is None or session not in self._flows:
            return None
        # Reads what the workers counted last.
        await self._tick()
        final = self.counters(session)
        for flow in self._flows.pop(session):
            self._client.close_flow(flow.opened.flow, flow.opened.pool)
        return final

    async def stop(self) -> None:
        """End everything."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait((self._ticking,))
        for device in self._devices:
            await asyncio.to_thread(device.end)
        if self._table is not None:
            self._table.remove()
            self._table = self._client = None

    async def _keep_ticking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_NS / 1e9):
                    await self._soon.wait()
            self._soon.clear()
            await self._tick()

    async def _tick(self) -> None:
        async with self._turn:
            client = self._client
            if client is None:
                return
            samples = [sample for device in self._devices if (sample := await device.sample()) is not None]
            self._follow_devices(client)
            busy_permille = round(psutil.cpu_percent(None) * PERMILLE / 100)
            await client.tick(samples, busy_permille)
            for flows in self._flows.values():
                for flow in flows:
                    if flow.opened.phase is not Phase.STOPPED:
                        held = client.service_class(flow.opened.flow, flow.opened.pool)
                        flow.service_class = held.name.lower() if held is not None else flow.service_class

    def _follow_devices(self, client: SchedulerClient) -> None:
        for device in self._devices:
            pool = device.settings.pool
            if device.up and pool not in self._open_pools:
                self._open_pools.add(pool)
                client.open_pool(device.settings)
            elif not device.up and pool in self._open_pools:
                self._open_pools.discard(pool)
                client.close_pool(pool)

    def _useful(self, codec: CodecId, *, sending: bool) -> list[tuple[HostDevice, bool]]:
        """The devices for a session, one of a kind at most: those with the fewest flows. Whether each codes pages.

        Deflate goes by IAA and by QAT, wherever a batch is done first; where an IAA decodes, QAT does not. Raw streams
        of QAT's are made by QAT alone, and an IAA decodes them, too.
        """
        operation = Operation.COMPRESS if sending else Operation.DECOMPRESS
        kinds = {
            CodecId.DEFLATE: (IAA, QAT),
            CodecId.QAT: (QAT,),
            CodecId.QAT_RAW: (QAT,) if sending else (IAA, QAT),
        }.get(codec, ())
        found = [(coder, True) for kind in kinds if (coder := self._least_used(kind, operation))]
        if not sending:
            found = found[:1]
        if sending and (scanner := self._least_used(DSA, Operation.ZERO_SCAN)):
            found.append((scanner, False))
        return found

    def _least_used(self, kind: str, operation: Operation) -> HostDevice | None:
        there = [
            device
            for device in self._devices
            if device.up and device.address.kind == kind and device.cost.supports(operation)
        ]
        flows = [flow.device for session in self._flows.values() for flow in session]
        return min(there, key=flows.count, default=None)

    def _path(self, terms: TransferTerms) -> PathTerms:
        cores = max(1, (os.cpu_count() or 1) // (len(self._flows) + 1))
        return PathTerms(
            min(terms.channels, cores), terms.rate_bytes_s or 0, _DEVICE_RATIO_PERMILLE, _CPU_RATIO_PERMILLE
        )


def _flow(vm: str, terms: TransferTerms, device: HostDevice, phase: Phase, *, sending: bool) -> OpenFlow:
    weight, reservation_ns_s, cap_ns_s = device.share_of(vm)
    # What both say holds: the larger promise, the smaller cap, and no promise above a cap.
    caps = [cap for cap in (cap_ns_s, terms.cap_ns_s) if cap]
    reservation_ns_s = min([max(reservation_ns_s, terms.reservation_ns_s), *caps])
    return OpenFlow(
        f"{terms.session}/{'send' if sending else 'receive'}",
        device.settings.pool,
        terms.tenant,
        terms.weight * weight,
        reservation_ns_s,
        min(caps, default=0),
        phase,
    )
