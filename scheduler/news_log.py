"""What a host has to tell, numbered, until it was acknowledged."""

from collections.abc import Sequence

from scheduler.ticks import News


class NewsLog:
    """`pending` in order; the number of its first is `first`, and `complete` says that it is all there is to know."""

    def __init__(self) -> None:
        self.pending: list[News] = []
        self.first = 1
        self.complete = True
        self._end_of_complete = 0

    def add(self, news: News) -> None:
        """Another one."""
        self.pending.append(news)

    def acknowledge(self, number: int) -> None:
        """News up to this number is known there, and so is the host."""
        known = max(0, min(number - self.first + 1, len(self.pending)))
        del self.pending[:known]
        self.first += known
        if self.first > self._end_of_complete:
            self.complete = False

    def restart(self, everything: Sequence[News]) -> None:
        """Nothing is known there: tell all, under numbers that were never used."""
        self.first += len(self.pending)
        self.pending = list(everything)
        self.complete = True
        self._end_of_complete = self.first + len(self.pending) - 1
