"""Where each row of section 3 of the scheduling reference is tested, with the numbers as the issue amended them.

 1  pairwise lag                    test_rows_fair, at grant, exactly; 1.5 times with costs that are up to 50 % off
 2  shares, oracle                  test_rows_fair
 3  reservations                    test_rows_promises: r t minus one lease in every interval
 4  hard cap                        test_rows_promises: one lease above it at most, in every interval
 5  starvation                      test_rows_promises: in work granted, and one virtual hour of it for BULK
 6  newcomer, sleeper               test_rows_fair
 7  tiny and huge                   test_rows_fair
 8  liars                           test_rows_liars. Of "cost": what a tenant says of cost is its demand, its tickets'
                                    cost and `remaining_ns`. How much work was done is counted by kuaka's own workers;
                                    one that counted half of it would get twice as much, as nothing else in the pool
                                    can tell whose work the device's `busy_ns` was
 9  priority inversion              test_rows_promises. "No source grant without a destination grant" is moot: a decode
                                    that is denied runs on the CPU, nothing waits for two pools
10  holder killed                   test_state_machine, test_leases; with processes tests/scheduler/test_faults
11  zombie                          test_state_machine, test_leases; with processes tests/scheduler/test_faults
12  restart with leases             test_state_machine, test_leases; with an actor tests/scheduler/test_actor
13  device down, up, flapping       test_rows_time; bytes that go by CPU instead: tests/scheduler/devices
14  clocks                          test_rows_time. No wall clock is read anywhere here, so a jump of one is moot; what
                                    is left is that the place of the monotonic clock's zero decides nothing, and skew
15  thundering herd                 tests/scheduler/test_faults, and the simulator's drain-storm
16  changing weights                test_rows_fair
17  overload of 1.4                 test_control: two samples in a row, four steps down, below target after 45 ms
18  200 tickets                     test_rows_promises
19  work conservation               test_rows_fair
20  lost and doubled messages       test_state_machine; tests/scheduler/test_faults
21  ten years                       test_rows_time
22  determinism                     test_rows_time, across processes; live against simulated is moot: both call `handle`
23  performance                     benchmarks/case_scheduler, never in the test suite
"""

import ast
import re
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_ROWS = {
    "test_rows_fair.py": (1, 2, 6, 7, 16, 19),
    "test_rows_promises.py": (3, 4, 5, 9, 18),
    "test_rows_liars.py": (8,),
    "test_rows_time.py": (13, 14, 21, 22),
}


@pytest.mark.parametrize("file", _ROWS)
def test_rows_are_where_the_list_says(file: str) -> None:
    names = [node.name for node in ast.walk(ast.parse((_HERE / file).read_text())) if isinstance(node, ast.FunctionDef)]
    rows = {int(found[1]) for name in names if (found := re.match(r"test_row_(\d\d)_", name))}
    assert rows == set(_ROWS[file])


def test_the_list_names_every_row_once() -> None:
    assert __doc__ is not None
    assert [int(row) for row in re.findall(r"^ ?(\d+)  ", __doc__, re.MULTILINE)] == list(range(1, 24))
