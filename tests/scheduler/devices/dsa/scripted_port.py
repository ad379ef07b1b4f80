"""A port that keeps what is submitted, for tests that are the device themselves; and jobs for it."""

import threading

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, Descriptors, Operation
from scheduler.devices.dsa.descriptors import DSA_DESCRIPTOR, DsaDescriptors
from scheduler.devices.dsa.submission import DescriptorRows

PAGE_BYTES = 4096
COST = CostModel({operation: OperationCost(100, 124) for operation in Operation})


class ScriptedPort:
    """Takes `room` descriptors of each submission, and ends when the test says so."""

    def __init__(self, room: int = 1024) -> None:
        self.room = room
        self.submitted: list[DsaDescriptors] = []
        self.may_close = threading.Event()
        self.may_close.set()
        self.closed = 0

    def submit(self, descriptors: DescriptorRows) -> int:
        taken = min(self.room, len(descriptors))
        self.submitted.append(descriptors[:taken].copy().view(DSA_DESCRIPTOR).reshape(-1))
        return taken

    def close(self) -> None:
        self.may_close.wait(20)
        self.closed += 1


def scans(count: int, first: int = 0) -> Descriptors:
    """Zero scans of `count` pages of the memory."""
    jobs = np.zeros(count, dtype=DESCRIPTOR)
    jobs["source"] = (first + np.arange(count)) * PAGE_BYTES
    jobs["source_bytes"] = PAGE_BYTES
    return jobs


def mixed_pages(count: int, seed: int) -> NDArray[np.uint8]:
    """(count, PAGE_BYTES): half of them zero, some of the rest but for one byte, first and last ones too."""
    generator = np.random.default_rng(seed)
    pages = np.zeros((count, PAGE_BYTES), dtype=np.uint8)
    full = np.flatnonzero(generator.random(count) < 0.2)
    pages[full] = generator.integers(0, 256, (len(full), PAGE_BYTES), dtype=np.uint8)
    nearly = np.flatnonzero(generator.random(count) < 0.3)
    pages[nearly, generator.choice([0, 7, 8, 2049, PAGE_BYTES - 1], len(nearly))] = 1 + nearly % 255
    return pages
