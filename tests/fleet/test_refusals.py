"""What cannot be migrated is refused in one line that says what, where and what to do; nothing has moved then."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pipeline.errors import ExitCode
from pipeline.fleet.migration import QemuMigration
from pipeline.fleet.results import Status
from pipeline.qemu import destination_vm, qmp
from tests.fleet.live_pair import MIB, LivePair
from tests.fleet.local_hosts import Attempt, local_hosts, order_of

pytestmark = pytest.mark.qemu

OTHER_UUID = "6d0a4d41-6f2b-4d7e-9d0c-0a5b4f1c7a10"

Change = Callable[[LivePair, QemuMigration], contextlib.AbstractContextManager[QemuMigration]]


def order_with(**changes: object) -> Change:
    """Another order for the same pair."""
    return lambda pair, order: contextlib.nullcontext(replace(order, **changes))  # type: ignore[arg-type]


def prepared(**changes: str | int) -> Change:
    """Another destination."""

    @contextlib.contextmanager
    def change(pair: LivePair, order: QemuMigration) -> Iterator[QemuMigration]:
        pair.write_prepare(**changes)  # type: ignore[arg-type]
        yield order
        pair.write_prepare()

    return change


@contextlib.contextmanager
def postcopy_on(pair: LivePair, order: QemuMigration) -> Iterator[QemuMigration]:
    def switch(state: bool) -> None:
        pair.source.qmp("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": state}])

    switch(True)
    yield order
    switch(False)


@contextlib.contextmanager
def tls_creds_set(pair: LivePair, order: QemuMigration) -> Iterator[QemuMigration]:
    pair.source.qmp("migrate-set-parameters", **{"tls-creds": "tls0"})
    yield order
    pair.source.qmp("migrate-set-parameters", **{"tls-creds": ""})


@contextlib.contextmanager
def not_qmp(pair: LivePair, order: QemuMigration) -> Iterator[QemuMigration]:
    path = pair.home / "mute"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield replace(order, source_qmp=str(path))
    path.unlink()


@contextlib.contextmanager
def occupied(pair: LivePair, order: QemuMigration) -> Iterator[QemuMigration]:
    pair.start_destination()
    was_there = pair.destination_pid
    yield order
    # What was there before is nobody's to remove.
    assert pair.destination_pid == was_there
    pair.kill_destination()


@contextlib.contextmanager
def failing_prepare(pair: LivePair, order: QemuMigration) -> Iterator[QemuMigration]:
    script = pair.prepare.read_text()
    pair.prepare.write_text("#!/bin/sh\necho no\necho disk of vm1 is missing >&2\nexit 7\n")
    yield order
    pair.prepare.write_text(script)


CASES: dict[str, tuple[Change, str, ExitCode]] = {
    "no source": (
        order_with(source_qmp="/nowhere"),
        (
            "vm1 (source): no QMP socket answers at /nowhere: No such file or directory;"
            " start QEMU with -qmp unix:PATH,server=on,wait=off"
        ),
        ExitCode.SPEC_REJECTED,
    ),
    "no destination": (
        order_with(destination_qmp="/nowhere", prepare=None, cleanup=None),
        (
            "vm1 (destination): no QMP socket answers at /nowhere: No such file or directory;"
            " start QEMU with -qmp unix:PATH,server=on,wait=off"
        ),
        ExitCode.SPEC_REJECTED,
    ),
    "not QMP": (
        not_qmp,
        "vm1 (source): {home}/mute does not answer like QMP: is another client connected to it?",
        ExitCode.SPEC_REJECTED,
    ),
    "occupied": (
        occupied,
        (
            "vm1 (destination): a QEMU answers at {home}/destination.qmp already:"
            " end it, or give the path that prepare uses"
        ),
        ExitCode.SPEC_REJECTED,
    ),
    "another uuid": (
        prepared(more=f"-uuid {OTHER_UUID}"),
        (
            "uuid differs: 00000000-0000-0000-0000-000000000000 at the source,"
            f" {OTHER_UUID} at the destination: start both with the same -uuid"
        ),
        ExitCode.SPEC_REJECTED,
    ),
    "another machine": (
        prepared(machine="pc-i440fx-7.1"),
        (
            "machine type differs: pc-i440fx-7.2 at the source, pc-i440fx-7.1 at the destination:"
            " start the destination with the source's -machine type"
        ),
        ExitCode.SPEC_REJECTED,
    ),
    "another size": (
        prepared(memory_bytes=96 * MIB),
        (
            "RAM size differs: 67174400 bytes at the source, 100663296 at the destination:"
            " start the destination with the source's -m"
        ),
        ExitCode.SPEC_REJECTED,
    ),
    "not waiting": (
        prepared(start="-S"),
        "vm1 (destination): the destination is in state prelaunch: start it with -incoming defer",
        ExitCode.SPEC_REJECTED,
    ),
    "postcopy": (
        postcopy_on,
        "vm1 (source): the capability postcopy-ram is on: unset it, postcopy and multifd do not go together",
        ExitCode.SPEC_REJECTED,
    ),
    "tls": (
        tls_creds_set,
        "vm1 (source): tls-creds is set: unset it, kuaka encrypts between the hosts",
        ExitCode.SPEC_REJECTED,
    ),
    "zero page detection": (
        order_with(zero_page_detection="multifd"),
        "vm1 (source): QEMU 7.2.{patch} has no zero-page-detection: leave it out",
        ExitCode.SPEC_REJECTED,
    ),
    "socket user": (
        order_with(socket_user="nobody-of-that-name"),
        "socketUser 'nobody-of-that-name' does not exist on this host: name a user that QEMU runs as",
        ExitCode.SPEC_REJECTED,
    ),
    "prepare fails": (
        failing_prepare,
        "vm1: prepare on b failed with exit code 7: no disk of vm1 is missing",
        ExitCode.FAILED,
    ),
}


def test_what_cannot_be_is_refused_in_one_line_and_the_guest_is_left_as_it_was(
    pair: LivePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "_CONNECT_TIMEOUT_S", 2.0)
    monkeypatch.setattr(destination_vm, "_APPEAR_TIMEOUT_S", 2.0)
    patch = pair.source.qmp("query-version")["qemu"]["micro"]
    before = [pair.source.qmp(f"query-migrate-{what}") for what in ("capabilities", "parameters")]

    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            for name, (change, line, code) in CASES.items():
                with change(pair, order_of(pair)) as order:
                    result = await Attempt(order, pair.home, source, destination).run()
                assert result.error == line.replace("{home}", str(pair.home)).replace("{patch}", str(patch)), name
                assert (result.status, result.exit_code) == (Status.FAILED, code), name
                assert pair.left_behind("a", "b") == [], name
            assert [pair.source.qmp(f"query-migrate-{what}") for what in ("capabilities", "parameters")] == before
            assert pair.source.qmp("query-migrate").get("status", "none") == "none"
            assert pair.source_runs_on()
            again = await Attempt(order_of(pair), pair.home, source, destination).run()
            assert (again.status, again.error) == (Status.COMPLETED, None)

    asyncio.run(story())
    assert pair.compared().wrong_pages == 0
