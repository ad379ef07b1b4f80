"""Logs: an object per line with the ids of what is meant, or nothing changed at all."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.logs import log_about, set_up_logs


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Both loggers as they were before, after each test."""
    ours = [logging.getLogger(name) for name in ("pipeline", "scheduler")]
    before = [(each.handlers, each.level, each.propagate) for each in ours]
    yield
    for each, (handlers, level, propagate) in zip(ours, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    set_up_logs("agent", "host-a", environ={"KUAKA_LOG": "json"}, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    text = stream.getvalue()
    assert text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_an_object_that_says_who_when_and_what(stream: io.StringIO) -> None:
    logging.getLogger("pipeline.fleet.host").warning("%s: line\nbreak \x1b[31m \N{SNOWMAN}", "db-1")
    (line,) = lines(stream)
    assert line["message"] == "db-1: line\nbreak \x1b[31m \N{SNOWMAN}"
    assert (line["level"], line["role"], line["host"]) == ("warning", "agent", "host-a")
    assert line["logger"] == "pipeline.fleet.host"
    assert line["time"].endswith("+00:00")
    assert isinstance(line["process"], int)
    assert "migration" not in line


def test_tasks_log_with_the_ids_of_their_migration_and_of_no_other(stream: io.StringIO) -> None:
    log = logging.getLogger("scheduler.client")

    async def later(gate: asyncio.Event) -> None:
        await gate.wait()
        log.info("later")

    async def migrate(number: int, gate: asyncio.Event) -> None:
        log_about(fleet="drain", vm=f"db-{number}")
        log_about(migration=f"{number:032x}")
        child = asyncio.create_task(later(gate))
        gate.set()
        await child

    async def both() -> None:
        gate = asyncio.Event()
        await asyncio.gather(migrate(1, gate), migrate(2, gate))
        log.info("of none")

    asyncio.run(both())
    assert [(line.get("fleet"), line.get("vm"), line.get("migration")) for line in lines(stream)] == [
        ("drain", "db-1", f"{1:032x}"),
        ("drain", "db-2", f"{2:032x}"),
        (None, None, None),
    ]


def test_what_a_call_names_goes_first_and_what_it_does_not_know_is_left(stream: io.StringIO) -> None:
    async def told() -> None:
        log_about(fleet="drain", vm="db-1", migration="aa")
        logging.getLogger("pipeline").info("x", extra={"vm": "db-2", "migration": None})

    asyncio.run(told())
    (line,) = lines(stream)
    assert (line["fleet"], line["vm"], line["migration"]) == ("drain", "db-2", "aa")


def test_an_exception_is_part_of_its_line(stream: io.StringIO) -> None:
    try:
        raise OSError("disk full")
    except OSError:
        logging.getLogger("pipeline").exception("it broke")
    (line,) = lines(stream)
    assert line["error"].endswith("OSError: disk full")


def test_setting_up_again_says_nothing_twice_and_leaves_others_alone(stream: io.StringIO) -> None:
    again = io.StringIO()
    set_up_logs("agent", "host-a", environ={"KUAKA_LOG": "json"}, stream=again)
    logging.getLogger("pipeline").info("once")
    logging.getLogger("ray").info("theirs")
    assert stream.getvalue() == ""
    assert len(lines(again)) == 1


@pytest.mark.parametrize("environ", [{}, {"KUAKA_LOG": ""}, {"KUAKA_LOG": "plain"}])
def test_plain_logs_are_left_as_they_are(environ: dict[str, str]) -> None:
    before = logging.getLogger("pipeline").handlers, logging.getLogger("pipeline").level
    set_up_logs("agent", "host-a", environ=environ)
    assert (logging.getLogger("pipeline").handlers, logging.getLogger("pipeline").level) == before
