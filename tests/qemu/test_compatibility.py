"""Which QEMUs can be ends of a migration: every rule alone, and all problems of one at once."""

from dataclasses import replace

import pytest

from pipeline.qemu.compatibility import destination_problems, pair_problems, source_problems
from pipeline.qemu.qmp import QemuFacts

SOURCE = QemuFacts(
    (7, 2, 22), "uuid", "pc-i440fx-7.2", 1 << 28, "running", {"multifd": False, "return-path": False}, {}, ()
)
DESTINATION = replace(SOURCE, status="inmigrate", arguments=("qemu", "-S"))


def test_ordinary_ends_have_no_problems() -> None:
    assert source_problems(SOURCE) == []
    assert source_problems(replace(SOURCE, status="paused")) == []
    assert destination_problems(DESTINATION) == []
    assert pair_problems(SOURCE, DESTINATION) == []


@pytest.mark.parametrize("missing", ["multifd", "return-path"])
def test_a_qemu_without_what_it_takes_is_named(missing: str) -> None:
    capabilities = {name: False for name in SOURCE.capabilities if name != missing}
    old = replace(SOURCE, version=(3, 1, 0), capabilities=capabilities)
    assert source_problems(old) == [f"QEMU 3.1.0 has no {missing}: use one that has it (5.0 or newer)"]


@pytest.mark.parametrize(
    "capability", ["postcopy-ram", "xbzrle", "zero-copy-send", "mapped-ram", "x-ignore-shared", "x-colo"]
)
def test_a_capability_that_changes_the_stream_is_refused_at_either_end(capability: str) -> None:
    for facts, problems in ((SOURCE, source_problems), (DESTINATION, destination_problems)):
        (problem,) = problems(replace(facts, capabilities={**facts.capabilities, capability: True}))
        assert problem.startswith(f"the capability {capability} is on: unset it, ")
        assert problems(replace(facts, capabilities={**facts.capabilities, capability: False})) == []


@pytest.mark.parametrize("state", ["postmigrate", "inmigrate", "shutdown", "internal-error", "finish-migrate"])
def test_only_a_running_or_paused_guest_is_a_source(state: str) -> None:
    assert source_problems(replace(SOURCE, status=state)) == [
        f"the source is in state {state}: only a running or paused guest can be migrated"
    ]


def test_a_destination_that_would_start_by_itself_is_refused() -> None:
    (problem,) = destination_problems(replace(DESTINATION, arguments=("qemu", "-incoming", "defer")))
    assert problem.startswith("the destination would start by itself: start it with -S")


def test_all_that_differs_is_said_at_once() -> None:
    other = replace(DESTINATION, uuid="other", machine="q35", ram_bytes=1)
    assert [problem.split(" differs")[0] for problem in pair_problems(SOURCE, other)] == [
        "uuid", "machine type", "RAM size"
    ]  # fmt: skip
