"""What a run came to: the exit code of any mix of results, and the documented JSON."""

import pytest

from pipeline.errors import ExitCode
from pipeline.fleet.results import MigrationResult, Status, exit_code, to_json

OK = MigrationResult("a", "qemu", Status.COMPLETED, verified=True, wrong_pages=0)
UNCOMPARED = MigrationResult("b", "qemu", Status.COMPLETED)
WRONG = MigrationResult("c", "qemu", Status.COMPLETED, verified=False, wrong_pages=1, exit_code=ExitCode.FAILED)
FAILED = MigrationResult("d", "qemu", Status.FAILED, exit_code=ExitCode.FAILED)
LATE = MigrationResult("e", "qemu", Status.FAILED, exit_code=ExitCode.DEADLINE)
CANCELLED = MigrationResult("f", "qemu", Status.CANCELLED, exit_code=ExitCode.INTERRUPTED)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([OK, UNCOMPARED], ExitCode.OK),
        ([], ExitCode.OK),
        ([OK, FAILED], ExitCode.PARTIAL),
        ([LATE, LATE], ExitCode.DEADLINE),
        ([LATE, FAILED], ExitCode.FAILED),
        ([OK, WRONG], ExitCode.FAILED),
        ([WRONG, LATE], ExitCode.FAILED),
        ([OK, CANCELLED], ExitCode.INTERRUPTED),
        ([CANCELLED, FAILED, WRONG], ExitCode.INTERRUPTED),
    ],
)
def test_exit_code(results: list[MigrationResult], code: ExitCode) -> None:
    assert exit_code(results) is code


def test_json_has_the_documented_fields() -> None:
    shown = to_json([OK], 1.23456)
    assert shown["wall_s"] == 1.235
    assert list(shown["migrations"][0]) == [
        *("vm", "kind", "status", "verified", "wrong_pages", "total_ms", "downtime_ms", "qemu_downtime_ms"),
        *("ticket_wait_ms", "rounds"),
        *("pages", "zero_pages", "raw_bytes", "wire_bytes", "codec_pages", "accelerator_pages", "accelerators"),
        *("cpu_pages", "busy_retries", "wait_ms", "weight", "error", "class"),
    ]
