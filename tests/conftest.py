"""Fixtures of every test: where the two QEMUs are, and hypothesis without chance or clock."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from tests.needs import missing, need

ROOT = Path(__file__).parent.parent

# The same examples in every run; slow machines do not fail a test.
settings.register_profile("kuaka", derandomize=True, deadline=None)
settings.load_profile("kuaka")


def _qemu_of_version(binary: Path, version: str) -> Path:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    return binary if f" version {version}." in answer else missing(f"QEMU {version} (as {binary})")


@pytest.fixture(scope="session")
def qemu_72() -> Path:
    """The system's QEMU 7.2, of bookworm."""
    return _qemu_of_version(need("qemu-system-x86_64"), "7.2")


@pytest.fixture(scope="session")
def qemu_100() -> Path:
    """QEMU 10.0 of bookworm-backports, as `make setup` unpacks it."""
    binary = ROOT / ".cache/qemu-10.0/qemu-system-x86_64"
    return _qemu_of_version(binary, "10.0") if binary.exists() else missing("QEMU 10.0")
