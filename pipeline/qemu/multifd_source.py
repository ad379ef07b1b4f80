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
    announced_payload_bytes,
    device_state_bytes,
    is_device_state,
    parse_head,
    parse_start,
)
from pipeline.shard import ShardSender
from pipeline.wire.frames import FrameKind
from pipeline.wire.sockets import InputOrEnd, Transport

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
        self._input = InputOrEnd(qemu, shard.link.transport)

    def run(self) -> None:
        """Move the channel until QEMU ends it; raises `LinkError` or `WireError`."""
        link = self._shard.link
        link.send_plain(FrameKind.BYTES, self._init)
        while self._next_packet():
            pass
        link.finish()

    def _next_packet(self) -> bool:
        self._wait()
        # Of both shapes of packet the shorter head, so that two calls read most of them.
        start = self._head[:DEVICE_STATE_HEAD_BYTES]
        if not self._qemu.read_exact(start):
            return False
        flags = parse_start(start[:PACKET_START_BYTES])
        if is_device_state(flags):
            self._pass_device_state(start)
            return True
        payload = self._payload[: announced_payload_bytes(start)]
        self._read(self._head[DEVICE_STATE_HEAD_BYTES:], payload)
        head = parse_head(flags, self._head[PACKET_START_BYTES:])
        if head.block:
            pages = self._pages[: len(head.normal)]
            self._shard.send(head.block, head.normal, pages, head.zero, head.packet_number)
        if head.sync:
            self._shard.sync(head.packet_number)
        return True

    def _pass_device_state(self, start: memoryview) -> None:
        packet = bytearray(DEVICE_STATE_HEAD_BYTES + device_state_bytes(start[PACKET_START_BYTES:]))
        packet[:DEVICE_STATE_HEAD_BYTES] = start
        self._read(memoryview(packet)[DEVICE_STATE_HEAD_BYTES:])
        self._shard.link.send_plain(FrameKind.BYTES, packet)

    def _read(self, *views: memoryview) -> None:
        if not self._qemu.read_exact(*views):
            raise WireError("the source QEMU ended a multifd channel in the middle of a packet")

    def _wait(self) -> None:
        """Wait for QEMU's next packet, while the link's end or stall is noticed at once."""
        link = self._shard.link
        while not self._input.wait(_IDLE_CHECK_S):
            # Acknowledgements alone wake nobody: they are taken before the next frame leaves, and here.
            link.take_acknowledgements()
            link.check_stall()
