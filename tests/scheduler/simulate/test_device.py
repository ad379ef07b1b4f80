import simpy

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.device import Device
from scheduler.simulate.memory_demand import MemoryDemand
from scheduler.simulate.parameters import DeviceModel, Operation

_MODEL = DeviceModel(slots=8, engines=2, work_ns_b={Operation.SCAN: 1.0})


def _device(scale: int = 1) -> tuple[simpy.Environment, Device]:
    env = simpy.Environment()
    return env, Device(env, "a/dsa/0", AcceleratorKind.DSA, _MODEL, scale, MemoryDemand(100.0))


def test_engines_share_a_submission() -> None:
    env, device = _device()
    assert env.run(until=device.submit(1000, 4)) is True
    assert env.now == 500


def test_first_come_first_served() -> None:
    env, device = _device()
    first, second = device.submit(1000, 4), device.submit(1000, 4)
    env.run(until=second)
    assert env.now == 1000
    assert first.processed


def test_slots_come_back_as_descriptors_are_served() -> None:
    env, device = _device()
    device.submit(1600, 8)
    assert device.free() == 0
    env.run(until=400)
    assert device.free() == 4
    env.run(until=801)
    assert device.free() == 8


def test_a_batch_that_stands_for_more_packets_finds_as_many_more_slots() -> None:
    _, device = _device(scale=16)
    assert device.free() == 128


def test_critical_passes_what_waits_and_delays_what_comes_after() -> None:
    env, device = _device()
    device.submit(2000, 8)
    critical = device.submit(200, 1, critical=True)
    env.run(until=critical)
    assert env.now == 100
    later = device.submit(200, 1)
    env.run(until=later)
    assert env.now == 1200


def test_what_a_lost_device_held_is_not_done() -> None:
    env, device = _device()
    done = device.submit(1000, 4)
    env.run(until=100)
    device.close()
    assert env.run(until=done) is False
    assert env.now == 100
    assert device.busy_ns() == 200
    assert env.run(until=device.submit(10, 1)) is False


def test_busy_time_counts_the_part_of_a_submission_that_was_served() -> None:
    env, device = _device()
    device.submit(1000, 4)
    env.run(until=250)
    assert device.busy_ns() == 500
    env.run(until=600)
    assert device.busy_ns() == 1000
