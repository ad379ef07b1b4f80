"""The real actor: found by name, killed and restarted by Ray, under the next epoch, with hosts that hold leases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


def test_row_12_a_killed_actor_comes_back_under_the_next_epoch_and_adopts_what_hosts_hold(tmp_path: Path) -> None:
    """In a process of its own, because Ray is; see `tests.scheduler.actor_run` for what is checked at every tick."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.scheduler.actor_run", str(tmp_path)],
        cwd=_ROOT,
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_memory_monitor_refresh_ms": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
    )
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["epochs"] == [1, 2]
    assert seen["same_actor"]
    assert seen["most_slots"] <= seen["slots"]
    assert seen["leases_before"] > 0
    assert seen["adopted"] > 0
    assert seen["bulk_batches_after_learning"] > 0
    assert seen["tenant_weights"] == {"fleet": 3}
