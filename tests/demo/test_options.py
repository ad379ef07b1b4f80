"""What `kuaka demo` refuses, in one line and before anything is started."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.demo import run
from pipeline.demo.options import DemoOptions, parse_options
from pipeline.demo.qemu_binary import QemuBinary
from pipeline.errors import ExitCode

MIB = 1 << 20
WRITTEN: dict[str, Any] = {
    "vms": 2,
    "memory": "256MiB",
    "channels": 4,
    "codec": "zstd",
    "level": None,
    "source_qemu": None,
    "destination_qemu": None,
    "zero_page_detection": None,
    "normal_page_ratio": 60,
    "dirty_rate": "20MiB/s",
    "link_rate": None,
    "workers": 2,
}


def options(**changes: Any) -> DemoOptions:
    return parse_options(**{**WRITTEN, **changes})


def test_amounts_and_rates_are_read() -> None:
    parsed = options(memory="64Mi", dirty_rate="1MiB", link_rate="50MB")
    assert (parsed.memory_bytes, parsed.dirty_rate_bytes_s, parsed.link_rate_bytes_s) == (64 * MIB, MIB, 50_000_000)


def test_the_link_is_shared_evenly() -> None:
    assert options(vms=4, link_rate="50MB").rate_per_vm_bytes_s == 12_500_000
    assert options().rate_per_vm_bytes_s is None


def test_every_guest_holds_memory_of_its_own() -> None:
    assert len({options().guest(number).seed for number in range(3)}) == 3
    assert options().guest(1, 65536).memory_bytes == 256 * MIB + 65536


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--channels", "0"], "--channels 0: give a number from 1 to 255"),
        (["--channels", "300"], "--channels 300: give a number from 1 to 255"),
        (["--vms", "0"], "--vms 0: give a number from 1 to 64"),
        (["--codec", "foo"], "codec 'foo' is unknown: choose one of none, lz4, zstd, deflate"),
        (["--level", "99"], "level 99 does not exist for zstd"),
        (["--memory", "3KiB"], "--memory: a guest of 3072 bytes"),
        (["--memory", "lots"], "--memory: 'lots' is no amount of bytes"),
        (["--dirty-rate", "fast"], "--dirty-rate: 'fast' is no rate"),
        (["--link-rate", "20MiB/h"], "--link-rate: '20MiB/h' is no rate"),
        (["--link-rate", "1kB"], "--link-rate 1000: give at least"),
        (["--normal-page-ratio", "101"], "--normal-page-ratio 101: give"),
        (["--zero-page-detection", "perhaps"], "--zero-page-detection perhaps: choose one of none, legacy, multifd"),
        (["--zero-page-detection", "multifd"], "--zero-page-detection: QEMU 7.2 does not have it"),
        (["--source-qemu", "6.1"], "there is no QEMU 6.1 here: there is 7.2 (/q/7), 10.0 (/q/10)"),
        (["--destination-qemu", "/no/such/qemu"], "QEMU '/no/such/qemu' is neither a version nor a QEMU program"),
    ],
)
def test_wrong_values_are_one_line_and_start_nothing(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*_: object) -> None:
        pytest.fail("something was started")

    there = [QemuBinary(Path("/q/7"), (7, 2, 22)), QemuBinary(Path("/q/10"), (10, 0, 2))]
    monkeypatch.setattr(run, "available_qemus", lambda: there)
    monkeypatch.setattr(run, "demo_place", started)
    monkeypatch.setattr(sys, "argv", ["kuaka", "demo", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (ExitCode.USAGE, "")
    assert said.err.startswith(f"kuaka: {says}")
    assert said.err.count("\n") == 1
