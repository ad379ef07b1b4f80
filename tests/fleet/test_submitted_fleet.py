"""docs/api.md's second program, as it stands there, on a cluster with a controller: submit, steer, wait, events."""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

MIB = 1 << 20


def test_the_program_of_the_docs_submits_steers_and_waits(cluster: tuple[str, Path]) -> None:
    address, home = cluster
    contents = secrets.token_bytes(4 * MIB)
    (home / "i.ram").write_bytes(contents)
    ends = [{"host": host, "path": str(home / file)} for host, file in (("a", "i.ram"), ("b", "i.new"))]
    machine = {"name": "db-1", "kind": "image", "source": ends[0], "destination": ends[1]}
    spec = {"hosts": [{"name": "a"}, {"name": "b"}], "virtualMachines": [machine]}
    document = {"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": "drain"}, "spec": spec}
    (home / "fleet.yaml").write_text(yaml.safe_dump(document))
    _, program = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/api.md").read_text(), re.DOTALL | re.MULTILINE)
    (home / "program.py").write_text(program.replace("10.0.0.1:6379", address))
    places = {"KUAKA_STATE": str(home / "state"), "KUAKA_RUNTIME": str(home / "run"), "PYTHONPATH": str(ROOT)}
    for first_line in ("drain begun", "drain was there before"):
        ran = subprocess.run(
            [sys.executable, "program.py"],
            env={**os.environ, **places},
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        lines = ran.stdout.splitlines()
        assert lines[0] == first_line
        assert lines[1].startswith("db-1 ")
        assert any(" db-1 Succeeded" in line for line in lines)
        assert (home / "i.new").read_bytes() == contents
