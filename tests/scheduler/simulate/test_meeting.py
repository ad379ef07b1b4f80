import pytest

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.fit import calibrated
from scheduler.simulate.meeting import Meeting
from scheduler.simulate.parameters import Operation
from scheduler.simulate.policy import Indifferent
from scheduler.simulate.scenario import HostSpec, Scenario, VmSpec, Workload
from scheduler.simulate.work import Work
from scheduler.simulate.world import World

_BYTES = 512 * 1024


def _meeting(first: float, *, with_thread: bool = True) -> tuple[World, Work, Meeting]:
    """A packet of compression on a host with one IAA that has nothing else to do."""
    hosts = tuple(HostSpec(name, 4, None, {AcceleratorKind.IAA: 1}) for name in ("a", "b"))
    vm = VmSpec("vm", "a", "b", 1 << 30, 1.0)
    world = World(Scenario("one", hosts, (vm,), Workload(codec="deflate")), Indifferent(), calibrated())
    world.run()
    codec, host = world.codec, world.hosts["a"]
    work = Work(
        world.migrations[0],
        host,
        Operation.COMPRESS,
        AcceleratorKind.IAA,
        _BYTES,
        cpu_ns=_BYTES * codec.compress_ns_b,
        submit_ns=_BYTES * codec.submit_ns_b,
    )
    return world, work, Meeting(work, host.devices[AcceleratorKind.IAA][0], first, with_thread=with_thread)


def _run(world: World, meeting: Meeting) -> int:
    began_ns = int(world.env.now)
    world.env.run(until=world.env.process(meeting.run(critical=False)))
    return int(world.env.now) - began_ns


def test_together_they_are_faster_than_either_alone() -> None:
    world, work, meeting = _meeting(0.8)
    device_ns = work.devices()[0].work_ns(Operation.COMPRESS, _BYTES) / work.devices()[0].engines
    assert _run(world, meeting) < device_ns + work.submit_ns
    assert 0.7 < meeting.device_share < 1


def test_a_prediction_of_too_little_is_made_good() -> None:
    world, work, meeting = _meeting(0.1)
    assert _run(world, meeting) < 0.5 * work.cpu_ns
    assert meeting.device_share > 0.5


def test_a_busy_device_is_left_to_others() -> None:
    world, work, meeting = _meeting(0.05)
    work.devices()[0].submit(10_000_000, 128)
    # The first piece has to be waited for; nothing follows it.
    _run(world, meeting)
    assert meeting.device_share == pytest.approx(0.05)


def test_what_a_lost_device_had_is_done_by_the_thread() -> None:
    world, work, meeting = _meeting(1.0, with_thread=False)
    device = work.devices()[0]
    done = world.env.process(meeting.run(critical=False))
    world.env.run(until=int(world.env.now) + 50_000)
    before = work.migration.cpu_bytes
    device.close()
    world.env.run(until=done)
    assert meeting.device_share == 0
    assert work.migration.cpu_bytes - before == pytest.approx(_BYTES)
    assert work.migration.device_bytes == pytest.approx(0)
