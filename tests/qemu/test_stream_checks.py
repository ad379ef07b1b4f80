"""What is checked while the main channel passes: nothing goes before its head is understood, no end without SHUT."""

import pytest

from pipeline.errors import LinkCut, MigrationError, WireError
from pipeline.qemu.stream_checks import SETUP_TIMEOUT_S, OutgoingWatch, ReturnWatch
from tests.qemu.test_main_channel import HEADER, command, configuration
from tests.qemu.test_return_path import PONG, SHUT, SHUT_FAILED

OPEN_RETURN_PATH, POSTCOPY_ADVISE, COLO = command(1), command(3, bytes(16)), command(8)
SECTION = b"\x01 and what follows"
HEAD = HEADER + configuration()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_head_is_held_back_whole_then_everything_passes_unchanged() -> None:
    watch = OutgoingWatch()
    data = HEAD + OPEN_RETURN_PATH + SECTION
    passed = [watch.passing(data[at : at + 1]) for at in range(len(data))]
    assert b"".join(passed) == data
    assert not any(passed[: len(HEAD + OPEN_RETURN_PATH)])
    assert watch.passing(b"more") == b"more"


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (b"", "set the capability return-path on both QEMUs"),
        (OPEN_RETURN_PATH + COLO, "unset the capability x-colo"),
    ],
)
def test_head_that_cannot_be_carried_is_refused(commands: bytes, words: str) -> None:
    with pytest.raises(MigrationError, match=words):
        OutgoingWatch().passing(HEAD + commands + SECTION)


def test_postcopy_is_refused_with_multifd_in_either_order_and_passes_alone() -> None:
    data = HEAD + OPEN_RETURN_PATH + POSTCOPY_ADVISE + SECTION
    watch = OutgoingWatch()
    assert watch.passing(data) == data
    with pytest.raises(MigrationError, match="postcopy-ram and multifd on together"):
        watch.channel_opened(0)
    watch = OutgoingWatch()
    watch.channel_opened(0)
    with pytest.raises(MigrationError, match="postcopy-ram and multifd on together"):
        watch.passing(data)


def test_channels_are_counted_and_none_comes_twice() -> None:
    watch = OutgoingWatch()
    watch.channel_opened(1)
    watch.channel_opened(0)
    assert watch.channels_seen == 2
    with pytest.raises(WireError, match="multifd channel 1 twice"):
        watch.channel_opened(1)


def test_source_that_ends_before_shut_has_failed_for_a_reason_that_may_still_come() -> None:
    watch = OutgoingWatch()
    watch.returned.feed(PONG)
    with pytest.raises(LinkCut, match="before the destination had confirmed"):
        watch.ending()
    watch.returned.feed(SHUT)
    watch.ending()


@pytest.mark.parametrize("watch", [OutgoingWatch(), ReturnWatch()], ids=["outgoing", "return"])
def test_destination_that_says_it_failed_is_believed(watch: OutgoingWatch | ReturnWatch) -> None:
    if isinstance(watch, OutgoingWatch):
        watch.returned.feed(PONG + SHUT_FAILED)
    else:
        assert watch.passing(PONG + SHUT_FAILED) == PONG + SHUT_FAILED
    with pytest.raises(MigrationError, match="could not load the guest"):
        watch.ending()


def test_destination_that_ends_before_shut_has_failed() -> None:
    watch = ReturnWatch()
    assert watch.passing(PONG) == PONG
    with pytest.raises(MigrationError, match="ended before it had loaded the guest: see its log; a -uuid"):
        watch.ending()
    watch.passing(SHUT)
    watch.ending()


def test_destination_that_answers_nothing_is_given_up_some_time_after_its_last_channel() -> None:
    clock = Clock()
    watch = ReturnWatch(clock)
    clock.now_s += SETUP_TIMEOUT_S - 1
    watch.channel_opened()
    clock.now_s += SETUP_TIMEOUT_S - 1
    watch.idle()
    clock.now_s += 2
    with pytest.raises(MigrationError, match="has the main channel and 1 multifd channels and does not begin"):
        watch.idle()


def test_destination_that_has_answered_may_be_quiet_for_ever() -> None:
    clock = Clock()
    watch = ReturnWatch(clock)
    watch.passing(PONG)
    clock.now_s += 10_000
    watch.idle()
