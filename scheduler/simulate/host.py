"""A host: CPUs and a link that threads share evenly, DRAM that slows everybody when it is short, and devices."""

from collections.abc import Generator
from typing import Any

import simpy

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.device import Device
from scheduler.simulate.fair_share import FairShare
from scheduler.simulate.memory_demand import MemoryDemand
from scheduler.simulate.parameters import Parameters
from scheduler.simulate.scenario import HostSpec

Process = Generator[simpy.Event, Any, None]


class Host:
    """What the migrations of one machine share. The link is its sending side."""

    def __init__(self, env: simpy.Environment, spec: HostSpec, parameters: Parameters, scale: int) -> None:
        self.name = spec.name
        self.cpus = FairShare(env, spec.cpus, limit=1.0)
        self.link = None if spec.link_b_ns is None else FairShare(env, spec.link_b_ns)
        self.memory = MemoryDemand(parameters.memory_b_ns)
        self.devices: dict[AcceleratorKind, list[Device]] = {
            kind: [
                Device(env, f"{spec.name}/{kind.value}/{index}", kind, parameters.devices[kind], scale, self.memory)
                for index in range(count)
            ]
            for kind, count in spec.devices.items()
            if count
        }

    def all_devices(self) -> list[Device]:
        """Of all kinds, by name."""
        return [device for devices in self.devices.values() for device in devices]
