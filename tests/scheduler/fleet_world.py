"""Hosts with clients, workers and devices around one real service, in virtual time and one thread.

Workers are `Credit` objects on real tables, by the world's clock. At every step what is in each device, and what may be
submitted to it, is compared with its slots.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scheduler.client import SchedulerClient, Unreachable
from scheduler.core.effects import Granted
from scheduler.core.events import PoolSettings
from scheduler.core.machine import Scheduler
from scheduler.core.units import AcceleratorKind
from scheduler.credit import Credit, Hold
from scheduler.credit_table import CreditTable
from scheduler.process_identity import ProcessIdentity
from scheduler.service import SchedulerService
from scheduler.ticks import OpenFlow, Tick, TickAnswer, TicketAnswer
from tests.scheduler.epoch_memory import Clock, EpochMemory

MS = 1_000_000
TICK_NS = 100 * MS
#: Workers and devices are looked at so often.
STEP_NS = 20 * MS
BATCH_SLOTS = 64
#: How long a batch is in the device.
IN_DEVICE_NS = 10 * MS


class Worker:
    """One row's worker; it always wants more."""

    def __init__(self, table: CreditTable, row: int, clock: Clock, batch_ns: int) -> None:
        self.credit = Credit(table, row, clock)
        self._batch_ns = batch_ns
        self.row = row
        self.running = True
        self.in_device: list[tuple[int, Hold]] = []
        self.device_batches = self.cpu_batches = 0
        self._clock = clock

    def step(self) -> None:
        """What has come back is given back, then as much is submitted as there is credit for."""
        if not self.running:
            return
        for done_ns, hold in list(self.in_device):
            if done_ns <= self._clock.now_ns:
                self.in_device.remove((done_ns, hold))
                hold.release(self._batch_ns)
        while (hold := self.credit.acquire(BATCH_SLOTS, self._batch_ns, timeout_ns=0)) is not None:  # type: ignore[assignment]
            if hold.current():
                self.in_device.append((self._clock.now_ns + IN_DEVICE_NS, hold))
                self.device_batches += 1
            else:
                hold.release(0)
        self.cpu_batches += 1

    @property
    def slots_in_device(self) -> int:
        """Descriptors that are really there."""
        return sum(hold.slots for done_ns, hold in self.in_device if done_ns > self._clock.now_ns)


class Host:
    """One host with one pool; each flow has `workers` rows."""

    def __init__(self, world: "World", name: str, incarnation: int) -> None:
        self.name = name
        self.pool = PoolSettings(f"{name}/iaa/0", name, AcceleratorKind.IAA, world.slots, world.critical_slots, 8)
        self.table = CreditTable.create(world.folder / f"{name}-{incarnation}", world.rows)
        self.dead: set[ProcessIdentity] = set()
        self.client = SchedulerClient(
            name, incarnation, self.table, world.transport, world.clock, lambda identity: identity not in self.dead
        )
        self.workers: dict[str, list[Worker]] = {}
        self.client.open_pool(self.pool)
        self.stopped = False
        self._world = world

    def open(self, flow: str, workers: int = 1, weight: int = 1) -> list[Worker]:
        """Begin a migration."""
        rows = self.client.open_flow(OpenFlow(flow, self.pool.pool, "fleet", weight), workers)
        self.workers[flow] = [Worker(self.table, row, self._world.clock, self._world.batch_ns) for row in rows]
        return self.workers[flow]

    def kill(self, worker: Worker) -> None:
        """SIGKILL: what it has in the device goes on, nobody gives it back."""
        worker.running = False
        identity = ProcessIdentity(10_000 + worker.row, 1)
        at = self.table.counters_at(worker.row)
        self.table.words[at + 2], self.table.words[at + 3] = identity.pid, identity.started
        self.dead.add(identity)

    @property
    def all_workers(self) -> list[Worker]:
        """Of all flows."""
        return [worker for workers in self.workers.values() for worker in workers]

    @property
    def may_be_in_device(self) -> int:
        """What is there, or may be submitted now."""
        now_ns, most = self._world.clock.now_ns, 0
        for worker in self.all_workers:
            grant = self.table.grant(worker.row)
            live = grant is not None and now_ns < grant.deadline_ns and worker.running
            most += max(worker.slots_in_device, grant.window if grant is not None and live else 0)
        return most

    @property
    def leases(self) -> int:
        """Flows that may submit now."""
        rows = [self.table.grant(worker.row) for worker in self.all_workers]
        return sum(1 for row in rows if row is not None and row.window and self._world.clock.now_ns < row.deadline_ns)


class World:
    """Everything."""

    def __init__(
        self,
        folder: Path,
        hosts: int,
        *,
        slots: int = 128,
        critical_slots: int = 16,
        rows: int = 64,
        batch_ns: int = 2 * MS,
    ) -> None:
        """`batch_ns`: device work of a batch; each worker does one per step. A pool has eight engines."""
        self.batch_ns = batch_ns
        self.folder = folder
        self.slots, self.critical_slots, self.rows = slots, critical_slots, rows
        self.clock = Clock()
        self.store = EpochMemory()
        self.random = random.Random(1)
        self.service: SchedulerService | None = None
        self.restart()
        #: How likely a call is lost, its answer is lost, it comes twice, or comes late.
        self.trouble = 0.0
        self.unreachable: set[str] = set()
        #: Whether a guest stands still, so that the reserve may be used.
        self.critical = False
        self.answers: list[TickAnswer] = []
        self._late: dict[str, Tick] = {}
        self._loop = asyncio.new_event_loop()
        self._next_tick_ns = self.clock.now_ns
        self.hosts = [Host(self, f"h{number}", number) for number in range(hosts)]

    def restart(self) -> None:
        """Kill the scheduler's process, if there is one, and start another."""
        self.service = SchedulerService(self.store, Scheduler, self.clock)

    def pass_time(self, duration_ns: int) -> None:
        """Steps and ticks, one after the other; the slots are checked at each."""
        end_ns = self.clock.now_ns + duration_ns
        while self.clock.now_ns < end_ns:
            self.clock.now_ns += STEP_NS
            if self.clock.now_ns >= self._next_tick_ns:
                self._next_tick_ns += TICK_NS
                for host in self.hosts:
                    if not host.stopped:
                        self.tick(host)
            for host in self.hosts:
                for worker in host.all_workers:
                    worker.step()
                self.check(host)

    def tick(self, host: Host) -> None:
        """One host's tick."""
        self._loop.run_until_complete(host.client.tick())

    def ticket(self, host: Host, flow: str, cost_ns: int, within_ns: int) -> TicketAnswer:
        """Ask for a ticket, with a tick to carry it; a tick of its own where nobody answers takes a real second."""

        async def ask() -> TicketAnswer:
            asking = asyncio.create_task(host.client.request_ticket(flow, host.pool.pool, cost_ns, within_ns))
            await asyncio.sleep(0)
            self.clock.now_ns += TICK_NS
            await host.client.tick()
            return await asking

        return self._loop.run_until_complete(ask())

    def check(self, host: Host) -> None:
        """A host's device is never asked for more than its slots."""
        most = host.may_be_in_device
        assert most <= self.slots - (0 if self.critical else self.critical_slots), (
            f"{host.name}: {most} at {self.clock.now_ns}"
        )

    async def transport(self, tick: Tick) -> TickAnswer:
        """The network."""
        if self.service is None or tick.host in self.unreachable:
            raise Unreachable("nobody answers")
        if tick.host in self._late and self.random.random() < 0.5:
            self.service.tick(self._late.pop(tick.host))
        if self.random.random() < self.trouble:
            raise Unreachable("the call was lost")
        if self.random.random() < self.trouble:
            self._late[tick.host] = tick
            raise Unreachable("the call takes long")
        answer = self.service.tick(tick)
        if self.random.random() < self.trouble:
            assert self.service.tick(tick) == answer
        if self.random.random() < self.trouble:
            raise Unreachable("the answer was lost")
        self.answers.append(answer)
        return answer

    def granted(self) -> list[Granted]:
        """Leases told so far."""
        return [effect for answer in self.answers for _, effect in answer.effects if isinstance(effect, Granted)]

    def device_batches(self) -> int:
        """Batches done by devices so far."""
        return sum(worker.device_batches for host in self.hosts for worker in host.all_workers)

    def batches_per_second(self) -> int:
        """Batches that devices do in the next second."""
        before = self.device_batches()
        self.pass_time(1_000 * MS)
        return self.device_batches() - before

    def close(self) -> None:
        """Release what the operating system gave."""
        self._loop.close()


@contextmanager
def world_of(folder: Path, hosts: int, **settings: int) -> Iterator[World]:
    """A world, closed afterwards."""
    world = World(folder, hosts, **settings)
    try:
        yield world
    finally:
        world.close()
