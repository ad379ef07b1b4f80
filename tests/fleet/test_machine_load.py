"""Who else wants this machine's cores."""

from pathlib import Path

import pytest

from pipeline.fleet.machine_load import others_running, spare_cores


def test_running_processes_are_counted_without_ours(tmp_path: Path) -> None:
    statistics = tmp_path / "stat"
    statistics.write_text("cpu 1 2 3\nprocs_running 4\nprocs_blocked 9\n")
    assert others_running(statistics, 0) == 3


@pytest.mark.parametrize("text", [None, "cpu 1\n", "procs_running 0\n"])
def test_where_nobody_says_there_are_none(tmp_path: Path, text: str | None) -> None:
    statistics = tmp_path / "stat"
    if text is not None:
        statistics.write_text(text)
    assert others_running(statistics, 0) == 0


@pytest.mark.parametrize(
    ("cores", "ours", "others", "spare"), [(8, 4, 0, 4), (8, 4, 4, 4), (2, 4, 0, 2), (2, 4, 4, 1), (2, 4, 12, 0.5)]
)
def test_cores_are_shared_equally(cores: int, ours: int, others: float, spare: float) -> None:
    assert spare_cores(cores, ours, others) == spare
