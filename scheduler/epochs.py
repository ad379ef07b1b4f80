"""What of the scheduler outlives its process: the number of its epoch, and the tenants.

The rule: an epoch is used by one scheduler only. It is claimed before anything is granted under it, by compare and
swap: of two that start at once, one gets the next number and the other the one after.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
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


class FileEpochStore:
    """In one file of a directory that all who may run the scheduler share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> int:
        """See `EpochStore`. Raises OSError, ValueError for a file that is none of ours."""
        return self._read()[0]

    def compare_and_swap(self, expected: int, new: int) -> bool:
        """See `EpochStore`."""
        with self._locked():
            epoch, tenants = self._read()
            if epoch != expected:
                return False
            self._write(new, tenants)
            return True

    def load_tenants(self) -> dict[str, int]:
        """See `EpochStore`."""
        return self._read()[1]

    def save_tenants(self, tenants: dict[str, int]) -> None:
        """See `EpochStore`."""
        with self._locked():
            self._write(self._read()[0], tenants)

    def _read(self) -> tuple[int, dict[str, int]]:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return 0, {}
        try:
            kept = json.loads(text)
            return int(kept["epoch"]), {str(name): int(weight) for name, weight in kept["tenants"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{self._path} is no epoch file: remove it when no migration runs") from None

    def _write(self, epoch: int, tenants: dict[str, int]) -> None:
        new = self._path.with_suffix(".new")
        with new.open("w") as file:
            json.dump({"epoch": epoch, "tenants": tenants}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
