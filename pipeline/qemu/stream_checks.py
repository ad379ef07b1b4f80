"""What the gateways check while they forward QEMU's main channel, one class per direction. No I/O.

Bytes pass unchanged. The outgoing direction is held back until its head has said that it can be carried, and ends well
only when the destination QEMU's SHUT has come the other way: with it QEMU itself declares the migration completed. The
other direction notices a QEMU that waits for channels that will not come, which QEMU itself never does.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.errors import LinkCut, MigrationError, WireError
from pipeline.qemu.main_channel import HeadState, MainChannelHead
from pipeline.qemu.return_path import ReturnPath

Clock = Callable[[], float]

#: QEMU opens all its channels at once, and its destination answers the first ping as soon as it has them all.
SETUP_TIMEOUT_S = 5.0


#: What a user can do about a destination QEMU that closes what it should read.
SEE_DESTINATION = (
    "see its log; a -uuid, machine type, RAM size or multifd setting that differs from the source's does this"
)


class StreamWatch(Protocol):
    """Looks on while one direction is forwarded; every method may raise `KuakaError` to end it."""

    def passing(self, data: bytes) -> bytes:
        """Bytes have come; returns those that may go on now."""

    def idle(self) -> None:
        """Called at least once a second."""

    def ending(self) -> None:
        """QEMU has ended its direction."""


class OutgoingWatch:
    """The source QEMU's direction, its channels, and what comes back to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[int] = set()
        self._head = MainChannelHead()
        self._held_back = b""
        #: What comes back from the destination QEMU; whoever writes it to the source feeds it.
        self.returned = ReturnPath()

    @property
    def channels_seen(self) -> int:
        """How many multifd channels the source QEMU has opened."""
        return len(self._seen)

    def channel_opened(self, channel: int) -> None:
        """A multifd channel has come; raises `WireError` or `MigrationError`."""
        with self._lock:
            if channel in self._seen:
                raise WireError(f"the source QEMU opened multifd channel {channel} twice")
            self._seen.add(channel)
        self._refuse_postcopy()

    def passing(self, data: bytes) -> bytes:
        """See `StreamWatch`."""
        if self._head.state is HeadState.DONE:
            return data
        self._held_back += data
        if self._head.feed(data) is HeadState.READING:
            return b""
        if not self._head.return_path:
            raise MigrationError(
                "the source QEMU migrates without return-path: set the capability return-path on both QEMUs,"
                " without it the source cannot know whether the destination has everything"
            )
        if self._head.colo:
            raise MigrationError(
                "the source QEMU migrates with COLO: kuaka does not carry it, unset the capability x-colo"
            )
        self._refuse_postcopy()
        data, self._held_back = self._held_back, b""
        return data

    def idle(self) -> None:
        """See `StreamWatch`. A source that opens fewer channels than we could take does no harm."""

    def ending(self) -> None:
        """See `StreamWatch`."""
        if self.returned.confirmed is False:
            raise MigrationError("the destination QEMU says that it could not load the guest: see its log")
        if self.returned.confirmed is None:
            # Mostly it fails because something else has: a cut, for which a reason may still come.
            raise LinkCut(
                "the source QEMU ended its migration before the destination had confirmed it:"
                " it failed, was cancelled or has gone; query-migrate or its log says why"
            )

    def _refuse_postcopy(self) -> None:
        if self._head.postcopy and self._seen:
            raise MigrationError(
                "the source QEMU has postcopy-ram and multifd on together: unset one of the capabilities"
            )


class ReturnWatch:
    """The destination QEMU's direction."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._channels = 0
        self._answered = False
        self._last_arrival_s = clock()
        self._returned = ReturnPath()

    def channel_opened(self) -> None:
        """QEMU is about to get a connection."""
        self._channels += 1
        self._last_arrival_s = self._clock()

    def passing(self, data: bytes) -> bytes:
        """See `StreamWatch`."""
        self._answered = True
        self._returned.feed(data)
        return data

    def idle(self) -> None:
        """See `StreamWatch`."""
        if not self._answered and self._clock() - self._last_arrival_s > SETUP_TIMEOUT_S:
            raise MigrationError(
                f"the destination QEMU has the main channel and {self._channels} multifd channels and does not begin:"
                " set the capability multifd and multifd-channels alike on both QEMUs"
            )

    def ending(self) -> None:
        """See `StreamWatch`."""
        if self._returned.confirmed is False:
            raise MigrationError("the destination QEMU says that it could not load the guest: see its log")
        if self._returned.confirmed is None:
            raise MigrationError(f"the destination QEMU ended before it had loaded the guest: {SEE_DESTINATION}")
