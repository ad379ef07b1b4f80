"""Signals as something to look at: whoever waits in a loop sees that one came, and nothing is torn out of a call."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def caught(*numbers: signal.Signals) -> Iterator[threading.Event]:
    """The event is set by any of these signals while the block lasts; in another thread than the main one by none."""
    came = threading.Event()
    # Python lets the main thread alone set handlers.
    mine = numbers if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda _number, _frame: came.set()) for number in mine}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
