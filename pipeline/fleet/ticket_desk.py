"""Downtime tickets of one session's flows, by its host's client of the scheduler.

cost_ns of a stop on a pool is what its device needs for the pages that remain, each as a descriptor of its own: no
stop costs more. Where that is denied, less may remain the next time, for QEMU copies on. Then no more is asked for than
the pool's critical reserve can do within the downtime limit when it is empty, or the answer might be no for ever: what
is beyond that is the CPU's. Flows on several pools share the pages, and a guest is stopped when all of them have a
ticket. A pool without a critical reserve, or whose device is down, promises nothing and is not waited for.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.memory.pages import PAGE_BYTES
from scheduler.client import SchedulerClient
from scheduler.core.effects import Reason
from scheduler.core.events import PoolSettings
from scheduler.core.tickets import TicketBook
from scheduler.devices.cost import CostModel
from scheduler.devices.device import Operation
from scheduler.ticks import TicketAnswer

_NO_DEVICE = frozenset((Reason.DEVICE_DOWN, Reason.UNKNOWN_POOL))


@dataclass(frozen=True, slots=True)
class TicketFlow:
    """A flow that codes pages on its way out, and what they cost its pool."""

    flow: str
    settings: PoolSettings
    cost: CostModel


def has_tickets(settings: PoolSettings) -> bool:
    """Whether the pool's scheduler ever gives one."""
    return TicketBook.of(settings).usable(learning=False) > 0


def stop_cost_ns(pages: int, cost: CostModel) -> int:
    """Device-ns of so many pages at the most; KeyError for a device that compresses nothing."""
    return max(1, pages * cost.cost_ns(Operation.COMPRESS, PAGE_BYTES))


def possible_cost_ns(cost_ns: int, within_ns: int, settings: PoolSettings) -> int:
    """As much of a cost as an empty reserve promises."""
    return max(1, min(cost_ns, TicketBook.of(settings).most_cost_ns(within_ns)))


class FlowTickets:
    """A `TicketDesk`; `soon` makes the client's next tick come at once."""

    def __init__(self, client: SchedulerClient, flows: Sequence[TicketFlow], soon: Callable[[], None]) -> None:
        self._client = client
        self._flows = flows
        self._soon = soon
        self._denied = False

    @property
    def silent_ns(self) -> int | None:
        """See `TicketDesk`."""
        return self._client.silent_ns

    async def ask(self, pages: int, within_ns: int) -> TicketAnswer:
        """See `TicketDesk`. No reason to deny it where nobody answers, or no device is up: the CPU does it."""
        share = -(-pages // len(self._flows))
        self._soon()
        answers = await asyncio.gather(*(self._ask(flow, share, within_ns) for flow in self._flows))
        answers = [answer for answer in answers if answer.reason not in _NO_DEVICE]
        denied = [answer for answer in answers if not answer.granted]
        if not denied:
            return TicketAnswer(granted=bool(answers))
        self._denied = True
        # Where one pool's answer is missing, there is nobody to ask again.
        reason = denied[0].reason if all(answer.reason is not None for answer in denied) else None
        return TicketAnswer(granted=False, reason=reason, retry_ns=max(answer.retry_ns for answer in denied))

    async def _ask(self, flow: TicketFlow, pages: int, within_ns: int) -> TicketAnswer:
        cost_ns = stop_cost_ns(pages, flow.cost)
        if self._denied:
            cost_ns = possible_cost_ns(cost_ns, within_ns, flow.settings)
        return await self._client.request_ticket(flow.flow, flow.settings.pool, cost_ns, within_ns)

    def give_back(self) -> None:
        """See `TicketDesk`."""
        for flow in self._flows:
            self._client.close_ticket(flow.flow, flow.settings.pool)
        self._soon()
