import simpy

from scheduler.core.effects import Lease
from scheduler.core.events import PoolSettings
from scheduler.core.units import AcceleratorKind, ServiceClass
from scheduler.simulate.credit_book import CreditBook, Ticket
from scheduler.simulate.fit import calibrated
from scheduler.simulate.policy import Indifferent
from scheduler.simulate.scenario import HostSpec, Scenario, VmSpec, Workload
from scheduler.simulate.world import World

_SETTINGS = PoolSettings("a/iaa/0", "a", AcceleratorKind.IAA, slots=128, critical_slots=16, engines=2)


def _book() -> tuple[simpy.Environment, CreditBook]:
    hosts = (HostSpec("a"), HostSpec("b"))
    world = World(
        Scenario("one", hosts, (VmSpec("vm", "a", "b", 1 << 20, 0.0, channels=2),), Workload()),
        Indifferent(),
        calibrated(),
    )
    world.run()
    return world.env, CreditBook(world.env, world.migrations[0], world.hosts["a"], _SETTINGS)


def _lease(number: int = 1, *, window: int = 16, budget_ns: int = 1000, ttl_ns: int = 1_000_000) -> Lease:
    return Lease(number, "vm", "a/iaa/0", 1, ServiceClass.BULK, window, budget_ns, ttl_ns)


def test_nothing_without_a_lease() -> None:
    _, book = _book()
    assert (book.usable(), book.take(8)) == (False, 0)


def test_threads_share_the_window_and_never_exceed_it() -> None:
    env, book = _book()
    book.grant(_lease(), int(env.now))
    for _ in range(2):
        assert book.take(128) == 8
        book.hold(8, 100)
    assert book.take(128, last=True) == 0
    book.release(8, 100, 100, None)
    assert book.take(128) == 8


def test_a_lease_counts_from_when_its_report_was_sent() -> None:
    env, book = _book()
    book.grant(_lease(ttl_ns=1000), int(env.now) - 999)
    assert book.usable()
    env.run(until=int(env.now) + 1)
    assert not book.usable()


def test_a_used_up_budget_ends_it_and_the_report_gives_the_slots_back() -> None:
    env, book = _book()
    book.grant(_lease(budget_ns=100), int(env.now))
    book.hold(8, 100)
    assert not book.usable()
    assert book.report().window == 16
    book.release(8, 100, 100, None)
    report = book.report()
    assert (report.released, report.window, report.used_ns, report.lease) == (True, 0, 100, 1)


def test_an_older_lease_does_not_replace_a_newer_one() -> None:
    env, book = _book()
    book.grant(_lease(2, window=4), int(env.now))
    book.grant(_lease(1, window=16), int(env.now))
    assert book.lease is not None
    assert book.lease.window == 4


def test_a_ticket_is_in_force_from_the_stop_on_and_counts_on_its_own() -> None:
    env, book = _book()
    book.grant(_lease(window=16), int(env.now))
    book.ticket = Ticket(_lease(2, window=4, budget_ns=50), int(env.now) + 1000)
    assert book.hold(8, 10) is None
    book.stop()
    assert book.take(4) == 2
    ticket = book.hold(2, 50)
    assert ticket is book.ticket
    book.release(2, 50, 50, ticket)
    assert not book.usable()
