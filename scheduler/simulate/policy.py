"""What differs between the policies: who does a batch's operation, and when a guest may be stopped."""

from typing import TYPE_CHECKING, Protocol

from scheduler.simulate.host import Process
from scheduler.simulate.work import Work, on_cpu

if TYPE_CHECKING:
    from scheduler.simulate.migration import Migration
    from scheduler.simulate.world import World


class Policy(Protocol):
    """One way to share the devices; one object per run."""

    name: str

    def attach(self, world: "World") -> None:
        """The world is complete; nothing has run yet."""

    def opened(self, migration: "Migration") -> None:
        """A migration is about to send its first page."""

    def closed(self, migration: "Migration") -> None:
        """A migration is done, or has failed."""

    def process(self, work: Work) -> Process:
        """Have the work done; the calling thread goes on afterwards."""

    def before_stop(self, migration: "Migration", pages: int) -> Process:
        """Return when the guest may be stopped, with so many pages left to send."""


class Indifferent:
    """A policy that keeps no books: migrations come and go, guests stop when they like, the CPU does the work."""

    name = "cpu"

    def attach(self, world: "World") -> None:
        """Nothing to prepare."""

    def opened(self, migration: "Migration") -> None:
        """Nothing to note."""

    def closed(self, migration: "Migration") -> None:
        """Nothing to note."""

    def process(self, work: Work) -> Process:
        yield from on_cpu(work)

    def before_stop(self, migration: "Migration", pages: int) -> Process:
        """At once."""
        yield from ()
