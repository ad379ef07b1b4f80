"""What holders are told: leases with every report, what to expect only where that is not what they know."""

from scheduler.core.answers import WITHHELD
from scheduler.core.effects import Granted, Outlook
from tests.scheduler.core.toy_device import MS, S, ToyPool, Vm

_SMALL_PART = 8


def world_of(vms: int) -> ToyPool:
    """Flows that have been told what to expect."""
    world = ToyPool()
    world.add(*(Vm(f"f{number}") for number in range(vms)))
    world.run(2 * S)
    return world


def outlooks(world: ToyPool) -> list[Outlook]:
    """Those of the last tick."""
    return [effect for effect in world.effects if isinstance(effect, Outlook)]


def test_what_has_not_changed_is_not_told_again() -> None:
    world = world_of(2)
    for _ in range(10):
        world.tick()
        assert not outlooks(world)
        assert [effect for effect in world.effects if isinstance(effect, Granted)]


def test_what_is_known_is_never_off_by_an_eighth() -> None:
    world = world_of(30)
    known: dict[str, Outlook] = {name: flow.outlook for name, flow in world.pool.flows.items() if flow.outlook}
    for tick in range(50):
        if tick % 10 == 0:
            world.add(Vm(f"late{tick}", weight=1 + tick))
        world.tick()
        known |= {outlook.flow: outlook for outlook in outlooks(world)}
        for flow in world.pool.flows.values():
            told = known[flow.name]
            wait_ns, share_ns_s = world.pool.answers.wait_ns(flow), world.pool.shares.rate_ns_s(flow)
            assert abs(told.wait_ns - wait_ns) * _SMALL_PART <= told.wait_ns
            assert abs(told.share_ns_s - share_ns_s) * _SMALL_PART <= told.share_ns_s
            assert (told.withheld is None) == (flow.granted_ns > flow.used_ns)
            assert told.withheld in {None, *WITHHELD}


def test_share_that_others_take_is_told_at_once() -> None:
    world = world_of(2)
    before = world.pool.flows["f0"].outlook
    world.add(*(Vm(f"late{number}") for number in range(2)))
    world.now_ns += 1 * MS
    world.report("late0", "late1")
    world.tick()
    told = {outlook.flow: outlook for outlook in outlooks(world)}
    assert before is not None
    assert told["f0"].share_ns_s * 2 == before.share_ns_s
