"""A host's snapshot as samples. A migration has its series for as long as the snapshot has it."""

from collections import Counter
from collections.abc import Callable

from pipeline.fleet.host_accelerators import AcceleratorStatistics
from pipeline.fleet.host_statistics import HostStatistics, SentKind, SentSession
from pipeline.memory.pages import PAGE_BYTES
from pipeline.metrics import (
    CODED,
    FAILED_SESSIONS,
    FALLBACKS,
    HOST_BUSY_RETRIES,
    HOST_CREDIT_WAIT,
    HOST_DEVICE_USED,
    LIVE,
    PAGES,
    RAW,
    RECEIVED_RAW,
    RECEIVED_WIRE,
    SCHEDULER_SILENCE,
    STOP_ADMISSION,
    VM_CODED,
    VM_CREDIT_WAIT,
    VM_DATA,
    VM_DIRTY_RATE,
    VM_PAGES,
    VM_PROCESSED,
    VM_REMAINING,
    VM_ROUNDS,
    VM_START,
    VM_TICKET_WAIT,
    VM_TRANSFER_RATE,
    VM_WIRE,
    WIRE,
)
from pipeline.shard import ShardCounters
from scheduler.core.units import NS_PER_S
from scheduler.flow_state import WHY_NONE
from scheduler.pool_work import PoolWork
from scheduler.readings import Readings

_MS_PER_S = 1000
_DIRECTIONS = ("send", "receive")
#: What a device that codes no pages is there for.
_SCANNER = "dsa"


class HostFigures:
    """A part of an `Exposition`. `snapshot` is called from its thread, and may raise."""

    def __init__(self, host: str, snapshot: Callable[[], HostStatistics]) -> None:
        self._host = host
        self._snapshot = snapshot

    def __call__(self, readings: Readings) -> None:
        found = self._snapshot()
        told: set[tuple[str, str]] = set()
        for sent in reversed(found.sent):
            # An attempt may still be put right when the next one of the same machine begins: that one is told.
            if (sent.fleet, sent.vm) not in told:
                told.add((sent.fleet, sent.vm))
                _migration(readings, sent, (self._host, sent.fleet, sent.vm))
        _totals(readings, found, self._host)
        if found.accelerators is not None:
            _accelerators(readings, found.accelerators, self._host)


def _migration(readings: Readings, sent: SentSession, labels: tuple[str, str, str]) -> None:
    counters, ram = sent.counters, sent.ram
    readings.put(VM_DATA, sent.total_bytes, *labels)
    readings.put(VM_PROCESSED, counters.raw_bytes, *labels)
    readings.put(VM_START, sent.began_s, *labels)
    readings.put(VM_WIRE, counters.wire_bytes, *labels)
    readings.put(VM_PAGES, counters.announced_zero_pages + counters.zero_pages, *labels, "zero")
    readings.put(VM_PAGES, counters.same_pages, *labels, "same")
    readings.put(VM_PAGES, sum(counters.codec_pages.values()), *labels, "normal")
    if ram is not None:
        readings.put(VM_REMAINING, ram.remaining_bytes, *labels)
        readings.put(VM_DIRTY_RATE, ram.dirty_bytes_s, *labels)
        readings.put(VM_TRANSFER_RATE, ram.rate_bytes_s, *labels)
        readings.put(VM_ROUNDS, ram.round, *labels)
    elif sent.kind is SentKind.IMAGE:
        readings.put(VM_REMAINING, max(0, sent.total_bytes - counters.raw_bytes), *labels)
    if sent.offload is not None:
        readings.put(VM_CODED, sent.offload.accelerator_pages, *labels, "accelerator")
        readings.put(VM_CODED, sent.offload.cpu_pages, *labels, "cpu")
        readings.put(VM_CREDIT_WAIT, sent.offload.wait_ns / NS_PER_S, *labels)
    if sent.ticket_wait_ms is not None:
        readings.put(VM_TICKET_WAIT, sent.ticket_wait_ms / _MS_PER_S, *labels)


def _totals(readings: Readings, found: HostStatistics, host: str) -> None:
    kinds = Counter(sent.kind for sent in found.sent)
    for kind in SentKind:
        readings.put(LIVE, kinds[kind], host, "send", kind)
        readings.put(LIVE, found.received[kind], host, "receive", kind)
    _sent(readings, found.sent_total, host)
    readings.put(RECEIVED_RAW, found.received_total.raw_bytes, host)
    readings.put(RECEIVED_WIRE, found.received_total.wire_bytes, host)
    for direction in _DIRECTIONS:
        readings.put(FAILED_SESSIONS, found.failed.get(direction, 0), host, direction)


def _sent(readings: Readings, sent: ShardCounters, host: str) -> None:
    for codec in sorted({*sent.codec_pages, *sent.codec_wire_bytes}):
        readings.put(RAW, sent.codec_pages.get(codec, 0) * PAGE_BYTES, host, codec)
        readings.put(WIRE, sent.codec_wire_bytes.get(codec, 0), host, codec)
    for kind, pages in (
        ("announced_zero", sent.announced_zero_pages),
        ("zero", sent.zero_pages),
        ("same", sent.same_pages),
        ("normal", sum(sent.codec_pages.values())),
    ):
        readings.put(PAGES, pages, host, kind)


def _accelerators(readings: Readings, found: AcceleratorStatistics, host: str) -> None:
    if found.silent_ns is not None:
        readings.put(SCHEDULER_SILENCE, found.silent_ns / NS_PER_S, host)
    coded: Counter[str] = Counter(cpu=0)
    # A pool has all its series from the beginning: what one begins with, rate() and increase() do not see.
    for pool in sorted({*found.kinds, *found.work}):
        work = found.work.get(pool) or PoolWork()
        readings.put(HOST_DEVICE_USED, work.used_ns / NS_PER_S, host, pool)
        readings.put(HOST_BUSY_RETRIES, work.busy_retries, host, pool)
        readings.put(HOST_CREDIT_WAIT, work.wait_ns / NS_PER_S, host, pool)
        for reason in WHY_NONE:
            readings.put(FALLBACKS, work.fallbacks[reason], host, pool, reason)
        if (kind := found.kinds.get(pool, _SCANNER)) != _SCANNER:
            coded[kind] += work.accelerator_pages
            coded["cpu"] += work.cpu_pages
    for by, pages in coded.items():
        readings.put(CODED, pages, host, by)
    for pool, overloaded in found.overloaded.items():
        readings.put(STOP_ADMISSION, overloaded, host, pool)
