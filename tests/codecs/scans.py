"""Scans of devices, held against numpy's."""

from pipeline.codecs.device_scan import DeviceScan
from pipeline.memory.pages import PageWords
from pipeline.memory.scan import scan


def check(scanner: DeviceScan, pages: PageWords) -> None:
    """Its answers are numpy's, page by page."""
    kinds, words = scanner(pages)
    expected_kinds, expected_words = scan(pages)
    assert kinds.tolist() == expected_kinds.tolist()
    assert words.tolist() == expected_words.tolist()
