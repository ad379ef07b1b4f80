"""Worker processes for tests of the credit table, and what they really have in flight."""

import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.scheduler.credit_worker import REAL_WORDS

_ROOT = Path(__file__).parents[2]


@contextmanager
def real_words(table: Path) -> Iterator[memoryview]:
    """The words that workers of a table write what they really have in flight into."""
    path = table.with_suffix(".real")
    path.write_bytes(bytes(REAL_WORDS * 8))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), REAL_WORDS * 8) as mapping:
        words = memoryview(mapping).cast("Q")
        try:
            yield words
        finally:
            words.release()


@contextmanager
def worker(mode: str, table: Path, row: int) -> Iterator[subprocess.Popen[str]]:
    """A process that is attached to a row."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.scheduler.credit_worker", mode, str(table), str(row)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
