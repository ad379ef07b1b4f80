"""Waiting for a session's end on an asyncio loop, without a thread: a host has as many sessions as it has migrations.

`asyncio.to_thread(session.wait)` would keep one of the loop's few threads (cores + 4) for as long as a migration
lasts, and everything else that needs one would wait for a migration to end.
"""

import asyncio
import contextlib

from pipeline.session import Session


async def session_end(session: Session, timeout_s: float | None = None) -> bool:
    """Wait until the session has ended with all its parts; False when the time is over first."""
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()

    def tell() -> None:
        # A loop that has been closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settled.set)

    session.when_settled(tell)
    try:
        async with asyncio.timeout(timeout_s):
            await settled.wait()
    except TimeoutError:
        return False
    return True
