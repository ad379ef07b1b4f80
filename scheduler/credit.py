"""What a worker may have in the device: its row of the credit table, shared by its threads.

    hold = credit.acquire(slots=128, cost_ns=600_000)   # at most 2 ms
    if hold is None:                                    # the CPU does the work
    ...                                                 # at most hold.slots descriptors in flight,
    if hold.current(): device.submit(...)               # asked before every submission
    hold.release(used_ns)                               # everything has come back

The rules:

* The sum of all holds never exceeds the window, and none is given once the budget is used up or the deadline has
  passed. A batch may end beyond the budget: work is a running total, so the excess is paid for later.
* A hold has at least one slot and at most what was asked: a thread's share is window / threads, where the threads are
  those that asked in the last 100 ms, but not below 64, where waiting for pieces eats up what the device saves. A
  thread whose share is not free waits, first come first served, at most `timeout_ns`; then it takes what is free, or
  nothing.
* No credit (no lease, no budget, no slots in time) is an answer, not an error. It is never held across a socket read
  or write, and a hold that is not released stays taken until the lease ends, as it must.

Uncontended, `acquire` and `release` together take 2.5 to 4 us and no system call (measured on two busy cores of an
EPYC, CPython 3.11); a batch of 128 pages takes the device 100 us at the least. See `scheduler.credit_table` for why
client and worker agree without one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from scheduler.credit_table import COUNTER_WORDS, GRANT_WORDS, Counters, CreditError, CreditTable, Grant, decode_grant
from scheduler.process_identity import ProcessIdentity

#: How long a batch waits for slots; then the CPU does the work.
WAIT_NS = 2_000_000
#: A waiter looks this often whether the client has given it more: nobody wakes it then.
_LOOK_NS = 500_000
#: What a thread takes rather than its share, where that is less.
_LEAST_SHARE = 64
#: A thread that has not asked for so long has no share.
_SHARER_NS = 100_000_000
#: Sharers are counted anew so often.
_COUNT_NS = 20_000_000
_PERMILLE = 1000
_NOTHING = Grant()
_NAMES = Counters.__slots__
_IN_FLIGHT, _USED, _PENDING = (_NAMES.index(name) for name in ("in_flight", "used_ns", "pending_ns"))
_ASKED, _DENIED, _RETRIES, _WAIT = (_NAMES.index(name) for name in ("asked_ns", "denied", "busy_retries", "wait_ns"))
_DEVICE_PAGES, _CPU_PAGES = _NAMES.index("accelerator_pages"), _NAMES.index("cpu_pages")
_DEVICE_CPU, _CPU = _NAMES.index("accelerator_cpu_ns"), _NAMES.index("cpu_ns")


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: the clock of deadlines. It goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Hold:
    """Credit for one batch: at most `slots` descriptors in flight. Released exactly once, by the thread that has it."""

    __slots__ = ("_credit", "cost_ns", "epoch", "sequence", "slots")

    def __init__(self, credit: "Credit", slots: int, cost_ns: int, epoch: int, sequence: int) -> None:
        self._credit: Credit | None = credit
        self.slots = slots
        self.cost_ns = cost_ns
        self.epoch = epoch
        #: That of the grant it was decided by.
        self.sequence = sequence

    def current(self) -> bool:
        """Whether a descriptor may be submitted under it now: False means that the rest is the CPU's."""
        return self._credit is not None and self._credit.may_submit(self.epoch)

    def release(self, used_ns: int) -> None:
        """Give it back when nothing of it is in flight; `used_ns` of device work were done. CreditError: twice."""
        credit, self._credit = self._credit, None
        if credit is None:
            raise CreditError("a hold was released twice")
        credit.take_back(self, used_ns)


class Credit:
    """One row as its worker sees it, for all threads of the process that work for that flow on that pool.

    There is one per row and process (`Credits` sees to that): the counters are kept here and only written to the
    table. Raises CreditError for a row that is free or that this process has opened before.
    """

    def __init__(self, table: CreditTable, row: int, clock: Callable[[], int] = boottime_ns) -> None:
        self._table = table
        self._words = table.words
        self._grant_at = table.grant_at(row)
        self._at = table.counters_at(row)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._asked_by: dict[int, int] = {}
        self._threads = 1
        self._counted_ns = -_COUNT_NS
        self._choice = 0
        #: The grant, and the sequence it was read at; one object, so that it is read without the lock.
        self._known: tuple[int, Grant] = (-1, _NOTHING)
        self._values = [0] * COUNTER_WORDS
        self._attach(row)

    @property
    def lost(self) -> bool:
        """Whether the row is not this worker's any more."""
        return self._grant()[1].generation != self._generation

    @property
    def device_permille(self) -> int:
        """Share of the work that is best given to the device, by what the client knows."""
        grant = self._grant()[1]
        return grant.device_permille if grant.generation == self._generation else 0

    @property
    def waiting(self) -> int:
        """Threads that wait for slots."""
        return len(self._waiting)

    def prefers_device(self) -> bool:
        """Whether the next batch should ask for credit, so that `device_permille` of them do, evenly spread."""
        with self._lock:
            self._choice += self.device_permille
            if self._choice < _PERMILLE:
                return False
            self._choice -= _PERMILLE
            return True

    def acquire(self, slots: int, cost_ns: int, timeout_ns: int = WAIT_NS) -> Hold | None:
        """Credit for a batch of `slots` descriptors and `cost_ns` of device work; None after at most `timeout_ns`."""
        if slots < 1 or cost_ns < 0:
            raise ValueError(f"credit for {slots} descriptors of {cost_ns} ns")
        now_ns = self._clock()
        with self._lock:
            self._values[_ASKED] += cost_ns
            self._share_out(now_ns)
            hold = None if self._waiting else self._take(slots, cost_ns, now_ns)
        if hold is not None and self._stands(hold):
            return hold
        return self._wait(slots, cost_ns, now_ns, timeout_ns)

    def count(
        self,
        *,
        asked_ns: int = 0,
        busy_retries: int = 0,
        accelerator_pages: int = 0,
        cpu_pages: int = 0,
        accelerator_cpu_ns: int = 0,
        cpu_ns: int = 0,
    ) -> None:
        """Add to the row's counters. `asked_ns`: device work that never asked because the split sent it to the CPU."""
        with self._lock:
            values = self._values
            values[_ASKED] += asked_ns
            values[_RETRIES] += busy_retries
            values[_DEVICE_PAGES] += accelerator_pages
            values[_CPU_PAGES] += cpu_pages
            values[_DEVICE_CPU] += accelerator_cpu_ns
            values[_CPU] += cpu_ns
            self._write(_IN_FLIGHT, COUNTER_WORDS)

    def may_submit(self, epoch: int) -> bool:
        """Whether a hold of that epoch is still good."""
        grant = self._grant()[1]
        return grant.epoch == epoch and grant.generation == self._generation and self._clock() < grant.deadline_ns

    def take_back(self, hold: Hold, used_ns: int) -> None:
        """See `Hold.release`."""
        with self._lock:
            values = self._values
            values[_IN_FLIGHT] -= hold.slots
            values[_PENDING] -= hold.cost_ns
            values[_USED] += used_ns
            self._write(_IN_FLIGHT, _ASKED)
            self._wake_first()

    def _attach(self, row: int) -> None:
        identity = ProcessIdentity.own()
        self._generation = self._grant()[1].generation
        if not self._generation:
            raise CreditError(f"credit table {self._table.path}: row {row} is free, it is nobody's")
        before = self._table.counters(row)
        if before is not None and (before.generation, before.pid, before.started) == (
            self._generation,
            identity.pid,
            identity.started,
        ):
            raise CreditError(f"credit table {self._table.path}: this process has opened row {row} before")
        self._values[:3] = self._generation, identity.pid, identity.started
        self._write(0, COUNTER_WORDS)

    def _grant(self) -> tuple[int, Grant]:
        known = self._known
        sequence = self._words[self._grant_at]
        if sequence == known[0]:
            return known
        grant = decode_grant(self._table.stable(self._grant_at, GRANT_WORDS))
        if grant is None or self._words[self._grant_at] != sequence:
            # Being written, or left so by a client that died: nothing is known to be granted.
            return (-1, _NOTHING)
        self._known = (sequence, grant)
        return self._known

    def _usable(self, grant: Grant, now_ns: int) -> bool:
        values = self._values
        return (
            grant.window > 0
            and now_ns < grant.deadline_ns
            and values[_USED] + values[_PENDING] < grant.budget_until_ns
            and grant.generation == self._generation
        )

    def _take(self, slots: int, cost_ns: int, now_ns: int, *, last: bool = False) -> Hold | None:
        """Under the lock: a thread's share, or when it is the `last` chance whatever is free. `_stands` comes next."""
        sequence, grant = self._grant()
        if not self._usable(grant, now_ns):
            return None
        wanted = min(slots, grant.window, max(_LEAST_SHARE, grant.window // self._threads))
        free = grant.window - self._values[_IN_FLIGHT]
        if free < (1 if last else wanted):
            return None
        hold = Hold(self, min(wanted, free), cost_ns, grant.epoch, sequence)
        self._values[_IN_FLIGHT] += hold.slots
        self._values[_PENDING] += cost_ns
        self._write(_IN_FLIGHT, _DENIED)
        return hold

    def _stands(self, hold: Hold) -> bool:
        """After the lock, which is the barrier: whether the grant is still the one. Otherwise the hold is undone."""
        if self._words[self._grant_at] == hold.sequence:
            return True
        hold.release(0)
        return False

    def _wait(self, slots: int, cost_ns: int, began_ns: int, timeout_ns: int) -> Hold | None:
        turn = threading.Lock()
        turn.acquire()
        denied = 1
        with self._lock:
            self._waiting.append(turn)
        try:
            while True:
                now_ns = self._clock()
                left_ns = began_ns + timeout_ns - now_ns
                with self._lock:
                    if not self._usable(self._grant()[1], now_ns) and self._known[0] == self._words[self._grant_at]:
                        return None
                    first = self._waiting[0] is turn
                    hold = self._take(slots, cost_ns, now_ns, last=left_ns <= 0) if first else None
                if hold is not None and self._stands(hold):
                    denied = 0
                    return hold
                if left_ns <= 0:
                    return None
                turn.acquire(timeout=min(left_ns, _LOOK_NS) / 1e9)
        finally:
            self._leave(turn, denied, self._clock() - began_ns)

    def _leave(self, turn: threading.Lock, denied: int, waited_ns: int) -> None:
        with self._lock:
            self._waiting.remove(turn)
            self._values[_DENIED] += denied
            self._values[_WAIT] += waited_ns
            self._write(_IN_FLIGHT, COUNTER_WORDS)
            self._wake_first()

    def _wake_first(self) -> None:
        if self._waiting and self._waiting[0].locked():
            self._waiting[0].release()

    def _share_out(self, now_ns: int) -> None:
        """Under the lock: count the threads among which the window is shared."""
        here = threading.get_ident()
        new = here not in self._asked_by
        self._asked_by[here] = now_ns
        if new or now_ns - self._counted_ns >= _COUNT_NS:
            self._counted_ns = now_ns
            self._asked_by = {thread: at for thread, at in self._asked_by.items() if now_ns - at < _SHARER_NS}
            self._threads = len(self._asked_by)

    def _write(self, first: int, end: int) -> None:
        """Store the counters from `first` to before `end`."""
        words, at = self._words, self._at
        sequence = words[at] | 1
        words[at] = sequence
        at += 1
        values = self._values
        for index in range(first, end):
            words[at + index] = values[index]
        words[at - 1] = sequence + 1


class Credits:
    """The rows that one process works under, each opened once; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[Path, CreditTable] = {}
        self._rows: dict[tuple[Path, int], Credit] = {}

    def row(self, path: Path, row: int) -> Credit:
        """The credit of a row of the table at `path`. Raises CreditError."""
        with self._lock:
            table = self._tables.get(path)
            if table is None:
                table = self._tables[path] = CreditTable.open(path)
            known = self._rows.get((path, row))
            if known is None or known.lost:
                known = self._rows[path, row] = Credit(table, row)
            return known
