"""Waiting for sessions on a loop: it ends when they do, from whatever thread that comes, and takes no thread itself."""

import asyncio
import threading

import pytest

from pipeline.fleet.session_end import session_end
from pipeline.session import Session


def session_with(*parts: str) -> Session:
    session = Session("ab" * 16, lambda session_id: None)
    for part in parts:
        session.start_part(part)
    session.complete()
    return session


def test_it_waits_for_the_last_part_and_hears_of_it_from_another_thread() -> None:
    async def story() -> None:
        session = session_with("channel 0", "channel 1")
        waiting = asyncio.create_task(session_end(session))
        session.end_part("channel 0", None)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        threading.Thread(target=session.end_part, args=("channel 1", None)).start()
        assert await waiting

    asyncio.run(story())


def test_a_failed_session_has_ended_when_its_parts_have() -> None:
    async def story() -> None:
        session = session_with("channel 0")
        waiting = asyncio.create_task(session_end(session))
        session.fail("broken")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        session.end_part("channel 0", "cut")
        assert await waiting
        assert session.error == "broken"

    asyncio.run(story())


def test_one_that_has_ended_is_not_waited_for() -> None:
    assert asyncio.run(session_end(session_with()))


def test_time_may_be_over_first() -> None:
    assert not asyncio.run(session_end(session_with("main"), 0.01))


def test_an_end_after_the_loop_has_gone_is_no_error() -> None:
    session = session_with("main")
    assert not asyncio.run(session_end(session, 0.01))
    session.end_part("main", None)
    assert session.ended


@pytest.mark.parametrize("count", [2, 1000])
def test_no_wait_takes_a_thread(count: int) -> None:
    async def story() -> None:
        sessions = [session_with("main") for _ in range(count)]
        before = threading.active_count()
        waiting = [asyncio.create_task(session_end(session)) for session in sessions]
        await asyncio.sleep(0.02)
        assert threading.active_count() == before
        for session in sessions:
            session.end_part("main", None)
        assert all(await asyncio.gather(*waiting))

    asyncio.run(story())
