"""What a test needs from the machine: present, or the test fails in CI and is skipped elsewhere."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """End the test for want of ``what``: a failure where ``CI`` is set in the environment, a skip elsewhere."""
    message = f"needs {what}, which this machine lacks (make setup)"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need(tool: str) -> Path:
    """Return the path of the program ``tool``, or end the test as :func:`missing` says."""
    found = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return Path(found) if found else missing(tool)
