"""The drains of docs/operations.md and docs/controller.md, command by command as they stand there, on a cluster."""

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


def drain(home: Path, name: str) -> None:
    """Three images, a second and more each at first."""
    machines = []
    for number in range(3):
        source = home / f"{number}.ram"
        source.write_bytes(secrets.token_bytes(MIB) * 24)
        ends = {"source": {"host": "a", "path": str(source)}, "destination": {"host": "b", "path": f"{source}.new"}}
        machines.append({"name": f"db-{number}", "kind": "image", "memory": "24MiB", **ends})
    limits = {"codec": "none", "channels": 1, "bandwidthPerMigration": "5MB", "parallelMigrationsPerCluster": 1}
    hosts = [{"name": "a"}, {"name": "b"}]
    (home / "drain.yaml").write_text(yaml.safe_dump(document(hosts, machines, name, **limits)))


@pytest.mark.parametrize(
    ("page", "begins", "expected"),
    [
        ("operations", "## A drain", "plan migrate top set-bandwidth pause resume attach report"),
        ("controller", "## By hand", "migrate status pause resume set-bandwidth attach report events cancel"),
    ],
)
def test_the_commands_of_a_page_do_what_it_says(
    cluster: tuple[str, Path], page: str, begins: str, expected: str
) -> None:
    address, above = cluster
    home = above / page
    home.mkdir()
    drain(home, page)
    section = (ROOT / f"docs/{page}.md").read_text().partition(begins)[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ (kuaka \S+.*?)(?: +#.*)?$", section, re.MULTILINE)
    assert [command.split()[1] for command in commands] == expected.split()
    environment = {
        **os.environ,
        "KUAKA_STATE": f"{above}/state",
        "KUAKA_RUNTIME": f"{above}/run",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    watching = None
    for command in commands:
        # One journal has the fleets of both pages.
        words = command.replace("10.0.0.1:6379", address).replace(" drain ", f" {page} ").split()
        if words[1] == "top" or "--watch" in words:
            watching = subprocess.Popen(words, env=environment, cwd=home, stdout=subprocess.PIPE, text=True)
            continue
        run = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=120)
        assert run.returncode == 0, f"{command}: {run.stderr}"
    assert watching is not None
    shown, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "of 3 ended" in shown or "of 6 ended" in shown
    assert "<figure" in (home / "drain.html").read_text()
    for number in range(3):
        assert (home / f"{number}.ram.new").read_bytes() == (home / f"{number}.ram").read_bytes()
