"""A source guest whose stop is held back, by its gateway or by its downtime limit; see `qemu.switchover`."""

import asyncio
from dataclasses import dataclass

from pipeline.qemu.source_gateway import SourceGateway
from pipeline.qemu.source_vm import SourceVm
from pipeline.qemu.switchover import Hold, RamProgress


@dataclass(frozen=True, slots=True)
class HeldStop:
    """A `Switchover` of `downtime_ticket`."""

    vm: SourceVm
    gateway: SourceGateway
    hold: Hold

    async def ram(self) -> RamProgress:
        """See `Switchover`."""
        return await self.vm.ram()

    async def let_go(self) -> None:
        """See `Switchover`."""
        if self.hold is Hold.ACK:
            # It writes to a socket.
            await asyncio.to_thread(self.gateway.let_switch_over)
        else:
            await self.vm.allow_downtime()
