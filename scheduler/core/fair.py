"""Start-time fair queueing in two levels: tenants first, then each tenant's flows (Goyal, Vin, Cheng 1996).

A grant of cost c to a flow of weight w has the tags

    S = max(V, F of its last grant)        F = S + c / w        V becomes S

and the flow with the least S is next; the same once more among tenants. The cost is charged when it is granted, so
between two flows i and j of one tenant and class, both backlogged over an interval, with grants of at most l:

    | W_i / w_i - W_j / w_j |  <=  l_i / w_i + l_j / w_j

Grants that are made for another reason (a reservation, a deadline) are paid here too, but V is moved by no one who
has somebody before it: or who comes next would start behind all that wait.

whatever rate the device has meanwhile, which is why this and not WFQ: V needs no estimate of capacity. A tenant's flows
share what the tenant gets, so a hundred flows for one gain nothing.

A flow that comes back after a while starts at V: it has no claim on the time it slept through, and gets no bonus. The
weight of a grant is the one it is made with; nothing is rescaled when weights change. Tags are integers in units of
1 / `SCALE` device-ns per weight and only grow. Python's integers do not overflow.

Heaps hold entries of tag, number and item; an item that leaves empties its entry, which is dropped when it comes up, or
when more than twice as many are empty as are not (test_heaps_stay_in_proportion).
"""

import heapq
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from scheduler.core.flow import Flow
from scheduler.core.units import ServiceClass

SCALE = 1 << 20
#: Empty entries that are not worth removing.
_SLACK = 1000

Item = TypeVar("Item")
#: [tag, number, item or None]: a list, because it is compared by the heap and emptied by its item.
Entry: TypeAlias = list[Any]


class TaggedHeap(Generic[Item]):
    """Items by tag, those of one tag in the order they came; each keeps its entry, and leaves by it."""

    __slots__ = ("_heap", "_pushed", "size")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._pushed = 0
        #: How many items are queued.
        self.size = 0

    def push(self, tag: int, item: Item) -> Entry:
        """Queue an item that is not queued."""
        self._pushed += 1
        self.size += 1
        entry: Entry = [tag, self._pushed, item]
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * self.size + _SLACK:
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapq.heapify(self._heap)
        return entry

    def drop(self, entry: Entry) -> None:
        """An item leaves."""
        entry[2] = None
        self.size -= 1

    def move(self, entry: Entry, tag: int) -> Entry:
        """Another tag for a queued item."""
        self._pushed += 1
        moved: Entry = [tag, self._pushed, entry[2]]
        if entry is self._heap[0]:
            heapq.heapreplace(self._heap, moved)
            return moved
        self.size -= 1
        item, entry[2] = entry[2], None
        return self.push(tag, item)

    def head(self) -> Item | None:
        """The item with the least tag, which stays."""
        heap = self._heap
        while heap:
            item: Item | None = heap[0][2]
            if item is not None:
                return item
            heapq.heappop(heap)
        return None

    def head_tag(self) -> int | None:
        """The least tag."""
        return None if self.head() is None else self._heap[0][0]

    def __len__(self) -> int:
        """Entries, empty ones too."""
        return len(self._heap)


@dataclass(slots=True, eq=False)
class Tenant:
    """One fleet's queue on one pool and class."""

    name: str
    weight: int
    number: int
    start: int = 0
    finish: int = 0
    entry: Entry | None = None
    #: V among its flows.
    virtual: int = 0
    #: Sum of the weights of its active flows.
    active_weight: int = 0
    #: Device time that its flows have used.
    used_ns: int = 0
    flows: TaggedHeap[Flow] = field(default_factory=TaggedHeap)


class FairQueue:
    """The backlogged flows of one class; a flow that must not be served now is simply not in it."""

    def __init__(self, service_class: ServiceClass) -> None:
        self.service_class = service_class
        self.virtual = 0
        #: Sum of the weights of tenants with active flows.
        self.active_weight = 0
        #: How many flows are in it.
        self.waiting = 0
        #: Since when somebody has waited for a grant; None: nobody does.
        self.wanting_since_ns: int | None = None
        self._tenants: TaggedHeap[Tenant] = TaggedHeap()

    def enter(self, flow: Flow) -> None:
        """A flow is backlogged (again)."""
        tenant = flow.tenant
        flow.start = self.start_tag(tenant.virtual, flow.finish)
        flow.entry = tenant.flows.push(flow.start, flow)
        self.waiting += 1
        if tenant.entry is None:
            tenant.start = self.start_tag(self.virtual, tenant.finish)
            tenant.entry = self._tenants.push(tenant.start, tenant)

    def leave(self, flow: Flow) -> None:
        """A queued flow is not to be served now."""
        tenant = flow.tenant
        if flow.entry is not None:
            tenant.flows.drop(flow.entry)
            flow.entry = None
            self.waiting -= 1
        if tenant.entry is not None and not tenant.flows.size:
            self._tenants.drop(tenant.entry)
            tenant.entry = None

    def head(self) -> Flow | None:
        """The flow that is next."""
        tenant = self._tenants.head()
        return None if tenant is None else tenant.flows.head()

    def charge(self, flow: Flow, cost_ns: int) -> None:
        """A flow was granted `cost_ns` of work. A queued one stays queued, behind those that are due before it; one
        that is served by another queue pays here, where it would have waited."""
        tenant = flow.tenant
        if flow.entry is None:
            flow.start = self.start_tag(tenant.virtual, flow.finish)
        if tenant.entry is None:
            tenant.start = self.start_tag(self.virtual, tenant.finish)
        # V moves when whoever is next is served, or nobody else waits.
        if flow.start > tenant.virtual and ((first := tenant.flows.head()) is flow or first is None):
            tenant.virtual = flow.start
        if tenant.start > self.virtual and ((leader := self._tenants.head()) is tenant or leader is None):
            self.virtual = tenant.start
        flow.start = flow.finish = flow.start + cost_ns * SCALE // flow.weight
        tenant.start = tenant.finish = tenant.start + cost_ns * SCALE // tenant.weight
        if flow.entry is not None:
            flow.entry = tenant.flows.move(flow.entry, flow.start)
        if tenant.entry is not None:
            tenant.entry = self._tenants.move(tenant.entry, tenant.start)

    def refund(self, flow: Flow, cost_ns: int) -> None:
        """Granted work was given back undone: the tags are what they would be without it, but never before V."""
        tenant = flow.tenant
        flow.finish -= cost_ns * SCALE // flow.weight
        if flow.entry is not None:
            flow.start = self.start_tag(tenant.virtual, flow.finish)
            flow.entry = tenant.flows.move(flow.entry, flow.start)
        tenant.finish -= cost_ns * SCALE // tenant.weight
        if tenant.entry is not None:
            tenant.start = self.start_tag(self.virtual, tenant.finish)
            tenant.entry = self._tenants.move(tenant.entry, tenant.start)

    @staticmethod
    def start_tag(virtual: int, finish: int) -> int:
        """Where somebody starts who comes (back) at `virtual`: no bonus for having slept."""
        return max(virtual, finish)
