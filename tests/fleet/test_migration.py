"""One guest, never two: a guest's migration against a naive model, with faults at any one and any two of its calls."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.errors import ExitCode, KuakaError
from pipeline.fleet import migration as module
from pipeline.fleet.journal import Journal, Run
from pipeline.fleet.journal import Migration as Entry
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.orders import TransferTerms, new_session
from pipeline.fleet.owner import Owner
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.sweep import sweep
from pipeline.qemu.source_vm import SourceOutcome
from tests.fleet.guest_world import JOURNAL_FAULTS, Calls, CommandDied, FakeHost, FakeRecorder, Fault, World

TERMS = TransferTerms(new_session(), 4, CodecId.NONE, None, 300, 15.0)
ORDER = QemuMigration("vm1", "/a.qmp", "/b.qmp", None, None, None, None, TERMS)
#: A call of `Fault.SLOW` takes longer.
TIMEOUT_S = 0.003

Plan = Mapping[int, Fault]


class ModelJournal:
    """The model's journal as a sweep sees it: one migration of a dead command."""

    def __init__(self, world: World, destination: Mapping[str, Any]) -> None:
        self._world = world
        self._destination = dict(destination)

    def unfinished(self, is_alive: object) -> list[Run]:
        world = self._world
        if not world.begun or world.finished:
            return []
        source = {"host": "a", "qmp": "/a.qmp"}
        state = "paused" if world.paused else "begun"
        entry = Entry(1, 1, "vm1", "00", "qemu", source, self._destination, state, world.handed_over, False, None)
        return [Run(1, Owner(1, 1, "boot"), (entry,))]

    def take_over(self, run: Run) -> bool:
        return True

    def finish_migration(self, migration: int, state: str, error: str | None = None) -> None:
        self._world.finished = True

    def finish_run(self, run: int) -> None:
        return


class Story:
    """A migration with faults, what it came to, and the sweep of the next command where it left something."""

    def __init__(
        self,
        plan: Plan,
        kind: type[GuestMigration] = GuestMigration,
        *,
        was_running: bool = True,
        orphans: bool = False,
        sweep_plan: Plan | None = None,
    ) -> None:
        """`orphans`: agents outlive a command that dies, notice it, and do what they do then."""
        self.plan = plan
        self.world = World(was_running=was_running, source_runs=was_running)
        self.calls = Calls(self.world, plan)
        self.sweep_calls = Calls(self.world, sweep_plan or {})
        self.result: MigrationResult | None = None
        self.states: list[str] = []
        self._kind = kind
        self._orphans = orphans

    async def live(self) -> None:
        """Let it happen."""
        calls = self.calls
        recorder = FakeRecorder(calls)
        order = replace(ORDER, timeout_s=TIMEOUT_S if Fault.SLOW in self.plan.values() else None)
        migration = self._kind(order, FakeHost("a", calls), FakeHost("b", calls), cast(Recorder, recorder))
        calls.task = asyncio.create_task(migration.run())
        with suppress(CommandDied):
            self.result = await calls.task
        if self.result is not None:
            self._check_end(self.result)
        elif self._orphans:
            self._abandon()
        self.world.dead.clear()
        await self._sweep(recorder.destination, self.sweep_calls)
        self.world.dead.clear()
        await self._sweep(recorder.destination, Calls(self.world, {}))
        self._check_swept()

    @property
    def broken(self) -> str | None:
        """Which rule was broken and how it came to that, None for none."""
        if not self.world.broken:
            return None
        steps = [
            f"{call} [{self.plan[at].value}]" if at in self.plan else call for at, call in enumerate(self.calls.made)
        ]
        return f"{'; '.join(self.world.broken)}, after {', '.join(steps)}; swept: {self.states}"

    def _abandon(self) -> None:
        world = self.world
        if "a" not in world.dead:
            world.stop_migrating()
        if "b" not in world.dead and not world.kept:
            world.remove_destination()

    async def _sweep(self, destination: Mapping[str, Any], calls: Calls) -> None:
        journal = cast(Journal, ModelJournal(self.world, destination))
        hosts = {"a": FakeHost("a", calls), "b": FakeHost("b", calls)}
        with suppress(CommandDied):
            await sweep(journal, hosts, lambda owner: False, self.states.append)

    def _check_end(self, result: MigrationResult) -> None:
        world = self.world
        if world.finished:
            self._check_one()
        if world.finished and result.status is Status.COMPLETED and not world.destination_exists:
            world.broken.append("completed, and there is no destination")
        if world.finished and result.status is not Status.COMPLETED and world.destination_exists:
            world.broken.append("failed, and the destination is left behind")
        resume_failed = any(
            self.calls.made[at] == "b.resume_destination" for at in self.plan if at < len(self.calls.made)
        )
        if world.destination_ran and not world.destination_runs and not resume_failed:
            world.broken.append("a guest that ran at the destination was removed")

    def _check_swept(self) -> None:
        world = self.world
        if world.finished or not world.begun:
            self._check_one()
            if world.destination_exists and not world.handed_over:
                world.broken.append("swept, and the destination is left behind")
        elif not world.handed_over or world.destination_exists:
            world.broken.append("in doubt for ever, without need")

    def _check_one(self) -> None:
        running = self.world.source_runs + self.world.destination_runs
        if running != self.world.was_running:
            self.world.broken.append(f"{running} guests run")


def faults_at(call: str) -> tuple[Fault, ...]:
    return JOURNAL_FAULTS if call.startswith("journal.") else tuple(Fault)


def with_one_more(plan: Plan, made: list[str]) -> Iterator[Plan]:
    """`plan` with one more fault, at every call behind its last one."""
    for at in range(max(plan, default=-1) + 1, len(made)):
        for fault in faults_at(made[at]):
            yield {**plan, at: fault}


def explore(kind: type[GuestMigration] = GuestMigration, faults: int = 2, **settings: Any) -> list[Story]:
    """The stories of every plan of up to so many faults."""

    async def tell() -> list[Story]:
        waiting: list[Plan] = [{}]
        stories: list[Story] = []
        while waiting:
            story = Story(waiting.pop(), kind, **settings)
            await story.live()
            stories.append(story)
            if len(story.plan) < faults:
                waiting.extend(with_one_more(story.plan, story.calls.made))
        return stories

    return asyncio.run(tell())


def tell(plan: Plan, **settings: Any) -> Story:
    story = Story(plan, **settings)
    asyncio.run(story.live())
    return story


def broken(stories: list[Story]) -> list[str]:
    return [story.broken for story in stories if story.broken is not None]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GIVE_UP_S", 0.002)


def test_a_migration_without_faults_completes_in_this_order() -> None:
    story = tell({})
    assert [call for call in story.calls.made if "clock" not in call] == [
        "journal.begun",
        "a.inspect_source",
        "b.prepare_destination",
        "a.start_source",
        "a.await_source",
        "b.keep_destination",
        "journal.handed_over",
        "b.resume_destination",
        "a.finish_source",
        "b.finish_destination",
        "journal.finished",
    ]
    assert story.result is not None
    assert (story.result.status, story.result.error, story.result.pages) == (Status.COMPLETED, None, 7)
    assert story.broken is None


def test_whichever_two_calls_go_wrong_there_is_one_guest() -> None:
    stories = explore()
    assert broken(stories) == []
    assert len(stories) > 2000
    ends = {(story.result.status, story.result.exit_code) for story in stories if story.result is not None}
    assert ends == {
        (Status.COMPLETED, ExitCode.OK),
        (Status.FAILED, ExitCode.FAILED),
        (Status.FAILED, ExitCode.DEADLINE),
        (Status.CANCELLED, ExitCode.INTERRUPTED),
    }


def test_agents_that_outlive_their_command_leave_one_guest() -> None:
    assert broken(explore(faults=1, orphans=True)) == []


def test_a_paused_guest_is_started_by_nobody() -> None:
    stories = explore(faults=1, was_running=False)
    assert broken(stories) == []
    assert not any(story.world.source_runs or story.world.destination_ran for story in stories)


def test_a_sweep_that_goes_wrong_itself_is_made_good_by_the_next() -> None:
    for killed in with_one_more({}, tell({}).calls.made):
        if set(killed.values()) <= {Fault.KILLED, Fault.KILLED_AFTER}:
            for plan in with_one_more({}, tell(killed).sweep_calls.made):
                if Fault.CANCELLED not in plan.values() and Fault.SLOW not in plan.values():
                    assert tell(killed, sweep_plan=plan).broken is None


def test_a_cancelled_migration_and_one_out_of_time_leave_the_source_running_and_nothing_else() -> None:
    made = tell({}).calls.made
    for fault, status, code in (
        (Fault.CANCELLED, Status.CANCELLED, ExitCode.INTERRUPTED),
        (Fault.SLOW, Status.FAILED, ExitCode.DEADLINE),
    ):
        for at in range(1, made.index("b.keep_destination")):
            story = tell({at: fault})
            assert story.result is not None
            assert (story.result.status, story.result.exit_code) == (status, code), made[at]
            assert story.world.source_runs
            assert not story.world.destination_exists
            assert story.world.finished


def test_nothing_stops_a_hand_over_half_way() -> None:
    made = tell({}).calls.made
    for at in range(made.index("b.keep_destination"), len(made)):
        for fault in set(faults_at(made[at])) & {Fault.CANCELLED, Fault.SLOW}:
            story = tell({at: fault})
            assert story.result is not None
            assert story.result.status is Status.COMPLETED


def test_what_fails_after_the_guest_has_moved_fails_nothing() -> None:
    made = tell({}).calls.made
    for at in range(made.index("b.resume_destination") + 1, len(made)):
        for fault in set(faults_at(made[at])) - {Fault.KILLED, Fault.KILLED_AFTER}:
            story = tell({at: fault})
            assert story.result is not None
            assert (story.result.status, story.result.error) == (Status.COMPLETED, None)


def test_what_is_in_doubt_is_said_and_left_open() -> None:
    made = tell({}).calls.made
    story = tell({made.index("b.resume_destination"): Fault.DYING})
    assert story.result is not None
    assert story.result.error == (
        "a kuaka process on host b has died; "
        "the hand-over was recorded and the destination may run: look there before starting the source"
    )
    assert story.world.destination_runs
    assert not story.world.source_runs
    assert story.states == [
        "vm1: a migration that was not brought to its end: the guest was handed over and is running at the destination"
    ]


class RecordsAfterResuming(GuestMigration):
    async def _hand_over(self, outcome: SourceOutcome) -> int | None:
        await self.destination.keep_destination(self.session)
        resumed_ns = await self.destination.resume_destination(self.session)
        self._recorded = True
        self._recorder.handed_over()
        return resumed_ns


class TrustsAFailedCleanup(GuestMigration):
    async def _remove_destination(self, reasons: list[str]) -> bool:
        await super()._remove_destination(reasons)
        return True


class ClosesTheJournalInDoubt(GuestMigration):
    async def _remove_destination(self, reasons: list[str]) -> bool:
        gone = await super()._remove_destination(reasons)
        self._in_doubt = False
        return gone


class ForgetsAStoppedSource(GuestMigration):
    async def _give_back(self, reasons: list[str]) -> None:
        await super()._give_back(reasons)
        self._in_doubt = False


class UndoesASuccess(GuestMigration):
    async def _complete(self, outcome: SourceOutcome) -> MigrationResult:
        try:
            await self._hand_over(outcome)
            await self._clock_skew_ns()
        except KuakaError as error:
            return await self._undo(error, Status.FAILED)
        return await super()._complete(outcome)


class BelievesAFailedPrepare(GuestMigration):
    async def _prepare(self) -> None:
        try:
            await super()._prepare()
        except KuakaError:
            self._asked = self._started
            raise


class HandsOverWithoutKeeping(GuestMigration):
    async def _hand_over(self, outcome: SourceOutcome) -> int | None:
        self._recorded = True
        self._recorder.handed_over()
        return await self.destination.resume_destination(self.session)


class StopsHalfWay(GuestMigration):
    async def _until_completed(self) -> SourceOutcome:
        outcome = await super()._until_completed()
        await self._hand_over(outcome)
        return outcome


@pytest.mark.parametrize(
    "mutant",
    [
        RecordsAfterResuming,
        TrustsAFailedCleanup,
        ClosesTheJournalInDoubt,
        ForgetsAStoppedSource,
        UndoesASuccess,
        BelievesAFailedPrepare,
        HandsOverWithoutKeeping,
        StopsHalfWay,
    ],
)
def test_a_migration_with_a_mistake_is_caught(mutant: type[GuestMigration]) -> None:
    assert broken(explore(mutant, faults=1, orphans=True))
