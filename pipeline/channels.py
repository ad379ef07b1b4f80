"""The channels a worker runs: each job made into transports, codec and shard, with one thread's worth of work in `run`.

Whatever breaks, both ends of a channel are cut, so that the peer behind it notices at once; but for a source QEMU,
which is cut off at its main channel (see `qemu.drained`).
"""

import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.codecs.codec import CodecId
from pipeline.errors import LinkError
from pipeline.image_channels import ImageChannelSource, ImageSink
from pipeline.jobs import ImageSinkJob, ImageSourceJob, Job, MultifdSinkJob, MultifdSourceJob
from pipeline.memory.image_extents import ExtentDigest
from pipeline.memory.image_source import ImageSource
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from pipeline.offload import Offload
from pipeline.offloaded import offered, offloaded_codec, offloaded_decoders, offloaded_scan, taken
from pipeline.qemu.destination_socket import connect_destination
from pipeline.qemu.drained import Drained
from pipeline.qemu.multifd import PAGES_PER_PACKET
from pipeline.qemu.multifd_sink import MultifdSink
from pipeline.qemu.multifd_source import MultifdSource
from pipeline.shard import ShardCounters, ShardSender, Sink, receive_all
from pipeline.wire.handshake import Preamble
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.opening import LinkTerms, accept_link, open_link
from pipeline.wire.sockets import SocketTransport
from pipeline.wire.window import Window


class Abortable(Protocol):
    """Something another thread may end."""

    def abort(self) -> None:
        """End it, waking whoever is blocked on it."""

    def close(self) -> None:
        """Release it."""


_End = TypeVar("_End", bound=Abortable)


def _no_rate(_rate_bytes_s: int | None) -> None:
    pass


@dataclass(slots=True)
class Channel:
    """One job under way. `abort` may come from any thread, before, during or after `run`."""

    work: Callable[["Channel"], None]
    counters: ShardCounters = field(default_factory=ShardCounters)
    #: Of an image's extents, once `run` has ended.
    digests: Sequence[ExtentDigest] = ()
    #: Another cap on the whole migration's wire bytes per second, or none; nothing happens where nothing is sent.
    set_rate: Callable[[int | None], None] = _no_rate
    _ends: list[Abortable] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _aborted: bool = False

    def run(self) -> None:
        """Do the job; raises `KuakaError` when it fails, with every end cut."""
        try:
            self.work(self)
        except BaseException:
            self.abort()
            raise

    def hold(self, end: _End) -> _End:
        """Make `end` part of this channel; raises `LinkError`, the end cut, if the channel was aborted already."""
        with self._lock:
            self._ends.append(end)
            aborted = self._aborted
        if aborted:
            end.abort()
            raise LinkError("aborted")
        return end

    def abort(self) -> None:
        """Cut every end."""
        with self._lock:
            self._aborted = True
            ends = list(self._ends)
        # Links first, they are opened last: what breaks on QEMU's side because of this is not told as a reason.
        for end in reversed(ends):
            end.abort()

    def close(self) -> None:
        """Release every end, the links first: a source QEMU may take its time."""
        for end in reversed(self._ends):
            end.close()


def make_channel(job: Job, descriptor: int | None) -> Channel:
    """The channel for a job; takes the descriptor over."""
    sock = socket.socket(fileno=descriptor) if descriptor is not None else None
    match job:
        case MultifdSourceJob() if sock is not None:
            qemu = SocketTransport(sock, "the source QEMU's multifd channel")
            return _held(Channel(lambda channel: _run_multifd_source(channel, job, qemu)), Drained(qemu))
        case MultifdSinkJob() if sock is not None:
            return Channel(lambda channel: _run_multifd_sink(channel, job, sock))
        case ImageSourceJob():
            return Channel(lambda channel: _run_image_source(channel, job))
        case ImageSinkJob() if sock is not None:
            return Channel(lambda channel: _run_image_sink(channel, job, sock))
    raise ValueError(f"{type(job).__name__} came without its descriptor")


def _held(channel: Channel, end: Abortable) -> Channel:
    channel.hold(end)
    return channel


def _run_multifd_source(channel: Channel, job: MultifdSourceJob, qemu: SocketTransport) -> None:
    shard = _shard(channel, job.terms, job.offload, PAGES_PER_PACKET * PAGE_BYTES)
    MultifdSource(qemu, shard, bytes.fromhex(job.init)).run()


def _run_multifd_sink(channel: Channel, job: MultifdSinkJob, sock: socket.socket) -> None:
    terms = job.terms

    def connect() -> SocketTransport:
        return connect_destination(Path(job.qemu_socket), "the destination QEMU's multifd channel")

    sink = MultifdSink(connect, terms.channel, terms.channels, job.native_zero)
    _receive(channel, terms, sock, channel.hold(sink), job.offload)


def _run_image_source(channel: Channel, job: ImageSourceJob) -> None:
    terms = job.terms
    shard = _shard(channel, terms, job.offload, MAX_BATCH_PAGES * PAGE_BYTES)
    image = ImageSource.open(Path(job.path), size_bytes=job.size_bytes, modified_ns=job.modified_ns)
    with image:
        source = ImageChannelSource(image, job.extent_bytes, terms.channel, terms.channels)
        source.run(shard, channel.counters)
    channel.digests = source.digests


def _run_image_sink(channel: Channel, job: ImageSinkJob, sock: socket.socket) -> None:
    sink = channel.hold(ImageSink(Path(job.path), job.size_bytes, job.extent_bytes, reused=job.reused))
    _receive(channel, job.terms, sock, sink, job.offload)
    channel.digests = sink.digests


def _shard(channel: Channel, terms: LinkTerms, offload: Offload | None, packet_bytes: int) -> ShardSender:
    transport, codecs = open_link(replace(terms, also=offered(offload, terms.codec)))
    channel.hold(transport)
    window = Window(packet_bytes, terms.downtime_limit_ns)
    link = LinkSender(transport, window, terms.peer, stall_timeout_s=terms.stall_timeout_s, pacer=terms.pacer())
    channel.set_rate = lambda rate_bytes_s: link.pace(replace(terms, rate_bytes_s=rate_bytes_s).pacer())
    codec = offloaded_codec(offload, terms.codec, terms.level, codecs)
    return ShardSender(link, codec, channel.counters, offloaded_scan(offload))


def _receive(channel: Channel, terms: LinkTerms, sock: socket.socket, sink: Sink, offload: Offload | None) -> None:
    preamble = Preamble(terms.role, terms.channel, bytes.fromhex(terms.session))
    transport, hello = accept_link(sock, preamble, replace(terms, also=taken(offload)))
    codec, *others = offloaded_decoders(offload, CodecId(hello.codec), tuple(map(CodecId, hello.codecs)))
    link = LinkReceiver(channel.hold(transport), codec, terms.peer, others)
    receive_all(link, sink, channel.counters)
