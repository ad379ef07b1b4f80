"""Epochs: nobody has another's, and what was kept is found again."""

import pytest

from scheduler.epochs import claim_epoch
from tests.scheduler.epoch_memory import EpochMemory


def test_each_start_has_the_next_number_and_the_tenants_of_before() -> None:
    store = EpochMemory()
    assert (claim_epoch(store), store.load_tenants()) == (1, {})
    store.save_tenants({"fleet": 3})
    assert (claim_epoch(store), store.load_tenants()) == (2, {"fleet": 3})


def test_two_that_start_at_once_have_different_numbers() -> None:
    class Overtaken(EpochMemory):
        """Another one claims the number that was just seen, the first two times."""

        overtakes = 2

        def compare_and_swap(self, expected: int, new: int) -> bool:
            if self.overtakes:
                self.overtakes -= 1
                assert super().compare_and_swap(expected, new)
            return super().compare_and_swap(expected, new)

    store = Overtaken()
    assert claim_epoch(store) == store.epoch == 3


def test_a_store_that_never_swaps_ends_in_an_error_rather_than_for_ever() -> None:
    class Busy(EpochMemory):
        def compare_and_swap(self, expected: int, new: int) -> bool:
            return False

    with pytest.raises(RuntimeError, match="other schedulers start all the time"):
        claim_epoch(Busy())
