"""Links over a socket pair, a thread at each end: what is acknowledged when, and how a link ends."""

import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from socket import socketpair

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.codecs.table import codec_for
from pipeline.errors import LinkError, WireError
from pipeline.memory.pages import PAGE_BYTES, PageBatch, PageKind
from pipeline.wire.frames import HEAD_BYTES, MAX_PAYLOAD_BYTES, FrameKind, encode_plain
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.pacing import Pacer
from pipeline.wire.sockets import SocketTransport
from pipeline.wire.window import Window
from tests.wire.batches import batch_of, frame_bytes, normal_batch, same_batch

DOWNTIME_LIMIT_NS = 300_000_000
STALL_S = 0.2
SOON_S = 5.0
REJECTED = b"\xff" * 8


class Link:
    """Both ends of a link; `far` is the raw far end where a test plays the receiver itself."""

    def __init__(
        self, codec_id: CodecId = CodecId.LZ4, window_bytes: int = 128 * PAGE_BYTES, pacer: Pacer | None = None
    ) -> None:
        near, far = socketpair()
        self.codec = codec_for(codec_id)
        self.far = SocketTransport(far, "far", SOON_S)
        self.near = SocketTransport(near, "near", STALL_S)
        self.sender = LinkSender(
            self.near,
            Window(window_bytes, DOWNTIME_LIMIT_NS),
            "the destination",
            stall_timeout_s=STALL_S,
            pacer=pacer,
        )
        self.receiver = LinkReceiver(self.far, codec_for(codec_id), "the source")
        self.pool = ThreadPoolExecutor(1)

    def send(self, batch: PageBatch) -> None:
        self.sender.send_pages(batch, self.codec, tag=1)

    def in_thread(self, batch: PageBatch) -> Future[None]:
        return self.pool.submit(self.send, batch)

    def swallow(self, size: int) -> None:
        assert self.far.read_exact(memoryview(bytearray(size)))


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.near.abort()
    made.far.abort()
    made.pool.shutdown()
    made.near.close()
    made.far.close()


def receive_until_end(link: Link) -> list[PageBatch | tuple[FrameKind, int, bytes]]:
    """Take and acknowledge every frame; what was in them, copied."""
    taken: list[PageBatch | tuple[FrameKind, int, bytes]] = []
    while True:
        head = link.receiver.receive()
        if head.kind is FrameKind.PAGES:
            batch = link.receiver.pages(head)
            taken.append(
                PageBatch(
                    batch.block,
                    batch.page_numbers.copy(),
                    batch.kinds.copy(),
                    batch.fill_words.copy(),
                    bytes(batch.normal),
                )
            )
        else:
            taken.append((head.kind, head.tag, bytes(link.receiver.payload(head))))
        link.receiver.acknowledge(head)
        if head.kind is FrameKind.END:
            return taken


@pytest.mark.parametrize("codec_id", CodecId)
def test_everything_sent_arrives_in_order_and_end_is_acknowledged(codec_id: CodecId) -> None:
    link = Link(codec_id)
    kinds = [PageKind.NORMAL, PageKind.ZERO, PageKind.SAME, PageKind.NORMAL]
    batches = [batch_of(kinds * 8, texture, seed) for seed in range(8) for texture in ("text", "random")]
    received = link.pool.submit(receive_until_end, link)
    link.sender.send_plain(FrameKind.BYTES, b"init")
    for tag, batch in enumerate(batches):
        link.send(batch)
        link.sender.send_plain(FrameKind.SYNC, tag=tag)
    link.sender.send_plain(FrameKind.EXTENT, bytes(16), tag=99)
    link.sender.finish()
    taken = received.result(SOON_S)
    assert taken[0] == (FrameKind.BYTES, 0, b"init")
    for tag, batch in enumerate(batches):
        arrived = taken[1 + 2 * tag]
        assert isinstance(arrived, PageBatch)
        assert same_batch(arrived, batch)
        assert taken[2 + 2 * tag] == (FrameKind.SYNC, tag, b"")
    assert taken[-2:] == [(FrameKind.EXTENT, 99, bytes(16)), (FrameKind.END, 0, b"")]
    assert link.sender.wire_bytes == link.receiver.wire_bytes
    link.sender.close()
    link.receiver.close()


def test_frame_counts_as_delivered_only_after_it_was_acknowledged(link: Link) -> None:
    link.send(normal_batch(2))
    head = link.receiver.receive()
    link.receiver.pages(head)
    link.sender.take_acknowledgements()
    assert link.sender.window.in_flight_bytes == HEAD_BYTES + head.wire_bytes
    link.receiver.acknowledge(head)
    link.sender.take_acknowledgements()
    assert link.sender.window.in_flight_bytes == 0


def test_full_window_blocks_the_sender_until_an_acknowledgement() -> None:
    link = Link(CodecId.NONE, window_bytes=4 * PAGE_BYTES)
    link.send(normal_batch(4))
    second = link.in_thread(normal_batch(4))
    head = link.receiver.receive()
    link.receiver.pages(head)
    time.sleep(0.05)
    assert not second.done()
    link.receiver.acknowledge(head)
    second.result(SOON_S)
    link.sender.close()
    link.receiver.close()


def test_one_frame_larger_than_the_window_is_let_through() -> None:
    link = Link(CodecId.NONE, window_bytes=1)
    link.send(normal_batch(4))
    head = link.receiver.receive()
    assert link.receiver.pages(head).page_count == 4
    link.sender.close()
    link.receiver.close()


def test_largest_payload_passes_and_smaller_frames_after_it(link: Link) -> None:
    payload = bytes(range(256)) * (MAX_PAYLOAD_BYTES // 256)
    received = link.pool.submit(receive_until_end, link)
    link.sender.send_plain(FrameKind.BYTES, payload)
    link.sender.send_plain(FrameKind.BYTES, b"small")
    link.sender.finish()
    assert received.result(SOON_S)[:2] == [(FrameKind.BYTES, 0, payload), (FrameKind.BYTES, 0, b"small")]


def test_finish_fails_when_the_end_is_never_acknowledged(link: Link) -> None:
    started = time.monotonic()
    with pytest.raises(LinkError, match=r"the destination stalled: no acknowledgement for 0.2 s with 48 bytes"):
        link.sender.finish()
    assert STALL_S <= time.monotonic() - started < SOON_S


def test_finish_fails_when_the_link_is_closed_before_the_end_is_acknowledged(link: Link) -> None:
    link.pool.submit(lambda: (link.receiver.receive(), link.far.abort()))
    with pytest.raises(LinkError, match="closed by the other end before the transfer was finished"):
        link.sender.finish()


def test_sender_that_waits_for_a_window_fails_when_the_link_stalls() -> None:
    link = Link(CodecId.NONE, window_bytes=4 * PAGE_BYTES)
    link.send(normal_batch(4))
    started = time.monotonic()
    with pytest.raises(LinkError, match="stalled"):
        link.send(normal_batch(4))
    assert STALL_S <= time.monotonic() - started < SOON_S
    link.sender.close()
    link.receiver.close()


def test_sender_that_cannot_write_fails_when_the_link_stalls(link: Link) -> None:
    with pytest.raises(LinkError, match="stalled"):
        link.sender.send_plain(FrameKind.BYTES, bytes(MAX_PAYLOAD_BYTES))


def test_stall_is_seen_between_frames_by_the_oldest_one() -> None:
    now_ns = [0]
    near, far = socketpair()
    sender = LinkSender(
        SocketTransport(near, "near"),
        Window(1 << 20, 1),
        "the destination",
        stall_timeout_s=15,
        clock=lambda: now_ns[0],
    )
    sender.check_stall()
    sender.send_plain(FrameKind.SYNC)
    now_ns[0] = 15_000_000_000
    sender.check_stall()
    now_ns[0] += 1
    with pytest.raises(LinkError, match="stalled"):
        sender.check_stall()
    sender.close()
    far.close()


@pytest.mark.parametrize("length", [1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 2000])
def test_link_cut_inside_a_frame_is_a_failure_in_words(link: Link, length: int) -> None:
    link.near.write((frame_bytes(normal_batch(1, "random"), link.codec)[:length],))
    link.near.abort()
    with pytest.raises(LinkError, match=r"cut|middle of a message"):
        receive_until_end(link)


def test_link_cut_between_frames_is_a_failure_too(link: Link) -> None:
    link.send(normal_batch(1))
    link.sender.send_plain(FrameKind.SYNC)
    link.near.abort()
    link.receiver.pages(link.receiver.receive())
    assert link.receiver.receive().kind is FrameKind.SYNC
    with pytest.raises(LinkError, match="the source was cut before the transfer was finished"):
        link.receiver.receive()


def test_link_cut_while_the_sender_waits_is_a_failure_in_words() -> None:
    link = Link(CodecId.NONE, window_bytes=4 * PAGE_BYTES)
    link.send(normal_batch(4))
    waiting = link.in_thread(normal_batch(4))
    time.sleep(0.05)
    link.far.abort()
    with pytest.raises(LinkError, match="the destination was closed by the other end"):
        waiting.result(SOON_S)
    link.sender.close()
    link.receiver.close()


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_abort_from_another_thread_ends_both_ends(end: str) -> None:
    link = Link(CodecId.NONE, window_bytes=4 * PAGE_BYTES)
    link.send(normal_batch(4))
    sending = link.in_thread(normal_batch(4))
    aborting = threading.Timer(0.05, link.sender.abort if end == "sender" else link.receiver.abort)
    aborting.start()
    head = link.receiver.receive()
    link.receiver.pages(head)
    with pytest.raises(LinkError):
        link.receiver.receive()
    with pytest.raises(LinkError):
        sending.result(SOON_S)
    aborting.join()
    link.sender.close()
    link.receiver.close()


def test_reason_of_a_rejection_reaches_a_sender_that_waits(link: Link) -> None:
    link.send(normal_batch(1))
    link.receiver.reject("no space left for vm1.img")
    link.far.abort()
    with pytest.raises(LinkError, match=r"the destination gave up: no space left for vm1\.img"):
        link.sender.finish()


def test_reason_of_a_rejection_reaches_a_sender_that_writes(link: Link) -> None:
    sending = link.pool.submit(link.sender.send_plain, FrameKind.BYTES, bytes(MAX_PAYLOAD_BYTES))
    time.sleep(0.05)
    link.receiver.reject("frame 0: checksum differs")
    link.receiver.close()
    with pytest.raises(LinkError, match="the destination gave up: frame 0: checksum differs"):
        sending.result(SOON_S)


def test_reason_is_read_behind_acknowledgements_and_in_pieces(link: Link) -> None:
    link.sender.send_plain(FrameKind.SYNC)
    record = struct.pack(">Q", 0) + REJECTED + struct.pack(">H", 6) + b"reason"

    def dribble() -> None:
        for byte in record:
            link.far.write((bytes([byte]),))
            time.sleep(0.002)

    dribbling = link.pool.submit(dribble)
    # Waits for the END's acknowledgement, and meets the whole record on the way.
    with pytest.raises(LinkError, match="gave up: reason"):
        link.sender.finish()
    dribbling.result(SOON_S)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("two\nlines\r\x1b[31m", "two lines"),
        ("\N{BIRD}" * 2000, "\N{BIRD}"),
        ("\ud800 surrogate", "surrogate"),
        ("", "gave up: "),
    ],
)
def test_reason_of_any_text_is_shown_on_one_printable_line(link: Link, reason: str, shown: str) -> None:
    link.sender.send_plain(FrameKind.SYNC)
    link.receiver.reject(reason)
    with pytest.raises(LinkError, match=shown) as failed:
        link.sender.finish()
    assert str(failed.value).isprintable()
    assert len(str(failed.value)) < 1100


@pytest.mark.parametrize("tail", [b"", b"\x03", b"\x03\xe8half", b"\xff\xff" + b"x" * 3000])
def test_reason_that_never_ends_does_not_hang_the_sender(link: Link, tail: bytes) -> None:
    link.sender.send_plain(FrameKind.SYNC)
    link.far.write((REJECTED + tail,))
    started = time.monotonic()
    with pytest.raises(LinkError):
        link.sender.finish()
    assert time.monotonic() - started < SOON_S


def test_half_an_acknowledgement_does_not_hang_the_sender(link: Link) -> None:
    link.sender.send_plain(FrameKind.SYNC)
    link.far.write((b"\0\0\0",))
    with pytest.raises(LinkError, match="stalled"):
        link.sender.finish()


@pytest.mark.parametrize("sequence", [1, 7, 2**63, 2**64 - 2])
def test_acknowledgement_of_a_frame_never_sent_ends_the_link(link: Link, sequence: int) -> None:
    link.sender.send_plain(FrameKind.SYNC)
    link.far.write((struct.pack(">Q", sequence),))
    with pytest.raises(LinkError, match=f"frame {sequence} was acknowledged but is not outstanding"):
        link.sender.finish()


def test_acknowledgement_given_twice_ends_the_link(link: Link) -> None:
    link.sender.send_plain(FrameKind.SYNC)
    link.far.write((struct.pack(">QQ", 0, 0),))
    link.sender.take_acknowledgements()
    link.far.write((struct.pack(">Q", 0),))
    with pytest.raises(LinkError, match="frame 0 was acknowledged"):
        link.sender.take_acknowledgements()


def test_many_frames_are_acknowledged_by_the_last_of_them(link: Link) -> None:
    for _ in range(10):
        link.sender.send_plain(FrameKind.SYNC)
    link.far.write((struct.pack(">Q", 9),))
    link.sender.take_acknowledgements()
    assert link.sender.window.in_flight_bytes == 0


def test_frame_that_was_skipped_or_repeated_ends_the_link(link: Link) -> None:
    for sequences in ((1,), (0, 0), (0, 2)):
        receiver = LinkReceiver(link.far, link.codec, "the source")
        for sequence in sequences:
            link.near.write(encode_plain(FrameKind.SYNC, sequence).parts)
        for _ in sequences[:-1]:
            receiver.receive()
        with pytest.raises(WireError, match=f"frame {sequences[-1]} arrived where frame"):
            receiver.receive()


def test_frame_of_another_codec_than_agreed_is_refused(link: Link) -> None:
    link.near.write((frame_bytes(normal_batch(4), codec_for(CodecId.ZSTD)),))
    with pytest.raises(WireError, match="codec ZSTD where LZ4 decodes"):
        receive_until_end(link)


def test_damaged_payload_is_refused(link: Link) -> None:
    whole = bytearray(b"".join(encode_plain(FrameKind.BYTES, 0, b"main channel").parts))
    whole[-1] ^= 1
    link.near.write((whole,))
    with pytest.raises(WireError, match="checksum differs"):
        receive_until_end(link)


def test_garbage_is_refused_by_the_first_head(link: Link) -> None:
    link.near.write((b"GET / HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n\r\n",))
    with pytest.raises(WireError, match="not kuaka"):
        receive_until_end(link)


def test_nothing_is_acknowledged_of_a_frame_that_was_refused(link: Link) -> None:
    damaged = bytearray(frame_bytes(normal_batch(2, "random"), link.codec))
    damaged[-1] ^= 1
    link.near.write((damaged,))
    with pytest.raises(WireError):
        receive_until_end(link)
    assert not link.near.readable()


def test_a_paced_link_takes_the_time_that_its_rate_says() -> None:
    rate_bytes_s = 4_000_000
    link = Link(CodecId.NONE, pacer=Pacer(rate_bytes_s))
    received = link.pool.submit(receive_until_end, link)
    started = time.monotonic()
    for _ in range(4):
        link.send(normal_batch(64))
    link.sender.finish()
    took_s = time.monotonic() - started
    received.result(SOON_S)
    # the upper bound leaves room for a machine that is busy with something else
    assert link.sender.wire_bytes / rate_bytes_s <= took_s <= link.sender.wire_bytes / rate_bytes_s + 1


def test_a_sender_that_waits_for_its_turn_ends_with_its_link() -> None:
    link = Link(CodecId.NONE, pacer=Pacer(1000))
    sending = link.in_thread(normal_batch(64))
    time.sleep(0.05)
    link.sender.abort()
    with pytest.raises(LinkError):
        sending.result(SOON_S)
