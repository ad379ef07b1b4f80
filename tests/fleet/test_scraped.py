"""Real exporters: Debian's Prometheus finds one by its file, and those of a cluster tell of a fleet."""

import asyncio
import contextlib
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.fleet.exporter import agent_exporter
from pipeline.fleet.orders import ImageSourceOrder, ImageTargetOrder, TransferTerms, new_session
from tests.dashboards.prometheus_process import LoggedPrometheus
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import processes
from tests.fleet.local_hosts import LocalHost, local_hosts
from tests.fleet.test_controller_actor import MIB, Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

SIZE_BYTES = 64 << 20
RATE_BYTES_S = 2 << 20
PATIENCE_S = 60.0
#: From docs/metrics.md.
AS_KUBEVIRT = [
    {
        "source_labels": ["__name__"],
        "regex": "kuaka_(vmi_migration.*)",
        "target_label": "__name__",
        "replacement": "kubevirt_$1",
    },
    {"regex": "vm", "action": "labelmap", "replacement": "name"},
    {"regex": "fleet", "action": "labelmap", "replacement": "namespace"},
    {"regex": "host", "action": "labelmap", "replacement": "node"},
]


def prometheus(home: Path, exporters: Path) -> LoggedPrometheus:
    """Scrapes what is announced, under our names and under KubeVirt's."""
    directory = home / "prometheus"
    directory.mkdir()
    found = {"file_sd_configs": [{"files": [f"{exporters}/*.json"], "refresh_interval": "1s"}]}
    jobs = [
        {"job_name": "kuaka", **found},
        {"job_name": "as-kubevirt", **found, "metric_relabel_configs": AS_KUBEVIRT},
    ]
    return LoggedPrometheus(directory, {"global": {"scrape_interval": "500ms"}, "scrape_configs": jobs})


async def until(server: LoggedPrometheus, query: str, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """What a query finds once that is so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: list[Any] = (await asyncio.to_thread(lambda: server.ask("query", query=query)))["result"]
            if holds(found):
                return found
            await asyncio.sleep(0.2)


async def send_slowly(source: LocalHost, destination: LocalHost, path: Path) -> str:
    """Begin to send an image that takes half a minute; its session."""
    terms = TransferTerms(new_session(), 1, CodecId.ZSTD, None, 300, 30.0, rate_bytes_s=RATE_BYTES_S, tenant="drain")
    facts = await source.inspect_image(str(path))
    target = ImageTargetOrder("suspended-7", f"{path}.moved", None, False, facts, terms)
    address, port = await destination.prepare_image(target)
    await source.start_image(ImageSourceOrder("suspended-7", str(path), facts, terms, address, port))
    return terms.session


def test_prometheus_sees_a_migration_while_it_is_there_and_its_bytes_after(home: Path) -> None:
    path = home / "suspended-7.ram"
    path.write_bytes(os.urandom(1 << 20) * (SIZE_BYTES >> 20))

    async def story(server: LoggedPrometheus) -> None:
        async with local_hosts(home) as (source, destination):
            exporter = agent_exporter("a", "127.0.0.1", source, home / "metrics")
            await until(server, 'up{exporter="agent",exporter_host="a"}', lambda found: len(found) == 2)
            session = await send_slowly(source, destination, path)
            mine = 'kuaka_vmi_migration_data_processed_bytes{host="a",fleet="drain",vm="suspended-7"}'
            await until(server, f"{mine} > 0", lambda found: len(found) == 1)
            theirs = 'kubevirt_vmi_migration_data_processed_bytes{node="a",namespace="drain",name="suspended-7"}'
            await until(server, theirs, lambda found: len(found) == 1)
            (rate,) = await until(server, "rate(kuaka_vmi_migration_wire_bytes_total[10s]) > 0", bool)
            assert float(rate["value"][1]) < 4 * RATE_BYTES_S
            for host in (source, destination):
                await host.abort_image(session)
            await until(server, '{vm!=""}', lambda found: not found)
            (sent,) = await until(server, 'sum(kuaka_host_wire_bytes_total{host="a",job="kuaka"}) > 0', bool)
            assert float(sent["value"][1]) < SIZE_BYTES
            await exporter.stop()
            await until(server, "up", lambda found: not found)

    with prometheus(home, home / "metrics") as server:
        asyncio.run(story(server))


def pages(home: Path, role: str) -> dict[str, str]:
    """What the exporters of a role say now, by the name of their host; those that have just gone say nothing."""
    found = {}
    for file in (home / "state" / "metrics").glob(f"{role}-*.json"):
        with contextlib.suppress(OSError, ValueError):
            (announced,) = json.loads(file.read_text())
            (target,) = announced["targets"]
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                found[announced["labels"]["exporter_host"]] = answer.read().decode()
    return found


@pytest.mark.ray
def test_agents_and_controller_of_a_cluster_tell_of_a_fleet_and_a_killed_one_is_announced_no_more(
    cluster: tuple[str, Path],
) -> None:
    fleet = Fleet(cluster, 2, 32 * MIB, bandwidthPerMigration="8MB")
    fleet.submit()
    moving = f'kuaka_vmi_migration_wire_bytes_total{{host="a",fleet="{fleet.id}",vm="vm0"}}'
    wait_until(lambda: moving in pages(fleet.home, "agent").get("a", ""), "agent a tells of vm0", PATIENCE_S)

    def controller_says(what: str) -> bool:
        return any(what in page for page in pages(fleet.home, "controller").values())

    running = f'kuaka_vmi_migration_info{{fleet="{fleet.id}",vm="vm0",phase="Running",kind="image",source="a"'
    wait_until(lambda: controller_says(running), "the controller tells of vm0", PATIENCE_S)
    assert controller_says(f'kuaka_fleet_progress_ratio{{fleet="{fleet.id}"}}')
    ended = f'kuaka_migrations_finished_total{{fleet="{fleet.id}",outcome="succeeded"}} 2.0'
    wait_until(lambda: controller_says(ended), "both have ended", PATIENCE_S)
    assert fleet.arrived() == [True, True]
    assert not controller_says('vm="vm0"')
    assert controller_says("kuaka_process_event_loop_lag_seconds")
    (before,) = (fleet.home / "state" / "metrics").glob("controller-*.json")
    (controller,) = processes(fleet.home, "ray::ControllerShell")
    controller.kill()
    wait_until(lambda: not before.exists(), "another one has taken its place", PATIENCE_S)
    wait_until(lambda: controller_says("kuaka_fleets"), "and tells", PATIENCE_S)
