"""A source QEMU under kuaka's hand: checked, set up, started, watched, and put back as it was when migration fails."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MigrationError, SpecError
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.auto_converge import AT_REST, CALLED_FOR, CAPABILITY
from pipeline.qemu.compatibility import source_problems
from pipeline.qemu.qmp import QemuFacts, Qmp, event_time_ns
from pipeline.qemu.switchover import HELD_LIMIT_MS, SWITCHOVER_ACK, Hold, RamProgress
from pipeline.session import Session

#: max-bandwidth counts raw bytes, so QEMU's own limit is lifted: the link is what limits.
_UNLIMITED_BYTES_S = 10**12
#: How often QEMU is asked when no event comes.
_POLL_S = 0.25
#: The same while the guest stands still and QEMU sends no events of its migration.
_STOPPED_POLL_S = 0.005
#: A QEMU whose stream was cut notices within this time, or is told to cancel.
_NOTICE_S = 1.5
#: A gateway knows within 1.5 s why it cut QEMU off.
_REASON_POLLS = 75
_REASON_POLL_S = 0.02
_SET_CAPABILITIES = ("multifd", "return-path")
_EVENTS = "events"
_MBIT_BYTES = 125_000
_ENDED = frozenset(("completed", "failed", "cancelled"))
_UNDER_WAY = frozenset(("setup", "wait-unplug", "active", "device", "pre-switchover", "cancelling"))
#: A QEMU that was told to give up has done so within this time, on a busy machine too.
_CANCEL_TIMEOUT_S = 10.0
_CANCEL_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """How the source migrates; None leaves QEMU's own value."""

    channels: int
    downtime_limit_ms: int
    zero_page_detection: str | None
    #: How the stop is held back: by the gateway (ACK), or until `allow_downtime` (LIMIT).
    hold: Hold = Hold.NONE
    #: Whether the destination sends a SWITCHOVER_ACK.
    acknowledged: bool = False
    #: Whether `converge` may be called for.
    auto_converge: bool = False


@dataclass(frozen=True, slots=True)
class SourceOutcome:
    """How the migration ended for the source; times in ns of its host's clock, `statistics` is QEMU's query-migrate."""

    completed: bool
    cancelled: bool
    #: Whether the guest ran until the migration stopped it; one that was paused must arrive paused.
    was_running: bool
    error: str | None
    stopped_ns: int | None
    statistics: dict[str, Any]


class SourceVm:
    """One source QEMU; `connect` first."""

    def __init__(self, name: str, qmp_path: Path, on_stop: Callable[[], None] = lambda: None) -> None:
        """`on_stop` is called when the guest has been stopped."""
        self.qmp_path = qmp_path
        self._on_stop = on_stop
        self._qmp = Qmp(qmp_path, f"{name} (source)")
        self._capabilities_before: dict[str, bool] = {}
        self._parameters_before: dict[str, Any] = {}
        self._was_running = False
        self._stopped_ns: int | None = None
        self._downtime_limit_ms = 0
        self._has_events = True
        self._may_throttle = False
        #: How far memory had come when QEMU was asked last; None before.
        self.seen: RamProgress | None = None

    async def connect(self) -> QemuFacts:
        """Connect and check; raises `SpecError` naming all that is in the way."""
        await self._qmp.connect()
        facts = await self._qmp.facts()
        if problems := source_problems(facts):
            raise SpecError(f"{self._qmp.name}: {'; '.join(problems)}")
        await self._refuse_migrating()
        self._was_running = facts.status == "running"
        return facts

    async def configure(self, settings: SourceSettings, facts: QemuFacts) -> None:
        """Set capabilities and parameters, remembering what they were. Raises `MigrationError`."""
        self._downtime_limit_ms = settings.downtime_limit_ms
        wanted: dict[str, Any] = {
            "multifd-channels": settings.channels,
            "multifd-compression": "none",
            "downtime-limit": HELD_LIMIT_MS if settings.hold is Hold.LIMIT else settings.downtime_limit_ms,
            "max-bandwidth": _UNLIMITED_BYTES_S,
        }
        if settings.zero_page_detection is not None:
            if "zero-page-detection" not in facts.parameters:
                version = ".".join(map(str, facts.version))
                raise SpecError(f"{self._qmp.name}: QEMU {version} has no zero-page-detection: leave it out")
            wanted["zero-page-detection"] = settings.zero_page_detection
        if settings.auto_converge:
            wanted |= AT_REST
        # While an ACK is kept back a round may take a millisecond. Each is an event to every monitor, and what a
        # monitor does not read in time QEMU 10.0 cuts in the middle of a line.
        self._has_events = settings.hold is not Hold.ACK
        capabilities = {**dict.fromkeys(_SET_CAPABILITIES, True), _EVENTS: self._has_events}
        if settings.hold is Hold.ACK or facts.capabilities.get(SWITCHOVER_ACK):
            # One that was on is off where no ACK would come: such a guest is never stopped.
            capabilities[SWITCHOVER_ACK] = settings.acknowledged
        if settings.auto_converge:
            capabilities[CAPABILITY] = True
        self._may_throttle = capabilities.get(CAPABILITY, False)
        self._capabilities_before = {name: facts.capabilities.get(name, False) for name in capabilities}
        self._parameters_before = {name: facts.parameters[name] for name in wanted if name in facts.parameters}
        await set_capabilities(self._qmp, capabilities)
        await self._qmp.execute("migrate-set-parameters", **wanted)

    async def start(self, gateway: Path) -> None:
        """Let QEMU migrate into the gateway's socket. Raises `MigrationError`."""
        await self._qmp.execute("migrate", uri=f"unix:{gateway}")

    async def outcome(self, session: Session) -> SourceOutcome:
        """Wait until QEMU says how it ended. A gateway that failed is the reason given, before QEMU's own."""
        failing_since: float | None = None
        while True:
            status = await self._next_status()
            # "none": it failed before QEMU was told to migrate.
            if status in _ENDED or (status == "none" and session.error is not None):
                break
            if session.error is not None:
                now = asyncio.get_running_loop().time()
                failing_since = failing_since or now
                if now - failing_since > _NOTICE_S:
                    await self.cancel()
                    failing_since = now
        statistics = await self._qmp.execute("query-migrate")
        # QEMU may have been asked before its events were looked at.
        for event in self._qmp.waiting_events("STOP"):
            self._stopped_ns = event_time_ns(event)
        was_running = self._was_running or self._stopped_ns is not None
        completed = status == "completed"
        error = None if completed else await _reason(session) or statistics.get("error-desc") or f"QEMU says {status}"
        return SourceOutcome(completed, status == "cancelled", was_running, error, self._stopped_ns, statistics)

    async def ram(self) -> RamProgress:
        """How far memory has come. Raises `MigrationError`."""
        answer = await self._qmp.execute("query-migrate")
        ram = answer.get("ram", {})
        self.seen = RamProgress(
            str(answer.get("status", "none")),
            int(ram.get("dirty-sync-count", 0)),
            int(ram.get("remaining", 0)),
            int(ram.get("mbps", 0) * _MBIT_BYTES),
            int(ram.get("dirty-pages-rate", 0)) * int(ram.get("page-size", PAGE_BYTES)),
        )
        return self.seen

    async def allow_downtime(self) -> None:
        """End `Hold.LIMIT`: the guest may stand still for as long as it was set up with. Raises `MigrationError`."""
        await self._qmp.execute("migrate-set-parameters", **{"downtime-limit": self._downtime_limit_ms})

    async def converge(self) -> None:
        """Let QEMU slow the guest down until it converges. Raises `MigrationError` where that was not allowed."""
        if not self._may_throttle:
            raise MigrationError(f"{self._qmp.name}: auto-converge was not allowed when its migration began")
        await self._qmp.execute("migrate-set-parameters", **CALLED_FOR)

    async def cancel(self) -> None:
        """Ask QEMU to give up; the guest goes on. Harmless when nothing migrates."""
        await self._qmp.execute("migrate_cancel")

    async def restore(self) -> None:
        """After a failure, once QEMU has given up: its settings as they were before. Raises `MigrationError`.

        Until then QEMU takes neither settings nor another migration.
        """
        await self.cancel()
        await until_ended(self._qmp)
        if self._capabilities_before:
            await set_capabilities(self._qmp, self._capabilities_before)
            await self._qmp.execute("migrate-set-parameters", **self._parameters_before)

    async def resume(self) -> str:
        """Let the guest run again if it ran before; only once the destination is known to be gone. Its state.

        Raises `MigrationError` when it cannot be told.
        """
        status: str = (await self._qmp.execute("query-status"))["status"]
        if self._was_running and status != "running":
            await self._qmp.execute("cont")
            status = (await self._qmp.execute("query-status"))["status"]
        return status

    async def disconnect(self) -> None:
        """Leave QEMU alone."""
        await self._qmp.disconnect()

    async def _refuse_migrating(self) -> None:
        """Raise `SpecError` while somebody else migrates it. One that is just being given up is waited for."""
        status = await migration_status(self._qmp)
        if status == "cancelling":
            await until_ended(self._qmp)
        elif status in _UNDER_WAY:
            raise SpecError(f"{self._qmp.name}: a migration is under way ({status}): wait for its end, or cancel it")

    async def _next_status(self) -> str:
        stands_still_unseen = self._stopped_ns is not None and not self._has_events
        try:
            async with asyncio.timeout(_STOPPED_POLL_S if stands_still_unseen else _POLL_S):
                event: Any = await self._qmp.next_event("STOP", "MIGRATION")
        except TimeoutError:
            return (await self.ram()).status
        if event["event"] == "STOP":
            self._stopped_ns = event_time_ns(event)
            self._on_stop()
            return "active"
        return str(event["data"]["status"])


async def _reason(session: Session) -> str | None:
    """Why the gateway failed. QEMU may have noticed first that it was cut off; the gateway is about to learn why."""
    for _ in range(_REASON_POLLS):
        if session.error is not None:
            break
        await asyncio.sleep(_REASON_POLL_S)
    return session.error


async def migration_status(qmp: Qmp) -> str:
    """Of the latest migration, "none" where there was none. Raises `MigrationError`."""
    return str((await qmp.execute("query-migrate")).get("status", "none"))


async def until_ended(qmp: Qmp) -> None:
    """Wait until QEMU has given up its migration and put its guest back: it does so some time after it was told.

    Raises `MigrationError` when it does not.
    """
    deadline = asyncio.get_running_loop().time() + _CANCEL_TIMEOUT_S
    while await migration_status(qmp) in _UNDER_WAY:
        if asyncio.get_running_loop().time() > deadline:
            raise MigrationError(
                f"{qmp.name}: the migration did not end within {_CANCEL_TIMEOUT_S:g} s: cancel it by hand"
            )
        await asyncio.sleep(_CANCEL_POLL_S)


async def set_capabilities(qmp: Qmp, wanted: dict[str, bool]) -> None:
    """Set migration capabilities by name. Raises `MigrationError`."""
    await qmp.execute(
        "migrate-set-capabilities",
        capabilities=[{"capability": name, "state": state} for name, state in wanted.items()],
    )
