"""What QATzip's numbers mean, each by its name."""

import pytest

from scheduler.devices.device import Operation, Status
from scheduler.devices.qat.codes import Code, status_of, why_no_hardware


def test_session_in_software_is_no_hardware_although_its_call_says_ok() -> None:
    assert "no QAT hardware" in str(why_no_hardware(Code.OK, Code.NO_HW))
    assert why_no_hardware(Code.OK, Code.OK) is None
    assert why_no_hardware(Code.DUPLICATE, Code.OK) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.NO_HW, "kuaka devices check"),
        (Code.NOSW_NO_HW, "kuaka devices check"),
        (Code.NOSW_NO_MDRV, "driver"),
        (Code.NO_INST_ATTACH, "POLICY"),
        (Code.NOSW_NO_INST_ATTACH, "POLICY"),
        (Code.NOSW_LOW_MEM, "pinned memory"),
        (-117, "code -117"),
    ],
)
@pytest.mark.parametrize("as_state", [False, True])
def test_set_up_that_gives_no_hardware_says_why_in_one_line(code: int, words: str, as_state: bool) -> None:
    why = why_no_hardware(0, code) if as_state else why_no_hardware(code, 0)
    assert why is not None
    assert words in why
    assert "\n" not in why


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.OK, Status.OK),
        (Code.FORCE_SW, Status.FAILED),
        (Code.FAIL, Status.FAILED),
        (Code.DATA_ERROR, Status.FAILED),
        (Code.INTEGRITY, Status.FAILED),
        (Code.NO_INST_ATTACH, Status.PAGE_FAULT),
        (Code.LOW_MEM, Status.PAGE_FAULT),
        (Code.NOSW_LOW_MEM, Status.PAGE_FAULT),
        (Code.TIMEOUT, None),
        (Code.PARAMS, None),
        (Code.NO_HW, None),
        (Code.NOSW_NO_HW, None),
        (-105, None),
        (12345, None),
    ],
)
@pytest.mark.parametrize("operation", [Operation.COMPRESS, Operation.DECOMPRESS])
def test_job_ends_as_its_code_says(operation: Operation, code: int, status: Status | None) -> None:
    assert status_of(operation, code, Code.OK) is status


def test_too_little_room_is_a_page_that_does_not_compress_or_a_stream_that_holds_more() -> None:
    assert status_of(Operation.COMPRESS, Code.BUF_ERROR, Code.OK) is Status.OVERFLOW
    assert status_of(Operation.DECOMPRESS, Code.BUF_ERROR, Code.OK) is Status.FAILED


def test_session_that_fell_back_to_software_has_gone_and_one_without_an_instance_for_a_call_has_not() -> None:
    assert status_of(Operation.COMPRESS, Code.OK, Code.NO_HW) is None
    assert status_of(Operation.COMPRESS, Code.OK, Code.NO_INST_ATTACH) is Status.OK
