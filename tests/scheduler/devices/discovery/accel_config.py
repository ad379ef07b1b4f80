"""Debian's accel-config on a recorded tree: in a mount namespace of its own the tree is /sys."""

import subprocess
from pathlib import Path

import pytest

from tests.needs import need
from tests.scheduler.devices.discovery.recorded_trees import Tree

#: What the script ends with where the machine lets nobody mount anything.
_NOT_ALLOWED = 77


def load_config(tree: Tree, plan: str) -> subprocess.CompletedProcess[str]:
    """Load `plan` into the tree, whose files become what accel-config wrote; ends the test where that cannot be."""
    file = tree.directory / "plan.json"
    file.write_text(plan)
    return _run(tree, need("accel-config"), "load-config", "-c", str(file))


def _run(tree: Tree, *command: str | Path) -> subprocess.CompletedProcess[str]:
    script = f'mount --bind "$0" /sys || exit {_NOT_ALLOWED}; exec "$@"'
    unshare = (need("unshare"), "--mount", "--user", "--map-root-user", "sh", "-c", script)
    done = subprocess.run(
        [*unshare, tree.roots.sysfs, *command], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode == _NOT_ALLOWED or "unshare failed" in done.stderr:
        pytest.skip("needs a mount namespace, which this machine forbids")
    return done
