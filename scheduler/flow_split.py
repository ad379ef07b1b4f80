"""What the split of one flow is decided by, out of what its workers measured. `core.split` decides.

Costs per page follow what was measured since the last look, an eighth of it each time. What was never measured is not
guessed: as long as either path has not been tried everything may go to the device, and what gets no credit there tries
the CPU. A few pages are no measurement: the first batch opens the device and touches its memory. And a measurement gets
old: where nothing has gone to the device for two seconds, because it did not pay, its costs are forgotten and it is
tried again; a machine that was busy then may be idle now.

How fast the CPU path is follows from what it did in a tick's time, not from its cost alone: a flow that shares its
cores with guests and other flows gets a fraction of them, and the device is worth the more.
"""

from dataclasses import dataclass

from scheduler.core.effects import Outlook
from scheduler.core.split import SplitInputs, SplitState, choose, cpu_price
from scheduler.core.units import NS_PER_S, PERMILLE
from scheduler.sub_leases import FlowCounters

_PAGE_BYTES = 4096
#: What a multifd packet carries.
_BATCH_PAGES = 128
#: Part of a new measurement.
_SMOOTHING = 8
#: Pages that make a measurement.
_LEAST_PAGES = 512
#: Ticks without a page for the device, after which it is tried again.
_OLD_TICKS = 20


@dataclass(frozen=True, slots=True)
class PathTerms:
    """What a flow's host knows of its way that the workers do not measure. Raises ValueError for what cannot be."""

    #: Threads that would do the work on the CPU, all workers together.
    threads: int = 1
    #: Its part of the link; 0: no limit.
    link_bytes_s: int = 0
    #: Raw bytes per wire byte on either path, permille.
    ratio_device_permille: int = PERMILLE
    ratio_cpu_permille: int = PERMILLE

    def __post_init__(self) -> None:
        if min(self.threads, self.ratio_device_permille, self.ratio_cpu_permille) < 1 or self.link_bytes_s < 0:
            raise ValueError(f"a path has threads and ratios above 0, a link not below: {self}")


class _PerPage:
    """A smoothed cost per page, ns; None until measured."""

    def __init__(self) -> None:
        self.cost_ns: int | None = None
        self._spent_ns = self._pages = 0

    def observe(self, spent_ns: int, pages: int) -> None:
        self._spent_ns += spent_ns
        self._pages += pages
        if self._pages >= _LEAST_PAGES:
            measured = max(1, self._spent_ns // self._pages)
            self.cost_ns = measured if self.cost_ns is None else self.cost_ns + (measured - self.cost_ns) // _SMOOTHING
            self._spent_ns = self._pages = 0


class FlowSplit:
    """One flow's; `device_permille` is what is to be published."""

    def __init__(self) -> None:
        self.terms = PathTerms()
        self.state: SplitState | None = None
        self._device = _PerPage()
        self._device_cpu = _PerPage()
        self._cpu = _PerPage()
        #: What the CPU path did of late; 0: nothing yet.
        self._cpu_bytes_s = 0
        self._unused_ticks = 0

    @property
    def device_permille(self) -> int:
        """Share of the work that is best given to the device."""
        return PERMILLE if self.state is None else self.state.split.device_permille

    def observe(self, before: FlowCounters, now: FlowCounters, elapsed_ns: int) -> None:
        """What the workers did between two looks."""
        device_pages = now.accelerator_pages - before.accelerator_pages
        self._unused_ticks = 0 if device_pages else self._unused_ticks + 1
        if self._unused_ticks >= _OLD_TICKS and not self.device_permille:
            self._device, self._device_cpu, self.state = _PerPage(), _PerPage(), None
        self._device.observe(now.used_ns - before.used_ns, device_pages)
        self._device_cpu.observe(now.accelerator_cpu_ns - before.accelerator_cpu_ns, device_pages)
        cpu_pages = now.cpu_pages - before.cpu_pages
        self._cpu.observe(now.cpu_ns - before.cpu_ns, cpu_pages)
        if cpu_pages:
            done_bytes_s = cpu_pages * _PAGE_BYTES * NS_PER_S // max(1, elapsed_ns)
            before_bytes_s = self._cpu_bytes_s or done_bytes_s
            self._cpu_bytes_s = before_bytes_s + (done_bytes_s - before_bytes_s) // _SMOOTHING

    def decide(self, outlook: Outlook | None, host_busy_permille: int, *, critical: bool) -> None:
        """Once a tick."""
        device_ns, cpu_ns = self._device.cost_ns, self._cpu.cost_ns
        if outlook is None or device_ns is None or cpu_ns is None:
            return
        inputs = SplitInputs(
            batch_bytes=_BATCH_PAGES * _PAGE_BYTES,
            wait_ns=max(0, outlook.wait_ns),
            device_bytes_s=max(0, outlook.share_ns_s) * _PAGE_BYTES // device_ns,
            cpu_bytes_s=max(1, min(self._cpu_bytes_s, self.terms.threads * NS_PER_S * _PAGE_BYTES // cpu_ns)),
            link_bytes_s=self.terms.link_bytes_s,
            ratio_device_permille=self.terms.ratio_device_permille,
            ratio_cpu_permille=self.terms.ratio_cpu_permille,
            device_cpu_ns=_BATCH_PAGES * (self._device_cpu.cost_ns or 0),
            cpu_cpu_ns=_BATCH_PAGES * cpu_ns,
            cpu_price_permille=0 if critical else cpu_price(host_busy_permille),
            raw_allowed=False,
        )
        self.state = choose(inputs, self.state)
