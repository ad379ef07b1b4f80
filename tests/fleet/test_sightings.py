"""A look at the machines that are here: sizes of files, what QMP says, and notes about what cannot be seen."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.fleet.plan.from_spec import Size
from pipeline.fleet.sightings import look
from pipeline.fleet.spec import Spec
from tests.fleet.plan.specs import fleet, guest, image

HERE = [{"name": "a"}, {"name": "b"}]
DISK = {"device": "hd0", "inserted": {"ro": False, "file": "/local/disk"}}
ANSWERS: dict[str, Any] = {
    "qmp_capabilities": {},
    "query-memory-size-summary": {"base-memory": 3 << 30, "plugged-memory": 1 << 30},
    "query-block": [DISK],
}
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}


@contextmanager
def fake_qmp(path: Path) -> Iterator[None]:
    """A socket that greets and answers like a QEMU, to one client."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        yield
        thread.join(timeout=10)


def _serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(json.dumps(GREETING).encode() + b"\n")
        # One command at a time, without a newline behind it.
        while sent := connection.recv(1 << 16):
            command = json.loads(sent)
            answer = {"return": ANSWERS[command["execute"]]} | ({"id": command["id"]} if "id" in command else {})
            connection.sendall(json.dumps(answer).encode() + b"\n")


def guest_at(path: Path, **fields: Any) -> Spec:
    return fleet(guest("g", source="a", **fields) | {"source": {"host": "a", "qmp": str(path)}}, hosts=HERE)


def test_an_image_is_as_large_as_its_file(tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.touch()
    os.truncate(file, 5 << 20)
    machine = image("i") | {"source": {"host": "a", "path": str(file)}}
    seen = look(fleet(machine, hosts=HERE))
    assert (seen.sizes, seen.refused, seen.notes) == ({"i": Size(5 << 20, "file")}, {}, ())


def test_a_file_that_is_not_here_is_a_note(tmp_path: Path) -> None:
    seen = look(fleet(image("i") | {"source": {"host": "a", "path": str(tmp_path / "none")}}, hosts=HERE))
    assert seen.sizes == {}
    assert seen.notes == (f"i: {tmp_path}/none cannot be seen: No such file or directory",)


def test_a_guest_says_its_memory_and_a_disk_of_its_own_keeps_it_from_going(tmp_path: Path) -> None:
    with fake_qmp(tmp_path / "qmp"):
        seen = look(guest_at(tmp_path / "qmp"))
    assert seen.sizes == {"g": Size(4 << 30, "QMP")}
    assert seen.refused["g"].startswith("it writes to /local/disk, not said to be shared: ")


def test_a_disk_that_is_declared_shared_keeps_nobody(tmp_path: Path) -> None:
    for number, fields in enumerate(({"sharedStorage": True}, {"disks": [{"name": "hd0", "shared": True}]})):
        with fake_qmp(tmp_path / f"{number}"):
            assert look(guest_at(tmp_path / f"{number}", **fields)).refused == {}


def test_a_guest_that_does_not_answer_is_a_note(tmp_path: Path) -> None:
    seen = look(guest_at(tmp_path / "nothing"))
    assert (seen.sizes, seen.refused) == ({}, {})
    assert seen.notes[0].startswith(f"g: no QMP socket answers at {tmp_path}/nothing")


def test_machines_of_other_hosts_are_not_looked_at(tmp_path: Path) -> None:
    seen = look(fleet(image("i"), hosts=[{"name": "a", "node": "10.0.0.1"}, {"name": "b"}]))
    assert (seen.sizes, seen.notes) == ({}, ())


def test_many_notes_are_cut(tmp_path: Path) -> None:
    machines = [image(f"i{n}") | {"source": {"host": "a", "path": f"{tmp_path}/{n}"}} for n in range(30)]
    notes = look(fleet(*machines, hosts=HERE)).notes
    assert len(notes) == 11
    assert notes[-1] == "and 20 more that cannot be seen from here"
