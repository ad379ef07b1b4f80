"""Epochs: nobody has another's, and what was kept is found again."""

import threading
from pathlib import Path

import pytest

from scheduler.epochs import FileEpochStore, claim_epoch
from tests.scheduler.epoch_memory import EpochMemory


def test_each_start_has_the_next_number_and_the_tenants_of_before(tmp_path: Path) -> None:
    store = FileEpochStore(tmp_path / "epoch")
    assert (claim_epoch(store), store.load_tenants()) == (1, {})
    store.save_tenants({"fleet": 3})
    again = FileEpochStore(tmp_path / "epoch")
    assert (claim_epoch(again), again.load_tenants()) == (2, {"fleet": 3})
    assert not again.compare_and_swap(1, 2)
    assert again.load() == 2


def test_two_that_start_at_once_have_different_numbers(tmp_path: Path) -> None:
    claimed: list[int] = []

    def start() -> None:
        claimed.append(claim_epoch(FileEpochStore(tmp_path / "epoch")))

    starting = [threading.Thread(target=start) for _ in range(8)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    assert sorted(claimed) == list(range(1, 9))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"epoch": "x", "tenants": {}}', '{"epoch": 1}', '{"epoch":1,"tenants":[]}']
)
def test_a_file_that_is_none_of_ours_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "epoch").write_text(text)
    with pytest.raises(ValueError, match="is no epoch file: remove it"):
        claim_epoch(FileEpochStore(tmp_path / "epoch"))


def test_a_store_that_never_swaps_ends_in_an_error_rather_than_for_ever() -> None:
    class Busy(EpochMemory):
        def compare_and_swap(self, expected: int, new: int) -> bool:
            return False

    with pytest.raises(RuntimeError, match="other schedulers start all the time"):
        claim_epoch(Busy())
