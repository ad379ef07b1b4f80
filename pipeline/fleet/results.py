"""What a migration came to, and its JSON form: the public interface of `kuaka demo` and `kuaka migrate -o json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from pipeline.errors import ExitCode
from pipeline.offload import OffloadCounters


class Status(StrEnum):
    """How a migration ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """One migration; times in milliseconds, None where nothing was measured.

    `downtime_ms` is destination RESUME minus source STOP, `qemu_downtime_ms` what the source QEMU says. `pages`
    counts every page that travelled, `zero_pages` QEMU's duplicates plus those kuaka found. `verified` is True when
    all memory was compared (image: digest), None when that was not asked for.
    """

    vm: str
    kind: str
    status: Status
    verified: bool | None = None
    wrong_pages: int | None = None
    total_ms: float | None = None
    downtime_ms: float | None = None
    qemu_downtime_ms: float | None = None
    #: How long the guest, running, was kept from its stop for the downtime ticket; None where none was asked for.
    ticket_wait_ms: float | None = None
    rounds: int | None = None
    pages: int = 0
    zero_pages: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    codec_pages: Mapping[str, int] = field(default_factory=dict)
    #: At the source, of pages that were coded: who did it, how often a device was busy, how long credit was waited for.
    accelerator_pages: int = 0
    #: The former by kind of device: iaa, qat.
    accelerators: Mapping[str, int] = field(default_factory=dict)
    cpu_pages: int = 0
    busy_retries: int = 0
    wait_ms: float = 0.0
    #: The class of its leases while the guest ran; None where it had none. "class" in JSON.
    service_class: str | None = None
    #: Its share of the accelerators among the others; None where it had none to share.
    weight: int | None = None
    error: str | None = None
    #: The exit code that this migration alone would end a command with.
    exit_code: ExitCode = ExitCode.OK


def with_offload(result: MigrationResult, offload: OffloadCounters | None, weight: int) -> MigrationResult:
    """The result with what accelerators had to do with it; without any, the CPU coded what was coded."""
    if offload is None:
        coded = sum(pages for name, pages in result.codec_pages.items() if name != "none")
        return replace(result, cpu_pages=coded)
    return replace(
        result,
        accelerator_pages=offload.accelerator_pages,
        accelerators={kind: pages for kind, pages in offload.by_kind.items() if pages},
        # What a codec without a device did is in none of its counters.
        cpu_pages=max(offload.cpu_pages, sum(result.codec_pages.values()) - offload.accelerator_pages),
        busy_retries=offload.busy_retries,
        wait_ms=round(offload.wait_ns / 1e6, 3),
        service_class=offload.service_class,
        weight=weight,
    )


def to_json(results: Sequence[MigrationResult], wall_s: float) -> dict[str, Any]:
    """The documented JSON object."""
    migrations = []
    for result in results:
        fields = asdict(result)
        del fields["exit_code"]
        fields["class"] = fields.pop("service_class")
        migrations.append(fields)
    return {"migrations": migrations, "wall_s": round(wall_s, 3)}


def exit_code(results: Sequence[MigrationResult]) -> ExitCode:
    """What a command ends with: 130 if the user ended it, 1 if memory is wrong, 3 if some failed, else their own."""
    if any(result.status is Status.CANCELLED for result in results):
        return ExitCode.INTERRUPTED
    if any(result.verified is False for result in results):
        return ExitCode.FAILED
    failed = [result for result in results if result.status is not Status.COMPLETED]
    if not failed:
        return ExitCode.OK
    if len(failed) < len(results):
        return ExitCode.PARTIAL
    codes = {result.exit_code for result in failed}
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED
