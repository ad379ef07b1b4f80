"""A controller's process that is killed with SIGKILL, again and again, over a real journal on a real disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.controller_process import CANCELLED

ROOT = Path(__file__).parents[2]


def check_kills(directory: Path, *, seed: int, kills: int, machines: int) -> None:
    command = [sys.executable, "-m", "tests.fleet.controller_process", directory, seed, kills, machines]
    answer = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    verdict = json.loads(answer.stdout)
    assert verdict["broken"] == []
    assert verdict["killed"] == kills
    states = verdict["states"]
    assert len(states) == machines
    assert states.pop(CANCELLED) == "Cancelled"
    assert set(states.values()) == {"Succeeded"}


def test_a_controller_killed_at_ten_random_moments_moves_everything_once(tmp_path: Path) -> None:
    check_kills(tmp_path, seed=5, kills=10, machines=36)


@pytest.mark.long
@pytest.mark.parametrize("seed", [11, 12])
def test_a_controller_killed_at_fifty_random_moments_moves_everything_once(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path, seed=seed, kills=50, machines=160)
