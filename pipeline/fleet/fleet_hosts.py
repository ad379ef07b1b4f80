"""What the controller needs of hosts besides what a migration needs: to sweep, to steer, and agents on demand."""

from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.fleet.handle import HostHandle
from pipeline.fleet.sweep import SweepingHost


class SteeringHost(Protocol):
    """Changes to a session that runs. Each raises `KuakaError` where it cannot be done; the session goes on then."""

    async def set_rate(self, session_id: str, rate_bytes_s: int | None) -> None:
        """Cap its wire bytes per second from now on; None lifts the cap."""

    async def raise_weight(self, session_id: str, factor: int) -> None:
        """Multiply its share of the accelerators."""

    async def auto_converge(self, session_id: str) -> None:
        """Let QEMU slow the guest down until it converges."""


class FleetHost(HostHandle, SweepingHost, SteeringHost, Protocol):
    """All that a host's agent can be asked."""


class Hosts(Protocol):
    """The agents, one per host; started when they are needed."""

    async def begin(self) -> None:
        """Called once, before anything else: when it returns no agent of a dead controller does anything any more.

        Raises `KuakaError` when that is not certain.
        """

    async def host(self, spec: Mapping[str, Any], name: str) -> FleetHost:
        """The agent of a host of that spec, started if there is none or if it has died. Raises `KuakaError`."""
