"""What of the scheduler outlives its process: the number of its epoch, and the tenants.

The rule: an epoch is used by one scheduler only. It is claimed before anything is granted under it, by compare and
swap: of two that start at once, one gets the next number and the other the one after.
"""

from typing import Protocol

#: Two that start at once are rare; so many are not.
_MAX_CLAIMS = 100


class EpochStore(Protocol):
    """A small store that more than one process may use at the same time."""

    def load(self) -> int:
        """The newest epoch that was claimed; 0: none."""

    def compare_and_swap(self, expected: int, new: int) -> bool:
        """Make `new` the newest if it is `expected`; whether it was. On stable storage when it returns."""

    def load_tenants(self) -> dict[str, int]:
        """Tenants and their weights, as they were saved last."""

    def save_tenants(self, tenants: dict[str, int]) -> None:
        """Keep them."""


def claim_epoch(store: EpochStore) -> int:
    """An epoch that nobody else has; 1 is the first ever. Raises RuntimeError when others are always faster."""
    for _ in range(_MAX_CLAIMS):
        before = store.load()
        if store.compare_and_swap(before, before + 1):
            return before + 1
    raise RuntimeError(f"no epoch could be claimed after {before}: other schedulers start all the time")
