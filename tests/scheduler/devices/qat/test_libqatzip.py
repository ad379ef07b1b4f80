"""The library as it is found and checked: what is not libqatzip.so.3 is said in one line and never called."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from scheduler.devices.device import DeviceDown, DeviceUnavailable
from scheduler.devices.qat import libqatzip
from scheduler.devices.qat.libqatzip import (
    LIBRARY_VARIABLE,
    SIZES,
    DeflateExtParameters,
    QatZip,
    Session,
    load_qatzip,
)
from tests.needs import need


def compiled(place: Path, source: str) -> str:
    (place / "library.c").write_text(source)
    subprocess.run([need("cc"), "-shared", "-fPIC", "-o", place / "library.so", place / "library.c"], check=True)
    return str(place / "library.so")


def functions(*left_out: str) -> str:
    """A library with every symbol; all of them return 0 and do nothing."""
    names = [name for name in libqatzip._SIGNATURES if name not in left_out]
    return "\n".join(f"long {name}(void) {{ return 0; }}" for name in names)


def test_layouts_have_the_published_sizes() -> None:
    assert {structure.__name__: ctypes.sizeof(structure) for structure in SIZES} == {
        "Session": 40,
        "CommonParameters": 48,
        "DeflateParameters": 56,
        "DeflateExtParameters": 60,
    }
    assert Session.internal.offset == 16
    assert DeflateExtParameters.zlib_format.offset == 57


def test_defaults_of_the_library_lie_where_the_layout_says(any_library: QatZip) -> None:
    defaults = any_library._defaults()
    common = defaults.deflate.common
    assert (defaults.deflate.data_fmt, defaults.zlib_format, common.hw_buff_sz) == (2, 0, 65536)
    assert (common.comp_algorithm, common.comp_lvl, common.input_sz_thrshold, common.req_cnt_thrshold) == (
        8,
        1,
        1024,
        32,
    )
    assert (common.sw_backup, common.wait_cnt_thrshold) == (1, 8)


def test_library_that_is_not_there_is_unavailable_in_one_line() -> None:
    with pytest.raises(DeviceUnavailable, match=r"/none\.so: cannot be loaded") as refused:
        load_qatzip({LIBRARY_VARIABLE: "/none.so"})
    assert "\n" not in str(refused.value)


def test_variable_names_the_library_to_use(stand_in: QatZip) -> None:
    assert load_qatzip({LIBRARY_VARIABLE: stand_in.path}).path == stand_in.path


@pytest.mark.parametrize("symbol", sorted(libqatzip._SIGNATURES))
def test_library_that_lacks_a_symbol_is_refused_by_its_name(symbol: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=f"has no {symbol}: install QATzip"):
        QatZip(compiled(tmp_path, functions(symbol)))


@pytest.mark.parametrize(
    "body",
    [
        "return 0;",
        "return -1;",
        "for (int i = 0; i < 60; i++) to[i] = 0; return 0;",
        # Right as far as it goes, and longer than it may be.
        "for (int i = 0; i < 64; i++) to[i] = 0; to[0] = 2; to[8] = 8; to[22] = 1; to[52] = 2; return 0;",
    ],
    ids=["nothing", "an error", "zeros", "too long"],
)
def test_library_with_another_layout_is_refused(body: str, tmp_path: Path) -> None:
    source = functions("qzGetDefaultsDeflateExt") + f"\nint qzGetDefaultsDeflateExt(unsigned char *to) {{ {body} }}\n"
    with pytest.raises(DeviceUnavailable, match="structures differ"):
        QatZip(compiled(tmp_path, source))


def test_older_library_of_the_system_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libqatzip, "SONAME", "libqatzip.so.none")
    monkeypatch.setattr(ctypes.util, "find_library", lambda _name: "libqatzip.so.2")
    with pytest.raises(DeviceUnavailable, match=r"libqatzip\.so\.2 is installed, libqatzip\.so\.none is needed"):
        load_qatzip({})


def test_no_library_is_a_device_that_is_down() -> None:
    assert issubclass(DeviceUnavailable, DeviceDown)


def test_asynchronous_calls_whose_extra_threads_run_in_software_are_not_bound() -> None:
    assert not {"qzCompress2", "qzDecompress2"} & set(libqatzip._SIGNATURES)
