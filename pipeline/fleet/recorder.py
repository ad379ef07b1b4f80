"""What the journal is told of one migration, and when.

Begun before anything is touched, with all that a clean-up needs; handed over before the destination runs; finished
when nothing is left to be cleaned up.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.fleet.journal import Journal

#: State of a migration whose guest was paused before: whoever puts things right does not start it, either.
PAUSED = "paused"


class Recorder:
    """One migration's entries in the journal; every call returns when it is durable and raises `KuakaError`."""

    def __init__(self, journal: Journal, run: int, vm: str, kind: str, source: Mapping[str, Any]) -> None:
        """`source` is what a clean-up needs at the source: the host, and where the guest or image is."""
        self._journal = journal
        self._run = run
        self._vm = vm
        self._kind = kind
        self._source = source
        self._number: int | None = None

    def begun(self, session: str, destination: Mapping[str, Any]) -> None:
        """The migration is about to touch its first host; `destination` is what a clean-up needs there."""
        self._number = self._journal.add_migration(
            self._run,
            vm=self._vm,
            session=session,
            kind=self._kind,
            source=self._source,
            destination=destination,
            state="begun",
        )

    def paused(self) -> None:
        """The guest does not run, and is not to run at the destination."""
        self._journal.set_state(self._begun(), PAUSED)

    def handed_over(self) -> None:
        """From here on the destination owns the guest."""
        self._journal.record_hand_over(self._begun())

    def taken_back(self) -> None:
        """The destination is gone for certain: the source owns the guest again."""
        self._journal.record_take_back(self._begun())

    def finished(self, state: str, error: str | None) -> None:
        """Nothing is left to be cleaned up."""
        self._journal.finish_migration(self._begun(), state, error)

    def _begun(self) -> int:
        if self._number is None:
            raise RuntimeError("a migration was recorded before it began")
        return self._number
