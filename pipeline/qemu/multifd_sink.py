"""A destination QEMU's multifd channel: batches written as packets it accepts.

Zero pages become native zero_pages entries towards QEMU >= 9.0; older ones ignore that field, so they get 4 KiB of
zeros. Same-filled pages are expanded, and a batch becomes one packet of at most 128 pages.

A destination that has finished closes its channels while empty packets may still be on their way (QEMU
migration/multifd.c, multifd_recv_terminate_threads). So a failing write of a barrier is remembered, not raised; pages
that cannot be written always are an error. Success is what the main channel's return path says, not a closed channel.
"""

from collections.abc import Callable

import numpy as np
from typing_extensions import Buffer

from pipeline.errors import LinkCut, LinkError, MigrationError, WireError
from pipeline.memory.pages import NORMAL, PAGE_BYTES, SAME, WORDS_PER_PAGE, ZERO, PageBatch
from pipeline.qemu.multifd import INIT_BYTES, PAGES_PER_PACKET, encode_head, encode_sync, parse_init
from pipeline.qemu.stream_checks import SEE_DESTINATION
from pipeline.wire.sockets import SocketTransport

_ZERO_PAGE = bytes(PAGE_BYTES)
_NO_PAGES = np.empty(0, dtype=np.uint32)


class MultifdSink:
    """One multifd channel of a destination QEMU; it connects when the channel's init arrives."""

    def __init__(self, connect: Callable[[], SocketTransport], channel: int, channels: int, native_zero: bool) -> None:
        self._connect = connect
        self._channel = channel
        self._channels = channels
        self._native_zero = native_zero
        self._qemu: SocketTransport | None = None
        self._closed_by_qemu = False

    def verbatim(self, payload: memoryview) -> None:
        """The channel's init, then device-state packets. Raises `WireError` for a bad init, `LinkError`."""
        if self._qemu is not None:
            self._write(self._qemu, payload)
            return
        if parse_init(payload, self._channels).channel != self._channel:
            raise WireError(f"multifd init of another channel arrived on channel {self._channel}")
        self._qemu = self._connect()
        self._write(self._qemu, payload[:INIT_BYTES])

    def place(self, batch: PageBatch, tag: int, checksum: int) -> None:
        """Write one data packet; raises `LinkError` when QEMU does not take it."""
        if batch.page_count > PAGES_PER_PACKET:
            raise WireError(f"a batch of {batch.page_count} pages does not fit a multifd packet of {PAGES_PER_PACKET}")
        if not 0 < len(batch.block) < 256 or b"\0" in batch.block:
            raise WireError("a batch names no RAM block that QEMU could know")
        numbers, kinds = batch.page_numbers, batch.kinds
        payload: list[Buffer] = [batch.normal]
        zero = _NO_PAGES
        if kinds.any():
            is_zero, is_same = kinds == ZERO, kinds == SAME
            zero = numbers[is_zero]
            numbers = np.concatenate((numbers[kinds == NORMAL], numbers[is_same]))
            payload.append(np.repeat(batch.fill_words, WORDS_PER_PAGE).data)
            if not self._native_zero:
                numbers = np.concatenate((numbers, zero))
                payload += [_ZERO_PAGE] * len(zero)
                zero = _NO_PAGES
        self._write(self._open(), encode_head(batch.block, numbers, zero, tag), *payload)

    def barrier(self, tag: int) -> None:
        """Write a packet with SYNC and nothing else."""
        try:
            self._open().write((encode_sync(tag),))
        except LinkError:
            self._closed_by_qemu = True

    def extent(self, offset_bytes: int, digest: memoryview) -> None:
        """Images have extents, VMs do not."""
        raise WireError("an image's extent arrived on a QEMU channel")

    def finish(self) -> None:
        """Tell QEMU that the channel has ended."""
        if self._qemu is not None:
            self._qemu.shutdown_write()

    def abort(self) -> None:
        """Cut the channel, from any thread; QEMU takes it for a failed migration."""
        if self._qemu is not None:
            self._qemu.abort()

    def close(self) -> None:
        """Release the connection."""
        if self._qemu is not None:
            self._qemu.close()

    def _write(self, qemu: SocketTransport, *parts: Buffer) -> None:
        try:
            qemu.write(parts)
        except LinkCut:
            raise MigrationError(
                f"the destination QEMU closed multifd channel {self._channel}: {SEE_DESTINATION}"
            ) from None

    def _open(self) -> SocketTransport:
        if self._qemu is None:
            raise WireError(f"channel {self._channel} sent data before its init")
        if self._closed_by_qemu:
            raise MigrationError(f"the destination QEMU closed multifd channel {self._channel}: {SEE_DESTINATION}")
        return self._qemu
