"""The demo as a fleet: two hosts, both of them this machine, and what moves from one to the other."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.demo.options import DemoOptions
from pipeline.fleet.places import AUTO
from pipeline.fleet.spec import FleetSpec, HostSpec, Metadata, Spec, VirtualMachine

SOURCE_HOST, DESTINATION_HOST = "source", "destination"


def demo_spec(options: DemoOptions, machines: Sequence[VirtualMachine]) -> Spec:
    """The spec of a demo that moves `machines`."""
    return Spec(
        api_version="kuaka/v1",
        kind="Fleet",
        metadata=Metadata(name="demo"),
        spec=FleetSpec(
            codec=options.codec,
            level=options.level,
            channels=options.channels,
            bandwidth_per_migration=options.rate_per_vm_bytes_s,
            hosts=tuple(_host(name, options) for name in (SOURCE_HOST, DESTINATION_HOST)),
            virtual_machines=tuple(machines),
            # All at the same time, that is what it shows.
            parallel_migrations_per_cluster=len(machines),
            parallel_outbound_migrations_per_node=len(machines),
            parallel_inbound_migrations_per_node=len(machines),
        ),
    )


def _host(name: str, options: DemoOptions) -> HostSpec:
    if isinstance(options.devices, Path):
        return HostSpec(name=name, emulated_devices=options.devices)
    return HostSpec(name=name, own_accelerators=options.devices == AUTO)
