"""Where a host of the spec is, and what its agent is told of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.wire.tls import TlsFiles

if TYPE_CHECKING:
    # The agents need places, and nothing of a spec.
    from pipeline.fleet.spec import HostSpec

#: The accelerators that a host has.
AUTO: Literal["auto"] = "auto"
#: A file that declares emulated ones, those that there are, or none.
DeviceChoice = Path | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class HostPlace:
    """A host of the spec: its name, the address for links, and the Ray node it is (None: this one)."""

    name: str
    address: str
    node: str | None
    tls: TlsFiles | None
    #: What its agent shares among migrations.
    devices: DeviceChoice = None


def device_choice(host: "HostSpec") -> DeviceChoice:
    """What the spec says of a host's accelerators; declared ones stand in for its own."""
    if host.emulated_devices is not None:
        return host.emulated_devices
    return AUTO if host.own_accelerators else None
