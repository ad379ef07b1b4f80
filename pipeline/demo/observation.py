"""Watching destination guests go on: each is let run for a moment after it was handed over, and stopped.

The rule: what says that a guest goes on is its step counter, in its RAM, after QEMU said RESUME; before that the
counter changes, too, as the memory arrives. The sooner the guest is stopped the more its memory proves (`ram_check`).

Every destination QEMU has a second QMP socket for this, because a socket has one client at a time. One thread with a
loop of its own watches all, as `run_spec` has the main one.
"""

import asyncio
import contextlib
import mmap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future

from pipeline.demo.guest import GuestParameters, read_steps
from pipeline.demo.guests import DemoGuest, map_ram
from pipeline.errors import KuakaError, MigrationError, SpecError
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.qmp import Qmp

#: How long a guest runs at its destination before it is stopped, at least.
RUN_S = 0.3
#: A guest that was told to run and has not taken a step for this long does not go on.
_GO_ON_TIMEOUT_S = 5.0
_POLL_S = 0.02
_END_TIMEOUT_S = 5.0


@contextlib.contextmanager
def watched(guests: Sequence[DemoGuest]) -> Iterator[Mapping[str, "Future[None]"]]:
    """A future per guest that ends when its destination has gone on and was stopped; `KuakaError` when it did not."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="demo watch", daemon=True)
    thread.start()
    futures = {guest.name: asyncio.run_coroutine_threadsafe(_watch(guest), loop) for guest in guests}
    try:
        yield futures
    finally:
        for future in futures.values():
            future.cancel()
        asyncio.run_coroutine_threadsafe(_settle(), loop)
        thread.join(_END_TIMEOUT_S)


async def _settle() -> None:
    """Let everything else on this loop end, and then the loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    asyncio.get_running_loop().stop()


async def _watch(guest: DemoGuest) -> None:
    assert guest.destination.own_qmp is not None, "a destination has a second socket"
    qmp = await _connect(Qmp(guest.destination.own_qmp, f"{guest.name} (destination)"))
    try:
        if (await qmp.execute("query-status"))["status"] != "running":
            await qmp.next_event("RESUME")
        with contextlib.closing(map_ram(guest.destination.ram)) as ram:
            await _await_steps(ram, guest)
        await qmp.execute("stop")
    finally:
        await qmp.disconnect()


async def _connect(qmp: Qmp) -> Qmp:
    while True:
        try:
            await qmp.connect()
            return qmp
        except SpecError:
            # The agent has not prepared it yet.
            await asyncio.sleep(_POLL_S)
            qmp = Qmp(qmp.path, qmp.name)


async def _await_steps(ram: mmap.mmap, guest: DemoGuest) -> None:
    began_s, first_step = time.monotonic(), read_steps(ram)
    await asyncio.sleep(RUN_S)
    while guest.parameters.dirty_rate_bytes_s and read_steps(ram) == first_step:
        if time.monotonic() - began_s > _GO_ON_TIMEOUT_S + _step_s(guest.parameters):
            raise MigrationError(f"{guest.name}: the guest was told to run at its destination and does not go on")
        await asyncio.sleep(_POLL_S)


def _step_s(parameters: GuestParameters) -> float:
    return PAGE_BYTES / parameters.dirty_rate_bytes_s


def outcome(future: "Future[None]", timeout_s: float) -> str | None:
    """What is wrong with a guest that was handed over; None when it went on and was stopped."""
    try:
        future.result(timeout_s)
    except KuakaError as error:
        return str(error)
    except TimeoutError:
        return f"the guest was handed over and not seen running within {timeout_s:g} s"
    return None
