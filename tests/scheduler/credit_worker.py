"""A worker process without work: `python -m tests.scheduler.credit_worker MODE TABLE ROW...`, ended by a signal.

It says "ready" once it is attached. What it really has in flight it writes into the file TABLE.real, one word per row,
after credit was given and before it is given back: what a device would see.
"""

import mmap
import sys
from collections.abc import Callable
from pathlib import Path

from scheduler.credit import Credit
from scheduler.credit_table import CreditTable

REAL_WORDS = 64


def hammer(credit: Credit, real: memoryview, row: int) -> None:
    """Take and give back, as fast as it goes."""
    while True:
        hold = credit.acquire(4, 10, timeout_ns=0)
        if hold is not None:
            if hold.current():
                real[row] = hold.slots
                for _ in range(200):
                    pass
                real[row] = 0
            hold.release(10)


def keep(credit: Credit, real: memoryview, row: int) -> None:
    """Submit once all that the window allows, and never give it back."""
    hold = None
    while hold is None:
        hold = credit.acquire(1 << 16, 10)
    real[row] = hold.slots
    while True:
        credit.acquire(1 << 16, 10)


def submit_for_ever(credit: Credit, real: memoryview, row: int) -> None:
    """Count submissions under one hold, each asked for before."""
    hold = None
    while hold is None:
        hold = credit.acquire(1, 10)
    while True:
        if hold.current():
            real[row] += 1


def count(credit: Credit, real: memoryview, row: int) -> None:
    """Counters that are equal at every moment."""
    while True:
        credit.count(accelerator_pages=1, cpu_pages=1, accelerator_cpu_ns=1, cpu_ns=1)


def read_grants(credit: Credit, real: memoryview, row: int) -> None:
    """Compare what ought to be equal; the number of torn reads, and the number of reads."""
    table = CreditTable.open(Path(sys.argv[2]))
    while True:
        grant = table.grant(row)
        if grant is not None:
            real[row] += len({grant.epoch, grant.lease, grant.window, grant.budget_until_ns, grant.deadline_ns}) - 1
            real[row + 1] += 1


MODES: dict[str, Callable[[Credit, memoryview, int], None]] = {
    mode.__name__: mode for mode in (hammer, keep, submit_for_ever, count, read_grants)
}


def main() -> None:
    """See the module."""
    mode, path, row = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    credit = Credit(CreditTable.open(path), row)
    with path.with_suffix(".real").open("r+b") as file:
        real = memoryview(mmap.mmap(file.fileno(), REAL_WORDS * 8)).cast("Q")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    MODES[mode](credit, real, row)


if __name__ == "__main__":
    main()
