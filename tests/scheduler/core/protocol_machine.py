"""The scheduler and `naive_model` driven together by Hypothesis; what must hold is checked after every step."""

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import Phase as RunPhase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scheduler.core.effects import Effect, Granted, TicketGranted
from scheduler.core.events import (
    Event,
    FlowClosed,
    FlowOpened,
    PoolClosed,
    PoolOpened,
    PoolSettings,
    TenantSet,
    Ticked,
    TicketClosed,
    TicketRequested,
)
from scheduler.core.leases import life_ns
from scheduler.core.machine import Scheduler
from scheduler.core.units import AcceleratorKind, Phase
from tests.scheduler.core.naive_model import Call, Clock, Holder, Host, World
from tests.scheduler.core.naive_policy import NaivePolicy

MS = 1_000_000
POOL = PoolSettings("a/iaa/0", "a", AcceleratorKind.IAA, 20, 4, 1, lease_ns=10 * MS, horizon_ns=40 * MS, least_window=4)
HOSTS = 3
FLOWS = 2
#: Example counts of the suite; the mutants are caught with these.
EXAMPLES = settings(
    max_examples=300,
    stateful_step_count=60,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(RunPhase.explicit, RunPhase.generate),
    suppress_health_check=list(HealthCheck),
)

_HOST = st.integers(0, HOSTS - 1)
_FLOW = st.integers(0, HOSTS * FLOWS - 1)
_ANY = st.integers(0, 1 << 16)
_PPM = st.sampled_from((-500, 0, 500))
_STEPS = st.sampled_from((1, MS, 10 * MS, 40 * MS, 100 * MS, 1000 * MS))
_PHASES = st.sampled_from((Phase.PRECOPY, Phase.PRECOPY, Phase.PRECOPY, Phase.BACKGROUND, Phase.POSTCOPY))


class ProtocolMachine(RuleBasedStateMachine):
    """See `naive_model` for what is modelled, `naive_policy` for who must be served."""

    world_type: type[World] = World

    @initialize(ppm=st.tuples(_PPM, _PPM, _PPM, _PPM))
    def begin(self, ppm: tuple[int, int, int, int]) -> None:
        hosts = [Host(name, Clock(host_ppm)) for name, host_ppm in zip("abc", ppm[1:], strict=True)]
        for number, host in enumerate(hosts):
            host.flows = {name: Holder(name, host) for name in (f"f{number}", f"g{number}")}
        self.epoch, self.requests, self.replaced = 1, 0, 0
        self.pool_up = True
        self.weights = {"t": 1, "u": 1}
        self.ended: dict[str, int] = {}
        self.world = self.world_type(POOL, Scheduler(1, 0, learning=False), hosts, Clock(ppm[0]))
        self.opened: dict[str, FlowOpened] = {}
        self.known: set[str] = set()
        self.learning_until_ns = 0
        self._begin_epoch()
        for number in range(HOSTS):
            self.change(number, Phase.PRECOPY, 1, None, 0, 0)
            self.exchange(number)

    def _begin_epoch(self) -> None:
        self.ended = {}
        self.known = set()
        #: The last sequence that was handled, by host.
        self.heard: dict[str, int] = {}
        self.policy = NaivePolicy()
        for tenant, weight in self.weights.items():
            self.world.handle(TenantSet(tenant, weight))
        self.world.handle(PoolOpened(POOL))
        pool = self.world.scheduler.pools[POOL.pool]
        self.policy.watch(pool, lambda: self.world.clock.at(self.world.now_ns) < self.learning_until_ns)

    # Everything that is handled passes here.

    def handle(self, event: Event) -> list[Effect]:
        effects = self.world.handle(event)
        self._saw(effects)
        return effects

    def _saw(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Granted):
                lease = effect.lease
                assert lease.epoch == self.epoch
                assert lease.lease > self.ended.get(lease.flow, 0), f"{lease.flow}: lease {lease.lease} had ended"
        for name, flow in self.world.scheduler.pools[POOL.pool].flows.items():
            if not flow.lease:
                self.ended[name] = max(self.ended.get(name, 0), self._newest.get(name, 0))
            self._newest[name] = max(self._newest.get(name, 0), flow.lease)
        self.policy.settle()

    @property
    def _newest(self) -> dict[str, int]:
        return self.policy.newest

    def holder(self, number: int) -> Holder:
        return self.world.hosts[number % HOSTS].flows[("f", "g")[number // HOSTS] + str(number % HOSTS)]

    # Time

    @rule(index=_ANY, tick=st.booleans())
    def wait_for_boundary(self, index: int, tick: bool) -> None:
        times = self.world.times()
        if times:
            self.world.wait(times[index % min(len(times), 12)])
        if tick:
            self.handle(Ticked())

    @rule(step=_STEPS)
    def wait(self, step: int) -> None:
        self.world.wait(self.world.now_ns + step)
        self.handle(Ticked())

    # Messages

    @rule(host=_HOST)
    def send(self, host: int) -> None:
        if len(self.world.calls) < 6:
            self.world.send(self.world.hosts[host])

    @precondition(lambda self: self.world.calls)
    @rule(index=_ANY, again=st.booleans())
    def deliver(self, index: int, again: bool) -> None:
        call = self.world.calls[index % len(self.world.calls)]
        if not again:
            self.world.calls.remove(call)
        self._deliver(call)

    @precondition(lambda self: self.world.calls)
    @rule(index=_ANY)
    def lose(self, index: int) -> None:
        self.world.calls.pop(index % len(self.world.calls))

    @precondition(lambda self: self.world.answers)
    @rule(index=_ANY)
    def hear(self, index: int) -> None:
        self.world.hear(self.world.answers.pop(index % len(self.world.answers)))

    @rule(host=_HOST)
    def exchange(self, host: int) -> None:
        call = self.world.send(self.world.hosts[host])
        self.world.calls.remove(call)
        self._deliver(call)
        self.world.hear(self.world.answers.pop())

    def _deliver(self, call: Call) -> None:
        if call.host not in self.world.hosts:
            # The service knows that a client was replaced.
            return
        if call.host.name not in self.known:
            # A host that is not known tells everything first.
            self.known.add(call.host.name)
            for holder in call.host.flows.values():
                if holder.opened:
                    self.handle(self.opened[holder.flow])
        new = call.event.sequence > self.heard.get(call.host.name, 0)
        self.heard[call.host.name] = max(self.heard.get(call.host.name, 0), call.event.sequence)
        self.world.deliver(call)
        answered = self.world.answers[-1]
        self._saw([effect for effect, _, _ in answered.answer or [] if new])
        if new:
            self.policy.conserved()
            self._lives_are_counted(call, answered)

    def _lives_are_counted(self, call: Call, answered: Call) -> None:
        asked = {report.flow for report in call.event.flows}
        flows = self.world.scheduler.pools[POOL.pool].flows
        for effect, _, _ in answered.answer or []:
            if isinstance(effect, Granted) and effect.lease.flow in asked:
                life = life_ns(effect.lease.ttl_ns, POOL.clock_ppm, POOL.drain_ns)
                left_ns = flows[effect.lease.flow].expires_ns - self.world.clock.at(self.world.now_ns)
                assert left_ns >= life, f"{effect.lease.flow} was told of {life} ns, {left_ns} are counted"

    # Holders

    @rule(flow=_FLOW, part=st.sampled_from((2, 1, 1)), done=st.booleans())
    def work(self, flow: int, part: int, done: bool) -> None:
        holder = self.holder(flow)
        if holder.held is not None:
            holder.used_ns += max(0, holder.held.lease.budget_until_ns - holder.used_ns) // part
            if done:
                holder.give_back()

    @rule(flow=_FLOW)
    def drain(self, flow: int) -> None:
        self.holder(flow).drain()

    @rule(flow=_FLOW, demand=st.sampled_from((0, 1, 5 * MS, 40 * MS, 10**18)))
    def want(self, flow: int, demand: int) -> None:
        self.holder(flow).demand_ns = demand

    # Flows

    @rule(
        flow=_FLOW,
        phase=_PHASES,
        weight=st.sampled_from((1, 1, 3)),
        deadline=st.sampled_from((None, None, None, 0, 50 * MS)),
        reservation=st.sampled_from((0, 0, 0, 200 * MS)),
        cap=st.sampled_from((0, 0, 0, 300 * MS)),
    )
    def change(self, flow: int, phase: Phase, weight: int, deadline: int | None, reservation: int, cap: int) -> None:
        holder = self.holder(flow)
        due_ns = None if deadline is None else self.world.clock.at(self.world.now_ns) + deadline
        tenant = "u" if flow == 1 else "t"
        self._open(
            FlowOpened(holder.flow, POOL.pool, tenant, weight, holder.host.name, reservation, cap, phase, due_ns)
        )

    def _open(self, event: FlowOpened) -> None:
        holder = self.holder("fg".index(event.flow[0]) * HOSTS + int(event.flow[1]))
        if not holder.opened:
            holder.opened, holder.used_ns, holder.demand_ns = True, 0, 40 * MS
        self.opened[event.flow] = event
        if event.host in self.known:
            self.handle(event)
        else:
            self.known.add(event.host)
            for each in holder.host.flows.values():
                if each.opened:
                    self.handle(self.opened[each.flow])

    @rule(flow=_FLOW)
    def close(self, flow: int) -> None:
        """The service closes flows of a host that fell silent: the holder knows nothing of it."""
        holder = self.holder(flow)
        if holder.opened and holder.host.name in self.known:
            self.handle(FlowClosed(holder.flow, POOL.pool))
            self.handle(self.opened[holder.flow])

    @rule(host=_HOST)
    def replace_client(self, host: int) -> None:
        """A client dies and another one comes for its host; its workers go on as long as they may."""
        before = self.world.hosts[host]
        self.replaced += 1
        if self.replaced > 3:
            return
        now = Host(before.name, before.clock, sequence=before.sequence + 10, epoch=0)
        now.flows = {name: Holder(name, now) for name in before.flows}
        for name, holder in before.flows.items():
            if holder.opened and before.name in self.known:
                self.handle(FlowClosed(name, POOL.pool))
        self.world.hosts[host] = now
        self.world.ghosts += before.flows.values()
        for name, holder in before.flows.items():
            if holder.opened:
                self._open(self.opened[name])

    @rule(tenant=st.sampled_from(("t", "u")), weight=st.sampled_from((1, 4)))
    def weigh(self, tenant: str, weight: int) -> None:
        self.weights[tenant] = weight
        self.handle(TenantSet(tenant, weight))
        self.policy.restart()

    # Tickets

    @rule(flow=_FLOW, cost=st.sampled_from((1, 2 * MS)), late=st.sampled_from((0, 100 * MS)), heard=st.booleans(),
          again=st.booleans())  # fmt: skip
    def ask_ticket(self, flow: int, cost: int, late: int, heard: bool, again: bool) -> None:
        holder = self.holder(flow)
        if not holder.opened or holder.host.name not in self.known or (again and not self.requests):
            return
        self.requests += not again
        stamp_ns = holder.host.clock.at(self.world.now_ns)
        self.world.wait(self.world.now_ns + late)
        for effect in self.handle(TicketRequested(holder.flow, POOL.pool, self.requests, cost, 20 * MS)):
            if isinstance(effect, TicketGranted) and heard:
                self.world.apply(holder.host, [(effect, 0, effect.lease.window)], stamp_ns)

    @rule(flow=_FLOW)
    def stop(self, flow: int) -> None:
        holder = self.holder(flow)
        if holder.opened and holder.ticket is not None:
            self.change(flow, Phase.STOPPED, 1, None, 0, 0)

    @rule(flow=_FLOW)
    def close_ticket(self, flow: int) -> None:
        holder = self.holder(flow)
        if holder.ticket is not None and holder.host.name in self.known:
            holder.ticket, holder.ticket_slots = None, 0
            self.handle(TicketClosed(holder.flow, POOL.pool))

    # Devices and the scheduler itself

    @rule(opened=st.booleans())
    def flip_pool(self, opened: bool) -> None:
        self.handle(PoolOpened(POOL) if opened else PoolClosed(POOL.pool))
        self.policy.restart()

    @precondition(lambda self: self.world.clock.at(self.world.now_ns) >= self.learning_until_ns)
    @rule()
    def restart(self) -> None:
        """Not within a learning period: what the reserve keeps for one restart it cannot give to two."""
        self.epoch += 1
        began_ns = self.world.clock.at(self.world.now_ns)
        self.learning_until_ns = began_ns + life_ns(POOL.ttl_ns, POOL.clock_ppm, POOL.drain_ns)
        self.world.scheduler = Scheduler(self.epoch, began_ns, learning=True)
        self._begin_epoch()

    @invariant()
    def what_must_hold_holds(self) -> None:
        if hasattr(self, "world"):
            self.world.scheduler.validate()
            learning = self.world.clock.at(self.world.now_ns) < self.learning_until_ns
            self.world.check(learning=learning)


def run(machine: type[ProtocolMachine], examples: settings = EXAMPLES) -> None:
    """Raises whatever a run finds."""
    kind: Any = machine
    run_state_machine_as_test(kind, settings=examples)
