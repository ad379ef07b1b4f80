"""What a peer makes of descriptors: nothing outside of the registered ranges is read or written, whatever they say."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.devices.dsa.descriptors import (
    DSA_COMPLETION,
    Completion,
    DsaCompletions,
    DsaDescriptors,
    comparisons_with_zero,
)
from scheduler.devices.dsa.execution import DirectExecution, Disturbances, PeerMemory
from scheduler.devices.dsa.memory import prefaulted
from tests.scheduler.devices.dsa.scripted_port import PAGE_BYTES

RECORDS = 16
#: Distances from the start of a range, around its ends and far away.
PLACES = st.one_of(
    st.integers(-PAGE_BYTES, 3 * PAGE_BYTES), st.integers(-32 * 3, 32 * (RECORDS + 3)), st.integers(-(2**46), 2**46)
)


def peer_memory() -> PeerMemory:
    return PeerMemory(prefaulted(2 * PAGE_BYTES), prefaulted(RECORDS * 32).view(DSA_COMPLETION))


def batch_for(memory: PeerMemory, count: int) -> DsaDescriptors:
    batch = comparisons_with_zero(memory.records.ctypes.data, count)
    batch["source"], batch["transfer_bytes"] = memory.data.ctypes.data, PAGE_BYTES
    return batch


def execute(memory: PeerMemory, batch: DsaDescriptors, disturbances: Disturbances | None = None) -> DsaCompletions:
    DirectExecution(disturbances or Disturbances()).execute(batch, memory, threading.Event())
    return memory.records


def test_completion_says_zero_different_or_why_not() -> None:
    memory = peer_memory()
    memory.data[-1] = 1
    batch = batch_for(memory, 7)
    base = memory.data.ctypes.data
    batch["source"][1] = base + PAGE_BYTES
    batch["source"][2] = base + PAGE_BYTES + 1
    batch["transfer_bytes"][3] = 0
    batch["flags_opcode"][4] = 3 << 24 | 0xC
    batch["flags_opcode"][5] |= 0x2
    batch["pattern"][6] = 1
    records = execute(memory, batch)
    assert records["status"][:7].tolist() == [
        Completion.SUCCESS,
        Completion.SUCCESS,
        Completion.PAGE_FAULT,
        Completion.BAD_TRANSFER_SIZE,
        Completion.BAD_OPCODE,
        Completion.BAD_FLAGS,
        Completion.BAD_OPCODE,
    ]
    assert records["result"][:2].tolist() == [0, 1]
    assert records["fault_address"][2] == base + PAGE_BYTES + 1


@given(st.lists(st.tuples(PLACES, st.integers(0, 2**32 - 1), PLACES), min_size=1, max_size=RECORDS))
def test_wild_descriptors_fault_or_are_lost_and_touch_nothing_else(wild: list[tuple[int, int, int]]) -> None:
    memory = peer_memory()
    batch = batch_for(memory, len(wild))
    data, records = memory.data.ctypes.data, memory.records.ctypes.data
    for descriptor, (source, size, completion) in zip(batch, wild, strict=True):
        descriptor["source"], descriptor["transfer_bytes"] = (data + source) % 2**64, size
        descriptor["completion_address"] = (records + completion) % 2**64
    execute(memory, batch)
    expected = np.zeros(RECORDS, dtype=np.uint8)
    for source, size, completion in wild:
        place, rest = divmod(completion, 32)
        if not rest and 0 <= place < RECORDS:
            inside = source >= 0 and source + size <= len(memory.data)
            sound = Completion.SUCCESS if inside else Completion.PAGE_FAULT
            expected[place] = sound if size else Completion.BAD_TRANSFER_SIZE
    assert memory.records["status"].tolist() == expected.tolist()
    assert not memory.data.any()


def test_chances_are_seeded_and_of_the_size_asked_for() -> None:
    memory = peer_memory()
    disturbances = Disturbances(fault_per_million=300_000, error_per_million=200_000, seed=7)

    def drawn() -> list[int]:
        execution = DirectExecution(disturbances)
        seen: list[int] = []
        for _ in range(100):
            execution.execute(batch_for(memory, RECORDS), memory, threading.Event())
            seen += memory.records["status"].tolist()
        return seen

    seen = drawn()
    assert seen == drawn()
    assert 0.25 < seen.count(Completion.PAGE_FAULT) / len(seen) < 0.35
    assert 0.15 < seen.count(Completion.HARDWARE_ERROR) / len(seen) < 0.25
