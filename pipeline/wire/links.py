"""A link: one TCP connection with the frames of one channel in one direction, their acknowledgements in the other.

The sending end keeps the channel's `Window`: it waits until a frame fits, and takes the acknowledgements as they
come. The receiving end acknowledges a frame after its bytes were written where they belong, never before. Backwards
travel 8-byte records: the number of the last frame written (cumulative), or REJECTED, u16 length and a reason,
after which the link is dead. Both ends are used by one thread each; only `abort` comes from elsewhere.

A link ends well with an END frame that was acknowledged. Any other end is a failure, so a cut connection is never
taken for a finished one.
"""

import struct
import time
from collections.abc import Callable, Sequence

from typing_extensions import Buffer

from pipeline.codecs.codec import Codec
from pipeline.errors import LinkCut, LinkError, one_line
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES, PageBatch
from pipeline.wire.frames import (
    HEAD_BYTES,
    EncodedFrame,
    FrameHead,
    FrameKind,
    check_plain,
    decode_pages,
    encode_pages,
    encode_plain,
    parse_head,
)
from pipeline.wire.pacing import Pacer
from pipeline.wire.sockets import Transport, poll_readable
from pipeline.wire.window import Window

Clock = Callable[[], int]

#: No acknowledgement for this long, with frames on their way, means the link has stalled.
STALL_TIMEOUT_S = 15.0
_REJECTED = 2**64 - 1
_ACK = struct.Struct(">Q")
_MAX_REASON_BYTES = 1000
_ACK_READ_BYTES = 4096
#: A sender that is there reads a parting reason within this time.
_PARTING_S = 1.0
#: poll counts whole milliseconds.
_POLL_GRAIN_NS = 1_000_000
#: A table's most: 255 bytes of name, and per page number, kind, length and fill word.
_MAX_TABLE_BYTES = 255 + 17 * MAX_BATCH_PAGES


class LinkSender:
    """The end that sends frames."""

    def __init__(
        self,
        transport: Transport,
        window: Window,
        peer: str,
        *,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        pacer: Pacer | None = None,
        clock: Clock = time.monotonic_ns,
    ) -> None:
        """`pacer` caps what leaves; None sends as fast as the window lets it."""
        self.transport = transport
        self.window = window
        self.peer = peer
        self._pacer = pacer
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        # Reads follow a poll, so this only ends those of a record of which not all bytes arrived.
        transport.set_read_timeout(stall_timeout_s)
        self._sequence = 0
        self._partial = b""
        self.wire_bytes = 0

    def send_pages(self, batch: PageBatch, codec: Codec, tag: int) -> EncodedFrame:
        """Encode and send one batch; blocks while the window is full. Raises `LinkError`."""
        frame = encode_pages(batch, codec, self._sequence, tag)
        self._send(frame)
        return frame

    def send_plain(self, kind: FrameKind, payload: Buffer = b"", tag: int = 0) -> None:
        """Send a frame without pages; blocks while the window is full. Raises `LinkError`."""
        self._send(encode_plain(kind, self._sequence, payload, tag))

    def finish(self) -> None:
        """Send END and wait until the other end has written everything. Raises `LinkError`."""
        self.send_plain(FrameKind.END)
        while self.window.in_flight_bytes:
            self._await_acknowledgement()

    def take_acknowledgements(self) -> None:
        """Take what has come back, without waiting. Raises `LinkError` when the link has ended."""
        while (data := self.transport.read_available(_ACK_READ_BYTES)) is not None:
            self._acknowledged(data)
            if len(data) < _ACK_READ_BYTES:
                return

    def check_stall(self) -> None:
        """Raise `LinkError` when frames have waited for their acknowledgement longer than the stall timeout."""
        oldest_ns = self.window.oldest_sent_ns
        if oldest_ns is not None and self._clock() - oldest_ns > self._stall_timeout_s * 1e9:
            raise self._stalled()

    def pace(self, pacer: Pacer | None) -> None:
        """Another cap, or none, for what leaves from the next frame on; from any thread."""
        self._pacer = pacer

    def abort(self) -> None:
        """End the link from any thread."""
        self.transport.abort()

    def close(self) -> None:
        """Release the connection."""
        self.transport.close()

    def _send(self, frame: EncodedFrame) -> None:
        self.take_acknowledgements()
        while not self.window.may_send(frame.wire_bytes):
            self.window.held_back()
            self._await_acknowledgement()
        self._await_turn(frame.wire_bytes)
        self.window.sent(self._sequence, frame.wire_bytes, self._clock())
        self._sequence += 1
        try:
            self.transport.write(frame.parts)
        except LinkError:
            # A peer that gives up says why before it closes, which is worth more than "broken pipe".
            self.take_acknowledgements()
            raise
        self.wire_bytes += frame.wire_bytes

    def _await_turn(self, wire_bytes: int) -> None:
        """Wait until the rate lets the frame leave, ending at once when the link does."""
        pacer = self._pacer
        if pacer is None:
            return
        leave_ns = pacer.leave_ns(wire_bytes, self._clock())
        while (wait_ns := leave_ns - self._clock()) > 0:
            if wait_ns < _POLL_GRAIN_NS:
                time.sleep(wait_ns / 1e9)
            elif poll_readable((self.transport,), wait_ns / 1e9):
                self.take_acknowledgements()

    def _await_acknowledgement(self) -> None:
        data = self.transport.read_available(_ACK_READ_BYTES)
        if data is None:
            if not poll_readable((self.transport,), self._stall_timeout_s):
                raise self._stalled()
            data = self.transport.read_some(_ACK_READ_BYTES)
        self._acknowledged(data)

    def _stalled(self) -> LinkError:
        return LinkError(
            f"link to {self.peer} stalled: no acknowledgement for {self._stall_timeout_s:g} s"
            f" with {self.window.in_flight_bytes} bytes on their way"
        )

    def _acknowledged(self, data: bytes) -> None:
        if not data:
            raise LinkCut(f"link to {self.peer} was closed by the other end before the transfer was finished")
        data = self._partial + data
        whole = len(data) - len(data) % _ACK.size
        last = None
        for at in range(0, whole, _ACK.size):
            last = _ACK.unpack_from(data, at)[0]
            if last == _REJECTED:
                raise LinkError(f"{self.peer} gave up: {self._reason(data[at + _ACK.size :])}")
        self._partial = data[whole:]
        if last is not None:
            try:
                self.window.acknowledged(last, self._clock())
            except ValueError as error:
                raise LinkError(f"link to {self.peer}: {error}") from None

    def _reason(self, data: bytes) -> str:
        while len(data) < 2 or len(data) < 2 + min(_MAX_REASON_BYTES, int.from_bytes(data[:2], "big")):
            more = self.transport.read_some(_ACK_READ_BYTES)
            if not more:
                break
            data += more
        length = min(_MAX_REASON_BYTES, int.from_bytes(data[:2], "big"))
        return one_line(data[2 : 2 + length].decode("utf-8", "replace"))


class LinkReceiver:
    """The end that receives frames."""

    def __init__(self, transport: Transport, codec: Codec, peer: str, also: Sequence[Codec] = ()) -> None:
        """Frames are of `codec`, or of one in `also`."""
        self.transport = transport
        self.peer = peer
        self._codec = codec
        self._codecs = {each.codec_id: each for each in (*also, codec)}
        self._sequence = 0
        self._parting_reason: str | None = None
        self._head = bytearray(HEAD_BYTES)
        self._body = bytearray(_MAX_TABLE_BYTES + MAX_BATCH_PAGES * PAGE_BYTES)
        self.wire_bytes = 0

    def receive(self) -> FrameHead:
        """Wait for the next frame's head. Raises `LinkError` when the link ended, `WireError` for a bad head."""
        if not self.transport.read_exact(memoryview(self._head)):
            raise LinkCut(f"link to {self.peer} was cut before the transfer was finished")
        head = parse_head(self._head, self._sequence)
        self._sequence += 1
        self.wire_bytes += HEAD_BYTES + head.wire_bytes
        return head

    def pages(self, head: FrameHead) -> PageBatch:
        """The batch of a PAGES frame just received, checked; it is valid until the next frame is read."""
        body = self._read_body(head)
        # A codec that was not agreed on is refused by name there.
        codec = self._codecs.get(head.codec_id, self._codec)
        return decode_pages(head, body[: head.table_bytes], body[head.table_bytes :], codec)

    def payload(self, head: FrameHead) -> memoryview:
        """The payload of any other frame just received, checked; it is valid until the next frame is read."""
        body = self._read_body(head)
        check_plain(head, body)
        return body

    def acknowledge(self, head: FrameHead) -> None:
        """Say that this frame, and so all before it, has been written where it belongs. Raises `LinkError`."""
        self.transport.write((_ACK.pack(head.sequence),))

    def reject(self, reason: str) -> None:
        """Tell the sender why the link ends here, `give_up`'s reason first. Errors are swallowed: it may be gone."""
        text = (self._parting_reason or reason).encode("utf-8", "replace")[:_MAX_REASON_BYTES]
        try:
            self.transport.write((_ACK.pack(_REJECTED), len(text).to_bytes(2, "big"), text))
        except LinkError:
            return

    def part(self, reason: str) -> None:
        """As `reject`, and stay until the sender has read it."""
        self.reject(reason)
        self.transport.await_close(_PARTING_S)

    def give_up(self, reason: str) -> None:
        """End the link from any thread: `receive` fails, and whoever receives then tells the sender this reason."""
        self._parting_reason = reason
        self.transport.stop_reading()

    def abort(self) -> None:
        """End the link from any thread."""
        self.transport.abort()

    def close(self) -> None:
        """Release the connection."""
        self.transport.close()

    def _read_body(self, head: FrameHead) -> memoryview:
        if head.wire_bytes > len(self._body):
            # Only BYTES frames may be larger than a batch; their limit was checked with the head.
            self._body = bytearray(head.wire_bytes)
        body = memoryview(self._body)[: head.wire_bytes]
        if head.wire_bytes and not self.transport.read_exact(body):
            raise LinkCut(f"link to {self.peer} was cut behind the head of frame {head.sequence}")
        return body
