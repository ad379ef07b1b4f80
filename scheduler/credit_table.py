"""The credit table: how a host's client tells its workers what they may do, and hears what they did, in shared memory.

A file in a directory of this user's own, mapped by the client and by every worker. After a head of 64 bytes it has rows
of 256: one for each flow, pool and worker, half of which the client writes and half the worker. Everything is a 64-bit
word at its own alignment:

    head    magic, version, rows, bytes of a row
    row     what the client grants: sequence, then `Grant`         (16 words)
            what the worker counts: sequence, then `Counters`      (16 words)

Each half has one writer and a sequence that is odd while it writes (a seqlock): who reads copies the half and takes the
copy only if the sequence was even and the same before and after. A word is stored and loaded by one instruction, and
x86-64, where these accelerators are, keeps the order of stores and the order of loads, so a copy is never torn. A
writer that dies while it writes leaves its half unreadable: a worker takes that for no grant, the client for no news.

What is in flight has its own rule, because a window that shrinks must be free for others at once, even when its worker
sleeps in a socket. The worker stores `in_flight` and then looks whether the grant is still the one it decided by; the
client stores a smaller window and then looks at `in_flight`. With a full memory barrier between store and load on both
sides (an uncontended lock has one) at least one of them sees the other: either the worker takes its step back, or the
client counts it.
"""

import mmap
import os
import stat
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Self

from scheduler.core.units import ServiceClass

_MAGIC = int.from_bytes(b"KUAKACRD", "little")
_VERSION = 1
_WORD_BYTES = 8
_HEAD_WORDS = 8
_HALF_WORDS = 16
_ROW_WORDS = 2 * _HALF_WORDS
#: A host has 20 migrations with a few workers and pools each; this is far above.
MAX_ROWS = 65_536
#: A writer needs a microsecond; one that needs longer was interrupted, and its half is read another time.
_READ_TRIES = 64


class CreditError(Exception):
    """A credit table, or a row of it, cannot be used; one line that says which and why."""


# A tuple, because it is stored, read and compared as one for every flow and tick.
class Grant(NamedTuple):
    """What one worker may do for one flow on one pool; all zero: nothing."""

    #: How often the row was given to somebody; a worker that finds another one than at first has lost it. 0: free.
    generation: int = 0
    epoch: int = 0
    lease: int = 0
    #: Most descriptors in flight.
    window: int = 0
    #: Nothing is begun once `Counters.used_ns` has reached this.
    budget_until_ns: int = 0
    #: Nothing is submitted after this, CLOCK_BOOTTIME.
    deadline_ns: int = 0
    service_class: ServiceClass = ServiceClass.BULK
    #: Share of the work that is best given to the device.
    device_permille: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """What one worker did; all but `in_flight` and `pending_ns` only ever grow."""

    #: That of the grant it attached to; 0: nobody is there.
    generation: int = 0
    pid: int = 0
    #: When the process started, by /proc: a pid alone is used again.
    started: int = 0
    in_flight: int = 0
    #: Device work done, and what it expects of the batches it holds credit for.
    used_ns: int = 0
    pending_ns: int = 0
    #: Device work it would have liked to do, done or not.
    asked_ns: int = 0
    #: Batches that asked and got no credit.
    denied: int = 0
    busy_retries: int = 0
    wait_ns: int = 0
    accelerator_pages: int = 0
    cpu_pages: int = 0
    #: CPU time that the caller spent on either.
    accelerator_cpu_ns: int = 0
    cpu_ns: int = 0


GRANT_WORDS = len(Grant._fields)
#: A grant's words; each is stored by one instruction, as the machine's own are.
_GRANT = struct.Struct(f"@{GRANT_WORDS}Q")
COUNTER_WORDS = len(fields(Counters))
#: Where that counter is, from the sequence of the worker's half on.
IN_FLIGHT = 1 + [field.name for field in fields(Counters)].index("in_flight")


class CreditTable:
    """One mapped table; `words` is all of it. Whoever creates it is its client, whoever opens it a worker."""

    def __init__(self, path: Path, mapping: mmap.mmap, rows: int) -> None:
        self.path = path
        self.rows = rows
        self.words: memoryview = memoryview(mapping).cast("Q")
        self._mapping = mapping
        self._fence = threading.Lock()

    @classmethod
    def create(cls, path: Path, rows: int) -> Self:
        """A new table, mode 0600. Raises OSError, CreditError when there is a file or for too many rows."""
        if not 0 < rows <= MAX_ROWS:
            raise CreditError(f"a credit table of {rows} rows: it has 1 to {MAX_ROWS}")
        size = (_HEAD_WORDS + rows * _ROW_WORDS) * _WORD_BYTES
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise CreditError(f"credit table {path} exists: each client makes its own") from None
        try:
            # Memory is taken now: a full file system must not kill the client when it first writes a row.
            os.posix_fallocate(descriptor, 0, size)
            table = cls(path, mmap.mmap(descriptor, size), rows)
        finally:
            os.close(descriptor)
        table.words[1], table.words[2], table.words[3] = _VERSION, rows, _ROW_WORDS * _WORD_BYTES
        table.words[0] = _MAGIC
        return table

    @classmethod
    def open(cls, path: Path) -> Self:
        """The table at `path`. Raises CreditError for what is none of ours."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise CreditError(f"credit table {path} cannot be opened: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if problem := _problem(status):
                raise CreditError(f"{path} is no credit table: {problem}")
            mapping = mmap.mmap(descriptor, status.st_size)
        finally:
            os.close(descriptor)
        words = memoryview(mapping).cast("Q")
        magic, version, rows, row_bytes = words[:4].tolist()
        if magic != _MAGIC:
            problem = "it does not begin like one"
        elif (version, row_bytes) != (_VERSION, _ROW_WORDS * _WORD_BYTES):
            problem = f"it is of version {version} with rows of {row_bytes} bytes, this kuaka has version {_VERSION}"
        elif status.st_size != (_HEAD_WORDS + rows * _ROW_WORDS) * _WORD_BYTES:
            problem = f"{status.st_size} bytes are not {rows} rows"
        if problem:
            words.release()
            mapping.close()
            raise CreditError(f"{path} is no credit table: {problem}")
        words.release()
        return cls(path, mapping, rows)

    def close(self) -> None:
        """Unmap it; its rows must not be used any more."""
        self.words.release()
        self._mapping.close()

    def remove(self) -> None:
        """Close it and remove the file; who has it mapped keeps what is there."""
        self.path.unlink(missing_ok=True)
        self.close()

    def grant_at(self, row: int) -> int:
        """The index in `words` of the client's half of a row. Raises CreditError."""
        if not 0 <= row < self.rows:
            raise CreditError(f"credit table {self.path} has {self.rows} rows, none is number {row}")
        return _HEAD_WORDS + row * _ROW_WORDS

    def counters_at(self, row: int) -> int:
        """The index in `words` of the worker's half of a row. Raises CreditError."""
        return self.grant_at(row) + _HALF_WORDS

    def publish(self, row: int, grant: Grant) -> None:
        """Let the worker of a row know; what `in_flight` says afterwards is what the new window has to live with."""
        at, words = self.grant_at(row), self.words
        sequence = words[at] | 1
        words[at] = sequence
        _GRANT.pack_into(words, (at + 1) * _WORD_BYTES, *grant)
        words[at] = sequence + 1
        with self._fence:
            pass

    def grant(self, row: int) -> Grant | None:
        """What a row grants; None while it cannot be told."""
        return decode_grant(self.stable(self.grant_at(row), GRANT_WORDS))

    def counters(self, row: int) -> Counters | None:
        """What a row's worker counted; None while it cannot be told, which after its death is for ever."""
        values = self.stable(self.counters_at(row), COUNTER_WORDS)
        return None if values is None else Counters(*values)

    def counted_by_dead(self, row: int) -> list[int]:
        """The fields of `Counters`, each for itself: nobody writes any more, but somebody may have been about to."""
        at = self.counters_at(row)
        return self.words[at + 1 : at + 1 + COUNTER_WORDS].tolist()

    def in_flight(self, row: int) -> int:
        """Descriptors in flight under a row, now."""
        return self.words[self.counters_at(row) + IN_FLIGHT]

    def clear(self, row: int, grant: Grant) -> None:
        """Give a row to somebody new. Only when nobody attached to it lives, or was told to."""
        at = self.counters_at(row)
        for offset in range(at, at + _HALF_WORDS):
            self.words[offset] = 0
        self.publish(row, grant)

    def stable(self, at: int, count: int) -> list[int] | None:
        """`count` words after the sequence at `at`, from one moment; None when none was found."""
        words = self.words
        for _ in range(_READ_TRIES):
            before = words[at]
            if not before & 1:
                values = words[at + 1 : at + 1 + count].tolist()
                if words[at] == before:
                    return values
        return None


def decode_grant(values: list[int] | None) -> Grant | None:
    """A grant of its words; None of None."""
    if values is None:
        return None
    generation, epoch, lease, window, budget_until_ns, deadline_ns, service_class, permille = values
    return Grant(generation, epoch, lease, window, budget_until_ns, deadline_ns, ServiceClass(service_class), permille)


def _problem(status: os.stat_result) -> str:
    checks: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: stat.S_ISREG(status.st_mode), "it is not a file"),
        (lambda: status.st_uid == os.geteuid(), f"it belongs to uid {status.st_uid}"),
        (lambda: not stat.S_IMODE(status.st_mode) & 0o077, "others may use it"),
        (lambda: status.st_size >= _HEAD_WORDS * _WORD_BYTES, f"it has {status.st_size} bytes"),
        (lambda: status.st_size % _WORD_BYTES == 0, f"it has {status.st_size} bytes"),
    )
    return next((problem for holds, problem in checks if not holds()), "")
