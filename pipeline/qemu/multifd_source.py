"""A source QEMU's multifd channel, read packet by packet into a shard.

SYNC is split from the data it may ride on: data first, then a barrier of its own. Packets without pages and without
SYNC (they follow a SYNC that had data, up to 8.2) say nothing and end here. Device-state packets go through as bytes.
The end of the channel at a packet's border is the source's way to say it is done; anywhere else it is a failure.
"""

import numpy as np

from pipeline.errors import WireError
from pipeline.memory.pages import WORDS_PER_PAGE
from pipeline.qemu.multifd import (
    DEVICE_STATE_HEAD_BYTES,
    PACKET_HEAD_BYTES,
    PACKET_START_BYTES,
    PAGES_PER_PACKET,
    Flag,
    device_state_bytes,
    parse_head,
    parse_start,
)
from pipeline.shard import ShardSender
from pipeline.wire.frames import FrameKind
from pipeline.wire.sockets import Transport, poll_readable

#: How often an idle channel looks whether its link has stalled.
_IDLE_CHECK_S = 1.0


class MultifdSource:
    """One multifd channel of a source QEMU."""

    def __init__(self, qemu: Transport, shard: ShardSender, init: bytes) -> None:
        self._qemu = qemu
        self._shard = shard
        self._init = init
        self._head = memoryview(bytearray(PACKET_HEAD_BYTES))
        self._pages = np.empty((PAGES_PER_PACKET, WORDS_PER_PAGE), dtype=np.uint64)
        self._payload = self._pages.reshape(-1).view(np.uint8).data

    def run(self) -> None:
        """Move the channel until QEMU ends it; raises `LinkError` or `WireError`."""
        link = self._shard.link
        link.send_plain(FrameKind.BYTES, self._init)
        while self._next_packet():
            pass
        link.finish()

    def _next_packet(self) -> bool:
        self._wait()
        start = self._head[:PACKET_START_BYTES]
        if not self._qemu.read_exact(start):
            return False
        flags = parse_start(start)
        if flags & Flag.DEVICE_STATE:
            self._pass_device_state()
            return True
        self._read(self._head[PACKET_START_BYTES:])
        head = parse_head(flags, self._head[PACKET_START_BYTES:])
        if head.payload_bytes:
            self._read(self._payload[: head.payload_bytes])
        if head.block:
            pages = self._pages[: len(head.normal)]
            self._shard.send(head.block, head.normal, pages, head.zero, head.packet_number)
        if head.sync:
            self._shard.sync(head.packet_number)
        return True

    def _pass_device_state(self) -> None:
        rest = self._head[PACKET_START_BYTES:DEVICE_STATE_HEAD_BYTES]
        self._read(rest)
        packet = bytearray(DEVICE_STATE_HEAD_BYTES + device_state_bytes(rest))
        packet[:DEVICE_STATE_HEAD_BYTES] = self._head[:DEVICE_STATE_HEAD_BYTES]
        self._read(memoryview(packet)[DEVICE_STATE_HEAD_BYTES:])
        self._shard.link.send_plain(FrameKind.BYTES, packet)

    def _read(self, view: memoryview) -> None:
        if not self._qemu.read_exact(view):
            raise WireError("the source QEMU ended a multifd channel in the middle of a packet")

    def _wait(self) -> None:
        """Wait for QEMU's next packet, while the link's end or stall is noticed at once."""
        link = self._shard.link
        while True:
            ready = poll_readable((self._qemu, link.transport), _IDLE_CHECK_S)
            if link.transport in ready:
                link.take_acknowledgements()
            if self._qemu in ready:
                return
            link.check_stall()
