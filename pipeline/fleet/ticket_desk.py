"""Downtime tickets of one session's flows, by its host's client of the scheduler.

cost_ns of a stop on a pool is what its device needs for the pages that remain, each as a descriptor of its own: no
stop costs more. Flows on several pools share the pages, and a guest is stopped when all of them have a ticket. A pool
whose device is down promises nothing and is not waited for.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.memory.pages import PAGE_BYTES
from scheduler.client import SchedulerClient
from scheduler.core.effects import Reason
from scheduler.devices.cost import CostModel
from scheduler.devices.device import Operation
from scheduler.ticks import TicketAnswer

_NO_DEVICE = frozenset((Reason.DEVICE_DOWN, Reason.UNKNOWN_POOL))


@dataclass(frozen=True, slots=True)
class TicketFlow:
    """A flow that codes pages on its way out, and what they cost its pool."""

    flow: str
    pool: str
    cost: CostModel


def stop_cost_ns(pages: int, cost: CostModel) -> int:
    """Device-ns that so many pages take at the most; KeyError for a device that compresses nothing."""
    return pages * cost.cost_ns(Operation.COMPRESS, PAGE_BYTES)


class FlowTickets:
    """A `TicketDesk`; `soon` makes the client's next tick come at once."""

    def __init__(self, client: SchedulerClient, flows: Sequence[TicketFlow], soon: Callable[[], None]) -> None:
        self._client = client
        self._flows = flows
        self._soon = soon

    @property
    def silent_ns(self) -> int | None:
        """See `TicketDesk`."""
        return self._client.silent_ns

    async def ask(self, pages: int, within_ns: int) -> TicketAnswer:
        """See `TicketDesk`. No reason to deny it where nobody answers, or no device is up: the CPU does it."""
        share = -(-pages // len(self._flows))
        self._soon()
        answers = await asyncio.gather(
            *(
                self._client.request_ticket(flow.flow, flow.pool, stop_cost_ns(share, flow.cost), within_ns)
                for flow in self._flows
            )
        )
        denied = [answer for answer in answers if not answer.granted]
        if not denied:
            return TicketAnswer(granted=True)
        return TicketAnswer(granted=False, reason=denied[0].reason, retry_ns=max(answer.retry_ns for answer in denied))

    def give_back(self) -> None:
        """See `TicketDesk`."""
        for flow in self._flows:
            self._client.close_ticket(flow.flow, flow.pool)
        self._soon()
