"""A caught signal is seen and does nothing else; afterwards it is what it was."""

import os
import signal
import threading

from pipeline.signals import caught


def test_a_signal_during_the_block_is_seen_and_afterwards_its_handler_is_the_old_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with caught(signal.SIGTERM) as came:
        assert not came.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert came.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_than_the_main_one_catches_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with caught(signal.SIGTERM) as came:
            seen.extend((came.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]
