"""`kuaka migrate` with certificates of `kuaka certs`: guests move over TLS, and a wrong CA moves nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExitCode
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives, wait_nothing_runs
from tests.fleet.live_pair import LivePair

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]

ADDRESSES = {"a": "127.0.0.2", "b": "127.0.0.3"}


@pytest.fixture(autouse=True)
def _tidy(home: Path) -> Iterator[None]:
    with nothing_survives(home):
        yield


def certificates(home: Path, name: str) -> Path:
    """A directory with a CA of its own and certificates of both hosts."""
    directory = home / name
    hosts = [f"--host={host}={address}" for host, address in ADDRESSES.items()]
    command = KuakaCommand(home, "certs", str(directory), *hosts)
    assert command.end() == ExitCode.OK, command.stderr
    return directory


def host(name: str, directory: Path, **changes: Any) -> dict[str, Any]:
    files = {"ca": directory / "ca.pem", "certificate": directory / f"{name}.pem", "key": directory / f"{name}.key"}
    tls = {field: str(path) for field, path in {**files, **changes}.items()}
    return {"name": name, "address": ADDRESSES[name], "tls": tls}


def migrate(pair: LivePair, *hosts: dict[str, Any]) -> tuple[int, KuakaCommand]:
    command = KuakaCommand(pair.home, "migrate", str(pair.spec(hosts=hosts)), "-o", "json")
    return command.end(90), command


def check_refused(pair: LivePair, answer: tuple[int, KuakaCommand], reason: str) -> None:
    """One line says why; the guest runs where it ran, and nothing is left."""
    code, command = answer
    (migration,) = command.migrations
    assert (code, migration["status"]) == (ExitCode.FAILED, "failed")
    assert reason in migration["error"]
    assert "\n" not in migration["error"]
    assert "Traceback" not in command.stderr
    assert pair.source_runs_on()
    wait_nothing_runs(pair.home)
    assert pair.left_behind() == []


def check_moved(pair: LivePair, answer: tuple[int, KuakaCommand]) -> None:
    code, command = answer
    assert code == ExitCode.OK, command.stderr
    assert pair.compared().wrong_pages == 0
    assert not pair.source.qmp("query-status")["running"]


def test_hosts_of_two_authorities_do_not_talk_and_with_one_the_guest_moves(pair: LivePair) -> None:
    ours, theirs = certificates(pair.home, "ours"), certificates(pair.home, "theirs")
    refused = migrate(pair, host("a", ours), host("b", theirs))
    check_refused(pair, refused, "its certificate is from an unknown CA")
    check_moved(pair, migrate(pair, host("a", ours), host("b", ours)))


@pytest.mark.long
def test_a_source_that_the_destination_does_not_know_is_refused(pair: LivePair) -> None:
    ours, theirs = certificates(pair.home, "ours"), certificates(pair.home, "theirs")
    stranger = {"certificate": theirs / "a.pem", "key": theirs / "a.key"}
    check_refused(pair, migrate(pair, host("a", ours, **stranger), host("b", ours)), "the same ca")


@pytest.mark.long
def test_a_certificate_that_is_not_there_is_named_before_anything_moves(pair: LivePair) -> None:
    ours = certificates(pair.home, "ours")
    code, command = migrate(pair, host("a", ours), host("b", ours, certificate=ours / "c.pem"))
    assert code == ExitCode.SPEC_REJECTED
    assert command.said[-1] == (
        f"kuaka: host b: TLS certificate {ours}/c.pem cannot be read: No such file or directory:"
        " check the path and its mode"
    )
    assert "Traceback" not in command.stderr
    assert command.stdout == ""
    assert pair.source_runs_on()
    wait_nothing_runs(pair.home)
    assert pair.left_behind() == []
