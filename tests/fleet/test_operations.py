"""docs/operations.md: its drain, command by command as it stands there, on a cluster."""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.fleet.plan.specs import document

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]

MIB = 1 << 20


def drain(home: Path) -> None:
    """Three images, a second and more each at first."""
    machines = []
    for number in range(3):
        source = home / f"{number}.ram"
        source.write_bytes(secrets.token_bytes(MIB) * 24)
        ends = {"source": {"host": "a", "path": str(source)}, "destination": {"host": "b", "path": f"{source}.new"}}
        machines.append({"name": f"vm{number}", "kind": "image", "memory": "24MiB", **ends})
    limits = {"codec": "none", "channels": 1, "bandwidthPerMigration": "5MB", "parallelMigrationsPerCluster": 1}
    hosts = [{"name": "a"}, {"name": "b"}]
    (home / "drain.yaml").write_text(yaml.safe_dump(document(hosts, machines, "drain", **limits)))


def test_the_drain_of_the_operations_guide_goes_as_it_says(cluster: tuple[str, Path]) -> None:
    address, home = cluster
    drain(home)
    section = (ROOT / "docs/operations.md").read_text().partition("## A drain")[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ (kuaka \S+.*?)(?: +#.*)?$", section, re.MULTILINE)
    assert [command.split()[1] for command in commands] == [
        "plan", "migrate", "top", "set-bandwidth", "pause", "resume", "attach", "report",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "KUAKA_STATE": f"{home}/state",
        "KUAKA_RUNTIME": f"{home}/run",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    watching = None
    for command in commands:
        words = command.replace("10.0.0.1:6379", address).split()
        if words[1] == "top":
            watching = subprocess.Popen(words, env=environment, cwd=home, stdout=subprocess.PIPE, text=True)
            continue
        run = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=120)
        assert run.returncode == 0, f"{command}: {run.stderr}"
    assert watching is not None
    shown, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "3 of 3 ended" in shown
    assert "<figure" in (home / "drain.html").read_text()
    for number in range(3):
        assert (home / f"{number}.ram.new").read_bytes() == (home / f"{number}.ram").read_bytes()
