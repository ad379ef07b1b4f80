"""Layouts and constants are linux/idxd.h's, to the byte; what a status means is the scheduler's word for it."""

import struct

import numpy as np
import pytest

from scheduler.devices.device import Status
from scheduler.devices.dsa.descriptors import (
    COMPLETION_BYTES,
    DESCRIPTOR_BYTES,
    DSA_COMPLETION,
    DSA_DESCRIPTOR,
    STATUS_OF,
    Completion,
    comparisons_with_zero,
)


def test_descriptor_is_the_kernels_64_bytes() -> None:
    table = comparisons_with_zero(0x10_0000, 3)
    table["source"] = 0x7F00_0000_1000
    table["transfer_bytes"] = 4096
    assert DSA_DESCRIPTOR.itemsize == DESCRIPTOR_BYTES == 64
    # pasid and priv, which the kernel fills in; flags 0x4 | 0x8 with opcode 6 above them; interrupt handle and the
    # expected result, which nobody asks for, are zero.
    expected = struct.pack("<IIQQQI28x", 0, 6 << 24 | 0xC, 0x10_0040, 0x7F00_0000_1000, 0, 4096)
    assert table[2].tobytes() == expected


def test_completion_record_is_the_kernels_32_bytes() -> None:
    record = np.frombuffer(struct.pack("<BBxxIQ16x", 3, 1, 128, 0x7F00_0000_1000), dtype=DSA_COMPLETION)
    assert DSA_COMPLETION.itemsize == COMPLETION_BYTES == 32
    assert record[0].item() == (3, 1, 128, 0x7F00_0000_1000)


def test_descriptors_ask_for_no_block_on_fault() -> None:
    assert not (comparisons_with_zero(0, 8)["flags_opcode"] & 0x2).any()


@pytest.mark.parametrize("address", [1, 8, 16, 31, 4096 + 16])
def test_completion_records_that_are_not_aligned_to_32_bytes_are_refused(address: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        comparisons_with_zero(address, 1)


def test_every_descriptor_has_a_record_of_its_own_aligned_to_32_bytes() -> None:
    addresses = comparisons_with_zero(0x2_0000, 1024)["completion_address"]
    assert np.unique(addresses).size == 1024
    assert not (addresses % 32).any()


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (0x00, Status.PENDING),
        (0x01, Status.OK),
        (0x02, Status.OK),
        (0x03, Status.PAGE_FAULT),
        (0x04, Status.PAGE_FAULT),
        (0x05, Status.FAILED),
        (0x10, Status.FAILED),
        (0x1B, Status.FAILED),
        (0x20, Status.FAILED),
        (0x7F, Status.FAILED),
    ],
)
def test_status_of_a_completion_record(completion: int, status: Status) -> None:
    assert STATUS_OF[completion] == status


def test_status_with_the_write_fault_bit_is_a_page_fault_and_never_a_success() -> None:
    assert STATUS_OF[Completion.WRITE_FAULT | Completion.PAGE_FAULT] == Status.PAGE_FAULT
    assert not (STATUS_OF[0x80:] == Status.OK).any()


def test_all_of_0x10_and_beyond_is_an_error_of_the_descriptor() -> None:
    assert (STATUS_OF[0x10:0x80] == Status.FAILED).all()
