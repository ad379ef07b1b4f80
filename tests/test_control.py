"""Control sockets: descriptors are handed over, modes and owners are right, and nothing that is in use is replaced."""

import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.control import MAX_MESSAGE_BYTES, ControlChannel, listen_unix, peer_uid
from pipeline.errors import KuakaError


def pair() -> tuple[ControlChannel, ControlChannel]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ControlChannel(here), ControlChannel(there)


def test_messages_keep_their_borders_and_order() -> None:
    here, there = pair()
    for number in range(3):
        here.send({"number": number, "text": "x" * number})
    assert [there.receive() for _ in range(3)] == [({"number": n, "text": "x" * n}, None) for n in range(3)]
    here.close()
    there.close()


def test_descriptor_arrives_as_a_copy() -> None:
    here, there = pair()
    near, far = socket.socketpair()
    here.send({"job": 1}, near.fileno())
    near.close()
    message = there.receive()
    assert message is not None
    fields, descriptor = message
    assert fields == {"job": 1}
    assert descriptor is not None
    with socket.socket(fileno=descriptor) as copy:
        copy.sendall(b"still open")
        assert far.recv(20) == b"still open"
    assert far.recv(1) == b""
    far.close()
    here.close()
    there.close()


def test_end_is_seen_by_both_and_wakes_a_reader() -> None:
    here, there = pair()
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.append(here.receive()))
    reader.start()
    here.close()
    reader.join(5)
    assert seen == [None]
    assert there.receive() is None
    with pytest.raises(KuakaError, match="worker has gone"):
        there.send({})
    there.close()


def test_message_over_the_limit_is_refused() -> None:
    here, there = pair()
    with pytest.raises(KuakaError, match="the limit is"):
        here.send({"text": "x" * MAX_MESSAGE_BYTES})
    here.close()
    there.close()


def test_connecting_to_nobody_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KuakaError, match="does not answer: No such file"):
        ControlChannel.connect(tmp_path / "none")


def test_listening_socket_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with listen_unix(tmp_path / "sock", socket.SOCK_STREAM, 1):
            assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o600
            assert [entry.name for entry in tmp_path.iterdir()] == ["sock"]
    finally:
        assert os.umask(before) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_listening_socket_belongs_to_its_user(tmp_path: Path) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    with listen_unix(tmp_path / "sock", socket.SOCK_STREAM, 1, uid):
        assert (tmp_path / "sock").stat().st_uid == uid


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "sock"
    listen_unix(path, kind, 1).close()
    with listen_unix(path, kind, 1):
        for other in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with pytest.raises(KuakaError, match="cannot listen at"):
                listen_unix(path, other, 1)
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(str(path))


def test_listener_with_a_full_backlog_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listen_unix(path, socket.SOCK_STREAM, 0), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        with pytest.raises(KuakaError, match="another process does"):
            listen_unix(path, socket.SOCK_STREAM, 1)


@pytest.mark.parametrize("target", ["file", "link", "folder"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, target: str) -> None:
    path = tmp_path / "it"
    (tmp_path / "precious").write_text("precious")
    if target == "file":
        path.write_text("precious")
    elif target == "link":
        path.symlink_to(tmp_path / "precious")
    else:
        path.mkdir()
    with pytest.raises(KuakaError, match="something that is no socket"):
        listen_unix(path, socket.SOCK_STREAM, 1)
    assert (tmp_path / "precious").read_text() == "precious"
    assert path.is_dir() or path.read_text() == "precious"


def test_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KuakaError, match="No such file"):
        listen_unix(tmp_path / "none" / "sock", socket.SOCK_STREAM, 1)


def test_peer_is_this_user() -> None:
    here, there = socket.socketpair()
    assert peer_uid(here) == os.getuid()
    here.close()
    there.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_peer_of_another_user_is_told(tmp_path: Path) -> None:
    # Under a directory that others may enter, unlike pytest's.
    with listen_unix(Path(f"/tmp/kuaka-peer-{os.getpid()}"), socket.SOCK_STREAM, 1) as listener:
        path = Path(listener.getsockname()).with_name(f"kuaka-peer-{os.getpid()}")
        try:
            path.chmod(0o666)
            script = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect({str(path)!r})"
            subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
            accepted, _address = listener.accept()
            assert peer_uid(accepted) == 65534
            accepted.close()
        finally:
            path.unlink()
