"""What is checked of a library before it is used, and what its codes mean."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.device import DeviceUnavailable, Operation, Status
from scheduler.devices.iaa.device import open_iaa
from scheduler.devices.iaa.libqpl import JOB, JOB_REQUEST, Library, load, statuses
from scheduler.devices.iaa.libqpl import Path as JobPath
from tests.needs import need
from tests.scheduler.devices.served_device import DATA_BYTES

#: reference/accelerators.md, section 2.1.
OFFSETS = {
    "next_in_ptr": 0, "available_in": 8, "total_in": 12, "next_out_ptr": 16, "available_out": 24, "total_out": 28,
    "op": 32, "flags": 36, "crc": 40, "xor_checksum": 44, "last_bit_offset": 48, "level": 52, "statistics_mode": 56,
    "huffman_table": 64, "dictionary": 72, "mini_block_size": 80, "idx_array": 88, "idx_max_size": 96,
    "idx_num_written": 100, "decomp_end_processing": 104, "ignore_start_bits": 105, "ignore_end_bits": 106,
    "crc64_poly": 112, "crc64": 120, "next_src2_ptr": 128, "available_src2": 136, "src1_bit_width": 140,
    "src2_bit_width": 144, "num_input_elements": 148, "out_bit_width": 152, "param_low": 156, "param_high": 160,
    "drop_initial_bytes": 164, "initial_output_index": 168, "parser": 172, "first_index_min_value": 176,
    "last_index_max_value": 180, "sum_value": 184, "numa_id": 188, "data_ptr": 192, "path": 232,
}  # fmt: skip

#: A libqpl that does nothing; what is wrong with it besides, the environment says.
SOURCE = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static uint32_t number(const char *name, uint32_t usual)
{
    const char *text = getenv(name);
    return text ? (uint32_t)strtoul(text, NULL, 10) : usual;
}
const char *qpl_get_library_version(void) { return getenv("WRONG_VERSION") ? getenv("WRONG_VERSION") : "1.6.0"; }
unsigned qpl_get_job_size(uint32_t path, uint32_t *size)
{
    (void)path;
    *size = number("WRONG_JOB_BYTES", 4096);
    return 0;
}
unsigned qpl_init_job(uint32_t path, unsigned char *job)
{
    uint32_t made = number("WRONG_PATH", path);
    memset(job, 0, 240);
    memcpy(job + 232, &made, 4);
    return number("WRONG_INIT", 0);
}
unsigned qpl_submit_job(void *job) { (void)job; return 0; }
unsigned qpl_check_job(void *job) { (void)job; return 0; }
#ifndef WITHOUT_FINI
unsigned qpl_fini_job(void *job) { (void)job; return 0; }
#endif
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wrong")


def compile_into(folder: Path, name: str, *options: str) -> Path:
    source, library = folder / "wrong.c", folder / name
    source.write_text(SOURCE)
    subprocess.run([need("cc"), "-shared", "-fPIC", *options, "-o", library, source], check=True)
    return library


@pytest.fixture(scope="module")
def wrong(folder: Path) -> Path:
    return compile_into(folder, "wrong.so")


def test_job_has_its_fields_where_libqpl_has_them() -> None:
    assert JOB.fields is not None
    assert {name: place for name, (_dtype, place) in JOB.fields.items()} == OFFSETS
    assert JOB.itemsize == 240
    assert JOB_REQUEST.fields is not None
    assert {name: place for name, (_dtype, place) in JOB_REQUEST.fields.items()} == {
        name: place for name, place in OFFSETS.items() if place <= 32
    }


def test_missing_library_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        load({"KUAKA_LIBQPL": "/nowhere/libqpl.so.1"})
    assert str(caught.value).startswith("libqpl cannot be loaded: /nowhere/libqpl.so.1:")
    assert "set KUAKA_LIBQPL" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_library_is_the_one_that_the_environment_names(stand_in: Library) -> None:
    assert load({"KUAKA_LIBQPL": stand_in.name}).name == stand_in.name


def test_library_without_a_name_in_the_environment_is_the_soname() -> None:
    asked = []

    def loader(name: str) -> ctypes.CDLL:
        asked.append(name)
        raise OSError("not here")

    with pytest.raises(DeviceUnavailable):
        load({}, loader)
    assert asked == ["libqpl.so.1"]


@pytest.mark.parametrize("version", ["1.5.9", "0.9", "2.0.0", "", "latest"])
def test_wrong_version_is_refused(wrong: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("WRONG_VERSION", version)
    with pytest.raises(DeviceUnavailable, match=rf"^{wrong} is version '{version}': install libqpl 1.6"):
        Library(str(wrong), ctypes.PyDLL)


@pytest.mark.parametrize("version", ["1.6.0", "1.9.0", "v1.10.2"])
def test_right_version_is_taken(wrong: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("WRONG_VERSION", version)
    assert Library(str(wrong), ctypes.PyDLL).version == version


def test_calls_that_wait_without_end_are_not_even_looked_up(wrong: Path) -> None:
    library = Library(str(wrong), ctypes.PyDLL)
    assert not hasattr(library.handle, "qpl_wait_job")
    assert not hasattr(library.handle, "qpl_execute_job")


def test_missing_symbol_is_named(folder: Path) -> None:
    library = compile_into(folder, "without.so", "-DWITHOUT_FINI")
    with pytest.raises(DeviceUnavailable, match=f"^{library} has no qpl_fini_job: it is not libqpl"):
        Library(str(library), ctypes.PyDLL)


@pytest.mark.parametrize("size", [0, 240, 1 << 30])
def test_job_size_that_no_libqpl_has_is_refused(wrong: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("WRONG_JOB_BYTES", str(size))
    library = Library(str(wrong), ctypes.PyDLL)
    with pytest.raises(DeviceUnavailable, match=f"answers 0 and {size} bytes"):
        open_iaa(DATA_BYTES, slots=8, library=library)


def test_job_of_another_path_is_refused_although_init_says_ok(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG_PATH", "2")
    library = Library(str(wrong), ctypes.PyDLL)
    with pytest.raises(DeviceUnavailable, match="made a job of path 2 instead of 1"):
        open_iaa(DATA_BYTES, slots=8, library=library)


@pytest.mark.parametrize("code", [500, 501, 502, 503, 50])
def test_init_that_fails_makes_the_device_unavailable_in_one_line(
    wrong: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("WRONG_INIT", str(code))
    library = Library(str(wrong), ctypes.PyDLL)
    with pytest.raises(DeviceUnavailable) as caught:
        open_iaa(DATA_BYTES, slots=8, library=library)
    assert str(code) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_library_that_writes_its_results_elsewhere_is_refused_by_the_first_job(wrong: Path) -> None:
    library = Library(str(wrong), ctypes.PyDLL)
    with pytest.raises(DeviceUnavailable, match="not laid out as those of libqpl"):
        open_iaa(DATA_BYTES, slots=8, library=library)


def test_layout_of_the_library_is_what_it_is_taken_for(library: Library) -> None:
    library.layout_verified = False
    open_iaa(DATA_BYTES, slots=8, path=JobPath.SOFTWARE, library=library).close()
    assert library.layout_verified


@pytest.mark.parametrize(
    ("code", "compressed", "decompressed"),
    [
        (0, Status.OK, Status.OK),
        (1, Status.PENDING, Status.PENDING),
        (2, Status.OVERFLOW, Status.FAILED),
        (5, Status.FAILED, Status.FAILED),
        (6, Status.FAILED, Status.FAILED),
        (7, Status.FAILED, Status.FAILED),
        (57, Status.FAILED, Status.FAILED),
        (213, Status.FAILED, Status.FAILED),
        (217, Status.FAILED, Status.FAILED),
        (218, Status.FAILED, Status.FAILED),
        (229, Status.FAILED, Status.FAILED),
        (303, Status.PAGE_FAULT, Status.PAGE_FAULT),
        (431, Status.PAGE_FAULT, Status.PAGE_FAULT),
        (503, Status.FAILED, Status.FAILED),
        (4_000_000_000, Status.FAILED, Status.FAILED),
        (-1, Status.FAILED, Status.FAILED),
    ],
)
def test_codes_in_the_words_of_the_scheduler(code: int, compressed: Status, decompressed: Status) -> None:
    operations = np.array([Operation.COMPRESS, Operation.DECOMPRESS], dtype=np.uint8)
    assert statuses(operations, np.array([code, code])).tolist() == [compressed, decompressed]
