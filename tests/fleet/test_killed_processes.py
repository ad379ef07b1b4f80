"""Controllers, agents and the cluster's head killed with SIGKILL at random moments while images and guests move.

Whatever dies: each machine ends exactly once, succeeded or cleanly failed, exactly one guest of each runs, with all of
its memory, and nothing is left behind. The moments are drawn from a seed; how far everything is by then is up to the
machine. All seeds together kill 50 controllers, 20 agents and 5 heads.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import processes
from tests.fleet.live_pair import MIB, LivePair
from tests.fleet.ray_head import RayHead, started_head
from tests.fleet.real_fleets import (
    Fields,
    Images,
    RealCluster,
    event_problems,
    final_states,
    fleet_fields,
    guest_machine,
    guest_problems,
)

pytestmark = [pytest.mark.ray, pytest.mark.qemu, pytest.mark.long, pytest.mark.timeout(420)]

#: So slow that most are under way when something dies.
_SLOW = {"bandwidthPerMigration": "3MB", "codec": "none", "parallelMigrationsPerCluster": 6}
_LIMITS = {"parallelOutboundMigrationsPerNode": 4, "parallelInboundMigrationsPerNode": 3}
#: Whatever runs on a host that is killed again and again fails again and again.
_STUBBORN = {"retry": {"maxAttempts": 20, "backoffSeconds": 0.2, "maxBackoffSeconds": 1}}
_GUEST = GuestParameters(32 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=1 * MIB)


@dataclass(frozen=True)
class Drain:
    """Two fleets that move at the same time: images and guests."""

    cluster: RealCluster
    images: Images
    guests: dict[str, LivePair]
    fleets: tuple[Fields, Fields]

    def ended(self) -> Counter[str]:
        """Wait for both fleets, check all that must be true, that all have moved, too; how often which reason was."""
        names = [fields["metadata"]["name"] for fields in self.fleets]
        results = [result for name in names for result in self.cluster.attach(name).values()]
        events = self.cluster.events(*names)
        states = final_states(events)
        problems = event_problems(events, *self.fleets)
        problems += self.images.problems(states) + guest_problems(self.guests, states)
        wanted = {"Succeeded": "completed", "Failed": "failed"}
        problems += [
            f"{each['vm']} is {states[each['vm']]} and its result {each['status']}: {each['error']}"
            for each in results
            if wanted.get(states[each["vm"]]) != each["status"]
        ]
        problems += [f"{vm} is not put right" for vm in self.cluster.unfinished()]
        assert problems == []
        assert len(results) == len(states) == len(self.images.machines) + len(self.guests)
        assert set(states.values()) == {"Succeeded"}
        self.cluster.wait_nothing_left()
        return Counter(event.reason for event in events)


@contextlib.contextmanager
def drain(cluster: RealCluster, seed: int, images: int = 40, guests: int = 2) -> Iterator[Drain]:
    """The fleets, submitted; the guests are ended afterwards."""
    with contextlib.ExitStack() as ending:
        pairs = {}
        for number in range(guests):
            home = cluster.home / f"g{seed}-{number}"
            home.mkdir()
            pairs[f"g{number}"] = LivePair(home, _GUEST)
            ending.callback(pairs[f"g{number}"].close)
        files = Images(cluster.home / f"i{seed}", seed)
        files.add(images // 2, 4 * MIB, "ab")
        files.add(images // 2, 4 * MIB, "ba")
        settings = {**_SLOW, **_LIMITS, **_STUBBORN, "hosts": "ab"}
        fleets = (
            fleet_fields(f"images-{seed}", files.machines, **settings),
            fleet_fields(f"guests-{seed}", [guest_machine(pair, name) for name, pair in pairs.items()], **settings),
        )
        cluster.submit_together(*fleets, workers=1)
        yield Drain(cluster, files, pairs, fleets)


def kill_at_random(home: Path, word: str, chance: random.Random, kills: int, longest_s: float) -> None:
    """SIGKILL one of the actors called `word`, so many times, each up to `longest_s` after there is one again."""
    killed: set[psutil.Process] = set()

    def there() -> list[psutil.Process]:
        return [process for process in processes(home, word) if process not in killed]

    for _ in range(kills):
        wait_until(lambda: bool(there()), f"a {word} runs", 60)
        time.sleep(chance.random() * longest_s)
        if found := sorted(there(), key=lambda process: process.pid):
            victim = chance.choice(found)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
            killed.add(victim)
    assert len(killed) == kills


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with started_head() as head:
        yield head


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_a_controller_killed_ten_times_moves_everything_once(head: RayHead, seed: int) -> None:
    cluster = RealCluster(head.address, head.home)
    with drain(cluster, seed) as under_way:
        kill_at_random(head.home, "ray::ControllerShell", random.Random(seed), kills=10, longest_s=7.0)
        reasons = under_way.ended()
        assert sum(count for reason, count in reasons.items() if "its controller" in reason) >= 10
        assert not any(reason.startswith("failure ") for reason in reasons)


@pytest.mark.parametrize("seed", [6, 7])
def test_agents_killed_ten_times_leave_nothing_in_doubt(head: RayHead, seed: int) -> None:
    cluster = RealCluster(head.address, head.home)
    with drain(cluster, seed) as under_way:
        kill_at_random(head.home, "ray::AgentShell", random.Random(seed), kills=10, longest_s=5.0)
        assert any(reason.startswith("failure 1/20: ") for reason in under_way.ended())


def kill_gcs(head: RayHead) -> None:
    """Only the part that a cluster cannot do without; Ray ends the rest."""
    for process in processes(head.home, "gcs_server"):
        process.kill()
    time.sleep(1)
    head.kill()


@pytest.mark.parametrize(("seed", "kills"), [(8, 3), (9, 2)])
def test_a_cluster_whose_head_is_killed_goes_on_where_it_was(seed: int, kills: int) -> None:
    chance = random.Random(seed)
    with started_head() as head:
        cluster = RealCluster(head.address, head.home)
        with drain(cluster, seed) as under_way:
            ways: list[Callable[[], None]] = [head.kill, lambda: kill_gcs(head)]
            for number in range(kills):
                wait_until(lambda: bool(processes(head.home, "ray::ControllerShell")), "a controller runs", 60)
                time.sleep(chance.random() * 8)
                ways[number % 2]()
                head.start()
                # What an operator does: the same again.
                for fields in under_way.fleets:
                    cluster.submit(fields, "--workers", "1")
            under_way.ended()
