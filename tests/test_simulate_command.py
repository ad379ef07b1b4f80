import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pipeline.errors import ExitCode, KuakaError, UsageError
from pipeline.simulate_command import run_simulation


def _run(scenario: str, *policies: str, seed: int = 1, timeline: Path | None = None, as_json: bool = True) -> ExitCode:
    return run_simulation(scenario, list(policies), seed=seed, sweep=False, timeline=timeline, as_json=as_json)


def test_unknown_scenario_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"^hundred-vm: no such scenario; give one of hundred-vms, .*calibration$"):
        _run("hundred-vm")


def test_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"^--policy lifo: give one of cpu, fifo, retry"):
        _run("busy-iaa", "lifo")


def test_calibration_takes_no_policy() -> None:
    with pytest.raises(UsageError, match=r"^calibration: "):
        _run("calibration", "cpu")


def test_a_time_line_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KuakaError, match=r"nowhere/x.svg: No such file or directory: give a file"):
        _run("busy-iaa", "cpu", timeline=tmp_path / "nowhere" / "x.svg")


def test_json_has_the_promised_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("busy-iaa", "cpu", "fifo", seed=7) is ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    assert (printed["scenario"], printed["seed"], printed["sweep"]) == ("busy-iaa", 7, [])
    assert list(printed["policies"]) == ["cpu", "fifo"]
    figures = printed["policies"]["fifo"]
    assert set(figures) == {
        "vm_time_s",
        "downtime_ms",
        "failed",
        "makespan_s",
        "wire_bytes",
        "cpu_s",
        "device_utilisation",
        "busy_retries",
        "critical_wait_ms_p99",
        "jain",
    }
    assert set(figures["vm_time_s"]) == {"mean", "p50", "p99", "max"}
    assert set(figures["downtime_ms"]) == {"p50", "p99", "max"}
    assert figures["device_utilisation"]["a/iaa/0"] > 0.95


def test_table_names_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("busy-iaa", "cpu", "fifo", as_json=False) is ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith((" cpu", " fifo"))] == ["cpu", "fifo"]


def test_time_line_is_an_svg_with_a_panel_per_policy(tmp_path: Path) -> None:
    path = tmp_path / "line.svg"
    _run("busy-iaa", "cpu", "fifo", timeline=path, as_json=True)
    texts = [element.text or "" for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    assert sum(text.startswith(("cpu: worst", "fifo: worst")) for text in texts) == 2
