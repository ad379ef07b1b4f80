"""Which QEMUs are found, and which is meant. The programs here are scripts that answer like one."""

from pathlib import Path

import pytest

from pipeline.demo import qemu_binary
from pipeline.demo.qemu_binary import QemuBinary, available_qemus, choose_qemu, newest_machine
from pipeline.errors import UsageError

PROGRAM = "qemu-system-x86_64"


def make_qemu(folder: Path, version: str, machines: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True)
    listed = "\\n".join(f"{machine} Standard PC" for machine in machines)
    program = folder / PROGRAM
    answers = f'case $1 in --version) echo "QEMU emulator version {version} (x)";; *) printf "{listed}\\n";; esac'
    program.write_text(f"#!/bin/sh\n{answers}\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_binary, "_SOURCE_TREE", tmp_path / "tree")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nowhere_else")
def test_qemus_of_path_come_first_and_each_version_once(tmp_path: Path) -> None:
    first = make_qemu(tmp_path / "a", "7.2.22")
    make_qemu(tmp_path / "b", "7.2.9")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    cached = make_qemu(tmp_path / "tree/.cache/qemu-10.0", "10.0.2")
    make_qemu(tmp_path / ".cache/qemu-10.0", "9.1.0")
    there = available_qemus({"PATH": f"{tmp_path}/c:{tmp_path}/a:{tmp_path}/b:/no/such/folder"})
    assert [(binary.name, binary.path) for binary in there] == [
        ("7.2", tmp_path / "c" / PROGRAM),
        ("9.1", tmp_path / ".cache/qemu-10.0" / PROGRAM),
        ("10.0", cached),
    ]
    assert there[0].path.samefile(first)


@pytest.mark.usefixtures("nowhere_else")
def test_a_program_that_is_no_qemu_does_not_count(tmp_path: Path) -> None:
    program = make_qemu(tmp_path / "a", "7.2.22")
    program.write_text("#!/bin/sh\nexit 1\n")
    assert available_qemus({"PATH": str(tmp_path / "a")}) == []


THERE = [QemuBinary(Path("/q/7"), (7, 2, 22)), QemuBinary(Path("/q/10"), (10, 0, 2))]


@pytest.mark.parametrize(
    ("wish", "name"), [(None, "7.2"), ("7.2", "7.2"), ("7", "7.2"), ("10", "10.0"), ("10.0.2", "10.0")]
)
def test_a_version_is_found(wish: str | None, name: str) -> None:
    assert choose_qemu(wish, THERE).name == name


@pytest.mark.parametrize("wish", ["1", "7.20", "8.0", "10.0.3"])
def test_a_version_that_is_not_there_is_refused_with_what_is(wish: str) -> None:
    with pytest.raises(UsageError, match=r"there is 7\.2 \(/q/7\), 10\.0 \(/q/10\)"):
        choose_qemu(wish, THERE)


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    program = make_qemu(tmp_path / "mine", "8.1.0")
    assert choose_qemu(str(program), []) == QemuBinary(program, (8, 1, 0))


def test_the_newest_common_machine_type_is_chosen(tmp_path: Path) -> None:
    old = QemuBinary(make_qemu(tmp_path / "a", "7.2.0", ("pc-i440fx-6.9", "pc-i440fx-7.2", "pc-q35-8.0")), (7, 2))
    new = QemuBinary(make_qemu(tmp_path / "b", "10.0.0", ("pc-i440fx-10.0", "pc-i440fx-7.2", "pc-i440fx-6.9")), (10, 0))
    assert newest_machine(old, new) == "pc-i440fx-7.2"
    assert newest_machine(new, new) == "pc-i440fx-10.0"


def test_no_common_machine_type_is_refused(tmp_path: Path) -> None:
    old = QemuBinary(make_qemu(tmp_path / "a", "7.2.0", ("pc-i440fx-2.0",)), (7, 2))
    new = QemuBinary(make_qemu(tmp_path / "b", "10.0.0", ("pc-i440fx-10.0",)), (10, 0))
    with pytest.raises(UsageError, match="no pc-i440fx machine type in common"):
        newest_machine(old, new)
