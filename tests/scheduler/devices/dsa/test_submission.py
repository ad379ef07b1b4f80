"""Submission by write(2): the kernel's answers, each as the binding understands it; and it always ends."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.device import DeviceDown
from scheduler.devices.dsa.submission import MAX_WRITES, WritePort

ROWS = np.zeros((128, 64), dtype=np.uint8)
Answer = int | OSError


class Kernel:
    """Answers writes as the test says, in order; the last answer stands."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.offered: list[int] = []

    def write(self, fd: int, data: memoryview) -> int:
        self.offered.append(data.nbytes // 64)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def port_to(tmp_path: Path) -> Callable[[Kernel], WritePort]:
    (tmp_path / "wq0.0").touch()
    return lambda kernel: WritePort(tmp_path / "wq0.0", kernel.write)


def test_one_write_carries_a_whole_batch(port_to: Callable[[Kernel], WritePort]) -> None:
    kernel = Kernel(128 * 64)
    assert port_to(kernel).submit(ROWS) == 128
    assert kernel.offered == [128]


def test_busy_queue_takes_none_and_is_not_waited_for(port_to: Callable[[Kernel], WritePort]) -> None:
    kernel = Kernel(refusal(errno.EAGAIN))
    assert port_to(kernel).submit(ROWS) == 0
    assert kernel.offered == [128]


def test_partial_acceptance_is_what_was_taken_before_the_queue_was_full(
    port_to: Callable[[Kernel], WritePort],
) -> None:
    kernel = Kernel(100 * 64, refusal(errno.EAGAIN))
    assert port_to(kernel).submit(ROWS) == 100
    assert kernel.offered == [128, 28]


def test_queue_that_drains_meanwhile_takes_the_rest(port_to: Callable[[Kernel], WritePort]) -> None:
    assert port_to(Kernel(100 * 64, 28 * 64)).submit(ROWS) == 128


def test_queue_that_takes_one_at_a_time_is_not_asked_for_ever(port_to: Callable[[Kernel], WritePort]) -> None:
    kernel = Kernel(64)
    assert port_to(kernel).submit(ROWS) == MAX_WRITES == len(kernel.offered)


def test_interrupted_write_is_done_again(port_to: Callable[[Kernel], WritePort]) -> None:
    assert port_to(Kernel(InterruptedError(), 128 * 64)).submit(ROWS) == 128


@pytest.mark.parametrize("answer", [InterruptedError(), 0])
def test_write_that_never_gets_anywhere_ends(port_to: Callable[[Kernel], WritePort], answer: Answer) -> None:
    kernel = Kernel(answer)
    assert port_to(kernel).submit(ROWS) == 0
    assert len(kernel.offered) == MAX_WRITES


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EPERM, "opened by another process or before a fork"),
        (errno.EINVAL, "refuses the descriptor, or has no submission by write: that needs Linux 6.9.1"),
        (errno.ENODEV, "disabled or its device has gone"),
        (errno.ENXIO, "disabled or its device has gone"),
        (errno.EPIPE, "disabled or its device has gone"),
        (errno.EIO, "disabled or its device has gone"),
    ],
)
@pytest.mark.parametrize("taken", [0, 3])
def test_refusal_is_device_down_in_one_line_that_says_what_to_do(
    port_to: Callable[[Kernel], WritePort], number: int, words: str, taken: int
) -> None:
    answers: list[Answer] = [taken * 64] if taken else []
    with pytest.raises(DeviceDown, match=words) as raised:
        port_to(Kernel(*answers, refusal(number))).submit(ROWS)
    assert "wq0.0" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_file_that_takes_half_a_descriptor_is_no_queue(port_to: Callable[[Kernel], WritePort]) -> None:
    with pytest.raises(DeviceDown, match="no idxd queue"):
        port_to(Kernel(96)).submit(ROWS)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "enable it"),
        (errno.EACCES, "may not open it"),
        (errno.EBUSY, "dedicated queue"),
        (errno.ENXIO, "disabled or its device has gone"),
        (errno.ENODEV, "disabled or its device has gone"),
    ],
)
def test_queue_that_cannot_be_opened_is_device_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, words: str
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise refusal(number)

    monkeypatch.setattr("scheduler.devices.dsa.submission.os.open", refuse)
    with pytest.raises(DeviceDown, match=words):
        WritePort(tmp_path / "wq0.0")


def test_closing_twice_closes_nobody_elses_file(port_to: Callable[[Kernel], WritePort], tmp_path: Path) -> None:
    port = port_to(Kernel(0))
    port.close()
    with (tmp_path / "other").open("w") as other:
        port.close()
        other.write("still open")
        other.flush()
