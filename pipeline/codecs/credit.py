"""What a codec needs of the scheduler's credit: `scheduler.credit.Credit` keeps it, and so does a test's own."""

from typing import Protocol

from scheduler.credit import WAIT_NS

#: Longest that a batch waits for credit in all, its pieces together; then the CPU does the work.
CREDIT_WAIT_NS = WAIT_NS


class Hold(Protocol):
    """Leave to have at most `slots` descriptors in flight."""

    @property
    def slots(self) -> int:
        """At least one, at most what was asked."""

    def current(self) -> bool:
        """Asked before every submission: False means that the rest is the CPU's."""

    def release(self, used_ns: int) -> None:
        """Give it back, once, when nothing is in flight; `used_ns` of device work were done."""


class Credit(Protocol):
    """Where holds come from. None is an answer: the CPU does the work."""

    def prefers_device(self) -> bool:
        """Whether the next batch is one for the device, by the scheduler's split."""

    def acquire(self, slots: int, cost_ns: int, timeout_ns: int) -> Hold | None:
        """Credit for so many descriptors and device-ns, within the time given."""

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
        """Report what was done; `asked_ns` is device work that was not asked for because the split said CPU."""
