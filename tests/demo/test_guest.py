import subprocess
from importlib import resources
from pathlib import Path

import pytest

from pipeline.demo.guest import (
    READY_WORD,
    STATE_PAGE,
    STEPS_WORD,
    GuestParameters,
    as_pages,
    boot_image,
    check_parameters,
    is_ready,
    read_steps,
)
from pipeline.errors import KuakaError, UsageError
from tests.demo.running_guest import require_tool

MIB = 1 << 20
DEMO = resources.files("pipeline.demo")


def ram_of(parameters: GuestParameters, ready: int) -> bytearray:
    """RAM of a guest that has just been loaded, and says `ready`."""
    ram = bytearray(parameters.memory_bytes)
    ram[0x7C00 : 0x7C00 + 0x1400] = boot_image(parameters)[:0x1400]
    state = as_pages(ram)[STATE_PAGE]
    state[0] = int.from_bytes(b"kuakaRAM", "little")
    state[READY_WORD] = ready
    state[STEPS_WORD] = 7
    return ram


def test_binary_is_what_the_source_assembles_to(tmp_path: Path) -> None:
    source, made, linked = str(DEMO / "guest.S"), str(tmp_path / "guest.o"), str(tmp_path / "guest.bin")
    subprocess.run([require_tool("as"), "--64", "-I", str(DEMO), "-o", made, source], check=True)
    subprocess.run([require_tool("ld"), "-Ttext=0x7c00", "--oformat=binary", "-o", linked, made], check=True)
    assert Path(linked).read_bytes() == (DEMO / "guest.bin").read_bytes()


def test_image_is_bootable_and_only_the_parameter_block_differs() -> None:
    image = boot_image(GuestParameters(64 * MIB))
    other = boot_image(GuestParameters(128 * MIB, 10, 4 * MIB, 32 * MIB, seed=9))
    assert image[510:512] == b"\x55\xaa"
    assert len(image) % 512 == 0
    differing = [at for at in range(len(image)) if image[at] != other[at]]
    assert min(differing) >= 0x1400 - 80
    assert max(differing) < 0x1400


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_bytes": 16 * MIB},
        {"memory_bytes": 64 * MIB + 4096},
        {"memory_bytes": 61 << 30},
        {"memory_bytes": 64 * MIB, "normal_page_ratio": 101},
        {"memory_bytes": 64 * MIB, "normal_page_ratio": -1},
        {"memory_bytes": 64 * MIB, "dirty_rate_bytes_s": 100},
        {"memory_bytes": 64 * MIB, "dirty_rate_bytes_s": -4096},
        {"memory_bytes": 64 * MIB, "working_set_bytes": 100},
        {"memory_bytes": 64 * MIB, "seed": -1},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="give"):
        GuestParameters(**wrong)


def test_working_set_never_exceeds_what_the_guest_fills() -> None:
    assert GuestParameters(64 * MIB).working_set_pages == (63 * MIB) // 4096
    assert GuestParameters(64 * MIB, working_set_bytes=1 << 40).working_set_pages == (63 * MIB) // 4096
    assert GuestParameters(64 * MIB, working_set_bytes=8 * MIB).working_set_pages == 2048


def test_state_page_is_read() -> None:
    parameters = GuestParameters(32 * MIB)
    assert not is_ready(bytes(32 * MIB))
    assert not is_ready(ram_of(parameters, ready=0))
    assert is_ready(ram_of(parameters, ready=1))
    assert read_steps(ram_of(parameters, ready=1)) == 7


def test_guest_with_another_amount_of_ram_is_reported() -> None:
    with pytest.raises(KuakaError, match="another amount of RAM"):
        is_ready(ram_of(GuestParameters(32 * MIB), ready=2))


def test_ram_of_other_parameters_is_reported() -> None:
    parameters = GuestParameters(32 * MIB, seed=1)
    check_parameters(ram_of(parameters, ready=1), parameters)
    with pytest.raises(KuakaError, match="other parameters"):
        check_parameters(ram_of(parameters, ready=1), GuestParameters(32 * MIB, seed=2))
    with pytest.raises(KuakaError, match="not a demo guest"):
        check_parameters(bytes(32 * MIB), parameters)
