"""Start-time fair queueing in two levels: tenants first, then each tenant's flows (Goyal, Vin, Cheng 1996).

A grant of cost c to a flow of weight w has the tags

    S = max(V, F of its last grant)        F = S + c / w        V becomes S

and the flow with the least S is next; the same once more among tenants. The cost is charged when it is granted, so
between two flows i and j of one tenant and class, both backlogged over an interval, with grants of at most l:

    | W_i / w_i - W_j / w_j |  <=  l_i / w_i + l_j / w_j

whatever rate the device has meanwhile, which is why this and not WFQ: V needs no estimate of capacity. A tenant's flows
share what the tenant gets, so a hundred flows for one gain nothing.

A flow that comes back after a while starts at V: it has no claim on the time it slept through, and gets no bonus. The
weight of a grant is the one it is made with; nothing is rescaled when weights change. Tags are integers in units of
1 / `SCALE` device-ns per weight and only grow. Python's integers do not overflow.

Heaps hold (tag, entry, object). An entry is good as long as its object still names it; others are dropped when they
come up, and when more than twice as many are left over as are good (test_heaps_stay_in_proportion).
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from scheduler.core.flow import Flow

SCALE = 1 << 20
#: Left-over entries that are not worth removing.
_SLACK = 1000

Item = TypeVar("Item")


class TaggedHeap(Generic[Item]):
    """A heap whose entries can be abandoned; `entry_of` says which entry of an item is its good one (0: none)."""

    def __init__(self, entry_of: Callable[[Item], int]) -> None:
        self._entry_of = entry_of
        self._heap: list[tuple[int, int, Item]] = []
        self._entries = 0
        #: How many items are queued.
        self.size = 0

    def push(self, tag: int, item: Item) -> int:
        """Queue an item that is not queued; the entry that it must keep."""
        self._entries += 1
        self.size += 1
        heapq.heappush(self._heap, (tag, self._entries, item))
        if len(self._heap) > 2 * self.size + _SLACK:
            self._heap = [entry for entry in self._heap if self._entry_of(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
        return self._entries

    def dropped(self) -> None:
        """An item has given up its entry."""
        self.size -= 1

    def head(self) -> tuple[int, Item] | None:
        """The least tag and its item, which stays."""
        heap = self._heap
        while heap:
            tag, entry, item = heap[0]
            if self._entry_of(item) == entry:
                return tag, item
            heapq.heappop(heap)
        return None

    def __len__(self) -> int:
        return len(self._heap)


def _flow_entry(flow: Flow) -> int:
    return flow.entry


@dataclass(slots=True, eq=False)
class Tenant:
    """One fleet's queue on one pool and class."""

    name: str
    weight: int
    number: int
    start: int = 0
    finish: int = 0
    entry: int = 0
    #: V among its flows.
    virtual: int = 0
    #: Sum of the weights of its active flows.
    active_weight: int = 0
    flows: TaggedHeap[Flow] = field(default_factory=lambda: TaggedHeap(_flow_entry))


def _tenant_entry(tenant: Tenant) -> int:
    return tenant.entry


class FairQueue:
    """The backlogged flows of one class; a flow that must not be served now is simply not in it."""

    def __init__(self) -> None:
        self.virtual = 0
        self._tenants: TaggedHeap[Tenant] = TaggedHeap(_tenant_entry)

    def __bool__(self) -> bool:
        return self._tenants.size > 0

    def enter(self, flow: Flow) -> None:
        """A flow is backlogged (again)."""
        tenant = flow.tenant
        flow.start = self.start_tag(tenant.virtual, flow.finish)
        flow.entry = tenant.flows.push(flow.start, flow)
        if not tenant.entry:
            tenant.start = self.start_tag(self.virtual, tenant.finish)
            tenant.entry = self._tenants.push(tenant.start, tenant)

    def leave(self, flow: Flow) -> None:
        """A queued flow is not to be served now."""
        tenant = flow.tenant
        flow.entry = 0
        tenant.flows.dropped()
        if not tenant.flows.size:
            tenant.entry = 0
            self._tenants.dropped()

    def head(self) -> Flow | None:
        """The flow that is next."""
        tenant = self._tenants.head()
        if tenant is None:
            return None
        flow = tenant[1].flows.head()
        return flow[1] if flow is not None else None

    def charge(self, flow: Flow, cost_ns: int) -> None:
        """A queued flow was granted `cost_ns` of work; it stays queued, behind those that are due before it."""
        tenant = flow.tenant
        tenant.virtual = max(tenant.virtual, flow.start)
        self.virtual = max(self.virtual, tenant.start)
        flow.finish = flow.start + cost_ns * SCALE // flow.weight
        flow.start = flow.finish
        tenant.flows.dropped()
        flow.entry = tenant.flows.push(flow.start, flow)
        tenant.finish = tenant.start + cost_ns * SCALE // tenant.weight
        tenant.start = tenant.finish
        self._tenants.dropped()
        tenant.entry = self._tenants.push(tenant.start, tenant)

    def charge_absent(self, flow: Flow, cost_ns: int) -> None:
        """The same for a flow that is served by another queue: it pays here, where it would have waited."""
        tenant = flow.tenant
        flow.finish = self.start_tag(tenant.virtual, flow.finish) + cost_ns * SCALE // flow.weight
        if not tenant.entry:
            tenant.finish = self.start_tag(self.virtual, tenant.finish) + cost_ns * SCALE // tenant.weight
            return
        tenant.finish = tenant.start + cost_ns * SCALE // tenant.weight
        tenant.start = tenant.finish
        self._tenants.dropped()
        tenant.entry = self._tenants.push(tenant.start, tenant)

    def refund(self, flow: Flow, cost_ns: int) -> None:
        """Granted work was given back undone: the tags are what they would be without it, but never before V."""
        queued = flow.entry
        if queued:
            self.leave(flow)
        flow.finish -= cost_ns * SCALE // flow.weight
        flow.tenant.finish -= cost_ns * SCALE // flow.tenant.weight
        if flow.tenant.entry:
            tenant = flow.tenant
            tenant.start = self.start_tag(self.virtual, tenant.finish)
            self._tenants.dropped()
            tenant.entry = self._tenants.push(tenant.start, tenant)
        if queued:
            self.enter(flow)

    @staticmethod
    def start_tag(virtual: int, finish: int) -> int:
        """Where somebody starts who comes (back) at `virtual`: no bonus for having slept."""
        return max(virtual, finish)
