"""The scheduler's own policy: leases, tickets and the split, by the live core (`scheduler.core`).

Where the split says both, a batch is worked at from both ends (`meeting`); where it says device, its thread sleeps
until the device is done; without credit it does all of it.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import simpy

from scheduler.client import PERIOD_NS
from scheduler.core.effects import TicketGranted
from scheduler.core.events import TenantSet
from scheduler.core.units import PERMILLE, AcceleratorKind
from scheduler.credit import WAIT_NS
from scheduler.simulate.credit_book import CreditBook
from scheduler.simulate.device import Device
from scheduler.simulate.host import Host, Process
from scheduler.simulate.host_client import Exchange, HostClient, least_loaded
from scheduler.simulate.meeting import Meeting
from scheduler.simulate.parameters import PAGE_BYTES, Operation
from scheduler.simulate.work import Work, on_cpu

if TYPE_CHECKING:
    from scheduler.simulate.migration import Migration
    from scheduler.simulate.world import World

#: A guest that needs the device to be in time asks so often for a ticket; one whose CPUs would do asks once.
_MOST_REQUESTS = 3


class Kuaka:
    """One scheduler for all hosts."""

    name = "kuaka"

    def attach(self, world: "World") -> None:
        self._world = world
        self._env = world.env
        self.exchange = Exchange(world.env)
        for tenant in sorted({migration.spec.tenant for migration in world.migrations}):
            self.exchange.tell(TenantSet(tenant, 1))
        hosts = [host for host in world.hosts.values() if host.devices]
        # Agents are not started together: their ticks are spread.
        self._clients = {
            host.name: HostClient(world, host, self.exchange, PERIOD_NS * index // len(hosts))
            for index, host in enumerate(hosts)
        }

    def opened(self, migration: "Migration") -> None:
        for host, kind in migration.kinds():
            client = self._clients[host.name]
            client.open_flow(CreditBook(self._env, migration, host, client.pools[kind]))

    def closed(self, migration: "Migration") -> None:
        for host, kind in migration.kinds():
            book = self._book(migration, host, kind)
            if book is not None:
                self._clients[host.name].close_flow(book)
                if book.ticket is not None:
                    self._clients[host.name].close_ticket(book)

    def process(self, work: Work) -> Process:
        book = self._book(work.migration, work.host, work.kind)
        device = least_loaded(work.devices())
        if book is None or device is None:
            yield from on_cpu(work)
            return
        share = self._device_share(book)
        cost_ns = device.work_ns(work.operation, work.size_bytes)
        book.ask(cost_ns)
        slots = 0
        if share:
            slots = yield from self._acquire(book, self._slots(work))
            if not slots:
                book.deny()
        if not slots:
            yield from on_cpu(work)
            return
        yield from self._share(work, book, device, share, slots)

    def before_stop(self, migration: "Migration", pages: int) -> Process:
        """Ask for a ticket while the guest runs; with nothing left to send there is nothing to reserve."""
        book = next(
            (self._book(migration, migration.source, kind) for _, kind in reversed(migration.kinds())),
            None,
        )
        if not pages or book is None:
            return
        client = self._clients[book.host.name]
        requests = 1 if self._cpu_would_do(migration, pages) else _MOST_REQUESTS
        within_ns = self._world.scenario.workload.downtime_limit_ns
        for left in range(requests - 1, -1, -1):
            answer = yield client.request_ticket(book, self._stop_cost_ns(book, pages), within_ns)
            if isinstance(answer, TicketGranted):
                break
            if left:
                yield self._env.timeout(max(answer.retry_ns, 1))
        for host, kind in migration.kinds():
            stopping = self._book(migration, host, kind)
            if stopping is not None:
                self._clients[host.name].stop(stopping)

    def _cpu_would_do(self, migration: "Migration", pages: int) -> bool:
        """Whether its own threads compress what is left within half of the downtime limit."""
        cpu_ns = pages * PAGE_BYTES * self._world.codec.compress_ns_b / migration.spec.channels
        return cpu_ns <= self._world.scenario.workload.downtime_limit_ns / 2

    def _stop_cost_ns(self, book: CreditBook, pages: int) -> int:
        kind = book.settings.kind
        operation = Operation.SCAN if kind is AcceleratorKind.DSA else Operation.COMPRESS
        return max(1, round(pages * PAGE_BYTES * self._world.parameters.devices[kind].work_ns_b[operation]))

    def _book(self, migration: "Migration", host: Host, kind: AcceleratorKind | None) -> CreditBook | None:
        client = self._clients.get(host.name)
        return None if client is None or kind is None else client.book(migration.spec.name, kind)

    def _device_share(self, book: CreditBook) -> float:
        """Of the next batch. A packet is one DSA descriptor; half of it costs the thread as much: all, or nothing."""
        if book.split is None:
            return 0.0
        permille = book.split.split.device_permille
        if book.settings.kind is AcceleratorKind.DSA:
            return float(book.next_turn(permille))
        return permille / PERMILLE

    def _slots(self, work: Work) -> int:
        return max(1, work.descriptors() // self._world.scale)

    def _acquire(self, book: CreditBook, wanted: int) -> Generator[simpy.Event, Any, int]:
        """Slots for a batch, within the bound; returns 0 for none."""
        slots = 0 if book.contended else book.take(wanted)
        if slots or not book.usable():
            return slots
        began_ns = int(self._env.now)
        limit_ns = began_ns + WAIT_NS * self._world.scale
        while not slots and book.usable() and int(self._env.now) < limit_ns:
            turn = book.wait_turn(wanted)
            since_ns = int(self._env.now)
            yield turn | self._env.timeout(limit_ns - since_ns)
            book.waited(turn, since_ns)
            slots = book.take(wanted, last=int(self._env.now) >= limit_ns)
        return slots

    def _share(self, work: Work, book: CreditBook, device: Device, share: float, slots: int) -> Process:
        """Device and thread at the same time, from both ends of the batch until they meet."""
        wanted = self._slots(work)
        meeting = Meeting(work, device, min(share, slots / wanted), with_thread=share < 1)
        cost_ns = device.work_ns(work.operation, work.size_bytes * share)
        ticket = book.hold(slots, cost_ns)
        try:
            yield from meeting.run(critical=ticket is not None)
        finally:
            used_ns = device.work_ns(work.operation, work.size_bytes * meeting.device_share)
            book.release(slots, cost_ns, used_ns, ticket)
