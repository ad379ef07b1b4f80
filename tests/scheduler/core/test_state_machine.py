"""The scheduler keeps its promises to holders that sleep, die and hear late, over clocks and restarts of every kind."""

import pytest
from hypothesis import settings

from tests.scheduler.core.protocol_machine import EXAMPLES, ProtocolMachine, run


def test_promises_hold_whatever_happens() -> None:
    run(ProtocolMachine)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_promises_hold_for_a_million_steps() -> None:
    run(ProtocolMachine, settings(EXAMPLES, max_examples=10_000, stateful_step_count=100))
