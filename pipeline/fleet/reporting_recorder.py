"""A recorder that also tells the controller how far its attempt is, right after that was recorded."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.fleet.journal import Journal
from pipeline.fleet.lifecycle import Trigger
from pipeline.fleet.recorder import Recorder


class ReportingRecorder(Recorder):
    """`reached` never raises: what it is told has happened, whatever becomes of the news."""

    def __init__(
        self,
        journal: Journal,
        run: int,
        vm: str,
        kind: str,
        source: Mapping[str, Any],
        reached: Callable[[Trigger], None],
    ) -> None:
        super().__init__(journal, run, vm, kind, source)
        self._reached = reached

    def handed_over(self) -> None:
        """From here on the destination owns the guest."""
        super().handed_over()
        self._reached(Trigger.HAND_OVER)

    def taken_back(self) -> None:
        """The destination is gone for certain: the source owns the guest again."""
        super().taken_back()
        self._reached(Trigger.TAKE_BACK)
