"""`make demo WATCH=1`: Prometheus sees the demo, the report is there, and what cannot be is one line."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dashboards import watch
from dashboards.prometheus import Prometheus, free_port, program
from pipeline.errors import KuakaError, UsageError
from tests.needs import need

ROOT = Path(__file__).parents[2]
DEVICES = ROOT / "examples/devices/iaa-small.yaml"
SMALL = ("--vms", "1", "--memory", "64MiB", "--link-rate", "8MB", "--dirty-rate", "0", "--devices", str(DEVICES))


def test_without_prometheus_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="prometheus is not installed: make setup installs it"):
        program()


def test_a_port_that_is_taken_is_not_taken_again() -> None:
    port = free_port()
    assert free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(port) not in (0, port)


def test_a_prometheus_that_does_not_start_says_why_in_a_line(tmp_path: Path) -> None:
    with (
        pytest.raises(KuakaError, match=r"Prometheus does not start: .*nonsense") as caught,
        Prometheus(need("prometheus"), tmp_path, {"nonsense": 1}, free_port()),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_promtool_takes_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(watch.configuration(tmp_path)))
    checked = subprocess.run([need("promtool"), "check", "config", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert re.search(r"SUCCESS: \d+ rules found", checked.stdout)


@pytest.mark.qemu
@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(240)
def test_prometheus_sees_a_demo_and_its_report_is_there() -> None:
    need("prometheus")
    run = subprocess.run(
        [sys.executable, "-m", "dashboards.watch", *SMALL],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert "Prometheus has seen 1 machine move" in run.stderr
    assert re.search(r"kuaka: Prometheus: http://127\.0\.0\.1:\d+/graph", run.stderr)
    (report,) = re.findall(r"in a browser: file://(.*)", run.stderr)
    assert "<figure" in Path(report).read_text()
