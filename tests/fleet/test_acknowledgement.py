"""Which migrations have a SWITCHOVER_ACK: those whose downtime ticket or whose user wants one, where both QEMUs can."""

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.orders import DestinationOrder, DestinationReady, SourceOrder, TransferTerms, new_session
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import Status
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.switchover import SWITCHOVER_ACK
from tests.fleet.guest_world import FACTS, Calls, FakeHost, FakeRecorder, World

TERMS = TransferTerms(new_session(), 4, CodecId.DEFLATE, None, 300, 15.0)
ORDER = QemuMigration("vm1", "/a.qmp", "/b.qmp", None, None, None, None, TERMS)


class AskedHost(FakeHost):
    """A host with a QEMU whose switchover-ack is on, off, or not there (None); what it was told."""

    def __init__(self, name: str, calls: Calls, acknowledgement: bool | None, *, tickets: bool) -> None:
        super().__init__(name, calls)
        capabilities = {} if acknowledgement is None else {SWITCHOVER_ACK: acknowledgement}
        self.facts = replace(FACTS, capabilities=capabilities)
        self.tickets = tickets
        self.asked_for: list[CodecId] = []
        self.orders: list[DestinationOrder | SourceOrder] = []

    async def takes_tickets(self, codec: CodecId) -> bool:
        self.asked_for.append(codec)
        return self.tickets

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        await super().inspect_source(vm, qmp, session_id)
        return self.facts

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        self.orders.append(order)
        return replace(await super().prepare_destination(order), facts=self.facts)

    async def start_source(self, order: SourceOrder, facts: QemuFacts) -> None:
        self.orders.append(order)
        await super().start_source(order, facts)


@pytest.mark.parametrize(
    ("source", "destination", "tickets", "acknowledges", "acknowledged"),
    [
        (False, False, True, True, True),
        (False, None, True, True, False),
        (None, False, True, False, False),
        (False, False, False, False, False),
        # The user's own.
        (True, False, False, True, True),
        (True, None, False, True, False),
    ],
)
def test_destination_is_told_to_acknowledge_and_the_source_whether_it_will(
    source: bool | None, destination: bool | None, tickets: bool, acknowledges: bool, acknowledged: bool
) -> None:
    async def story() -> None:
        calls = Calls(World(), {})
        a = AskedHost("a", calls, source, tickets=tickets)
        b = AskedHost("b", calls, destination, tickets=False)
        result = await GuestMigration(ORDER, a, b, cast(Recorder, FakeRecorder(calls))).run()
        assert result.status is Status.COMPLETED
        (told,) = b.orders
        (started,) = a.orders
        assert isinstance(told, DestinationOrder)
        assert isinstance(started, SourceOrder)
        assert (told.acknowledges, started.acknowledged) == (acknowledges, acknowledged)
        # Nobody is asked who has no say in it.
        assert a.asked_for == ([CodecId.DEFLATE] if source is False else [])
        assert b.asked_for == []

    asyncio.run(story())
