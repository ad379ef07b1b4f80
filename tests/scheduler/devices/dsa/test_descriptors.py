"""Layouts and constants are linux/idxd.h's, to the byte; what a status means is the scheduler's word for it."""

import struct
import subprocess
from pathlib import Path

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
    Flag,
    Opcode,
    comparisons_with_zero,
)
from tests.needs import missing, need

HEADER = Path("/usr/include/linux/idxd.h")
#: Our names for what the header has.
FIELDS = {
    "completion_addr": "completion_address",
    "src_addr": "source",
    "comp_pattern": "pattern",
    "xfer_size": "transfer_bytes",
}
RECORD_FIELDS = {
    "status": "status",
    "result": "result",
    "bytes_completed": "completed_bytes",
    "fault_addr": "fault_address",
}
CONSTANTS = {
    "DSA_OPCODE_NOOP": Opcode.NOOP,
    "DSA_OPCODE_BATCH": Opcode.BATCH,
    "DSA_OPCODE_COMPVAL": Opcode.COMPVAL,
    "IDXD_OP_FLAG_BOF": Flag.BLOCK_ON_FAULT,
    "IDXD_OP_FLAG_CRAV": Flag.COMPLETION_ADDRESS_VALID,
    "IDXD_OP_FLAG_RCR": Flag.COMPLETION_REQUESTED,
    "DSA_COMP_NONE": Completion.NONE,
    "DSA_COMP_SUCCESS": Completion.SUCCESS,
    "DSA_COMP_SUCCESS_PRED": Completion.FALSE_PREDICATE,
    "DSA_COMP_PAGE_FAULT_NOBOF": Completion.PAGE_FAULT,
    "DSA_COMP_PAGE_FAULT_IR": Completion.PAGE_FAULT_INVALIDATED,
    "DSA_COMP_BATCH_FAIL": Completion.BATCH_FAILED,
    "DSA_COMP_BAD_OPCODE": Completion.BAD_OPCODE,
    "DSA_COMP_INVALID_FLAGS": Completion.BAD_FLAGS,
    "DSA_COMP_XFER_ERANGE": Completion.BAD_TRANSFER_SIZE,
    "DSA_COMP_HW_ERR1": Completion.HARDWARE_ERROR,
    "DSA_COMP_STATUS_WRITE": Completion.WRITE_FAULT,
}


def test_layouts_and_constants_are_those_of_the_installed_header(tmp_path: Path) -> None:
    compiler = need("cc")
    if not HEADER.exists():
        missing(str(HEADER))
    places = [f"offsetof(struct dsa_hw_desc, {field})" for field in FIELDS]
    places += [f"offsetof(struct dsa_completion_record, {field})" for field in RECORD_FIELDS]
    sizes = ["sizeof(struct dsa_hw_desc)", "sizeof(struct dsa_completion_record)"]
    lines = "".join(f'printf("%ld\\n", (long)({each}));' for each in [*sizes, *places, *CONSTANTS])
    source = tmp_path / "layout.c"
    source.write_text(f"#include <stddef.h>\n#include <stdio.h>\n#include <linux/idxd.h>\nint main(void) {{{lines}}}\n")
    subprocess.run([compiler, "-o", tmp_path / "layout", source], check=True)
    answer = subprocess.run([tmp_path / "layout"], capture_output=True, check=False).stdout
    ours = [DSA_DESCRIPTOR.fields[name][1] for name in FIELDS.values()]
    ours += [DSA_COMPLETION.fields[name][1] for name in RECORD_FIELDS.values()]
    assert list(map(int, answer.split())) == [DESCRIPTOR_BYTES, COMPLETION_BYTES, *ours, *CONSTANTS.values()]


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
