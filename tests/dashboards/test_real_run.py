"""Debian's Prometheus scrapes a real run: whatever a committed dashboard asks has an answer at some moment of it.

The run: a Ray head with a controller, a scheduler and the agents of two hosts, which have an emulated IAA and an
emulated DSA each. Two fleets share them, a guest that runs on and images, the last of which waits. Prometheus is what
`make demo WATCH=1` starts. Nothing goes wrong, so what counts mishaps answers with 0; bytes and pages are more.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dashboards.draw import filled_in
from dashboards.watch import configuration
from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters
from pipeline.errors import ExitCode
from tests.dashboards.panel_queries import PanelQuery, ValuesQuery, panel_queries, values_queries
from tests.dashboards.prometheus_process import LoggedPrometheus
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand
from tests.fleet.live_pair import MIB, LivePair
from tests.fleet.ray_head import ray_head
from tests.fleet.test_controller_actor import DEVICES, Fleet

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]

#: Scrapes are a second apart.
RATE_INTERVAL = "8s"
#: Its first round takes some seconds, and its stop two, for it moves most of the working set: for more than one scrape
#: it has its downtime ticket.
GUEST = GuestParameters(64 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=4 * MIB, working_set_bytes=16 * MIB)
DOWNTIME_LIMIT_MS = 4000
RATE = "4MB"
IMAGES, IMAGE_BYTES = 2, 20 * MIB
PATIENCE_S = 120.0
#: Units of bytes and pages, in Grafana's words: some have moved.
WORK = frozenset(("bytes", "Bps", "pps"))


@dataclass(frozen=True, slots=True)
class RealRun:
    """What Prometheus has of it; times are seconds since 1970."""

    prometheus: LoggedPrometheus
    began_s: float
    ended_s: float

    def numbers(self, query: PanelQuery) -> list[float]:
        """What a query gives at any second of the run."""
        expr = filled_in(query.expr, RATE_INTERVAL, {"vm": "guest"})
        curves = self.prometheus.ask("query_range", query=expr, start=self.began_s, end=self.ended_s, step=1)
        return [float(value) for series in curves["result"] for _, value in series["values"]]

    def values(self, query: ValuesQuery) -> set[str]:
        """The values that there are for a variable."""
        selector = filled_in(query.selector, RATE_INTERVAL, {})
        span = {"start": self.began_s, "end": self.ended_s}
        return set(self.prometheus.ask(f"label/{query.label}/values", **{"match[]": selector}, **span))


@pytest.fixture(scope="module")
def run() -> Iterator[RealRun]:
    """The run, when it has ended."""
    with ray_head() as (address, home):
        data = home / "prometheus"
        data.mkdir()
        with LoggedPrometheus(data, configuration(home / "state")) as prometheus:
            pair = LivePair(home, GUEST)
            try:
                began_s = time.time()
                _migrate(address, home, pair, prometheus)
                yield RealRun(prometheus, began_s, time.time())
            finally:
                pair.close()


def _migrate(address: str, home: Path, pair: LivePair, prometheus: LoggedPrometheus) -> None:
    """Both fleets, until their end has been counted for some scrapes."""
    devices = home / "devices.yaml"
    devices.write_text("\n---\n".join((DEVICES / name).read_text() for name in ("iaa-small.yaml", "dsa.yaml")))
    settings = {
        "hosts": [{"name": name, "emulatedDevices": str(devices)} for name in "ab"],
        "codec": "deflate",
        "bandwidthPerMigration": RATE,
        "parallelMigrationsPerCluster": 2,
    }
    images = Fleet((address, home), IMAGES, IMAGE_BYTES, **settings)
    images.submit()
    spec = pair.spec(vm={"name": "guest"}, downtimeLimitMs=DOWNTIME_LIMIT_MS, **settings)
    guest = KuakaCommand(home, "migrate", str(spec), "-o", "json", "--address", address)
    assert guest.end(PATIENCE_S) == ExitCode.OK, guest.stderr
    wait_until(lambda: set(images.states().values()) == {"Succeeded"}, "the images have arrived", PATIENCE_S)
    counted = 'sum(min_over_time(kuaka_migrations_finished_total{outcome="succeeded"}[4s]))'
    prometheus.wait_until(
        lambda: [each["value"][1] for each in prometheus.ask("query", query=counted)["result"]] == [str(IMAGES + 1)],
        "all are counted",
    )


@pytest.mark.parametrize("query", list(panel_queries()), ids=lambda query: query.name)
def test_a_panels_query_has_an_answer(run: RealRun, query: PanelQuery) -> None:
    numbers = [number for number in run.numbers(query) if math.isfinite(number)]
    assert numbers, query.expr
    if query.unit in WORK:
        assert max(numbers) > 0, query.expr


@pytest.mark.parametrize("query", list(values_queries()), ids=lambda query: query.name)
def test_a_variable_has_values(run: RealRun, query: ValuesQuery) -> None:
    assert run.values(query), query.selector
